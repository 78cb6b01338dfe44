"""Streams are the specification: every recording, ours and those beside the project, at every chunking."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsvc.domain.errors import Reason
from agentsvc.domain.events import ModelFailed, ModelFinished
from agentsvc.domain.messages import Usage
from tests.providers.recorded import DIALECTS, RECORDINGS, STREAMS, Recording, decode, hear, slices

REASONS = {
    "auth": Reason.PROVIDER_AUTH,
    "permission": Reason.PROVIDER_PERMISSION,
    "not_found": Reason.PROVIDER_NOT_FOUND,
    "invalid_request": Reason.PROVIDER_INVALID_REQUEST,
    "context_length": Reason.CONTEXT_LENGTH,
    "content_filter": Reason.CONTENT_FILTER,
    "rate_limit": Reason.PROVIDER_RATE_LIMIT,
    "quota": Reason.PROVIDER_QUOTA,
    "overloaded": Reason.PROVIDER_OVERLOADED,
    "server_error": Reason.PROVIDER_SERVER_ERROR,
    "truncated": Reason.STREAM_TRUNCATED,
    "malformed_chunk": Reason.MALFORMED_STREAM,
}
COUNTS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cached_input": "cached_input_tokens",
    "cache_write": "cache_write_tokens",
    "reasoning": "reasoning_tokens",
}
WHOLE = 1 << 30


def reported(usage: Usage | None, expected: dict[str, int] | None) -> dict[str, int] | None:
    """The numbers that ``expected`` names; the others were not reported."""
    return None if usage is None else {name: getattr(usage, COUNTS[name]) for name in expected or COUNTS}


def assert_as_expected(recording: Recording, size: int) -> None:
    expect = recording.expect
    heard = hear(decode(recording.decoder(), slices(recording.body, size)))
    assert heard.text == expect["text"] + (expect.get("refusal") or "")
    assert heard.reasoning == expect["reasoning"]
    calls = [(call_id, name, json.loads(arguments)) for call_id, (name, arguments) in heard.calls.items()]
    assert calls == [
        (wanted["id"] or call_id, wanted["name"], json.loads(wanted["arguments_json"] or "{}"))
        for (call_id, *_), wanted in zip(calls, expect["tool_calls"], strict=True)
    ]
    if expect["error"]:
        assert isinstance(heard.end, ModelFailed)
        assert heard.end.error.reason is REASONS[expect["error"]["kind"]]
        assert heard.end.error.provider == "acme"
    else:
        assert isinstance(heard.end, ModelFinished)
        assert heard.end.finish_reason == expect["finish_norm"]
    assert reported(heard.end.usage, expect["usage"]) == expect["usage"]


@pytest.mark.parametrize("size", [1, 7, 4096, WHOLE])
@pytest.mark.parametrize("recording", STREAMS, ids=lambda recording: recording.name)
def test_an_answer_is_what_the_recording_says(recording: Recording, size: int) -> None:
    assert_as_expected(recording, size)


@pytest.mark.parametrize("recording", [r for r in RECORDINGS if r.status != 200], ids=lambda recording: recording.name)
def test_a_refusal_is_what_the_recording_says(recording: Recording) -> None:
    error = recording.dialect.error(recording.status, recording.headers, recording.body)
    assert error.reason is REASONS[recording.expect["error"]["kind"]]
    assert error.provider == "acme"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_has_streams_of_its_own(dialect: str) -> None:
    assert sum("/" in recording.name for recording in STREAMS if recording.dialect is DIALECTS[dialect]) >= 8


SHORT = [recording for recording in STREAMS if len(recording.body) < 6000 and "/" in recording.name]


@given(st.data())
def test_any_chunking_gives_the_same_events(data: st.DataObject) -> None:
    recording = data.draw(st.sampled_from(SHORT))
    body = recording.body
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    chunks = [body[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert decode(recording.decoder(), chunks) == decode(recording.decoder(), [body])


@given(st.data())
def test_a_damaged_stream_ends_once_and_never_raises(data: st.DataObject) -> None:
    recording = data.draw(st.sampled_from(SHORT))
    body = bytearray(recording.body)
    for at, noise in data.draw(st.lists(st.tuples(st.integers(0, len(body) - 1), st.binary(max_size=4)), max_size=4)):
        body[at : at + data.draw(st.integers(0, 40))] = noise
    size = data.draw(st.sampled_from([1, 13, WHOLE]))
    events = decode(recording.decoder(), slices(bytes(body), size))
    assert hear(events).end is not None
    assert events == decode(recording.decoder(), [bytes(body)])


KEYS = [
    *("choices", "delta", "index", "content", "tool_calls", "function", "id", "name", "arguments", "finish_reason"),
    *("usage", "prompt_tokens", "error", "code", "message", "type", "status", "content_block", "text", "partial_json"),
    *("candidates", "parts", "functionCall", "args", "finishReason", "promptFeedback", "groundingMetadata", "done"),
    *(
        "output",
        "item",
        "response",
        "summary",
        "result",
        "is_end",
        "function_call",
        "tool_plan",
        "citations",
        "sources",
    ),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from(sorted(DIALECTS)), st.lists(JSON, max_size=4), st.booleans())
def test_any_json_at_all_is_survived(dialect: str, values: list[Any], whole: bool) -> None:
    if whole:
        chunks = [json.dumps(value).encode() for value in values[:1]]
        decoder = DIALECTS[dialect].body_decoder()
    else:
        chunks = [b"data: %b\n\n" % json.dumps(value).encode() for value in values]
        decoder = DIALECTS[dialect].decoder()
    assert hear(decode(decoder, chunks)).end is not None


@given(st.sampled_from(sorted(DIALECTS)), st.integers(201, 599), JSON.map(json.dumps) | st.text(max_size=40))
def test_any_refusal_at_all_is_an_error(dialect: str, status: int, body: str) -> None:
    error = DIALECTS[dialect].error(status, {"retry-after": body[:12]}, body.encode())
    assert error.message
    assert error.provider == "acme"
