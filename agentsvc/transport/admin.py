"""The operators' door: metrics, liveness and readiness over plain HTTP, on an address of its own.

    /metrics    Prometheus or OpenMetrics text, as the scraper asks
    /healthz    200 while the event loop turns
    /readyz     200, or 503 with what speaks against sending runs here

No token is asked for and nothing of a tenant is told.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from aiohttp import web

from agentsvc.telemetry.metrics import Metrics
from agentsvc.transport.address import is_loopback
from agentsvc.transport.channelz import Channelz
from agentsvc.transport.readiness import Readiness

_log = logging.getLogger(__name__)
_GOOD_BYE = 1.0  # seconds that a scrape under way has to end


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """``address`` is host:port, port 0 for any free one; ``exposed`` must be said to listen beyond loopback.

    ``channelz`` is an address, too, of gRPC's own; empty: off. ``insists`` False: nobody asked for just this address, and
    any free port of its host will do where it is taken, as by a second service on the machine.
    9464 is where scrapers expect OpenTelemetry's exporter; 9090 is Prometheus itself.
    """

    address: str = "127.0.0.1:9464"
    exposed: bool = False
    channelz: str = ""
    insists: bool = True

    def __post_init__(self) -> None:
        for address in filter(None, (self.address, self.channelz)):
            if not self.exposed and not is_loopback(address):
                raise ValueError(f"{address} is open to others: allow that expressly")


class Admin:
    """Serves until ``stop``. ``port`` and ``channelz_port`` are the real ones after ``start``, 0 for what is off."""

    def __init__(self, config: AdminConfig, metrics: Metrics, readiness: Readiness) -> None:
        self._config = config
        self._metrics = metrics
        self._readiness = readiness
        self._runner: web.AppRunner | None = None
        self._channelz = Channelz(config.channelz)
        self.port = 0

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: the address cannot be listened on.
        """
        app = web.Application()
        app.router.add_get("/metrics", self._scrape)
        app.router.add_get("/healthz", self._alive)
        app.router.add_get("/readyz", self._ready)
        self._runner = runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GOOD_BYE)
        await runner.setup()
        host, _, port = self._config.address.rpartition(":")
        try:
            await self._listen(runner, host.strip("[]"), int(port))
        except OSError as error:
            await self.stop()
            raise OSError(
                f"cannot listen on {self._config.address} for operators (is another process using it?): "
                "set AGENTSVC_ADMIN_ADDRESS to a free host:port, or to off"
            ) from error
        self.port = runner.addresses[0][1]
        if self._config.channelz:
            await self._channelz.start()
            _log.info("channelz on port %d", self._channelz.port)

    async def _listen(self, runner: web.AppRunner, host: str, port: int) -> None:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError:
            if self._config.insists:
                raise
            await web.TCPSite(runner, host, 0).start()
            _log.warning("port %d for operators is taken; metrics are on port %d", port, runner.addresses[0][1])

    @property
    def channelz_port(self) -> int:
        """Where channelz listens."""
        return self._channelz.port

    async def stop(self) -> None:
        """Closes the ports. Idempotent."""
        await self._channelz.stop()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _scrape(self, request: web.Request) -> web.Response:
        families, content_type = self._metrics.render(request.headers.get("Accept", ""))
        text = bytearray()
        for family in families:
            text += family
            await asyncio.sleep(0)  # tokens pass between two families
        return web.Response(body=bytes(text), headers={"Content-Type": content_type})

    async def _alive(self, _: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _ready(self, _: web.Request) -> web.Response:
        reason = self._readiness.reason
        return web.Response(text=f"not ready: {reason}\n", status=503) if reason else web.Response(text="ready\n")
