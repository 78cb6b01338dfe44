"""One answer over HTTP, as far as aiohttp's parser has come: head here, body while it comes."""

from __future__ import annotations

from typing import Self, cast

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from multidict import CIMultiDictProxy

from agentsvc.providers.connection import Wire

_INTERIM = range(100, 200)  # 1xx: another head follows


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
    async def on(cls, connection: Connection) -> Self:
        """The answer to what was sent on ``connection``, when its head is here.

        Raises:
            NotHttpError, aiohttp.ClientError, OSError: there is none.
        """
        wire = cast("Wire", connection.protocol)
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
            connection.close()  # an answer before the end of the question: the rest of that must not meet the next one
        else:
            connection.release()
