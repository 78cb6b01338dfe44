"""The kept connections to one endpoint, and the patience with it. The only file that opens sockets.

One request on one of them is an Exchange; who asks is a BoundModel (``models.py``). This file knows no vendor.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast
from weakref import WeakSet

import aiohttp
from yarl import URL

from agentsvc.providers.connection import Connector, Flight
from agentsvc.providers.pool import PoolConfig, PoolStats

if TYPE_CHECKING:
    from agentsvc.providers.exchange import Exchange

_WARM_ROUND = 0.25  # of the keep-alive time: how often warm connections are looked after


class ProviderClient:
    """The kept connections to one endpoint (or, ``public_only``, to all those that tenants name themselves).

    Opens nothing before the first request or ``warm``; may be made outside a running loop.
    """

    def __init__(self, config: PoolConfig | None = None, *, public_only: bool = False) -> None:
        self.config = config or PoolConfig()
        self.exchanges: set[Exchange] = set()
        self.ending: WeakSet[aiohttp.ClientResponse] = WeakSet()  # complete answers whose bodies may not have ended yet
        self.requests = self.retries = self.reconnects = 0
        self._public_only = public_only
        self._connector: Connector | None = None
        self._session: aiohttp.ClientSession | None = None
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
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.config.connect_timeout),
                # Said once, aiohttp adds none of its own. Compression would hold tokens back until a block is full.
                headers={"User-Agent": "agentsvc", "Accept": "*/*", "Accept-Encoding": "identity"},
                trust_env=False,
            )
        return self._session

    def stats(self) -> PoolStats:
        """The gauges and counters now."""
        wires = len(self._connector.wires) if self._connector else 0
        return PoolStats(len(self.exchanges), wires, self.requests, self.retries, self.reconnects)

    async def warm(self, base_url: str) -> int:
        """Opens TCP and TLS ahead of need, and keeps ``config.warm`` connections open from now on.

        Returns how many are open. An endpoint out of reach is no error here: it is tried again, and runs will tell.
        """
        url = URL(base_url)
        if self._warmth is None:
            await self._top_up(url)
            self._warmth = asyncio.create_task(self._keep_warm(url), name=f"keep {url.host} warm")
        return self.stats().open_connections

    async def _keep_warm(self, url: URL) -> None:
        while True:
            await asyncio.sleep(self.config.keepalive * _WARM_ROUND)
            await self._top_up(url)

    async def _top_up(self, url: URL) -> None:
        session, round_trip = self.session, self.config.keepalive * _WARM_ROUND
        connector = cast("Connector", session.connector)
        for _ in range(self.config.warm - sum(wire.lasts(2 * round_trip) for wire in connector.wires)):
            flight = Flight(b"", fresh=True)
            request = aiohttp.ClientRequest("POST", url, data=flight, loop=asyncio.get_running_loop(), session=session)
            try:
                connection = await connector.connect(request, [], session.timeout)
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
