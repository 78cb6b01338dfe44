"""One read, few events: what arrived together leaves together."""

from __future__ import annotations

import json

import pytest

from agentsvc.domain.events import ReasoningDelta, TextDelta
from tests.providers.recorded import DIALECTS


def frame(**delta: str) -> bytes:
    return b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode()


def test_adjacent_deltas_of_one_read_are_one_event() -> None:
    decoder = DIALECTS["openai-chat"].decoder()
    read = frame(reasoning_content="a") + frame(reasoning="b") + frame(content="c") * 1000 + frame(reasoning="d")
    assert decoder.feed(read) == [ReasoningDelta("ab"), TextDelta("c" * 1000), ReasoningDelta("d")]
    assert decoder.feed(frame(content="e")) == [TextDelta("e")]


def test_what_says_nothing_is_no_event() -> None:
    decoder = DIALECTS["openai-chat"].decoder()
    assert not decoder.feed(b": ping\n\n" + frame(role="assistant") + frame(role="assistant", content=""))
    claude = DIALECTS["anthropic"].decoder()
    assert not claude.feed(
        b'event: ping\ndata: {"type": "ping"}\n\nevent: message_start\ndata: {"type":"message_start"}\n\n'
    )


@pytest.mark.parametrize(
    ("written", "read"), [(r"\ud83e\udd86", "🦆"), (r"\ud83e", "�"), (r"\\ud83e \udd86", "\\ud83e �")]
)
def test_half_a_surrogate_pair_is_no_character(written: str, read: str) -> None:
    decoder = DIALECTS["openai-chat"].decoder()
    assert decoder.feed(b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % written.encode()) == [TextDelta(read)]


def test_after_the_end_everything_is_swallowed() -> None:
    decoder = DIALECTS["openai-chat"].decoder()
    decoder.feed(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
    assert not decoder.feed(frame(content="late"))
    assert not decoder.close()
