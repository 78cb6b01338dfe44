"""The direct way to the upstream, as light as ``http2``: what is left of a call when nothing stands in between."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Final, cast

from bench.http2 import Call, CallFailedError

TEXT: Final = re.compile(rb'"content":"([^"]+)"')
_END: Final = b"\r\n0\r\n\r\n"


def request(body: bytes) -> bytes:
    """A chat completions request, ready to send."""
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Connection(asyncio.Protocol):
    """One kept connection, one call at a time. Every read must hold whole chunks, as on loopback paced tokens do."""

    def __init__(self) -> None:
        self._call: Call | None = None
        self._lost = asyncio.Event()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.set()
        if self._call is not None:
            self._call.end(CallFailedError(f"the connection was closed: {exc}"))

    def ask(self, request: bytes, call: Call) -> None:
        """Sends ``request``; ``call`` is told what comes back."""
        self._call = call
        self._transport.write(request)

    async def close(self) -> None:
        """Closes at once; a call at work fails."""
        self._transport.abort()
        await self._lost.wait()

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if self._call is None:
            return
        if text := b"".join(TEXT.findall(data)):
            self._call.arrived(text, now)
        if data.endswith(_END):
            self._call.end(None)


async def connect(port: int) -> Connection:
    """A connection to the upstream on loopback."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection
