"""Anything that speaks chat completions at an address of the operator's: vLLM, SGLang, llama.cpp, LM Studio, gateways.

https://docs.vllm.ai/en/stable/serving/openai_compatible_server.html
"""

from functools import partial

from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent

openai_compatible = Provider.of(
    "openai-compatible",
    "The OpenAI-compatible server",
    partial(OpenAIChat, accent=Accent(max_tokens="max_tokens")),
    needs_key=False,
    capabilities=Capabilities(reasoning=True, images=True, response_schema=True),
    extra_env={"model": ("OPENAI_COMPATIBLE_MODEL",)},
)
