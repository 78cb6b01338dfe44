"""Reasoning that a vendor wants to read again: kept whole while it arrives, sent back where it is wanted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentsvc.domain.events import ModelFinished
from agentsvc.domain.messages import Message, ProviderState, Role, Text
from agentsvc.domain.ports import ModelRequest
from agentsvc.providers import PROVIDERS, Endpoint
from agentsvc.providers.thoughts import Thoughts
from tests.providers.recorded import RECORDINGS, decode, hear, slices
from tests.providers.test_vendors import ASKED, RESULT, called

ANSWERED = Message(Role.ASSISTANT, (Text("06:10"),))
WITH_TEXT = [name for name in PROVIDERS if name in {"deepseek", "moonshot", "zhipu"}]


def kept(provider: str, recording: str, size: int = 13) -> ProviderState | None:
    """The state that a stream of ours leaves behind."""
    (body,) = [found.body for found in RECORDINGS if found.name == recording]
    end = hear(decode(PROVIDERS[provider].dialect.decoder(), slices(body, size))).end
    assert isinstance(end, ModelFinished)
    return end.provider_state


def sent(provider: str, *messages: Message) -> list[dict[str, Any]]:
    request = ModelRequest("m-1", messages)
    found: list[dict[str, Any]] = json.loads(
        PROVIDERS[provider].dialect.encode(request, Endpoint("https://x.example", "k")).body
    )["messages"]
    return found


@pytest.mark.parametrize("size", [1, 13, 1 << 20])
def test_a_text_is_kept_whole(size: int) -> None:
    state = kept("deepseek", "deepseek/thinking-call", size)
    assert state == ProviderState("deepseek", {"reasoning_content": "A table knows."})


@pytest.mark.parametrize("size", [1, 13, 1 << 20])
def test_blocks_are_kept_whole_with_their_signatures(size: int) -> None:
    claude = {"type": "reasoning.text", "text": "Look it up.", "format": "anthropic-claude-v1", "index": 0}
    gemini = {
        "type": "reasoning.encrypted",
        "data": "Z2Vt",
        "id": "toolu_own",
        "format": "google-gemini-v1",
        "index": 1,
    }
    state = kept("openrouter", "openrouter/signed-reasoning", size)
    assert state == ProviderState("openrouter", {"reasoning_details": [claude | {"signature": "c2lnbmVk"}, gemini]})


def test_a_vendor_that_wants_nothing_back_keeps_nothing() -> None:
    assert kept("openai-compatible", "deepseek/thinking-call") is None


@pytest.mark.parametrize("provider", WITH_TEXT)
def test_every_turn_that_called_tools_carries_its_reasoning_for_good(provider: str) -> None:
    state = ProviderState(provider, {"reasoning_content": "A table knows."})
    thought = Message(Role.ASSISTANT, (Text("06:10"),), provider_state=state)
    messages = sent(provider, ASKED, called(state), RESULT, thought, ASKED, thought, ASKED)
    assert [message.get("reasoning_content") for message in messages] == [
        None,
        "A table knows.",
        None,
        "A table knows.",
        None,
        None,  # no tool was called since the question: what was thought there is of no use
        None,
    ]


@pytest.mark.parametrize("provider", WITH_TEXT)
def test_a_turn_of_another_vendor_that_called_tools_carries_an_empty_one(provider: str) -> None:
    foreign = ProviderState("another", {"reasoning_content": "secret"})
    messages = sent(provider, ASKED, called(foreign), RESULT, ANSWERED)
    assert [message.get("reasoning_content") for message in messages] == [None, "", None, ""]


def test_blocks_go_back_unchanged_and_only_to_their_vendor() -> None:
    state = kept("openrouter", "openrouter/signed-reasoning")
    assert state is not None
    assert (
        sent("openrouter", ASKED, called(state), RESULT)[1]["reasoning_details"] == state.payload["reasoning_details"]
    )
    assert "reasoning_details" not in sent("openrouter", ASKED, called(), RESULT)[1]
    assert sent("openai", ASKED, called(state), RESULT) == sent("openai", ASKED, called(), RESULT)


def test_the_reasoning_of_a_turn_stays_where_it_was_so_that_prompt_caches_stay_warm() -> None:
    state = ProviderState("deepseek", {"reasoning_content": "A table knows."})
    first = sent("deepseek", ASKED, called(state), RESULT)
    assert sent("deepseek", ASKED, called(state), RESULT, ANSWERED, ASKED)[: len(first)] == first


def blocks(*chunks: Any) -> Any:
    thoughts = Thoughts("reasoning_details")
    for chunk in chunks:
        thoughts.add(None, chunk)
    state = thoughts.state("openrouter")
    return state and state.payload["reasoning_details"]


def text(piece: str | None, **more: Any) -> dict[str, Any]:
    return {"type": "reasoning.text", "text": piece, **more}


def test_pieces_belong_together_by_type_and_index_until_the_signature() -> None:
    assert blocks([text("a", index=0)], [text("b", index=0)], [text("c", index=1)]) == [
        text("ab", index=0),
        text("c", index=1),
    ]
    assert blocks(
        [text("", signature="")], [text("a")], [text("b")], [{"type": "reasoning.text", "signature": "s"}]
    ) == [text("ab", signature="s")]
    assert blocks([text("a", signature="s"), text("b")]) == [text("a", signature="s"), text("b")]
    summary = {"type": "reasoning.summary", "summary": "sum", "index": 0}
    assert blocks([text("a", index=0)], [summary], [summary]) == [text("a", index=0), summary | {"summary": "sumsum"}]


def test_encrypted_blocks_are_never_joined() -> None:
    block = {"type": "reasoning.encrypted", "data": "x", "index": 0}
    assert blocks([block], [block | {"data": "y"}]) == [block, block | {"data": "y"}]


@pytest.mark.parametrize("junk", [None, "text", 7, {}, [], [None, 1, "x"]])
def test_anything_else_in_their_place_is_no_reasoning(junk: Any) -> None:
    assert blocks(junk) is None


def test_blocks_of_no_known_form_go_back_as_they_came() -> None:
    odd = [{"type": ["reasoning.text"]}, {"text": 1}, {"type": "reasoning.text", "text": 5, "index": 0}]
    assert blocks(odd) == odd
