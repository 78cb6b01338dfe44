"""``model: auto``: the policy is the one of docs/routing.md, explains itself, and never gets easier by more."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsvc.domain.agents import LLMConfig, ModelRef
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.messages import Media, Message, Role, Text
from agentsvc.domain.runs import RunOptions, RunRequest
from agentsvc.engine.complexity import AutoConfig, Complexity, Facts, asked, choose, facts, judge, points

PAGE = (Path(__file__).parents[2] / "docs" / "routing.md").read_text()
SIMPLE, NORMAL, HARD = Complexity
LEVELS = AutoConfig("groq/small", "openai/middle", "anthropic/large")
FACTS = st.builds(
    Facts,
    **{known.name: st.integers(0, 10_000) if known.type == "int" else st.booleans() for known in fields(Facts)},
)
WORDS = st.lists(
    st.sampled_from(["prove", "证明", "def f(x):", "class A {", "x + 3", "\\frac", "```", "plain", "SELECT 1 FROM t;"])
    | st.text(max_size=20)
).map("\n".join)


def question(*texts: str, before: tuple[Message, ...] = (), tools: int = 0) -> Facts:
    return facts(RunRequest("a", tuple(map(Text, texts))), before, tools)


# Each row of the page's table, and the least that it speaks of.
ROWS = {
    "the question has 400 characters or more": Facts(characters=400),
    "2,000 or more": Facts(characters=2_000),
    "8,000 or more": Facts(characters=8_000),
    "code in it": Facts(code=True),
    'words that ask for thought ("prove", "debug", "plan", "step by step"; in ten languages)': Facts(thought=True),
    "maths in it": Facts(maths=True),
    "images or files with it": Facts(media=1),
    "the agent has tools": Facts(tools=1),
    "4 tools or more": Facts(tools=4),
    "the answer has a schema": Facts(schema=True),
    "10 messages or more go into the prompt before it": Facts(messages=10),
    "30 messages or more": Facts(messages=30),
}


class TestPage:
    def test_its_table_is_the_policy(self):
        _, table = PAGE.split("| fact | points |\n|---|---|\n")
        said = dict(re.findall(r"^\| (.*) \| (\d) \|$", table, re.MULTILINE))
        assert said == {row: str(points(known)) for row, known in ROWS.items()}

    @pytest.mark.parametrize("known", [known for known in ROWS.values() if max(known.characters, known.messages) > 1])
    def test_one_less_is_worth_less(self, known: Facts):
        less = replace(known, characters=max(0, known.characters - 1), messages=max(0, known.messages - 1))
        assert points(less) < points(known)

    @pytest.mark.parametrize(
        ("known", "level"),
        [
            (Facts(maths=True), SIMPLE),
            (Facts(code=True), NORMAL),
            (Facts(code=True, maths=True), NORMAL),
            (Facts(code=True, thought=True), HARD),
        ],
    )
    def test_its_levels_are_the_policys(self, known: Facts, level: Complexity):
        assert judge(known) is level
        (least,) = re.findall(rf"AUTO__{level.name}` \| questions of (\d)", PAGE)
        assert points(known) >= int(least)

    def test_its_words_are_known(self):
        for word in re.findall(r'"(.*?)"', PAGE.split("words that ask for thought")[1].split("|")[0]):
            assert question(f"Please {word} it").thought


class TestFacts:
    @pytest.mark.parametrize(
        "text",
        [
            "Prove that there are infinitely many primes.",
            "Can you DEBUG it?",
            "Explain it step-by-step.",
            "What are the trade-offs?",
            "Beweise den Satz des Pythagoras.",
            "Démontre que racine de 2 est irrationnel.",
            "Demuestra el teorema.",
            "Dimostra il teorema.",
            "Demonstre o teorema.",
            "Докажи теорему.",
            "请证明根号2是无理数",
            "この定理を証明してください",
            "이 정리를 증명해 주세요",
        ],
    )
    def test_it_asks_for_thought(self, text: str):
        assert question(text).thought

    @pytest.mark.parametrize(
        "text",
        [
            "```python\nprint(1)\n```",
            "def f(x):\n    return x",
            "func main() {}",
            "fn main() -> i32",
            "function add(a, b) { return a + b }",
            "class Dog(Animal):\n    pass",
            "class Dog extends Animal {",
            "const x = 1",
            "public static void main",
            "#include <stdio.h>",
            "<p>Hi</p>",
            "SELECT name FROM users WHERE id = 1",
            "Traceback (most recent call last)",
            "foo(1);\nbar(2);",
            "if (x > 1) {",
        ],
    )
    def test_it_has_code(self, text: str):
        assert question(text).code

    @pytest.mark.parametrize("text", ["x^2 = 4", "Solve 2x + 3 = 7", r"\frac{1}{2}", "∫ x dx", "An equation", "解方程"])
    def test_it_has_maths(self, text: str):
        assert question(text).maths

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "What is the capital of France?",
            "My class today (Monday): how do I get there by public transport (BVG)?",
            "Please improve my approval letter and describe the airplane, the planet and the plant.",
            "Call me at +49 170 555, or select one from the list on 2024-05-12.",
            "Wie wird das Wetter in Berlin?",
            "今天天气怎么样?",
        ],
    )
    def test_small_talk_is_simple(self, text: str):
        assert question(text) == Facts(characters=len(text))

    def test_all_parts_of_the_question_count(self):
        request = RunRequest(
            "a",
            (Text("one"), Media("image", "image/png", b"x"), Text("prove"), Media("file", "text/plain", b"x")),
            options=RunOptions(response_schema={}),
        )
        before = (Message(Role.USER, (Text("def f(x):"),)), Message(Role.ASSISTANT, (Text("x" * 9000),)))
        assert facts(request, before, 3) == Facts(characters=9, thought=True, tools=3, schema=True, media=2, messages=2)

    def test_a_call_that_brings_tool_results_goes_on_with_the_question_before(self):
        before = (
            Message(Role.USER, (Text("Hi"),)),
            Message(Role.USER, (Text("Prove it"),)),
            Message(Role.TOOL, (Text("42"),)),
        )
        assert facts(RunRequest("a", ()), before, 1) == Facts(characters=8, thought=True, tools=1, messages=3)
        assert facts(RunRequest("a", ()), (), 0) == Facts()


class TestMonotone:
    @given(WORDS, WORDS, WORDS)
    def test_more_text_is_never_easier(self, text: str, before: str, after: str):
        level = judge(question(text))
        assert judge(question(f"{before} {text} {after}")) >= level
        assert judge(question(before, text, after)) >= level

    @given(st.integers(7_900, 8_000), WORDS, st.integers(0, 200))
    def test_not_even_where_nothing_is_looked_for_any_more(self, length: int, words: str, more: int):
        text = words + " " + "x" * (length - len(words))
        assert judge(question(text + " " + "y" * more)) >= judge(question(text))

    @given(FACTS, FACTS)
    def test_more_of_anything_is_never_easier(self, one: Facts, other: Facts):
        names = [known.name for known in fields(Facts)]
        most = Facts(**{name: max(getattr(one, name), getattr(other, name)) for name in names})
        assert judge(most) >= max(judge(one), judge(other))

    @given(st.text(), st.text(), st.integers(0, 100))
    def test_every_question_has_a_model_and_a_reason(self, text: str, said: str, tools: int):
        known = question(text, before=(Message(Role.USER, (Text(said),)),), tools=tools)
        choice = choose(LEVELS, known)
        assert choice == choose(LEVELS, known)
        assert choice.reason.startswith(f"{choice.complexity.name.lower()}: {len(text):,} character")


class TestChoose:
    def test_the_reason_says_what_counted(self):
        assert choose(LEVELS, Facts(2140, code=True, tools=3)).reason == "hard: 2,140 characters, code, 3 tools"
        everything = Facts(1, code=True, maths=True, thought=True, tools=1, schema=True, media=2, messages=1)
        assert choose(LEVELS, everything).reason == (
            "hard: 1 character, code, maths, asks for thought, 1 tool, 2 attachments, response schema, 1 earlier message"
        )
        assert choose(LEVELS, Facts(2)).reason == "simple: 2 characters"

    @pytest.mark.parametrize(
        ("levels", "models"),
        [
            (AutoConfig("s", "n", "h"), "s n h"),
            (AutoConfig("", "n", "h"), "n n h"),
            (AutoConfig("s", "", "h"), "s h h"),
            (AutoConfig("s", "n", ""), "s n n"),
            (AutoConfig("s", "", ""), "s s s"),
            (AutoConfig("", "n", ""), "n n n"),
            (AutoConfig("", "", "h"), "h h h"),
        ],
    )
    def test_a_level_that_is_not_set_falls_to_the_next_harder_then_easier(self, levels: AutoConfig, models: str):
        questions = Facts(), Facts(code=True), Facts(code=True, thought=True)
        assert " ".join(choose(levels, known).model.model for known in questions) == models

    def test_without_any_it_is_refused_by_the_names_of_the_settings(self):
        with pytest.raises(AgentsvcError, match="set AGENTSVC_AUTO__SIMPLE") as raised:
            choose(AutoConfig(), Facts())
        assert raised.value.reason is Reason.PROVIDER_NOT_CONFIGURED

    @pytest.mark.parametrize(
        ("said", "provider", "model"),
        [
            ("openai/gpt-5", "openai", "gpt-5"),
            ("groq/openai/gpt-oss-120b", "groq", "openai/gpt-oss-120b"),
            ("gpt-5", "mine", "gpt-5"),
            ("/openai/gpt-oss-120b", "mine", "openai/gpt-oss-120b"),
        ],
    )
    def test_the_provider_is_the_calls_own_unless_one_is_named(self, said: str, provider: str, model: str):
        options = choose(AutoConfig(said), Facts()).over(RunOptions(provider="mine", model="auto", max_steps=3))
        assert options == RunOptions(provider=provider, model=model, max_steps=3)

    def test_the_choice_names_its_model(self):
        assert choose(LEVELS, Facts(8_000)).model == ModelRef("anthropic", "large")


class TestAsked:
    @pytest.mark.parametrize(
        ("agent", "options", "wanted"),
        [
            ("auto", RunOptions(), True),
            ("auto", RunOptions(provider="openai"), True),
            ("gpt-5", RunOptions(model="auto"), True),
            ("gpt-5", RunOptions(provider="groq", model="auto"), True),
            ("gpt-5", RunOptions(), False),
            ("auto", RunOptions(model="gpt-5"), False),
            ("auto", RunOptions(provider="groq"), False),
        ],
    )
    def test_by_the_call_or_by_the_agent_that_it_does_not_overrule(self, agent: str, options: RunOptions, wanted: bool):
        assert asked(LLMConfig("openai", agent), options) is wanted
