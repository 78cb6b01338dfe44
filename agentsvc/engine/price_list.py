"""The prices that the service knows by itself: US dollars per million tokens, from the vendors' public lists of 2025.

Each vendor's standard price for text, without discounts, regions, storage or its own tools (web search and the like).
An operator's file replaces and adds to them. Left out on purpose, since a wrong number is worse than none:

    deepseek                      its price depends on the hour of the day
    zhipu, qwen, baidu, huawei    the address they are asked at by default has another list, in another currency
    perplexity                    charges every request and its searches beside the tokens
    azure, openrouter, ollama, openai-compatible    the names and the prices are the operator's
    names that end in -latest     mean another model every few months
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agentsvc.engine.prices import FREE, Price, PriceTable


def _usd(
    asked: float, said: float, read: float | None = None, written: float | None = None, *above: tuple[int, Price]
) -> Price:
    """Dollars per million tokens: input, output, input from the cache, input into it."""
    from_cache, to_cache = (None if dollars is None else _micros(dollars) for dollars in (read, written))
    return Price(_micros(asked), _micros(said), from_cache, to_cache, above)


def _micros(dollars: float) -> int:
    return round(dollars * 1_000_000)


def _claude(asked: float, said: float) -> Price:
    """The cache is written for five minutes, and read at a tenth."""
    return _usd(asked, said, asked / 10, asked * 1.25)


_OPENAI: Mapping[str, Price] = {
    "gpt-5.1": _usd(1.25, 10, 0.125),
    "gpt-5": _usd(1.25, 10, 0.125),
    "gpt-5-codex": _usd(1.25, 10, 0.125),
    "gpt-5-mini": _usd(0.25, 2, 0.025),
    "gpt-5-nano": _usd(0.05, 0.4, 0.005),
    "gpt-4.1": _usd(2, 8, 0.5),
    "gpt-4.1-mini": _usd(0.4, 1.6, 0.1),
    "gpt-4.1-nano": _usd(0.1, 0.4, 0.025),
    "gpt-4o": _usd(2.5, 10, 1.25),
    "gpt-4o-2024-05-13": _usd(5, 15),
    "gpt-4o-mini": _usd(0.15, 0.6, 0.075),
    "gpt-4-turbo": _usd(10, 30),
    "gpt-3.5-turbo": _usd(0.5, 1.5),
    "o1": _usd(15, 60, 7.5),
    "o3": _usd(2, 8, 0.5),
    "o3-mini": _usd(1.1, 4.4, 0.55),
    "o4-mini": _usd(1.1, 4.4, 0.275),
}
_ANTHROPIC: Mapping[str, Price] = {
    "claude-opus-4-5": _claude(5, 25),
    "claude-opus-4-1": _claude(15, 75),
    "claude-opus-4-0": _claude(15, 75),
    "claude-opus-4": _claude(15, 75),
    "claude-sonnet-4-5": _claude(3, 15),
    "claude-sonnet-4-0": _claude(3, 15),
    "claude-sonnet-4": _claude(3, 15),
    "claude-3-7-sonnet": _claude(3, 15),
    "claude-haiku-4-5": _claude(1, 5),
    "claude-3-5-haiku": _claude(0.8, 4),
    "claude-3-haiku": _usd(0.25, 1.25, 0.03, 0.3),
}
_GEMINI: Mapping[str, Price] = {
    "gemini-3-pro-preview": _usd(2, 12, 0.2, None, (200_000, _usd(4, 18, 0.4))),
    "gemini-2.5-pro": _usd(1.25, 10, 0.125, None, (200_000, _usd(2.5, 15, 0.25))),
    "gemini-2.5-flash": _usd(0.3, 2.5, 0.03),
    "gemini-2.5-flash-lite": _usd(0.1, 0.4, 0.01),
    "gemini-2.0-flash": _usd(0.1, 0.4, 0.025),
    "gemini-2.0-flash-lite": _usd(0.075, 0.3),
}
_MISTRAL: Mapping[str, Price] = {
    "mistral-medium-2505": _usd(0.4, 2),
    "mistral-medium-2508": _usd(0.4, 2),
    "mistral-large-2411": _usd(2, 6),
    "mistral-small-2506": _usd(0.1, 0.3),
    "codestral-2508": _usd(0.3, 0.9),
    "ministral-8b-2410": _usd(0.1, 0.1),
    "ministral-3b-2410": _usd(0.04, 0.04),
}
_GROQ: Mapping[str, Price] = {
    "openai/gpt-oss-120b": _usd(0.15, 0.6, 0.075),
    "openai/gpt-oss-20b": _usd(0.075, 0.3, 0.0375),
    "llama-3.3-70b-versatile": _usd(0.59, 0.79),
    "llama-3.1-8b-instant": _usd(0.05, 0.08),
    "meta-llama/llama-4-scout-17b-16e-instruct": _usd(0.11, 0.34),
    "meta-llama/llama-4-maverick-17b-128e-instruct": _usd(0.2, 0.6),
    "qwen/qwen3-32b": _usd(0.29, 0.59),
}
_XAI: Mapping[str, Price] = {
    "grok-3": _usd(3, 15, 0.75),
    "grok-3-mini": _usd(0.3, 0.5, 0.075),
    "grok-code-fast-1": _usd(0.2, 1.5, 0.02),
    "grok-4-fast-reasoning": _usd(0.2, 0.5, 0.05, None, (128_000, _usd(0.4, 1))),
    "grok-4-fast-non-reasoning": _usd(0.2, 0.5, 0.05, None, (128_000, _usd(0.4, 1))),
    "grok-4-0709": _usd(3, 15, 0.75, None, (128_000, _usd(6, 30))),
}
_COHERE: Mapping[str, Price] = {
    "command-a-03-2025": _usd(2.5, 10),
    "command-r-plus-08-2024": _usd(2.5, 10),
    "command-r-08-2024": _usd(0.15, 0.6),
    "command-r7b-12-2024": _usd(0.0375, 0.15),
}
_MOONSHOT: Mapping[str, Price] = {
    "kimi-k2-0711-preview": _usd(0.6, 2.5, 0.15),
    "kimi-k2-0905-preview": _usd(0.6, 2.5, 0.15),
    "kimi-k2-thinking": _usd(0.6, 2.5, 0.15),
}
_TOGETHER: Mapping[str, Price] = {
    "meta-llama/Llama-3.3-70B-Instruct-Turbo": _usd(0.88, 0.88),
    "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo": _usd(0.18, 0.18),
    "meta-llama/Meta-Llama-3.1-405B-Instruct-Turbo": _usd(3.5, 3.5),
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8": _usd(0.27, 0.85),
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": _usd(0.18, 0.59),
    "openai/gpt-oss-120b": _usd(0.15, 0.6),
}
BUILT_IN: Final = PriceTable(
    {
        "openai": _OPENAI,
        "anthropic": _ANTHROPIC,
        "gemini": _GEMINI,
        "mistral": _MISTRAL,
        "groq": _GROQ,
        "xai": _XAI,
        "cohere": _COHERE,
        "moonshot": _MOONSHOT,
        "together": _TOGETHER,
        "mock": {"*": FREE},
    }
)
