"""Server-sent events: bytes in, the data of complete events out. No I/O.

The format is the WHATWG's (html.spec.whatwg.org, "Server-sent events"), read as vendors really write it: lines end in LF,
CRLF or CR; the space after ``data:`` may be missing; comments, ``event:``, ``id:``, ``retry:`` and unknown fields say
nothing (a dialect branches on its JSON); several ``data:`` lines of one event are joined by LF; the event that is pending
when the connection ends is delivered. Lines that are no field at all are kept: Gemini and some gateways write a bare JSON
error into a stream, and only the end tells whether such lines are one.
"""

from __future__ import annotations

import re

MIB = 1 << 20
LINE_LIMIT = 8 * MIB  # bytes of one event or line; signatures and search results make some of them large

_BOM = b"\xef\xbb\xbf"
_SILENT = (b":", b"event:", b"id:")  # what most lines beside the data are
_FIELD = re.compile(rb"[A-Za-z][\w-]*(?::|$)")  # an unknown but possible field; JSON and HTML never look like one


class EventStream:
    """The events of one response.

    ``record`` is how the vendor writes the lines of a usual event up to its JSON. A read that holds nothing but such
    records is split in one C call; any other read is taken line by line, with the same result.

    After a feed, ``broken`` is not empty when the stream cannot be read on, and says why. ``stray`` are the lines that
    were no fields.
    """

    __slots__ = ("_held", "_limit", "_line_ends", "_record", "_separator", "_stray", "broken")

    def __init__(self, *, record: bytes = b"data: ", limit: int = LINE_LIMIT) -> None:
        self._record = record
        self._separator = b"\n\n" + record
        self._line_ends = record.count(b"\n") + 2
        self._limit = limit
        self._held = bytearray()  # what came after the last blank line
        self._stray = bytearray()  # one buffer: a list of short lines would cost many times their length
        self.broken = ""

    @property
    def stray(self) -> bytes:
        """The lines that were no SSE field, joined by LF. Empty in a well-formed stream."""
        return bytes(self._stray[:-1])

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every event that ``chunk`` completes, in order. Often empty."""
        block = self.block(chunk)
        return self.payloads(block) if block else []

    def block(self, chunk: bytes) -> bytes:
        """The whole events that ``chunk`` completes, blank lines included; the rest is held. Often empty."""
        held = self._held
        if not held:
            cut = _after_blank_line(chunk, 0)
            if cut == len(chunk):
                return chunk
            held += chunk[cut:]
            block = chunk[:cut]
        else:
            searched = len(held)
            held += chunk
            cut = _after_blank_line(held, max(0, searched - 2))
            block = bytes(held[:cut])
            del held[:cut]
        # The bytes of an event's last line end are not counted, and up to four of them may be held already.
        if len(held) > self._limit + 4:
            self._break()
        return block

    def lines(self, block: bytes) -> bytes | None:
        """``block`` as JSON lines, when it looks like usual events only: the way for one C call to decode them all.

        Whoever decodes them compares how many they were with ``usual``.
        """
        record = self._record
        if not block.startswith(record) or not block.endswith(b"\n\n") or 13 in block or len(block) > self._limit:
            return None
        return block[len(record) : -2].replace(self._separator, b"\n")

    def usual(self, block: bytes, events: int) -> bool:
        """Whether ``block`` is so many usual events and nothing else: every line end in it is theirs."""
        return block.count(b"\n") == events * self._line_ends

    def tail(self, block: bytes, events: int) -> int:
        """Where the last ``events`` events of ``block`` begin; 0 when it holds no more, or other line ends than LF."""
        end = len(block) - 2
        for _ in range(events):
            end = block.rfind(b"\n\n", 0, end)
            if end < 0:
                return 0
        return end + 2

    def close(self) -> list[bytes]:
        """The connection ended: the data of the pending event, if there is one."""
        block = bytes(self._held) + b"\n\n"
        self._held.clear()
        return self._lines(block)

    def payloads(self, block: bytes) -> list[bytes]:
        """The data of the events in ``block``."""
        record = self._record
        if block.startswith(record) and block.endswith(b"\n\n") and 13 not in block and len(block) <= self._limit:
            payloads = block[len(record) : -2].split(self._separator)
            # Nothing but records: no line end beside the separators' own, no record without data.
            if block.count(b"\n") == len(payloads) * (record.count(b"\n") + 2) and b"" not in payloads:
                return payloads
        return self._lines(block)

    def _lines(self, block: bytes) -> list[bytes]:
        payloads: list[bytes] = []
        data: list[bytes] = []
        size = 0
        for line in block.removeprefix(_BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
            if not line:
                if any(data):
                    payloads.append(b"\n".join(data))
                data.clear()
                size = 0
                continue
            size += len(line) + 1
            if size - 1 > self._limit:
                self._break()
                break
            if line.startswith(b"data:"):
                data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line.startswith(_SILENT) and not _FIELD.match(line):
                self._keep(line)
        return payloads

    def _keep(self, line: bytes) -> None:
        self._stray += line + b"\n"
        if len(self._stray) > self._limit:
            self._break()

    def _break(self) -> None:
        self.broken = f"one event is larger than {self._limit} bytes"
        self._held.clear()
        self._stray.clear()


def _after_blank_line(buffer: bytes | bytearray, start: int) -> int:
    """Where the last blank line at or after ``start`` ends; 0 when there is none."""
    end = buffer.rfind(b"\n\n", start) + 2
    if buffer.find(b"\r", start) >= 0:
        end = max(end, buffer.rfind(b"\n\r", start) + 2, buffer.rfind(b"\r\r", start) + 2)
    return end if end >= 2 else 0
