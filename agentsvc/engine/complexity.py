"""``model: auto``: how hard a question looks, and which model the operator has for that.

A fixed table of points, so that anybody can tell beforehand what will be chosen and afterwards why. More of anything
(text, tools, history) never makes a question look easier.

    points   0-1 SIMPLE, 2-3 NORMAL, 4 and more HARD
    2        code; words that ask for thought, such as "prove", "debug", "step by step" in ten languages
    1        maths; a response schema; images or files
    1 to 4   by length, tools and messages before: see ``_STEPS``
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from agentsvc.domain.agents import LLMConfig, ModelRef
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.messages import Media, Message, Part, Role, Text
from agentsvc.domain.runs import RunOptions, RunRequest

AUTO: Final = "auto"


class Complexity(IntEnum):
    """How hard a question looks; harder is more."""

    SIMPLE = 0
    NORMAL = 1
    HARD = 2


@dataclass(frozen=True, slots=True)
class Facts:
    """What is looked at. ``characters``, ``code``, ``maths`` and ``thought`` are the question's; ``messages`` came before it."""

    characters: int = 0
    code: bool = False
    maths: bool = False
    thought: bool = False
    tools: int = 0
    schema: bool = False
    media: int = 0
    messages: int = 0


@dataclass(frozen=True, slots=True)
class AutoConfig:
    """Which model answers what: ``provider/model``; without a provider (``model``, or ``/model`` where its name has a
    slash of its own) of the agent's. Empty: the next harder one that is set answers, else the next easier.
    """

    simple: str = ""
    normal: str = ""
    hard: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """The model for one run (``provider`` empty: the agent's own) and why, as in ``hard: 2,140 characters, code, 3 tools``."""

    model: ModelRef
    complexity: Complexity
    reason: str

    def over(self, options: RunOptions) -> RunOptions:
        """The call's options with the choice in the place of ``auto``."""
        return replace(options, provider=self.model.provider or options.provider, model=self.model.model)


# From so many on, so many points.
_STEPS: Final = {
    "characters": ((8_000, 4), (2_000, 2), (400, 1)),
    "tools": ((4, 2), (1, 1)),
    "messages": ((30, 2), (10, 1)),
}
_POINTS: Final = {"code": 2, "thought": 2, "maths": 1, "schema": 1, "media": 1}
_NORMAL, _HARD = 2, 4

# What counts in a text also counts in a longer one that has it between spaces: nothing looks at a text's ends. Each
# pattern begins with letters or signs of its own, so that a search goes at the speed of memchr; one large pattern would
# hold up the event loop for milliseconds.
_CODE: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"```",
        r"Traceback \(most recent call last\)",
        r"def \w+\(",
        r"func \w+\(",
        r"fn \w+[(<]",
        r"function \w*\s*\(",
        r"class \w[^\n{]{0,80}\{",
        r"class [A-Z]\w*(?:\([^)\n]{0,80}\))?:\s*\n",
        r"public (?:static|void|class|final) ",
        r"const \w+\s*=",
        r"#include\s*<",
        r"</[a-z]+>",
        r"\)\s*\{",
        r"\);\s*\n",
        r"SELECT\s[^;]{1,100}?\sFROM\s",
    )
)
_MATHS: Final = (
    re.compile(r"\\(?:frac|int|sum|sqrt|lim|begin)"),
    re.compile("[∫∑∏√∂∇∀∃∈≤≥≠≈∞]"),
    re.compile(r"[\^+=](?:(?<=[A-Za-z)].)\d|(?<=[A-Za-z)] .) \d)"),  # x^2, 2x + 3
)


def _words(listed: str) -> tuple[str, ...]:
    """Words in lower case, between commas. A space before one: there a word begins; after it: there it ends."""
    return tuple(listed.split(","))


