"""A TCP proxy that cuts: what a flaky network does between a caller and the service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager


class Proxy:
    """Connection ``n`` may carry ``allowances[n]`` bytes of the service's, then it is reset; later ones carry all."""

    def __init__(self, target: int, allowances: Iterable[int]) -> None:
        self.port = 0
        self.cuts = 0
        self._target = target
        self._allowances = iter(allowances)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One caller's connection and its twin to the service."""
        allowance = next(self._allowances, None)
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target)
        upward = asyncio.create_task(_pump(reader, upstream_writer))
        try:
            if await _pump(upstream_reader, writer, allowance):
                self.cuts += 1
        finally:
            upward.cancel()
            for transport in (writer.transport, upstream_writer.transport):
                transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, allowance: int | None = None) -> bool:
    """Carries bytes until the end of either side, or of the allowance; True for the latter."""
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(16 << 10):
            if allowance is not None:
                chunk, allowance = chunk[:allowance], allowance - len(chunk)
            writer.write(chunk)
            await writer.drain()
            if allowance is not None and allowance <= 0:
                return True
    return False


@asynccontextmanager
async def open_proxy(target: int, allowances: Iterable[int]) -> AsyncIterator[Proxy]:
    """A proxy in front of the service on port ``target``."""
    proxy = Proxy(target, allowances)
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in tuple(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
