"""Qwen in DashScope's own format. https://help.aliyun.com/zh/model-studio/qwen-api-reference"""

from agentsvc.providers.dashscope import DashScope
from agentsvc.providers.dialect import Provider
from agentsvc.providers.vendors.qwen import qwen

qwen_native = Provider.of(
    "qwen-native",
    "Qwen",
    DashScope,
    base_url="https://dashscope.aliyuncs.com/api/v1",
    key_env=("DASHSCOPE_API_KEY",),
    base_url_env=("DASHSCOPE_HTTP_BASE_URL",),
    default_model=qwen.default_model,
    capabilities=qwen.capabilities,
)
