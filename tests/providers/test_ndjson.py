"""NDJSON framing: what counts as a line, wherever the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsvc.providers.ndjson import JSONLines


def read(body: bytes, size: int = 1 << 30, limit: int = 64) -> tuple[list[bytes], str]:
    lines = JSONLines(limit=limit)
    read: list[bytes] = []
    for at in range(0, len(body), size):
        read += lines.feed(body[at : at + size])
        if lines.broken:
            return read, lines.broken
    return read + lines.close(), lines.broken


@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (b"{}\n[1]\n", [b"{}", b"[1]"]),
        (b"{}\r\n[1]\r\n", [b"{}\r", b"[1]\r"]),
        (b"\n\r\n  \n{}\n\n", [b"{}"]),
        (b"{}\n[1", [b"{}", b"[1"]),
        ('{"né":"🦆"}\n'.encode(), ['{"né":"🦆"}'.encode()]),
        (b"", []),
    ],
)
def test_lines_come_whole_however_they_are_cut(body: bytes, lines: list[bytes], size: int) -> None:
    assert read(body, size) == (lines, "")


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_line_above_the_limit_breaks_the_stream_and_not_what_came_before(size: int) -> None:
    lines, broken = read(b"{}\n" + b"x" * 100 + b"\n[1]\n", size)
    assert lines == [b"{}"]
    assert "64 bytes" in broken


def test_an_endless_line_is_not_collected() -> None:
    lines = JSONLines(limit=1000)
    for _ in range(100):
        lines.feed(b"x" * 100)
    assert lines.broken
    assert sum(map(len, lines.close())) <= 1000


@given(
    st.lists(st.sampled_from([b"{}", b"[1]", b"\n", b"\r\n", b" ", b"\xf0"])), st.lists(st.integers(0, 60), max_size=8)
)
def test_any_cut_gives_the_same_lines(pieces: list[bytes], cuts: list[int]) -> None:
    body = b"".join(pieces)
    lines = JSONLines()
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    cut = [line for begin, end in pairwise(edges) for line in lines.feed(body[begin:end])] + lines.close()
    assert cut == read(body, limit=1 << 20)[0]
