"""The running service: where the rooms meet. Settings in, an open port out, everything closed in the right order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from agentsvc.domain.runs import Principal
from agentsvc.drain import Drain
from agentsvc.engine import estimate
from agentsvc.engine.admission import Admission
from agentsvc.engine.catalog import Catalog
from agentsvc.engine.journal import Library
from agentsvc.engine.planning import Planner
from agentsvc.engine.runs import Runs
from agentsvc.engine.sessions import Sessions
from agentsvc.engine.tools import Tool, Toolset
from agentsvc.observation import Observation
from agentsvc.providers.models import Providers
from agentsvc.providers.registry import installed
from agentsvc.settings import Settings
from agentsvc.storage import Storage, Topic
from agentsvc.transport.admin import Admin
from agentsvc.transport.codec import encode_event
from agentsvc.transport.server import Server

_log = logging.getLogger(__name__)
_WARM_UP = 1.0  # seconds that being ready waits for the providers' connections
_PROBE = 1.0  # seconds between two looks at what readiness depends on


class Service:
    """``async with Service(settings) as service``: ready inside the block, drained and closed at its end.

    ``tools`` are added to the operator's. ``storage`` and ``catalog`` are for the process that runs it. ``admin_port`` is 0
    when there is no address for operators.
    """

    storage: Storage
    catalog: Catalog
    port: int
    admin_port: int = 0

    def __init__(self, settings: Settings, *, tools: Iterable[Tool] = ()) -> None:
        self._settings = settings
        self._tools = Toolset.of((*settings.load_tools(), *tools))
        self._open = AsyncExitStack()
        self._hurry = asyncio.Event()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opened:
            await self._start(opened)
            self._open = opened.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._open.aclose()

    def hurry(self) -> None:
        """Closing is to wait for no run any more, also when it is under way."""
        self._hurry.set()

    def admit(self, token: str, principal: Principal) -> None:
        """Lets a bearer token in that only this process knows."""
        self.storage.authenticator.add_static(token, principal)

    async def _start(self, opened: AsyncExitStack) -> None:
        """Opens from the bottom up; each line that opens says how it is closed, which happens in reverse."""
        settings = self._settings
        self.storage = storage = await opened.enter_async_context(await Storage.open(settings.storage))
        if orphans := await storage.runs.interrupt_orphans():
            _log.warning("%d runs of a process that died are INTERRUPTED now", orphans)
        endpoints, routing = settings.endpoints, settings.routing
        providers = Providers(installed(), endpoints, settings.pool, routing, estimate.prompt_tokens)
        opened.push_async_callback(providers.close)
        self.catalog = catalog = Catalog(storage.agents, providers, self._tools)
        storage.changes.on_change(Topic.AGENTS, catalog.forget)
        sessions = Sessions(storage.sessions)
        library = Library(settings.journal, encode_event)
        admission = Admission(settings.limits)
        planner = Planner(catalog, settings.runs.max_steps, settings.prices, settings.auto)
        runs = Runs(settings.runs, catalog, sessions, library, storage.runs, storage.ledger, admission, planner)
        observation = opened.enter_context(Observation(settings.metrics_models))
        observation.watch(runs, library, storage, providers)
        server = Server(
            settings.server, storage.authenticator, runs, catalog, sessions, observation.rpc_ended, providers
        )
        admin = Admin(settings.admin, observation.metrics, server.readiness) if settings.admin else None
        if admin:
            opened.push_async_callback(admin.stop)  # after the drain: operators watch it to the end
        opened.push_async_callback(server.stop)
        await server.start()
        self.port = server.port
        if admin:
            await admin.start()
            self.admin_port = admin.port
        watching = server.readiness.follow("database", "the database cannot be reached", storage.probe, _PROBE)
        opened.push_async_callback(_end, asyncio.create_task(watching, name="readiness"))
        # Connections that are open before the first call spare it their dialling. A vendor out of reach delays nothing.
        warming = asyncio.create_task(providers.warm(), name="warm up")
        opened.callback(warming.cancel)
        await asyncio.wait({warming}, timeout=_WARM_UP)
        grace, settle = settings.shutdown_grace, settings.drain.settle
        drain = Drain(server, runs, storage.ledger.close, self._hurry, grace=grace, settle=settle)
        opened.push_async_callback(drain.run)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
