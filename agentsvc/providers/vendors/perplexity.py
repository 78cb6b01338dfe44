"""Perplexity (Sonar): searches the web itself and takes no tools; usage on every chunk, and no ``[DONE]``.

https://docs.perplexity.ai/api-reference/chat-completions-post
"""

from functools import partial

from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent

perplexity = Provider.of(
    "perplexity",
    "Perplexity",
    partial(OpenAIChat, accent=Accent(max_tokens="max_tokens", asks_usage=False)),
    base_url="https://api.perplexity.ai",
    key_env=("PPLX_API_KEY",),
    default_model="sonar",
    capabilities=Capabilities(
        tools=False, parallel_tool_calls=False, tool_choice=False, images=True, response_schema=True
    ),
)
