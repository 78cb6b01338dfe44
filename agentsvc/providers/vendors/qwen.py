"""Qwen on Alibaba's DashScope, the compatible mode. Thinking models stream only; calls are parallel only when asked for.

https://help.aliyun.com/zh/model-studio/qwen-api-reference; the international address is
https://dashscope-intl.aliyuncs.com/compatible-mode/v1
"""

from functools import partial

from agentsvc.domain.providers import Capabilities
from agentsvc.domain.runs import ToolChoiceMode
from agentsvc.providers.dialect import Provider
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent

qwen = Provider.of(
    "qwen",
    "Qwen",
    partial(
        OpenAIChat,
        accent=Accent(
            max_tokens="max_tokens",
            always_streams=True,
            tool_choices=(ToolChoiceMode.AUTO, ToolChoiceMode.NONE, ToolChoiceMode.TOOL),
            parallel_tool_calls=True,
            response_format="json_object",  # schemas are for a few of its models
        ),
    ),
    base_url="https://dashscope.aliyuncs.com/compatible-mode/v1",
    key_env=("DASHSCOPE_API_KEY",),
    default_model="qwen-plus",
    capabilities=Capabilities(reasoning=True, images=True, response_schema=True),
)
