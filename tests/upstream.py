"""A vendor on 127.0.0.1 that does what it is told: answers, cuts, stalls, resets, and remembers what it saw.

Plain HTTP/1.1 by hand, so that every byte and every end of a connection is the test's own choice::

    async with Upstream(reply(429, b"{}", {"Retry-After": "1"})) as upstream: ...
    async with Upstream(stream([b"data: ...", 0.1, b"data: ..."])) as upstream: ...   # a float waits, in seconds
    async with Upstream(sequence(reply(503), stream(pieces))) as upstream: ...        # one after the other, the last again
    async with Upstream(scripted()) as upstream: ...                                 # a vendor's dialect: tests/scripted.py
    async def handler(call: Call) -> None: ...                                       # or by hand

``python -m tests.upstream --port 9000`` plays scripts for other processes; it prints its URL and runs until it is killed.

What it saw: ``upstream.requests``, ``upstream.connections`` with the moments they opened and closed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import ssl
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

Handler = Callable[["Call"], Awaitable[None]]
Piece = bytes | float


@dataclass(frozen=True)
class Request:
    """One request as it came. Header names in lower case; ``at`` is ``time.monotonic()`` when it was complete."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Connection(asyncio.Protocol):
    """One client connection. ``closed`` is set when the client's end is gone, or when we closed it."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.opened_at = time.monotonic()
        self.closed_at = 0.0
        self.closed = asyncio.Event()
        self.requests: list[Request] = []
        self.transport: Any = None
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.upstream.connected(self)
        self._rest()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def eof_received(self) -> bool:
        self._gone()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def write(self, data: bytes) -> None:
        await self._writable.wait()
        self.transport.write(data)

    def reset(self) -> None:
        """An RST instead of a FIN."""
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def close(self) -> None:
        self.transport.close()

    def _gone(self) -> None:
        if not self.closed.is_set():
            self.closed_at = time.monotonic()
            self.closed.set()
            self._writable.set()
            if self._task is not None:
                self._task.cancel()
            if self._idle is not None:
                self._idle.cancel()
            if not self.upstream.remembers:
                self.upstream.connections.remove(self)

    def _rest(self) -> None:
        if self.upstream.idle_close is not None:
            self._idle = asyncio.get_running_loop().call_later(self.upstream.idle_close, self.close)

    def _next(self) -> None:
        """Starts answering the next complete request, if none is being answered."""
        head, found, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not found or (self._task is not None and not self._task.done()):
            return
        line, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = line.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        del self._buffer[: len(head) + 4 + length]
        if self._idle is not None:
            self._idle.cancel()
        request = Request(method, path, headers, rest[:length])
        if self.upstream.remembers:
            self.requests.append(request)
        self._task = asyncio.get_running_loop().create_task(self._answer(request))
        self._task.add_done_callback(self.upstream.answered)
        self.upstream.received(request)

    async def _answer(self, request: Request) -> None:
        await self.upstream.handler(Call(request, self))
        self._task = None
        if not self.closed.is_set():
            self._rest()
            self._next()


class Call:
    """A request being answered by a handler."""

    def __init__(self, request: Request, connection: Connection) -> None:
        self.request = request
        self.connection = connection
        self._chunked = False

    async def start(
        self, status: int = 200, content_type: str = "text/event-stream", headers: Mapping[str, str] | None = None
    ) -> None:
        """Status and headers of a chunked answer."""
        self._chunked = True
        lines = {"content-type": content_type, "transfer-encoding": "chunked"}
        lines |= {name.lower(): value for name, value in (headers or {}).items()}
        await self.raw(_head(status, lines))

    async def send(self, data: bytes) -> None:
        """One HTTP chunk."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data)

    async def end(self) -> None:
        """The body is complete."""
        await self.raw(b"0\r\n\r\n")

    async def reply(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer with its length."""
        lines = {"content-type": "application/json", "content-length": str(len(body))}
        lines |= {name.lower(): value for name, value in (headers or {}).items()}
        await self.raw(_head(status, lines) + body)

    async def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        await self.connection.write(data)

    async def gone(self) -> None:
        """Until the client has closed the connection."""
        await self.connection.closed.wait()


class Upstream:
    """The server. ``idle_close``: seconds after which it closes a connection that has nothing to do.

    One that runs for long should not remember: ``requests`` stays empty then, ``connections`` are the open ones.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        tls: ssl.SSLContext | None = None,
        idle_close: float | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        remembers: bool = True,
    ) -> None:
        self.handler = handler
        self.remembers = remembers
        self.idle_close = idle_close
        self.connections: list[Connection] = []
        self.requests: list[Request] = []
        self._tls = tls
        self._address = host, port
        self._server: asyncio.Server | None = None
        self._news = asyncio.Event()
        self._failures: list[BaseException] = []

    async def __aenter__(self) -> Self:
        host, port = self._address
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port, ssl=self._tls, backlog=4096)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        connections = tuple(self.connections)
        for connection in connections:
            connection.transport.abort()
        await asyncio.gather(*(connection.closed.wait() for connection in connections))
        for failure in self._failures:
            raise failure

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        return f"{'https' if self._tls else 'http'}://{self._address[0]}:{self.port}"

    @property
    def open(self) -> list[Connection]:
        """The connections that are still there."""
        return [connection for connection in self.connections if not connection.closed.is_set()]

    def connected(self, connection: Connection) -> None:
        self.connections.append(connection)

    def received(self, request: Request) -> None:
        if self.remembers:
            self.requests.append(request)
            self._news.set()

    def answered(self, task: asyncio.Task[None]) -> None:
        """A handler that failed makes the test fail at the end."""
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failures.append(failure)

    async def arrived(self, number: int = 1) -> Request:
        """The ``number``-th request, as soon as it is here."""
        while len(self.requests) < number:
            self._news.clear()
            await self._news.wait()
        return self.requests[number - 1]


