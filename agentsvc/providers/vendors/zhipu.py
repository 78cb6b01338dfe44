"""Zhipu (GLM): reasons unless told not to, numbers its errors, and chooses tools itself (``tool_choice`` is ``auto`` only).

https://docs.bigmodel.cn/cn/api/introduction; outside China the address is https://api.z.ai/api/paas/v4
"""

from collections.abc import Mapping
from functools import partial

from agentsvc.domain.errors import Reason
from agentsvc.domain.providers import Capabilities
from agentsvc.domain.runs import ToolChoiceMode
from agentsvc.providers.dialect import Provider
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent

# https://docs.bigmodel.cn/cn/api/api-code
_CODES: Mapping[str, Reason] = {
    **dict.fromkeys(("1000", "1001", "1002", "1003", "1004"), Reason.PROVIDER_AUTH),
    **dict.fromkeys(("1110", "1111", "1112", "1120", "1121"), Reason.PROVIDER_PERMISSION),
    **dict.fromkeys(("1113", "1304", "1308", "1309", "1310", "1311", "1313"), Reason.PROVIDER_QUOTA),
    **dict.fromkeys(("1210", "1212", "1213", "1214", "1215"), Reason.PROVIDER_INVALID_REQUEST),
    "1211": Reason.PROVIDER_NOT_FOUND,
    "1261": Reason.CONTEXT_LENGTH,
    **dict.fromkeys(("1300", "1301"), Reason.CONTENT_FILTER),
    **dict.fromkeys(("1302", "1303"), Reason.PROVIDER_RATE_LIMIT),
    **dict.fromkeys(("1305", "1312"), Reason.PROVIDER_OVERLOADED),
    **dict.fromkeys(("1230", "1234"), Reason.PROVIDER_SERVER_ERROR),
}

zhipu = Provider.of(
    "zhipu",
    "Zhipu",
    partial(
        OpenAIChat,
        accent=Accent(
            max_tokens="max_tokens",
            asks_usage=False,  # told beside the finish reason, asked or not
            tool_choices=(ToolChoiceMode.AUTO,),
            response_format="json_object",
            returns="reasoning_content",  # so that a turn goes on thinking after its tools' results
        ),
    ),
    base_url="https://open.bigmodel.cn/api/paas/v4",
    key_env=("ZHIPUAI_API_KEY", "ZAI_API_KEY"),
    base_url_env=("ZHIPUAI_BASE_URL", "ZAI_BASE_URL"),
    default_model="glm-4.7",
    capabilities=Capabilities(tool_choice=False, reasoning=True, images=True, response_schema=True),
    codes=_CODES,
)
