"""Baidu Qianfan, the old surface. The key is an access token, good for thirty days, from ``/oauth/2.0/token``.

https://cloud.baidu.com/doc/WENXINWORKSHOP/index.html
"""

from agentsvc.domain.ports import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.qianfan_v1 import QianfanV1

baidu_v1 = Provider.of(
    "baidu-v1",
    "Baidu Qianfan v1",
    QianfanV1,
    base_url="https://aip.baidubce.com",
    key_env=("QIANFAN_ACCESS_TOKEN",),
    default_model="ernie-4.0-8k",
    capabilities=Capabilities(parallel_tool_calls=False, response_schema=True),
)
