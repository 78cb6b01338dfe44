"""Mistral: unknown fields and tool call ids that are not nine letters or digits are refused; thinking comes as a part.

https://docs.mistral.ai/api
"""

import re
from functools import partial
from hashlib import sha256

from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent


def nine_characters(call_id: str) -> str:
    """A call's id as Mistral accepts it: its own stay, those of another vendor's turns become one of the same meaning."""
    return call_id if re.fullmatch(r"[a-zA-Z0-9]{9}", call_id) else sha256(call_id.encode()).hexdigest()[:9]


mistral = Provider.of(
    "mistral",
    "Mistral",
    partial(OpenAIChat, accent=Accent(max_tokens="max_tokens", asks_usage=False, call_id=nine_characters)),
    base_url="https://api.mistral.ai/v1",
    default_model="mistral-medium-latest",
    capabilities=Capabilities(reasoning=True, images=True, response_schema=True),
)
