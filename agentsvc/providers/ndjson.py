"""Newline-delimited JSON: bytes in, whole lines out. No I/O.

Blank lines say nothing; a CR before the LF is white space to JSON. The line that is pending when the connection ends is
delivered: whether it is whole is for the reader of its JSON to find out.
"""

from __future__ import annotations

from agentsvc.providers.sse import MIB


class JSONLines:
    """The lines of one response.

    After a feed, ``broken`` is not empty when the stream cannot be read on, and says why.
    """

    __slots__ = ("_held", "_limit", "broken")

    def __init__(self, *, limit: int = 8 * MIB) -> None:
        self._limit = limit
        self._held = bytearray()  # what came after the last line end
        self.broken = ""

    @property
    def stray(self) -> bytes:
        """Nothing: every line is one of the format's own."""
        return b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Every line that ``chunk`` completes, in order. Often empty."""
        held = self._held
        cut = chunk.rfind(b"\n") + 1
        lines: list[bytes] = []
        if cut:
            block = bytes(held) + chunk[:cut] if held else chunk[:cut]
            held.clear()
            lines = self._lines(block)
        held += chunk[cut:] if cut else chunk
        if len(held) > self._limit:
            self._break()
        return lines

    def close(self) -> list[bytes]:
        """The connection ended: the pending line, if there is one."""
        lines = self._lines(bytes(self._held))
        self._held.clear()
        return lines

    def _lines(self, block: bytes) -> list[bytes]:
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
