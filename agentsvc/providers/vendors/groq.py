"""Groq: usage in ``x_groq`` without asking; a call the model got wrong is an error in the stream (``tool_use_failed``).

https://console.groq.com/docs/api-reference
"""

from functools import partial

from agentsvc.domain.errors import Reason
from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent

groq = Provider.of(
    "groq",
    "Groq",
    partial(OpenAIChat, accent=Accent(asks_usage=False)),
    base_url="https://api.groq.com/openai/v1",
    default_model="openai/gpt-oss-120b",
    capabilities=Capabilities(reasoning=True, images=True, response_schema=True),
    codes={"model_decommissioned": Reason.PROVIDER_NOT_FOUND},
)
