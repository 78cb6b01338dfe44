"""All runs of this process: how one is started, found, read, cancelled. The doors' face of the engine."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from agentsvc.domain.events import RunStarted, RunState
from agentsvc.domain.ports import Filter, Ledger, Page, PageRequest, RunStore
from agentsvc.domain.runs import OnDisconnect, OnSessionBusy, Principal, Run, RunRequest
from agentsvc.domain.timeline import Stage, Timeline
from agentsvc.engine import record, refusals
from agentsvc.engine.admission import Admission, LimitsConfig, Place
from agentsvc.engine.catalog import Catalog
from agentsvc.engine.endings import CANCELLED, INTERRUPTED, REPLACED
from agentsvc.engine.ids import new_id
from agentsvc.engine.journal import Library, Reader
from agentsvc.engine.live import Live
from agentsvc.engine.planning import Draft, Planner
from agentsvc.engine.sessions import Conversation, Sessions, not_found

_LAST_SEQUENCE = (1 << 64) - 1  # that the wire can carry


@dataclass(frozen=True, slots=True)
class RunsConfig:
    """``max_run_time`` in seconds bounds every run, whatever its budget; ``max_steps`` is the default of a call."""

    max_run_time: float = 3600.0
    max_steps: int = 10


@dataclass(frozen=True, slots=True)
class DrainConfig:
    """``settle``: seconds after the first sign of the end in which all is served but new runs, whoever is left.

    Until then load balancers have learnt that nothing new may come here.
    """

    settle: float = 5.0


class Runs:
    """Starts runs and remembers them for as long as their journals are kept. ``admission`` None: the default limits."""

    def __init__(
        self,
        config: RunsConfig,
        catalog: Catalog,
        sessions: Sessions,
        library: Library,
        store: RunStore,
        ledger: Ledger,
        admission: Admission | None = None,
        planner: Planner | None = None,
    ) -> None:
        self.admission = admission or Admission(LimitsConfig())
        self._config = config
        self._catalog = catalog
        self._planner = planner or Planner(catalog, config.max_steps)
        self._sessions = sessions
        self._library = library
        self._store = store
        self._ledger = ledger
        self._live: dict[tuple[str, str], Live] = {}
        self._ended: deque[tuple[float, Live]] = deque()  # with the time at which each is forgotten
        self._sweep: asyncio.TimerHandle | None = None
        self._by_request: dict[tuple[str, str], asyncio.Future[Live | None]] = {}
        self._draining = False
        self.on_ended: Callable[[Live], None] = lambda _: None
        self.lag_since: Callable[[int], int] = lambda _: 0

    def start(self, principal: Principal, request: RunRequest, timeline: Timeline) -> Awaitable[Live]:
        """Starts a run, or joins the one that the same ``request_id`` started before.

        Everything that can be refused is refused here, before a run exists.

        Raises:
            AgentsvcError: AGENT_NOT_FOUND, SESSION_NOT_FOUND, SESSION_BUSY, PROVIDER_NOT_CONFIGURED,
                CAPABILITY_MISSING, REQUEST_ID_REUSED, STORAGE_UNAVAILABLE, LIMIT_EXCEEDED, OVERLOADED, DRAINING.
        """
        if not request.request_id:
            return self._start(principal, request, timeline)
        return self._start_once(principal, request, timeline)

    async def _start_once(self, principal: Principal, request: RunRequest, timeline: Timeline) -> Live:
        key = principal.tenant_id, request.request_id
        while (earlier := self._by_request.get(key)) is not None:
            if (live := await asyncio.shield(earlier)) is not None:
                return _same(live, request)
        claim = self._by_request[key] = asyncio.get_running_loop().create_future()
        try:
            if (run := await self._store.by_request_id(*key)) is not None:
                raise refusals.ended_before(run, request)
            live = await self._start(principal, request, timeline)
        except BaseException:
            # Refused or given up: no run exists. Whoever waited for it, or comes later, begins anew.
            del self._by_request[key]
            claim.set_result(None)
            raise
        claim.set_result(live)
        return live

    def find(self, principal: Principal, run_id: str) -> Live | None:
        """The run if this process still holds it."""
        return self._live.get((principal.tenant_id, run_id))

    async def get(self, principal: Principal, run_id: str) -> Run:
        """The run's record. RUN_NOT_FOUND."""
        if live := self.find(principal, run_id):
            return live.record()
        if run := await self._store.get(principal.tenant_id, run_id):
            return run
        raise refusals.not_found(run_id)

    async def list(self, principal: Principal, page: PageRequest, where: Filter) -> Page[Run]:
        """The tenant's runs, newest first."""
        return await self._store.list(principal.tenant_id, page, where)

    async def subscribe(self, principal: Principal, run_id: str, after_sequence: int) -> Reader:
        """A reader of a run's events after ``after_sequence``; resume never calls a provider.

        Raises:
            AgentsvcError: RUN_NOT_FOUND, CURSOR_OUT_OF_RANGE, RUN_NOT_RESUMABLE (it lives elsewhere).
        """
        if live := self.find(principal, run_id):
            return live.reader(after_sequence)
        run = await self.get(principal, run_id)
        if not run.state.ended:
            raise refusals.elsewhere(run_id)
        # A run that a crash ended does not know its last sequence: its end follows whatever the reader has seen.
        sequence = run.last_sequence or min(after_sequence + 1, _LAST_SEQUENCE)
        return self._library.last_entry(sequence, record.finished(run, persisted=True)).reader(after_sequence)

    async def cancel(self, principal: Principal, run_id: str) -> Run:
        """Ends a run in order and returns its record; a run that is over is returned as it is.

        Raises:
            AgentsvcError: RUN_NOT_FOUND; RUN_NOT_RESUMABLE for one that another process runs: nothing was stopped.
        """
        if live := self.find(principal, run_id):
            live.stop(CANCELLED)
            return await live.ended()
        run = await self.get(principal, run_id)
        if not run.state.ended:
            raise refusals.elsewhere(run_id)
        return run

    def close_doors(self) -> None:
        """No new runs from now on, and those that wait for a place are refused. What runs goes on, and can be read."""
        self._draining = True
        self.admission.close(refusals.going_away)

    async def all_ended(self) -> None:
        """Returns when every run is over. For after ``close_doors``: until then there may always be another one."""
        for live in tuple(self._live.values()):
            await live.ended()

    def interrupt(self) -> int:
        """Ends the runs that are left, INTERRUPTED: neither their callers' doing nor a failure. How many there were."""
        left = [live for live in self._live.values() if not live.state.ended]
        for live in left:
            live.stop(INTERRUPTED)
        return len(left)

    async def _start(self, principal: Principal, request: RunRequest, timeline: Timeline) -> Live:
        if self._draining:
            raise refusals.going_away()
        place = self.admission.take_run(principal) or await self.admission.wait_for_run(principal)
        timeline.reached(Stage.ADMISSION)
        try:
            live = await self._admitted(principal.tenant_id, request, timeline)
        except BaseException:
            place.release()
            raise
        # Its task has not had its first turn yet: nothing can have ended meanwhile.
        live.on_settled = lambda live: self._leave(place, live)
        return live

    async def _admitted(self, tenant: str, request: RunRequest, timeline: Timeline) -> Live:
        prepared = self._catalog.cached(tenant, request.agent_id) or await self._catalog.prepare(
            tenant, request.agent_id
        )
        timeline.reached(Stage.AGENT)
        run_id = new_id("run")
        conversation = self._opened(tenant, request) or await self._known(tenant, request)
        if self._draining:  # since the last await: whoever counts the runs that are left has not seen this one
            raise refusals.going_away()
        draft = self._planner.draft(prepared, request, conversation)
        self._seat(tenant, conversation, request, run_id)
        timeline.reached(Stage.SESSION)
        try:
            return self._launch(tenant, request, timeline, draft, conversation, run_id)
        except BaseException:
            conversation.release(run_id, ())
            raise

    def _opened(self, tenant: str, request: RunRequest) -> Conversation | None:
        """A new session, unless the call names one."""
        if request.session_id:
            return None
        return self._sessions.begin(tenant, request.agent_id, request.user_id, keep=request.store)

    async def _known(self, tenant: str, request: RunRequest) -> Conversation:
        """The session the call names."""
        conversation = self._sessions.cached(tenant, request.session_id) or await self._sessions.load(
            tenant, request.session_id
        )
        if (
            conversation is None
            or conversation.session.agent_id != request.agent_id
            or conversation.session.user_id != request.user_id
        ):
            raise not_found(request.session_id)
        return conversation

    async def silence(self, principal: Principal, session_id: str) -> None:
        """Cancels the runs that speak in a session or wait for their turn in it, and waits for their end."""
        conversation = self._sessions.cached(principal.tenant_id, session_id)
        runs = [self._live[principal.tenant_id, run_id] for run_id in conversation.lined_up] if conversation else []
        for live in runs:
            live.stop(CANCELLED)
        for live in runs:
            await live.ended()

    def _seat(self, tenant: str, conversation: Conversation, request: RunRequest, run_id: str) -> None:
        """Takes the session's turn as the call's policy says, or a place in the queue for it: the run itself waits."""
        match request.options.on_session_busy:
            case OnSessionBusy.INTERRUPT:
                for earlier in conversation.lined_up:
                    self._live[tenant, earlier].stop(REPLACED)
                conversation.line_up(run_id)
            case OnSessionBusy.REJECT:
                conversation.take(run_id)
            case OnSessionBusy.QUEUE:
                if len(conversation.lined_up) > (most := self.admission.config.queue_per_session):
                    raise conversation.busy(f"{most} runs wait for their turn already. Call again later.")
                conversation.line_up(run_id)

    def _launch(
        self,
        tenant: str,
        request: RunRequest,
        timeline: Timeline,
        draft: Draft,
        conversation: Conversation,
        run_id: str,
    ) -> Live:
        """No await between here and the first event: a run that was refused leaves nothing behind."""
        options, first = request.options, draft.first
        session_id = conversation.session.session_id if request.store or request.session_id else ""
        run = Run(
            run_id,
            request.agent_id,
            session_id,
            request.user_id,
            request.request_id,
            request.fingerprint,
            state=RunState.QUEUED if conversation.run_id != run_id else RunState.RUNNING,
            labels=request.labels,
            first_sequence=1,
            create_time=datetime.now(UTC),
        )
        started = RunStarted(
            run_id,
            session_id,
            request.agent_id,
            first.model.provider,
            first.name,
            draft.layers.mode,
            resumable=options.on_disconnect is not OnDisconnect.CANCEL,
        )
        live = Live(
            tenant,
            run,
            request,
            started,
            self._library.open(timeline.started_ns),
            timeline,
            conversation,
            self._ledger,
            partial(self._planner.plan, draft, request, conversation, run_id),
            draft.notes,
        )
        new_session = conversation.session if conversation.fresh and request.store else None
        conversation.fresh = False
        self._live[tenant, run_id] = live
        live.on_ended = self._retire
        live.lag_since = self.lag_since
        most = self._config.max_run_time
        live.begin(min(draft.layers.budget.wall_clock or most, most), new_session)
        return live

    def _leave(self, place: Place, live: Live) -> None:
        """The run has given its answer: the place is free, whatever still happens to its rows and its readers."""
        self.admission.ran(live.journal.elapsed_us() / 1e6)
        place.release()

    def _retire(self, live: Live) -> None:
        """The run is over: its journal can still be read for a while."""
        loop = asyncio.get_running_loop()
        self._ended.append((loop.time() + self._library.config.retention, live))
        if self._sweep is None:
            self._sweep = loop.call_at(self._ended[0][0], self._drop_stale)
        self.on_ended(live)

    def _drop_stale(self) -> None:
        """Forgets the runs whose retention is over. They ended in the order in which it ends: one timer serves all."""
        loop = asyncio.get_running_loop()
        while self._ended and self._ended[0][0] <= loop.time():
            self._drop(self._ended.popleft()[1])
        self._sweep = loop.call_at(self._ended[0][0], self._drop_stale) if self._ended else None

    def _drop(self, live: Live) -> None:
        self._live.pop((live.tenant_id, live.run_id), None)
        self._by_request.pop((live.tenant_id, live.record().request_id), None)
        self._library.drop(live.journal)


def _same(live: Live, request: RunRequest) -> Live:
    if live.record().fingerprint != request.fingerprint:
        raise refusals.reused(request.request_id)
    return live
