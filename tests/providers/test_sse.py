"""SSE framing: what counts as an event, whatever the line ends and wherever the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsvc.providers.sse import MIB, EventStream


def read(body: bytes, size: int = 1 << 30, limit: int = 8 * MIB) -> tuple[list[bytes], bytes, str]:
    stream = EventStream(limit=limit)
    payloads = [payload for at in range(0, len(body), size) for payload in stream.feed(body[at : at + size])]
    return payloads + stream.close(), stream.stray, stream.broken


@pytest.mark.parametrize("size", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize(
    ("body", "payloads"),
    [
        (b'data: {"a":1}\n\ndata: {"b":2}\n\n', [b'{"a":1}', b'{"b":2}']),
        (b"data: 1\r\n\r\ndata: 2\r\n\r\n", [b"1", b"2"]),
        (b"data: 1\r\rdata: 2\r\r", [b"1", b"2"]),
        (b"data: 1\n\rdata: 2\r\n\n", [b"1", b"2"]),
        (b"data:1\n\ndata:  2\n\n", [b"1", b" 2"]),
        (b"data: 1\ndata: 2\n\n", [b"1\n2"]),
        (b"data\ndata: 2\n\n", [b"2"]),
        (b": waiting\n\n: waiting\ndata: 1\n\n", [b"1"]),
        (b"event: x\nid: 7\nretry: 3\nunknown: y\ndata: 1\n\n", [b"1"]),
        (b"event: ping\n\ndata: 1\n\n", [b"1"]),
        (b"data:\n\ndata: \n\ndata: 1\n\n", [b"1"]),
        (b"\xef\xbb\xbfdata: 1\n\n", [b"1"]),
        (b"\n\n\ndata: 1\n\n\n\ndata: 2\n\n", [b"1", b"2"]),
        (b"data: 1\n\ndata: pending", [b"1", b"pending"]),
        (b"data: 1\n\ndata: pending\r", [b"1", b"pending"]),
        (b"data: data: 1\n\n", [b"data: 1"]),
        ("data: né🦆\n\n".encode(), ["né🦆".encode()]),
        (b"", []),
    ],
)
def test_events_come_whole_however_they_are_cut(body: bytes, payloads: list[bytes], size: int) -> None:
    assert read(body, size) == (payloads, b"", "")


@pytest.mark.parametrize("size", [1, 5, 1 << 20])
def test_lines_that_are_no_fields_are_kept_for_the_end(size: int) -> None:
    body = b'data: 1\n\n{\n  "error": {\n    "code": 503\n  }\n}\n\ndata: 2\n\n'
    payloads, stray, _ = read(body, size)
    assert payloads == [b"1", b"2"]
    assert stray == b'{\n  "error": {\n    "code": 503\n  }\n}'


@pytest.mark.parametrize("size", [1, 64, 1 << 20])
def test_a_single_line_of_five_megabytes_passes(size: int) -> None:
    long = b"x" * (5 << 20 if size > 1 else 5 << 10)
    payloads, _, broken = read(b"data: %b\n\ndata: 2\n\n" % long, size)
    assert ([len(payload) for payload in payloads], broken) == ([len(long), 1], "")


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_an_event_above_the_limit_breaks_the_stream_and_not_what_came_before(size: int) -> None:
    payloads, _, broken = read(b"data: 1\n\ndata: %b\n\n" % (b"x" * 100), size, limit=64)
    assert payloads == [b"1"]
    assert "64 bytes" in broken


def test_an_endless_line_is_not_collected() -> None:
    stream = EventStream(limit=1000)
    for _ in range(100):
        stream.feed(b"x" * 100)
    assert stream.broken
    assert len(stream.close()) == 0


LINE = st.sampled_from(
    [
        b"data: {}",
        b"data:[1]",
        b"data",
        b": c",
        b"id: 1",
        b"event: content_block_delta",
        b"x-y: z",
        b'{"error": 1}',
        b"]",
    ]
)
END = st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"\n\n", b"\r\n\r\n", b"\r\r"])


@given(st.lists(st.tuples(LINE, END), max_size=12), st.lists(st.integers(0, 200), max_size=8))
def test_any_cut_gives_the_same_events(lines: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    body = b"".join(line + end for line, end in lines)
    for record in (b"data: ", b"event: content_block_delta\ndata: "):
        stream = EventStream(record=record)
        edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
        pieces = [body[begin:end] for begin, end in pairwise(edges)]
        payloads = [payload for piece in pieces for payload in stream.feed(piece)] + stream.close()
        assert (payloads, stream.stray, stream.broken) == read(body)
