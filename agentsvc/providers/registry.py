"""Who can be asked: every provider by its id.

A provider is a file in ``vendors`` and a line here, or an entry point of another package in the group
``agentsvc.providers`` that loads a ``Provider``:

    [project.entry-points."agentsvc.providers"]
    acme = "acme_agentsvc:acme"
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points

from agentsvc.providers.dialect import Provider
from agentsvc.providers.vendors.anthropic import anthropic
from agentsvc.providers.vendors.azure import azure
from agentsvc.providers.vendors.baidu import baidu
from agentsvc.providers.vendors.baidu_v1 import baidu_v1
from agentsvc.providers.vendors.claude import claude
from agentsvc.providers.vendors.cohere import cohere
from agentsvc.providers.vendors.deepseek import deepseek
from agentsvc.providers.vendors.gemini import gemini
from agentsvc.providers.vendors.groq import groq
from agentsvc.providers.vendors.huawei import huawei
from agentsvc.providers.vendors.mistral import mistral
from agentsvc.providers.vendors.mock import mock
from agentsvc.providers.vendors.moonshot import moonshot
from agentsvc.providers.vendors.ollama import ollama
from agentsvc.providers.vendors.openai import openai
from agentsvc.providers.vendors.openai_compatible import openai_compatible
from agentsvc.providers.vendors.openai_responses import openai_responses
from agentsvc.providers.vendors.openrouter import openrouter
from agentsvc.providers.vendors.perplexity import perplexity
from agentsvc.providers.vendors.qwen import qwen
from agentsvc.providers.vendors.qwen_native import qwen_native
from agentsvc.providers.vendors.together import together
from agentsvc.providers.vendors.xai import xai
from agentsvc.providers.vendors.zhipu import zhipu

GROUP = "agentsvc.providers"

PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider
    for provider in (
        openai,
        openai_responses,
        azure,
        anthropic,
        claude,
        gemini,
        zhipu,
        deepseek,
        baidu,
        baidu_v1,
        qwen,
        qwen_native,
        huawei,
        together,
        ollama,
        cohere,
        groq,
        mistral,
        xai,
        openrouter,
        perplexity,
        moonshot,
        openai_compatible,
        mock,
    )
}


@cache
def installed() -> Mapping[str, Provider]:
    """``PROVIDERS`` and those that other packages bring. A package may replace one of ours by its id.

    Loaded at the first call and not at import, since such a package imports this one.

    Raises:
        TypeError: an entry point is no ``Provider``.
    """
    found = dict(PROVIDERS)
    for point in entry_points(group=GROUP):
        provider = point.load()
        if not isinstance(provider, Provider):
            raise TypeError(f"the entry point {point.value} of the group {GROUP} is no agentsvc Provider")
        found[provider.name] = provider
    return found
