"""The scripted provider (``agentsvc/providers/mock.py``). Without an address it is played in process, without a socket."""

from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.openai_chat import OpenAIChat

mock = Provider.of(
    "mock",
    "Mock",
    OpenAIChat,
    needs_key=False,
    default_model="mock-demo",
    capabilities=Capabilities(reasoning=True, response_schema=True),
)
