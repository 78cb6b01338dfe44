"""Moonshot (Kimi): thinks unless told not to, and wants the reasoning back with every turn that called tools.

https://platform.moonshot.ai/docs/api/chat; in China the address is https://api.moonshot.cn/v1
"""

from functools import partial

from agentsvc.domain.errors import Reason
from agentsvc.domain.providers import Capabilities
from agentsvc.domain.runs import ToolChoiceMode
from agentsvc.providers.dialect import Provider
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent

moonshot = Provider.of(
    "moonshot",
    "Moonshot",
    partial(
        OpenAIChat,
        accent=Accent(
            tool_choices=(ToolChoiceMode.AUTO, ToolChoiceMode.NONE),
            response_format="json_object",
            returns="reasoning_content",
        ),
    ),
    base_url="https://api.moonshot.ai/v1",
    key_env=("KIMI_API_KEY",),
    default_model="kimi-k2.6",
    capabilities=Capabilities(tool_choice=False, reasoning=True, images=True, response_schema=True),
    codes={
        "invalid_authentication_error": Reason.PROVIDER_AUTH,
        "resource_not_found_error": Reason.PROVIDER_NOT_FOUND,
        "exceeded_current_quota_error": Reason.PROVIDER_QUOTA,
        "rate_limit_reached_error": Reason.PROVIDER_RATE_LIMIT,
        "engine_overloaded_error": Reason.PROVIDER_OVERLOADED,
    },
)