_MATHS_WORDS: Final = _words(
    " equation, integral , derivative, theorem, probabilit, matrix, gleichung, équation, ecuación, equazione, equação,"
    " уравнени,方程,积分,積分,定理,概率,確率,行列,방정식,적분"
)
_THOUGHT_WORDS: Final = _words(
    " prove , proof, derive , derivation, debug, diagnos, refactor, optimis, optimiz, analyse, analyze, plan , design ,"
    " architect, trade off, tradeoff, root cause, step by step, think hard, think carefully,"
    " beweis, herleit, analysier, optimier, entwirf, schritt für schritt, fehlersuche,"
    " prouve, démontre, conçois, concevoir, étape par étape, débogue,"
    " demuestra, demostrar, depura, analiza, diseña, paso a paso, dimostra, progetta, passo dopo passo,"
    " demonstre, depure, analise , projete, passo a passo, докаж, отлад, проанализир, спроектир, оптимиз, шаг за шагом,"
    "证明,證明,証明,推导,推導,调试,調試,优化,最適化,重构,规划,設計,设计,分析,一步一步,逐步,デバッグ,"
    "증명,디버그,디버깅,최적화,설계,분석,단계별"
)
_BETWEEN_WORDS = re.compile(r"\W+")


def asked(config: LLMConfig, options: RunOptions) -> bool:
    """Whether a call wants its model chosen: it says so itself, or its agent does and the call names no other."""
    if options.model:
        return options.model == AUTO
    return config.model == AUTO and options.provider in {"", config.provider}


def facts(request: RunRequest, before: Sequence[Message], tools: int) -> Facts:
    """What there is to know about a question. ``before``: the messages that go into the prompt with it."""
    parts = request.parts or _last_question(before)
    text = "\n".join(part.text for part in parts if isinstance(part, Text))
    # A text this long is hard by its length alone: whatever else is in it is not looked for.
    short = text if len(text) < _STEPS["characters"][0][0] else ""
    words = f" {_BETWEEN_WORDS.sub(' ', short.lower())} "
    return Facts(
        characters=len(text),
        code=any(pattern.search(short) for pattern in _CODE),
        maths=any(pattern.search(short) for pattern in _MATHS) or any(word in words for word in _MATHS_WORDS),
        thought=any(word in words for word in _THOUGHT_WORDS),
        tools=tools,
        schema=request.options.response_schema is not None,
        media=sum(isinstance(part, Media) for part in parts),
        messages=len(before),
    )


def points(known: Facts) -> int:
    """By the table above."""
    steps = sum(
        next((worth for least, worth in table if getattr(known, name) >= least), 0) for name, table in _STEPS.items()
    )
    return steps + sum(worth for name, worth in _POINTS.items() if getattr(known, name))


def judge(known: Facts) -> Complexity:
    """How hard it looks."""
    sum_of_points = points(known)
    if sum_of_points >= _HARD:
        return Complexity.HARD
    return Complexity.NORMAL if sum_of_points >= _NORMAL else Complexity.SIMPLE


def choose(config: AutoConfig, known: Facts) -> Choice:
    """The model for a question that looks like this.

    Raises:
        AgentsvcError: PROVIDER_NOT_CONFIGURED; the operator has named no model at all.
    """
    complexity = judge(known)
    by_level = (config.simple, config.normal, config.hard)
    # The level itself, then harder ones upwards, then easier ones downwards.
    said = next(filter(None, (*by_level[complexity:], *reversed(by_level[:complexity]))), "")
    if not said:
        raise AgentsvcError(
            Reason.PROVIDER_NOT_CONFIGURED,
            "The model 'auto' stands for models that the operator names: set AGENTSVC_AUTO__SIMPLE, AGENTSVC_AUTO__NORMAL "
            "and AGENTSVC_AUTO__HARD to provider/model, or name a model.",
        )
    return Choice(named(said), complexity, f"{complexity.name.lower()}: {_described(known)}")


def named(said: str) -> ModelRef:
    """``provider/model`` or ``model`` as a reference."""
    provider, slash, model = said.partition("/")
    return ModelRef(provider, model) if slash else ModelRef("", said)


def _last_question(before: Sequence[Message]) -> tuple[Part, ...]:
    """What is being answered when a call brings tool results and no words of its own."""
    return next((message.parts for message in reversed(before) if message.role is Role.USER), ())


def _described(known: Facts) -> str:
    found = {
        _counted(known.characters, "character"): True,
        "code": known.code,
        "maths": known.maths,
        "asks for thought": known.thought,
        _counted(known.tools, "tool"): known.tools,
        _counted(known.media, "attachment"): known.media,
        "response schema": known.schema,
        _counted(known.messages, "earlier message"): known.messages,
    }
    return ", ".join(words for words, holds in found.items() if holds)


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
