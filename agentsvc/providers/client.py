"""The kept connections to one endpoint, and the patience with it. The only file that opens sockets.

One request on one of them is an Exchange; who asks is a BoundModel (``models.py``). This file knows no vendor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Protocol, Self
from weakref import WeakSet

import aiohttp
from aiohttp.connector import Connection

from agentsvc.providers.address import Address
from agentsvc.providers.connection import Connector, Flight
from agentsvc.providers.pool import PoolConfig, PoolStats
from agentsvc.providers.response import Response

_KEPT_ADDRESSES = 1024  # some vendors have the model in the URL
_WARM_ROUND = 0.25  # of the keep-alive time: how often warm connections are looked after


class Exchange(Protocol):
    """An answer under way on one of the connections."""

    def cut(self) -> None:
        """Closes its connection at once."""
        ...


class ProviderClient:
    """The kept connections to one endpoint (or, ``public_only``, to all those that tenants name themselves).

    Opens nothing before the first request or ``warm``; may be made outside a running loop.
    """

    def __init__(self, config: PoolConfig | None = None, *, public_only: bool = False) -> None:
        self.config = config or PoolConfig()
        self.exchanges: set[Exchange] = set()
        self.ending: WeakSet[Response] = WeakSet()  # complete answers whose bodies may not have ended yet
        self.requests = self.retries = self.reconnects = 0
        self._public_only = public_only
        self._connector: Connector | None = None
        self._session: aiohttp.ClientSession | None = None
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.config.connect_timeout)
        self._addresses: dict[str, Address] = {}
        self._warmth: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The one session, made at first use."""
        if self._session is None:
            self._connector = Connector(self.config, public_only=self._public_only)
            self._session = aiohttp.ClientSession(
                connector=self._connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                trust_env=False,
            )
        return self._session

    def address(self, url: str) -> Address:
        """``url`` as requests need it; ValueError for what is none."""
        address = self._addresses.get(url)
        if address is None:
            if len(self._addresses) >= _KEPT_ADDRESSES:
                self._addresses.clear()
            address = self._addresses[url] = Address(url, self.session)
        return address

    def connect(self, address: Address, flight: Flight) -> Awaitable[Connection]:
        """A connection for ``flight``, kept or new.

        Raises:
            aiohttp.ClientError, OSError: there is none to be had.
            RuntimeError: the client is closed.
        """
        connector = self._connector  # there was a session to make the address
        if connector is None or connector.closed:
            raise RuntimeError("closed")
        return connector.board(flight, address, self._timeout)

    def stats(self) -> PoolStats:
        """The gauges and counters now."""
        wires = len(self._connector.wires) if self._connector else 0
        return PoolStats(len(self.exchanges), wires, self.requests, self.retries, self.reconnects)

    async def warm(self, base_url: str) -> int:
        """Opens TCP and TLS ahead of need, and keeps ``config.warm`` connections open from now on.

        Returns how many are open. An endpoint out of reach is no error here: it is tried again, and runs will tell.
        """
        if self._warmth is None:
            await self._top_up(base_url)
            self._warmth = asyncio.create_task(self._keep_warm(base_url), name=f"keep {base_url} warm")
        return self.stats().open_connections

    async def _keep_warm(self, base_url: str) -> None:
        while True:
            await asyncio.sleep(self.config.keepalive * _WARM_ROUND)
            await self._top_up(base_url)

    async def _top_up(self, base_url: str) -> None:
        round_trip = self.config.keepalive * _WARM_ROUND
        wires = self._connector.wires if self._connector else ()
        for _ in range(self.config.warm - sum(wire.lasts(2 * round_trip) for wire in wires)):
            flight = Flight(fresh=True)
            try:
                connection = await self.connect(self.address(base_url), flight)
            except (aiohttp.ClientError, OSError, ValueError):
                return
            connection.release()
            if flight.wire is not None:
                flight.wire.rest()

    async def close(self) -> None:
        """Closes every connection at once; answers under way end as cut off."""
        if self._warmth is not None:
            self._warmth.cancel()
            await asyncio.gather(self._warmth, return_exceptions=True)
        for exchange in tuple(self.exchanges):
            exchange.cut()
        for response in tuple(self.ending):
            response.close()
        if self._session is not None:
            await self._session.close()
