"""What operators see of a running service: its rooms are read for the gauges, its runs and RPCs are told to log and metrics."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import perf_counter_ns
from types import TracebackType
from typing import Final, Self

from agentsvc.domain.errors import Code
from agentsvc.domain.events import RunStarted
from agentsvc.domain.providers import BreakerState
from agentsvc.domain.runs import Run
from agentsvc.domain.timeline import Timeline
from agentsvc.engine.journal import Library
from agentsvc.engine.live import Live
from agentsvc.engine.runs import Runs
from agentsvc.providers.models import Providers
from agentsvc.providers.registry import installed
from agentsvc.storage import Storage
from agentsvc.telemetry import log
from agentsvc.telemetry.harmless import Failures
from agentsvc.telemetry.lag import LoopLag
from agentsvc.telemetry.metrics import Metrics
from agentsvc.telemetry.summary import RunSummary

_OPENNESS: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
_CHOICES: Final = {
    "failovers": "Answers that another way was asked for, since one had failed.",
    "hedges": "Answers that were asked for twice at the same time.",
    "hedges_won": "Of these, those that the second request brought first.",
    "hedge_tokens": "Tokens of prompts that were sent in vain, about.",
}
_ROUND: Final = 0.05  # seconds from a run's end until log and metrics know
_HANDFUL: Final = 16  # runs that are told of at a time: half a millisecond
_RECENT: Final = 15.0  # seconds that the gauge of the event loop's lag looks back: about a scrape's interval


class Observation:
    """``with Observation(models) as observation``: the event loop's lag is sampled inside the block.

    ``models`` may be labels, beside the providers' default ones. ``rpc_ended`` is for the doors, ``watch`` for the rest.
    Nothing that is told here can raise: see ``Failures``.
    """

    rpc_ended: Callable[[str, Code, float], None]

    def __init__(self, models: Iterable[str] = ()) -> None:
        providers = installed()
        defaults = {provider.default_model for provider in providers.values()}
        self.metrics = Metrics(providers, defaults.union(models))
        self.failures = Failures()
        self.rpc_ended = self.failures.harmless(self.metrics.rpc_ended)
        self.metrics.catch_up = self._catch_up
        self._tell_of = self.failures.harmless(self._told)
        self._ended: deque[tuple[str, Run, RunStarted, Timeline, int]] = deque()
        self._telling: asyncio.TimerHandle | None = None
        self._lag = LoopLag()

    def __enter__(self) -> Self:
        self._lag.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._lag.stop()
        if self._telling is not None:
            self._telling.cancel()
        self._catch_up()

    def watch(self, runs: Runs, library: Library, storage: Storage, providers: Providers) -> None:
        """Is told of every run, and reads what the rooms count when a scraper comes."""
        runs.lag_since = self._lag.since
        runs.on_ended = self._run_ended
        ledger, admission, gauge, counter = storage.ledger, runs.admission, self.metrics.gauge, self.metrics.counter
        gauge("agentsvc_runs_live", "Runs that go on.", lambda: admission.runs)
        gauge("agentsvc_runs_waiting", "Calls that wait for a run's place.", lambda: admission.waiting)
        gauge("agentsvc_readers", "Calls that read a run.", lambda: admission.readers)
        gauge("agentsvc_journal_bytes", "Memory that journals take.", lambda: library.used)
        gauge("agentsvc_ledger_backlog_bytes", "Writes that wait for the database.", lambda: ledger.backlog_bytes)
        counter("agentsvc_ledger_dropped", "Writes lost because too many waited.", lambda: ledger.dropped)
        counter("agentsvc_log_lines_dropped", "Log lines that nobody read in time.", log.dropped)
        counter("agentsvc_observations_failed", "Ends that log or metrics have missed.", lambda: self.failures.count)
        gauge("agentsvc_event_loop_lag_seconds", f"The longest stall of the last {_RECENT:g} s.", self._recent_lag)
        self._watch_pools(providers)

    def _watch_pools(self, providers: Providers) -> None:
        """One pool per provider in use, and one for all addresses that agents named."""

        def each(field: str) -> Callable[[], Mapping[tuple[str, ...], float]]:
            return lambda: {(name,): getattr(stats, field) for name, stats in providers.stats().items()}

        gauge, counter, labels = self.metrics.gauge, self.metrics.counter, ("provider",)
        gauge("agentsvc_provider_in_flight", "Requests at a provider.", each("in_flight"), labels)
        gauge("agentsvc_provider_connections", "Open connections to it.", each("open_connections"), labels)
        counter("agentsvc_provider_requests", "Requests sent.", each("requests"), labels)
        counter("agentsvc_provider_retries", "Requests sent again after an error.", each("retries"), labels)
        counter("agentsvc_provider_reconnects", "Kept connections that were found dead.", each("reconnects"), labels)
        told = "Whether it is asked: 0 yes, 1 one request at a time, 2 no."
        gauge("agentsvc_provider_breaker", told, partial(_breakers, providers), labels)
        for name, documentation in _CHOICES.items():
            counter(f"agentsvc_provider_{name}", documentation, partial(_choices, providers, name), labels)

    def _run_ended(self, live: Live) -> None:
        """Told a moment later, many runs at a time: one by one they would cost three times as much."""
        timeline = live.timeline
        self._ended.append((live.tenant_id, live.record(), live.started, timeline, timeline.elapsed_us()))
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(_ROUND, self._tell)

    def _tell(self) -> None:
        """Tells log and metrics of a handful, and of the rest after everything else has had its turn."""
        for _ in range(min(len(self._ended), _HANDFUL)):
            self._tell_of(*self._ended.popleft())
        loop = asyncio.get_running_loop()
        self._telling = loop.call_later(0, self._tell) if self._ended else None

    def _catch_up(self) -> None:
        while self._ended:
            self._tell_of(*self._ended.popleft())

    def _told(self, tenant_id: str, run: Run, started: RunStarted, timeline: Timeline, duration_us: int) -> None:
        summary = RunSummary.of(tenant_id, run, started, timeline, duration_us)
        log.run_ended(summary)
        self.metrics.run_ended(summary)

    def _recent_lag(self) -> float:
        return self._lag.since(perf_counter_ns() - int(_RECENT * 1e9)) * 1e-6


def _breakers(providers: Providers) -> Mapping[tuple[str, ...], float]:
    return {(name,): _OPENNESS[state] for name, state in providers.breakers().items()}


def _choices(providers: Providers, name: str) -> Mapping[tuple[str, ...], float]:
    return {(provider,): getattr(stats, name) for provider, stats in providers.fleets().items()}
