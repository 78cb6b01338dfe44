"""Baidu Qianfan, the old surface. The key is an application's, with its secret, which are exchanged for a token of thirty
days; or, without a secret, such a token.

https://cloud.baidu.com/doc/WENXINWORKSHOP/index.html
"""

from functools import partial

from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.qianfan_v1 import QianfanV1
from agentsvc.providers.qianfan_v1_token import SECRET, QianfanV1Token

_SECRET_ENV = ("BAIDU_V1_SECRET_KEY", "QIANFAN_SK")

baidu_v1 = Provider.of(
    "baidu-v1",
    "Baidu Qianfan v1",
    QianfanV1,
    base_url="https://aip.baidubce.com",
    key_env=("QIANFAN_AK", "QIANFAN_ACCESS_TOKEN"),
    default_model="ernie-4.0-8k",
    capabilities=Capabilities(parallel_tool_calls=False, response_schema=True),
    extra_env={SECRET: _SECRET_ENV},
    tokens=partial(QianfanV1Token, secret_env=" or ".join(_SECRET_ENV)),
)
