"""Baidu Qianfan, the v2 surface; the key begins with ``bce-v3/``. Applications are told apart by the header ``appid``.

https://cloud.baidu.com/doc/qianfan-api/s/Om9b4yj3w
"""

from functools import partial

from agentsvc.domain.errors import Reason
from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent

baidu = Provider.of(
    "baidu",
    "Baidu Qianfan",
    partial(
        OpenAIChat,
        accent=Accent(headers={"appid": "appid"}, max_tokens="max_tokens", response_format="json_object"),
    ),
    base_url="https://qianfan.baidubce.com/v2",
    key_env=("QIANFAN_API_KEY",),
    base_url_env=("QIANFAN_BASE_URL",),
    default_model="ernie-4.5-turbo-128k",
    capabilities=Capabilities(reasoning=True, images=True, response_schema=True),
    extra_env={"appid": ("QIANFAN_APP_ID",)},
    codes={
        "characters_too_long": Reason.CONTEXT_LENGTH,
        "invalid_model": Reason.PROVIDER_NOT_FOUND,
        "access_denied": Reason.PROVIDER_PERMISSION,
    },
)
