"""xAI (Grok): calls arrive whole, reasoning in ``reasoning_content``. https://docs.x.ai/docs/api-reference"""

from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.openai_chat import OpenAIChat

xai = Provider.of(
    "xai",
    "xAI",
    OpenAIChat,
    base_url="https://api.x.ai/v1",
    default_model="grok-4.3",
    capabilities=Capabilities(reasoning=True, images=True, response_schema=True),
)
