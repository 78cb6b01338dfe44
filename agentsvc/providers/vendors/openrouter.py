"""OpenRouter: many vendors behind one address. Their reasoning comes as blocks that go back unchanged.

https://openrouter.ai/docs/use-cases/reasoning-tokens
"""

from functools import partial

from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent

openrouter = Provider.of(
    "openrouter",
    "OpenRouter",
    partial(
        OpenAIChat,
        accent=Accent(
            headers={"app_url": "HTTP-Referer", "app_title": "X-Title"},
            max_tokens="max_tokens",
            returns="reasoning_details",
        ),
    ),
    base_url="https://openrouter.ai/api/v1",
    default_model="openrouter/auto",
    capabilities=Capabilities(reasoning=True, images=True, files=True, response_schema=True),
    extra_env={"app_url": ("OPENROUTER_APP_URL",), "app_title": ("OPENROUTER_APP_TITLE",)},
)
