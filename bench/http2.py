"""As much of gRPC over HTTP/2 as a load client needs, and no thread beside the event loop.

A message costs grpc.aio's client as much as it costs the server, so with it the client, not the service, would be what
is measured. Here a message is a slice of what a read brought. RFC 9113 frames; header tables are off (RFC 7541), so
that trailers can be searched as they are; windows are so wide that they never shut.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterable
from typing import Final, cast

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_MAX = (1 << 31) - 1
_REGRANT: Final = 1 << 29  # bytes received after which the connection's window is opened again
_TEXT_DELTA: Final = 4 << 3 | 2  # ChatEvent.text_delta
_OK: Final = b"grpc-status\x010"


class CallFailedError(Exception):
    """A call ended otherwise than with status OK; the message holds its trailers as they came."""


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


_SETTING: Final = struct.Struct(">HI")
_PREFACE: Final = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    # HEADER_TABLE_SIZE, ENABLE_PUSH, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE
    + _frame(_SETTINGS, 0, 0, b"".join(_SETTING.pack(*s) for s in ((1, 0), (2, 0), (4, _MAX), (5, (1 << 24) - 1))))
    + _frame(8, 0, 0, struct.pack(">I", _MAX - 65_535))
)


def headers(path: str, metadata: Iterable[tuple[str, str]] = ()) -> bytes:
    """The header block of a gRPC call, HPACK literals without indexing."""
    pairs = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *metadata,
    ]
    return b"".join(b"\x00" + _literal(key) + _literal(value) for key, value in pairs)


def _literal(text: str) -> bytes:
    raw = text.encode()
    size = len(raw)
    if size < 127:
        return bytes((size,)) + raw
    prefix, rest = b"\x7f", size - 127
    while rest >= 128:
        prefix, rest = prefix + bytes((rest & 127 | 128,)), rest >> 7
    return prefix + bytes((rest,)) + raw


class Call:
    """One streaming call as it is read. Times are ``time.monotonic_ns``.

    ``arrivals``, when given, takes (time, text) of every text delta. ``first_text_ns`` is 0 until there was one.
    """

    __slots__ = ("_held", "arrivals", "done", "first_text_ns", "messages", "text_bytes")

    def __init__(self, arrivals: list[tuple[int, bytes]] | None = None) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.arrivals = arrivals
        self.first_text_ns = self.text_bytes = self.messages = 0
        self._held = b""

    def feed(self, data: bytes, now: int) -> None:
        """A DATA frame's payload."""
        if self._held:
            data = self._held + data
        at, end = 0, len(data)
        while end - at >= 5:
            stop = at + 5 + int.from_bytes(data[at + 1 : at + 5])
            if stop > end:
                break
            self.messages += 1
            if text := _text(data, at + 5):
                self.arrived(text, now)
            at = stop
        self._held = data[at:]

    def arrived(self, text: bytes, now: int) -> None:
        """Text of the answer."""
        self.text_bytes += len(text)
        self.first_text_ns = self.first_text_ns or now
        if self.arrivals is not None:
            self.arrivals.append((now, text))

    def end(self, error: Exception | None) -> None:
        """The call is over, well if ``error`` is None."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


def _text(data: bytes, at: int) -> bytes:
    """The text of the StreamChatResponse that begins at ``at``, empty if it is another event than text_delta."""
    _, at = _varint(data, at + 1)
    while (tag := data[at]) in (0x08, 0x10, 0x18):  # sequence, elapsed_us, step
        _, at = _varint(data, at + 1)
    if tag != _TEXT_DELTA:
        return b""
    _, at = _varint(data, at + 1)
    size, at = _varint(data, at + 1)
    return data[at : at + size]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = data[at]
    at += 1
    if number < 128:
        return number, at
    number &= 127
    shift = 7
    while (byte := data[at]) >= 128:
        number |= (byte & 127) << shift
        shift += 7
        at += 1
    return number | byte << shift, at + 1


class Connection(asyncio.Protocol):
    """One connection, any number of calls."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._next = 1
        self._held = b""
        self._granted = _REGRANT
        self._lost = asyncio.Event()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(_PREFACE)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.set()
        for call in self._calls.values():
            call.end(CallFailedError(f"the connection was closed: {exc}"))

    def call(self, head: bytes, message: bytes, call: Call) -> None:
        """Starts a call: ``head`` as ``headers`` makes it, ``message`` serialised."""
        stream = self._next
        self._next += 2
        self._calls[stream] = call
        self._transport.write(
            _frame(_HEADERS, _END_HEADERS, stream, head)
            + _frame(_DATA, _END_STREAM, stream, b"\0" + struct.pack(">I", len(message)) + message)
        )

    async def close(self) -> None:
        """Closes at once; calls at work fail."""
        self._transport.abort()
        await self._lost.wait()

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if self._held:
            data = self._held + data
        at, end = 0, len(data)
        while end - at >= 9:
            word = int.from_bytes(data[at : at + 4])
            stop = at + 9 + (word >> 8)
            if stop > end:
                break
            self._frame(word & 255, data[at + 4], int.from_bytes(data[at + 5 : at + 9]), data[at + 9 : stop], now)
            at = stop
        self._held = data[at:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes, now: int) -> None:
        if kind == _DATA:
            self._granted -= len(payload)
            if self._granted < 0:
                self._transport.write(_frame(8, 0, 0, struct.pack(">I", _REGRANT)))
                self._granted += _REGRANT
            self._calls[stream].feed(payload, now)
        elif kind == _HEADERS and flags & _END_STREAM:
            self._calls.pop(stream).end(None if _OK in payload else CallFailedError(str(payload)))
        elif kind == _RST_STREAM and stream in self._calls:
            self._calls.pop(stream).end(CallFailedError(f"reset, code {int.from_bytes(payload)}"))
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._transport.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _GOAWAY:
            self._transport.abort()


async def connect(port: int) -> Connection:
    """A connection to a gRPC server on loopback, without TLS."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection
