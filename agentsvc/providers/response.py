"""One answer over HTTP, as far as aiohttp's parser has come: head here, body while it comes."""

# ruff: noqa: SLF001 - aiohttp's reader has no public way to take all it has at once, nor a cheap one to ask how it is

from __future__ import annotations

import asyncio
from typing import Self

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import CIMultiDictProxy

from agentsvc.providers.connection import Wire

_INTERIM = frozenset(range(100, 200)) - {101}  # another head follows; after 101 nothing of HTTP does


class NotHttpError(aiohttp.ClientError):
    """What came is no HTTP response."""


class Response:
    """Status and headers of an answer, and its ``content``. The connection goes back to its pool when the body ends.

    ``connection`` is None from then on. Whoever does not read to the end calls ``close``.
    """

    __slots__ = ("__weakref__", "connection", "content", "headers", "status")

    def __init__(self, head: RawResponseMessage, content: aiohttp.StreamReader, connection: Connection) -> None:
        self.status = head.code
        self.headers: CIMultiDictProxy[str] = head.headers
        self.content = content
        self.connection: Connection | None = connection
        content.on_eof(self._ended)

    @classmethod
    async def on(cls, wire: Wire, connection: Connection) -> Self:
        """The answer to what was sent on ``wire``, when its head is here. ``connection`` is the pool's hold on it.

        Raises:
            NotHttpError, aiohttp.ClientError, OSError: there is none.
        """
        try:
            while True:
                head, content = await wire.read()
                if head.code not in _INTERIM:
                    return cls(head, content, connection)
        except HttpProcessingError as problem:
            raise NotHttpError from problem

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters; empty when nothing was said."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    async def read(self) -> bytes:
        """All of the body that is here, waiting while there is nothing; empty at its end. Raises as ``taken``."""
        while (data := self.taken()) is None:
            await self.arrival()
        return data

    def taken(self) -> bytes | None:
        """All of the body that is here; empty at its end, None while there is nothing.

        aiohttp's own ``readany`` looks after every HTTP chunk singly, and vendors send one per token: 1 us each.

        Raises:
            aiohttp.ClientError, OSError: the connection broke, and what had come before has been taken.
        """
        content = self.content
        if content is EMPTY_PAYLOAD:
            return b""  # of 204 and 304; it has no buffer
        buffer = content._buffer
        if not buffer:
            if content._exception is not None:
                raise content._exception
            return b"" if content._eof else None
        data = buffer.popleft() if len(buffer) == 1 else b"".join(buffer)
        buffer.clear()
        content._size = 0
        if content._http_chunk_splits:
            content._http_chunk_splits.clear()
        if content._protocol._reading_paused:
            content._protocol.resume_reading()
        return data

    def arrival(self) -> asyncio.Future[None]:
        """Done when ``taken``, which had nothing, may have something. A future and no coroutine: one per token."""
        content = self.content
        waiter: asyncio.Future[None] = content._loop.create_future()
        content._waiter = waiter
        return waiter

    def close(self) -> None:
        """Gives the connection up, wherever the body is; who waits for more of it is told."""
        connection, self.connection = self.connection, None
        if connection is None:
            return
        connection.close()
        if self.content.exception() is None:
            self.content.set_exception(aiohttp.ClientConnectionError("Connection closed"))

    def _ended(self) -> None:
        connection, self.connection = self.connection, None
        if connection is None:
            return
        transport = connection.transport
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()  # an orderly end would wait until the peer has read all
            connection.close()  # an answer before the end of the question: the rest of that must not meet the next one
        else:
            connection.release()
