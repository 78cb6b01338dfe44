"""Newline-delimited JSON: bytes in, whole lines out. No I/O.

Blank lines say nothing; a CR before the LF is white space to JSON. The line that is pending when the connection ends is
delivered: whether it is whole is for the reader of its JSON to find out.
"""

from __future__ import annotations

from agentsvc.providers.sse import LINE_LIMIT


class JSONLines:
    """The lines of one response.

    After a feed, ``broken`` is not empty when the stream cannot be read on, and says why.
    """

    __slots__ = ("_held", "_limit", "broken")

    def __init__(self, *, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._held = bytearray()  # what came after the last line end
        self.broken = ""

    @property
    def stray(self) -> bytes:
        """Nothing: every line is one of the format's own."""
        return b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Every line that ``chunk`` completes, in order. Often empty."""
        return self.payloads(self.block(chunk))

    def block(self, chunk: bytes) -> bytes:
        """The whole lines that ``chunk`` completes; the rest is held. Often empty."""
        held = self._held
        cut = chunk.rfind(b"\n") + 1
        block = b""
        if cut:
            block = bytes(held) + chunk[:cut] if held else chunk[:cut]
            held.clear()
        held += chunk[cut:] if cut else chunk
        if len(held) > self._limit:
            self._break()
        return block

    def lines(self, block: bytes) -> bytes | None:
        """They are lines already."""
        return block

    def usual(self, block: bytes, events: int) -> bool:
        """Whether there is nothing between the lines."""
        return block.count(b"\n") == events

    def tail(self, block: bytes, events: int) -> int:
        """Where the last ``events`` lines of ``block`` begin; 0 when it holds no more."""
        end = len(block) - 1
        for _ in range(events):
            end = block.rfind(b"\n", 0, end)
            if end < 0:
                return 0
        return end + 1

    def close(self) -> list[bytes]:
        """The connection ended: the pending line, if there is one."""
        lines = self.payloads(bytes(self._held))
        self._held.clear()
        return lines

    def payloads(self, block: bytes) -> list[bytes]:
        """The lines of ``block`` that say something."""
        lines = [line for line in block.split(b"\n") if line and not line.isspace()]
        if len(block) > self._limit:
            for number, line in enumerate(lines):
                if len(line) > self._limit:
                    self._break()
                    return lines[:number]
        return lines

    def _break(self) -> None:
        self.broken = f"one line is larger than {self._limit} bytes"
        self._held.clear()
