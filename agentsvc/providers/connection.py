"""A kept-alive connection that knows its own story, and the request that travels on it.

aiohttp pools connections well and says little about them. Which stage cost what, whether the peer had said anything
before it hung up, how long it keeps an idle connection: all this is seen where the bytes pass, and only written down
here. On the warm path that costs a few attribute writes per request and one per read.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from functools import partial
from time import perf_counter_ns
from types import SimpleNamespace
from typing import cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from agentsvc.domain.timeline import Stage, Timeline
from agentsvc.providers.address import Address
from agentsvc.providers.pool import PoolConfig
from agentsvc.providers.resolver import Resolver

_KEEP_ALIVE = re.compile(r"timeout=(\d+)")


class Wire(ResponseHandler):
    """One TCP or TLS connection. Made when TCP is up; ``connection_made`` is called when TLS is, too.

    ``busy`` from boarding until ``rest``; ``heard`` tells whether any byte of an answer to the latest request came.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, config: PoolConfig, wires: set[Wire]) -> None:
        super().__init__(loop)
        self.tcp_ns = perf_counter_ns()
        self.secure = self.busy = self.heard = False
        self._wires = wires
        self._keepalive = config.keepalive
        self._expires_at = loop.time() + config.max_age
        self._retires_at = loop.time() + config.keepalive

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP and TLS are up. Counted as open when a flight boards: uvloop never tells a cancelled dial that it was lost."""
        super().connection_made(transport)
        self.secure = transport.get_extra_info("sslcontext") is not None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Counts it as closed."""
        self._wires.discard(self)
        body = self._payload
        super().connection_lost(exc)
        if body is not None and not body.is_eof() and body.exception() is None:
            # aiohttp forgets a body in whose middle it could not read on; whoever waits for the rest must hear of it.
            body.set_exception(aiohttp.ClientPayloadError("the body cannot be read on"))

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        self.heard = True
        super().data_received(data)

    def is_connected(self) -> bool:
        """What the pool asks before it reuses a connection: whether it is open, not too old and not idle for too long."""
        # What came while nobody had asked is an answer to no question, least of all to the next one.
        return super().is_connected() and not self.should_close and self._loop.time() < self._retires_at

    def lasts(self, seconds: float) -> bool:
        """Whether it is free now and, left alone, will still be fit for use in ``seconds``."""
        return not self.busy and self._loop.time() + seconds < self._retires_at

    def rest(self, keep_alive: str | None = None) -> None:
        """Nobody uses it any more. ``keep_alive`` is the server's word on how long it will keep it: we go a second before."""
        self.busy = False
        said = _KEEP_ALIVE.search(keep_alive) if keep_alive else None
        idle = min(self._keepalive, max(0, int(said[1]) - 1)) if said else self._keepalive
        self._retires_at = min(self._expires_at, self._loop.time() + idle)


