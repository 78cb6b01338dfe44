"""OpenAI, the Responses API: what chat completions hide, the model's reasoning in summary, is told and goes back.

https://platform.openai.com/docs/api-reference/responses
"""

from functools import partial

from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.openai_responses import OpenAIResponses
from agentsvc.providers.vendors.openai import HEADERS, openai

openai_responses = Provider.of(
    "openai-responses",
    "OpenAI",
    partial(OpenAIResponses, headers=HEADERS),
    base_url=openai.base_url,
    key_env=("OPENAI_API_KEY",),
    base_url_env=("OPENAI_BASE_URL",),
    default_model=openai.default_model,
    capabilities=Capabilities(reasoning=True, images=True, files=True, response_schema=True),
    extra_env=openai.extra_env,
)
