"""HTTP/2 by hand (RFC 9113), for what a well-behaved library would never send."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import NamedTuple

from bench.http2 import headers as header_block
from tests.e2e.house import Metadata

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CANCEL = struct.pack(">I", 8)
END_STREAM, ACK, END_HEADERS = 1, 1, 4


class Kind(IntEnum):
    """The types of frame that are used here."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Frame(NamedTuple):
    """One frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def request(stream: int, path: str, message: bytes, metadata: Metadata = ()) -> bytes:
    """A whole unary-request call: headers and the one message."""
    return opening(stream, path, metadata) + frame(
        Kind.DATA, END_STREAM, stream, b"\0" + struct.pack(">I", len(message)) + message
    )


def opening(stream: int, path: str, metadata: Metadata = ()) -> bytes:
    """A call whose message is still to come."""
    return frame(Kind.HEADERS, END_HEADERS, stream, header_block(path, [(key, str(value)) for key, value in metadata]))


class RawConnection:
    """A connection on which settings were exchanged, and which does nothing by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self) -> Frame | None:
        """The next frame; None when the peer has hung up."""
        try:
            head = await self._reader.readexactly(9)
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            return Frame(kind, flags, stream, await self._reader.readexactly(int.from_bytes(head[:3])))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def answer(self) -> Frame | None:
        """As ``receive``, but pings and settings of the peer are acknowledged and not returned."""
        while (found := await self.receive()) is not None:
            if found.kind not in (Kind.PING, Kind.SETTINGS) or found.flags & ACK:
                return found
            await self.send(frame(found.kind, ACK, 0, found.payload if found.kind == Kind.PING else b""))
        return None


@asynccontextmanager
async def tcp(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which nothing has been said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def raw_connection(port: int) -> AsyncIterator[RawConnection]:
    async with tcp(port) as (reader, writer):
        connection = RawConnection(reader, writer)
        await connection.send(PREFACE + frame(Kind.SETTINGS))
        yield connection