class Flight:
    """One sending of a request: the connection it got, and when it passed which point (ns, 0 = not yet)."""

    __slots__ = (
        "connected_ns",
        "dialled_ns",
        "fresh",
        "resolved_ns",
        "sent_ns",
        "transport",
        "wire",
    )

    def __init__(self, *, fresh: bool = False) -> None:
        self.fresh = fresh
        self.dialled_ns = self.resolved_ns = self.connected_ns = self.sent_ns = 0
        self.wire: Wire | None = None
        self.transport: asyncio.Transport | None = None

    def send(self, head: bytes, body: bytes) -> Wire:
        """Hands the request to the connection it has boarded and returns that: it waits for its answer from now on.

        Raises:
            ConnectionError: that was lost meanwhile.
        """
        wire, transport = self.wire, self.transport
        if wire is None or transport is None or transport.is_closing():
            raise ConnectionResetError
        wire.set_response_params(read_until_eof=True)
        transport.write(head + body)
        self.sent_ns = perf_counter_ns()
        return wire

    def board(self, connection: Connection) -> None:
        """The pool gave it a connection."""
        self.connected_ns = perf_counter_ns()
        wire: Wire = connection.protocol  # type: ignore[assignment]  # the connector makes no others
        self.wire, self.transport = wire, connection.transport
        wire.heard, wire.busy = False, True

    @property
    def found_dead(self) -> bool:
        """Whether it failed on a kept connection before any byte of an answer: that had been closed while it rested."""
        return self.wire is not None and not self.dialled_ns and not self.wire.heard

    def abort(self) -> None:
        """Closes the connection at once: waits neither for unsent bytes nor for the peer's half of a TLS good-bye."""
        if self.transport is not None:
            self.transport.abort()

    def mark(self, timeline: Timeline) -> None:
        """Marks the stages that are behind it; ``stage`` stays open."""
        if self.dialled_ns or self.connected_ns:
            timeline.reached(Stage.POOL, self.dialled_ns or self.connected_ns)
        if self.resolved_ns:
            timeline.reached(Stage.DNS, self.resolved_ns)
        if self.dialled_ns and self.wire is not None:
            timeline.reached(Stage.CONNECT, self.wire.tcp_ns)
            if self.wire.secure:
                timeline.reached(Stage.TLS, self.connected_ns)
        if self.sent_ns:
            timeline.reached(Stage.REQUEST, self.sent_ns)

    @property
    def stage(self) -> Stage:
        """The stage it is in: where the time goes now, or where it failed."""
        if self.sent_ns:
            return Stage.FIRST_TOKEN
        if self.connected_ns:
            return Stage.REQUEST
        return Stage.CONNECT if self.dialled_ns else Stage.POOL


class _Log(Trace):
    """What the pool tells while it looks for a connection, written onto the flight that waits for it."""

    def __init__(self, request: aiohttp.ClientRequest, flight: Flight) -> None:
        super().__init__(request.session, _SILENT, _NOTHING)
        self.flight = flight

    async def send_connection_create_start(self) -> None:
        """No kept connection was taken, a new one is made."""
        self.flight.dialled_ns = perf_counter_ns()

    async def send_dns_resolvehost_end(self, host: str) -> None:  # noqa: ARG002 - aiohttp's signature
        """A name was looked up. Not called for literal addresses and cached answers."""
        self.flight.resolved_ns = perf_counter_ns()


_NOTHING = SimpleNamespace()
_NO_WITNESS: list[Trace] = []
_SILENT = aiohttp.TraceConfig()
_SILENT.freeze()


def _trusting(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


class Connector(aiohttp.TCPConnector):
    """Kept-alive connections that Flights board. ``wires`` are the open ones."""

    def __init__(self, config: PoolConfig, *, public_only: bool) -> None:
        self.wires: set[Wire] = set()
        self._own_resolver = Resolver(timeout=config.connect_timeout, public_only=public_only)
        super().__init__(
            limit=0,
            limit_per_host=config.connections_per_host,
            keepalive_timeout=config.keepalive,
            ttl_dns_cache=config.dns_ttl,
            resolver=self._own_resolver,
            ssl=_trusting(config.ca_file) if config.ca_file else True,
        )
        # aiohttp has no public seam between TCP and TLS nor at the first byte; the protocol is where both can be seen.
        wire = partial(Wire, loop=self._loop, config=config, wires=self.wires)
        self._factory = cast("partial[ResponseHandler]", wire)

    async def board(self, flight: Flight, address: Address, timeout: aiohttp.ClientTimeout) -> Connection:  # noqa: ASYNC109 - aiohttp's own
        """A kept connection to ``address`` or a new one; always a new one for a fresh flight."""
        # What connect() does first as well, but for a witness of a search that is over at once.
        connection = None if flight.fresh else await super()._get(address.key, _NO_WITNESS)
        if connection is None:
            connection = await self.connect(address.request, [_Log(address.request, flight)], timeout)
        flight.board(connection)
        if flight.wire is not None and flight.transport is not None:
            self.wires.add(flight.wire)
        return connection

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        # aiohttp's own look into the pool, and the only place where one can ask it not to.
        return None if cast("_Log", traces[0]).flight.fresh else await super()._get(key, traces)

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Closes all connections at once."""
        await super().close(abort_ssl=abort_ssl)
        await self._own_resolver.close()
