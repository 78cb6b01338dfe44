"""Tool-call assembly: the pathologies of the OpenAI family, one per row."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentsvc.domain.errors import Reason
from agentsvc.domain.events import ModelFailed, ModelFinished, ToolCallArgumentsDelta, ToolCallStarted
from agentsvc.domain.messages import FinishReason
from tests.providers.recorded import DIALECTS, Heard, decode, hear

Entry = dict[str, Any]


def entry(index: int | None = None, call_id: Any = ..., name: Any = ..., arguments: Any = ...) -> Entry:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not ...}
    said: Entry = {"function": function}
    if index is not None:
        said["index"] = index
    if call_id is not ...:
        said["id"] = call_id
    return said


def answer(chunks: list[list[Entry]], finish: str = "tool_calls") -> bytes:
    deltas: list[Entry] = [{"index": 0, "delta": {"tool_calls": entries}} for entries in chunks]
    deltas.append({"index": 0, "delta": {}, "finish_reason": finish})
    return (
        b"".join(b"data: %b\n\n" % json.dumps({"choices": [delta]}).encode() for delta in deltas) + b"data: [DONE]\n\n"
    )


def assemble(chunks: list[list[Entry]], finish: str = "tool_calls") -> Heard:
    return hear(decode(DIALECTS["openai-chat"].decoder(), [answer(chunks, finish)]))


TIDE, WIND = '{"port":"Ayr"}', '{"at":"sea"}'
PATHOLOGIES: dict[str, tuple[list[list[Entry]], list[tuple[str, str, str]]]] = {
    "by the book": (
        [[entry(0, "a", "tide", "")], [entry(0, arguments='{"port"')], [entry(0, arguments=':"Ayr"}')]],
        [("a", "tide", TIDE)],
    ),
    "whole": ([[entry(0, "a", "tide", TIDE)]], [("a", "tide", TIDE)]),
    "two entries in a chunk": (
        [[entry(0, "a", "tide", TIDE), entry(1, "b", "wind", WIND)]],
        [("a", "tide", TIDE), ("b", "wind", WIND)],
    ),
    "interleaved": (
        [
            [entry(0, "a", "tide", "{"), entry(1, "b", "wind", "{")],
            [entry(1, arguments='"at":"sea"')],
            [entry(0, arguments='"port":"Ayr"')],
            [entry(1, arguments="}"), entry(0, arguments="}")],
        ],
        [("a", "tide", TIDE), ("b", "wind", WIND)],
    ),
    "empty id and name later": (
        [[entry(0, "a", "tide", "")], [entry(0, "", "", '{"port":')], [entry(0, None, None, '"Ayr"}')]],
        [("a", "tide", TIDE)],
    ),
    "id repeated": ([[entry(0, "a", "tide", "{")], [entry(0, "a", "", "}")]], [("a", "tide", "{}")]),
    "id and name repeated": (
        [[entry(0, "a", "tide", '{"port"')], [entry(0, "a", "tide", ':"Ayr"}')], [entry(0, "a", "tide", "")]],
        [("a", "tide", TIDE)],
    ),
    "late id": (
        [[entry(0, None, "tide", '{"port"')], [entry(0, arguments=':"Ayr"}')], [entry(0, "a")]],
        [("a", "tide", TIDE)],
    ),
    "late name": ([[entry(0, "a", None, "{")], [entry(0, None, "tide", "}")]], [("a", "tide", "{}")]),
    "id alone first": ([[entry(0, "a")], [entry(0, name="tide")], [entry(0, arguments=TIDE)]], [("a", "tide", TIDE)]),
    "index missing, pieces": (
        [[entry(None, "a", "tide", '{"port"')], [entry(arguments=':"Ayr"}')], [entry(None, "b", "wind", WIND)]],
        [("a", "tide", TIDE), ("b", "wind", WIND)],
    ),
    "index missing, by id": (
        [
            [entry(None, "a", "tide", '{"port"')],
            [entry(None, "b", "wind", '{"at"')],
            [entry(None, "a", None, ':"Ayr"}')],
            [entry(None, "b", None, ':"sea"}')],
        ],
        [("a", "tide", TIDE), ("b", "wind", WIND)],
    ),
    "index missing, by position": (
        [
            [entry(None, "a", "tide", '{"port"'), entry(None, "b", "wind", '{"at"')],
            [entry(arguments=':"Ayr"}'), entry(arguments=':"sea"}')],
        ],
        [("a", "tide", TIDE), ("b", "wind", WIND)],
    ),
    "index missing, late id": (
        [[entry(None, None, "tide", TIDE)], [entry(None, "a")]],
        [("a", "tide", TIDE)],
    ),
    "one index for all, new ids": (
        [[entry(0, "a", "tide", TIDE)], [entry(0, "b", "wind", '{"at"')], [entry(0, arguments=':"sea"}')]],
        [("a", "tide", TIDE), ("b", "wind", WIND)],
    ),
    "one index for all, one tool": (
        [[entry(0, "a", "tide", TIDE)], [entry(0, "b", "tide", TIDE)]],
        [("a", "tide", TIDE), ("b", "tide", TIDE)],
    ),
    "one index for all, no ids": (
        [[entry(0, None, "tide", TIDE)], [entry(0, None, "tide", WIND)], [entry(0, None, "wind", "{}")]],
        [("call_0", "tide", TIDE), ("call_1", "tide", WIND), ("call_2", "wind", "{}")],
    ),
    "index gap": ([[entry(3, "a", "tide", "")], [entry(3, arguments=TIDE)]], [("a", "tide", TIDE)]),
    "indexes out of order": (
        [[entry(1, "b", "wind", WIND)], [entry(0, "a", "tide", TIDE)]],
        [("b", "wind", WIND), ("a", "tide", TIDE)],
    ),
    "no ids": (
        [[entry(0, None, "tide", TIDE), entry(1, "", "wind", WIND)]],
        [("call_0", "tide", TIDE), ("call_1", "wind", WIND)],
    ),
    "our id taken": (
        [[entry(0, "call_1", "tide", TIDE)], [entry(1, None, "wind", WIND)]],
        [("call_1", "tide", TIDE), ("call_1-2", "wind", WIND)],
    ),
    "one id for two": (
        [[entry(0, "a", "tide", TIDE)], [entry(1, "a", "wind", WIND)]],
        [("a", "tide", TIDE), ("a-2", "wind", WIND)],
    ),
    "one id for two, no index": (
        [[entry(None, "a", "tide", TIDE), entry(None, "a", "tide", WIND)]],
        [("a", "tide", TIDE), ("a-2", "tide", WIND)],
    ),
    "arguments null": ([[entry(0, "a", "now", None)]], [("a", "now", "{}")]),
    "arguments null in words": ([[entry(0, "a", "now", "nu")], [entry(0, arguments="ll")]], [("a", "now", "{}")]),
    "arguments blank": ([[entry(0, "a", "now", "")], [entry(0, arguments=" ")]], [("a", "now", "{}")]),
    "arguments an object": ([[entry(0, "a", "tide", {"port": "Ayr"})]], [("a", "tide", TIDE)]),
    "an entry that says nothing": ([[entry(0, "a", "now", "{}")], [entry(1)]], [("a", "now", "{}")]),
    "a later call known first": (
        [[entry(0, None, "tide", TIDE)], [entry(1, "b", "wind", WIND)], [entry(0, "a")]],
        [("a", "tide", TIDE), ("b", "wind", WIND)],
    ),
}


@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
@pytest.mark.parametrize(("chunks", "calls"), PATHOLOGIES.values(), ids=PATHOLOGIES)
def test_every_call_has_its_id_its_name_and_valid_json(
    chunks: list[list[Entry]], calls: list[tuple[str, str, str]], finish: str
) -> None:
    heard = assemble(chunks, finish)
    assert [(call_id, name, arguments) for call_id, (name, arguments) in heard.calls.items()] == calls
    assert isinstance(heard.end, ModelFinished)
    assert heard.end.finish_reason is FinishReason.TOOL_CALLS


def test_a_call_starts_as_soon_as_it_is_known() -> None:
    decoder = DIALECTS["openai-chat"].decoder()
    head, piece, *_ = answer([[entry(0, "a", "tide", "")], [entry(0, arguments='{"port')]]).split(b"\n\n")
    assert decoder.feed(head + b"\n\n") == [ToolCallStarted("a", "tide")]
    assert decoder.feed(piece + b"\n\n") == [ToolCallArgumentsDelta("a", '{"port')]


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ([[entry(0, None, None, "{}")]], "no name"),
        ([[entry(0, "a", None, "{}")]], "no name"),
        ([[entry(0, "a", "tide", '{"port":')]], "not a JSON object"),
        ([[entry(0, "a", "tide", "[1]")]], "not a JSON object"),
        ([[entry(0, "a", "tide", "nil")]], "not a JSON object"),
        ([[entry(0, "a", "tide", "{}{}")]], "not a JSON object"),
    ],
)
def test_a_call_that_makes_no_sense_is_an_error(chunks: list[list[Entry]], words: str) -> None:
    end = assemble(chunks).end
    assert isinstance(end, ModelFailed)
    assert end.error.reason is Reason.MALFORMED_STREAM
    assert words in end.error.message


def test_what_came_of_unsound_arguments_is_told() -> None:
    assert assemble([[entry(0, "a", "tide", '{"port":')]]).calls == {"a": ["tide", '{"port":']}


def test_a_call_cut_by_the_output_limit_says_so_and_is_not_retried() -> None:
    end = assemble([[entry(0, "a", "tide", '{"port":')]], finish="length").end
    assert isinstance(end, ModelFailed)
    assert "max_output_tokens" in end.error.message
    assert not end.error.retryable