async def until(condition: Callable[[], object]) -> None:
    """Lets the loop run until ``condition`` holds: for what nobody announces. The test's time-out is the limit."""
    while not condition():  # noqa: ASYNC110 - as said, there is no event to wait for
        await asyncio.sleep(0.001)


def reply(status: int, body: bytes = b"{}", headers: Mapping[str, str] | None = None) -> Handler:
    """Answers every request alike, in one body with its length."""

    async def handler(call: Call) -> None:
        await call.reply(status, body, headers)

    return handler


def stream(
    pieces: Iterable[Piece],
    *,
    status: int = 200,
    content_type: str = "text/event-stream",
    headers: Mapping[str, str] | None = None,
    finish: str = "end",
) -> Handler:
    """Answers every request with these pieces, a float being a pause in seconds.

    ``finish``: ``end`` the body well, ``cut`` the connection, ``reset`` it, or ``stall`` until the client goes.
    """
    pieces = tuple(pieces)

    async def handler(call: Call) -> None:
        await call.start(status, content_type, headers)
        for piece in pieces:
            if isinstance(piece, bytes):
                await call.send(piece)
            else:
                await asyncio.sleep(piece)
        match finish:
            case "end":
                await call.end()
            case "cut":
                call.connection.close()
            case "reset":
                call.connection.reset()
            case "stall":
                await call.gone()

    return handler


def sequence(*handlers: Handler) -> Handler:
    """The first request to the first handler, and so on; the last handler takes all the rest."""
    waiting = list(handlers)

    async def handler(call: Call) -> None:
        await (waiting.pop(0) if len(waiting) > 1 else waiting[0])(call)

    return handler


def replay(recording: Mapping[str, Any], rng: random.Random | None = None) -> Handler:
    """A recorded response (see the recordings' README), its body cut at random bytes; ``rng`` None sends it whole."""
    response = recording["response"]
    body = response["body"].encode()
    kind = next(
        (value for name, value in response["headers"].items() if name.lower() == "content-type"), "text/event-stream"
    )
    return stream(slices(body, rng), status=response["status"], content_type=kind)


def slices(body: bytes, rng: random.Random | None, longest: int = 200) -> list[bytes]:
    """``body`` cut at random bytes, inside UTF-8 sequences and line ends, too."""
    if rng is None:
        return [body]
    cut, pieces = 0, []
    while cut < len(body):
        size = rng.randint(1, longest)
        pieces.append(body[cut : cut + size])
        cut += size
    return pieces


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Told\r\n{lines}\r\n".encode("latin-1")


async def _serve(host: str, port: int) -> None:
    from tests.scripted import scripted

    async with Upstream(scripted(), host=host, port=port, remembers=False) as upstream:
        sys.stdout.write(f"{upstream.url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    """A process of its own, so that the load it makes is not the service's."""
    import uvloop

    parser = argparse.ArgumentParser(description="A scripted vendor: chat completions and Anthropic messages.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    told = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve(told.host, told.port))


if __name__ == "__main__":
    main()
