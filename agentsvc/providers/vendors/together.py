"""Together AI: open models, the reasoning under either of two names. https://docs.together.ai/reference/chat-completions-1"""

from functools import partial

from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent

together = Provider.of(
    "together",
    "Together AI",
    partial(OpenAIChat, accent=Accent(max_tokens="max_tokens", asks_usage=False)),
    base_url="https://api.together.xyz/v1",
    default_model="zai-org/GLM-5.3-Flash",
    capabilities=Capabilities(reasoning=True, images=True, response_schema=True),
)
