"""OpenAI, chat completions: the language whose accents the others speak. The model's reasoning stays hidden here.

https://platform.openai.com/docs/api-reference/chat
"""

from functools import partial

from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent

HEADERS = {"organization": "OpenAI-Organization", "project": "OpenAI-Project"}

openai = Provider.of(
    "openai",
    "OpenAI",
    partial(OpenAIChat, accent=Accent(headers=HEADERS)),
    base_url="https://api.openai.com/v1",
    default_model="gpt-5-mini",
    capabilities=Capabilities(images=True, files=True, response_schema=True),
    extra_env={"organization": ("OPENAI_ORG_ID",), "project": ("OPENAI_PROJECT_ID",)},
)
