"""The ways to an answer: through a gRPC target, straight to the upstream, and as a Python caller goes there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import cycle
from typing import Final, Protocol

import aiohttp
from yarl import URL

from bench import http1, http2
from bench.http2 import Call
from bench.jobs import Target, Upstream

CONNECTIONS: Final = 8  # one multiplexed connection would stay on one of grpc's workers


class Caller(Protocol):
    """A way to get an answer."""

    def ask(self, arrivals: list[tuple[int, bytes]] | None = None) -> Call: ...
    async def aclose(self) -> None: ...


class Grpc:
    """Calls of one target over a few connections in turn."""

    def __init__(self, target: Target, connections: Sequence[http2.Connection]) -> None:
        self._head = http2.headers(target.path, target.metadata)
        self._requests = cycle(target.requests)
        self._all = connections
        self._connections = cycle(connections)

    @classmethod
    async def open(cls, target: Target, connections: int = CONNECTIONS) -> Grpc:
        return cls(target, [await http2.connect(target.port) for _ in range(connections)])

    def ask(self, arrivals: list[tuple[int, bytes]] | None = None) -> Call:
        call = Call(arrivals)
        next(self._connections).call(self._head, next(self._requests), call)
        return call

    async def aclose(self) -> None:
        for connection in self._all:
            await connection.close()


class Direct:
    """Calls of the upstream itself, as light as can be; every stream at a time has a connection."""

    def __init__(self, upstream: Upstream, connections: Sequence[http1.Connection]) -> None:
        self._request = http1.request(upstream.body)
        self._all = connections
        self._connections = cycle(connections)

    @classmethod
    async def open(cls, upstream: Upstream, connections: int) -> Direct:
        return cls(upstream, [await http1.connect(upstream.port) for _ in range(connections)])

    def ask(self, arrivals: list[tuple[int, bytes]] | None = None) -> Call:
        call = Call(arrivals)
        next(self._connections).ask(self._request, call)
        return call

    async def aclose(self) -> None:
        for connection in self._all:
            await connection.close()


class Aiohttp:
    """Calls of the upstream itself as a Python caller without the service would make them."""

    def __init__(self, upstream: Upstream) -> None:
        self._url = URL(f"http://127.0.0.1:{upstream.port}/v1/chat/completions")
        self._body = upstream.body
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._task: asyncio.Task[None] | None = None

    def ask(self, arrivals: list[tuple[int, bytes]] | None = None) -> Call:
        call = Call(arrivals)
        self._task = asyncio.create_task(self._fetch(call))
        return call

    async def _fetch(self, call: Call) -> None:
        try:
            async with self._session.post(self._url, data=self._body) as response:
                while data := await response.content.readany():
                    if text := b"".join(http1.TEXT.findall(data)):
                        call.arrived(text, time.monotonic_ns())
        except aiohttp.ClientError as error:
            call.end(error)
        else:
            call.end(None)

    async def aclose(self) -> None:
        await self._session.close()
