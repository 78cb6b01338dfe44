"""DeepSeek: the reasoning in its own field, wanted back with every turn that called tools; usage without asking.

https://api-docs.deepseek.com/guides/thinking_mode
"""

from functools import partial

from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent

deepseek = Provider.of(
    "deepseek",
    "DeepSeek",
    partial(
        OpenAIChat,
        accent=Accent(
            max_tokens="max_tokens", asks_usage=False, response_format="json_object", returns="reasoning_content"
        ),
    ),
    base_url="https://api.deepseek.com",
    default_model="deepseek-v4-flash",
    capabilities=Capabilities(reasoning=True, response_schema=True),
)
