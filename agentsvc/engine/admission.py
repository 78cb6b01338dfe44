"""Admission: how many runs and readers there may be, of one token, of one tenant and in all, and who waits for a place.

    a place is free               taken at once: a few compares, no await, no lock
    none is, the queue has room   waits for at most ``queue_wait``; places that come free go round the tenants in turn
    neither                       refused: LIMIT_EXCEEDED by the token's or tenant's own limit, OVERLOADED by the process's

Nobody waits who could be let in: each place that comes free is offered at once to all who wait. So whoever comes anew
overtakes nobody: what stops the one who waits (the process, his tenant, his token) would stop the newcomer as well.

A full queue is shared fairly: a tenant with fewer places in it takes one from the tenant with the most.

Who is refused is told when to come back, and no two are told the same: the times given out follow each other as places
come free (the mean length of recent runs over the limit), so that a crowd returns at the pace at which it can be served.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.runs import Principal

SHORTEST: Final = 0.1  # seconds that a refused caller is told to wait at least,
LONGEST: Final = 30.0  # and at most
_SPREAD: Final = 0.8  # times are drawn between this share of the estimate and the whole: rather early than idle
_FIRST_GUESS: Final = 1.0  # seconds a run takes, before any has ended
_WEIGHT: Final = 1 / 16  # of the latest run in the mean
_REMEMBERED: Final = 1024  # promises; those whose time has passed go first


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Most runs and readers at one time, and the queues in front of them.

    A run counts until it has ended, readers or not; a reader is an open StreamChat, SubscribeRun or Chat call.
    ``queue``: calls that may wait for a run's place, ``queue_wait`` seconds at most. ``queue_per_session``: runs that
    may wait for their turn in one session (on_session_busy QUEUE). ``idle_reader``: seconds for which a client may take
    nothing of what is waiting for it.
    """

    max_runs: int = 5000
    max_runs_per_tenant: int = 4000
    max_runs_per_token: int = 4000
    max_readers: int = 10_000
    max_readers_per_tenant: int = 8000
    max_readers_per_token: int = 8000
    queue: int = 250
    queue_wait: float = 2.0
    queue_per_session: int = 16
    idle_reader: float = 300.0


class Place:
    """The place of one run or one reader, held until ``release``; as a context manager, until its end."""

    __slots__ = ("_give_back", "principal")

    def __init__(self, principal: Principal, give_back: Callable[[Principal], None]) -> None:
        self.principal = principal
        self._give_back: Callable[[Principal], None] | None = give_back

    def release(self) -> None:
        """Gives the place back. Only the first call counts."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(self.principal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class _Limit:
    """A limit that is reached: whose it is, its name and value."""

    subject: str
    name: str
    value: int
    own: bool  # the caller's, not the process's


class _Places:
    """How many places of one kind are taken."""

    __slots__ = ("_most", "_most_per_tenant", "_most_per_token", "_name", "taken", "tenants", "tokens")

    def __init__(self, name: str, most: int, most_per_tenant: int, most_per_token: int) -> None:
        self._name = name
        self._most, self._most_per_tenant, self._most_per_token = most, most_per_tenant, most_per_token
        self.taken = 0
        self.tenants: dict[str, int] = {}
        self.tokens: dict[tuple[str, str], int] = {}

    def take(self, principal: Principal) -> bool:
        """Takes a place if all three limits allow it."""
        tenant_id = principal.tenant_id
        key = tenant_id, principal.token_id
        tenant, token = self.tenants.get(tenant_id, 0), self.tokens.get(key, 0)
        if self.taken >= self._most or tenant >= self._most_per_tenant or token >= self._most_per_token:
            return False
        self.taken += 1
        self.tenants[tenant_id] = tenant + 1
        self.tokens[key] = token + 1
        return True

    def free(self, principal: Principal) -> None:
        """A place is free again. Who holds none is forgotten."""
        tenant_id = principal.tenant_id
        key = tenant_id, principal.token_id
        self.taken -= 1
        if (tenant := self.tenants[tenant_id] - 1) == 0:
            del self.tenants[tenant_id]
        else:
            self.tenants[tenant_id] = tenant
        if (token := self.tokens[key] - 1) == 0:
            del self.tokens[key]
        else:
            self.tokens[key] = token

    def reached(self, principal: Principal) -> _Limit:
        """The limit that keeps the principal out; its own are named before the process's."""
        tenant_id, token_id = principal.tenant_id, principal.token_id
        if self.tokens.get((tenant_id, token_id), 0) >= self._most_per_token:
            return _Limit(f"token:{token_id}", f"{self._name}_per_token", self._most_per_token, own=True)
        if self.tenants.get(tenant_id, 0) >= self._most_per_tenant:
            return _Limit(f"tenant:{tenant_id}", f"{self._name}_per_tenant", self._most_per_tenant, own=True)
        return _Limit("process", self._name, self._most, own=False)


_Waiting = asyncio.Future[Place]


class Admission:
    """The places of one process. Everything happens on the event loop."""

    def __init__(self, config: LimitsConfig) -> None:
        self.config = config
        self._runs = _Places("max_runs", config.max_runs, config.max_runs_per_tenant, config.max_runs_per_token)
        self._readers = _Places(
            "max_readers", config.max_readers, config.max_readers_per_tenant, config.max_readers_per_token
        )
        self._queue: OrderedDict[str, dict[_Waiting, Principal]] = OrderedDict()  # by tenant, next in turn first
        self._waiting = 0
        self._run_length = 0.0  # seconds, the mean of recent runs; 0 before the first
        self._promised: dict[tuple[str, str], float] = {}  # the last time given out, by limit and subject

    @property
    def runs(self) -> int:
        """Places that runs hold."""
        return self._runs.taken

    @property
    def readers(self) -> int:
        """Places that readers hold."""
        return self._readers.taken

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return self._waiting

    def take_run(self, principal: Principal) -> Place | None:
        """A run's place, if one is free now."""
        return Place(principal, self._free_run) if self._runs.take(principal) else None

    async def wait_for_run(self, principal: Principal) -> Place:
        """A run's place, after some time in the queue; to be called when ``take_run`` had none.

        Raises:
            AgentsvcError: LIMIT_EXCEEDED, OVERLOADED; what ``close`` was told.
        """
        granted = self._line_up(principal)
        try:
            await asyncio.wait((granted,), timeout=self.config.queue_wait)
        except asyncio.CancelledError:
            # In the very moment of leaving the place may have been given, or the queue closed.
            if not self._leave(granted, principal) and granted.exception() is None:
                granted.result().release()
            raise
        if self._leave(granted, principal):
            raise self._refusal(self._runs, principal)
        return granted.result()

    def take_reader(self, principal: Principal) -> Place:
        """A reader's place, at once or not at all.

        Raises:
            AgentsvcError: LIMIT_EXCEEDED, OVERLOADED.
        """
        if self._readers.take(principal):
            return Place(principal, self._readers.free)
        raise self._refusal(self._readers, principal)

    def ran(self, seconds: float) -> None:
        """A run has ended that took so long: callers' waiting times are estimated from it."""
        mean = self._run_length
        self._run_length = mean + (seconds - mean) * _WEIGHT if mean else seconds

    def close(self, refusal: Callable[[], AgentsvcError]) -> None:
        """Sends everybody in the queue away, each with an own ``refusal()``."""
        for waiting in self._queue.values():
            for granted in waiting:
                granted.set_exception(refusal())
        self._queue.clear()
        self._waiting = 0

    # --- the queue --------------------------------------------------------------------------------------------------
    def _line_up(self, principal: Principal) -> _Waiting:
        """The last place of the tenant's line; the future brings the run's."""
        mine = self._queue.get(principal.tenant_id)
        if self._waiting >= self.config.queue:
            longest = max(self._queue.values(), key=len, default={})
            if len(longest) <= (len(mine) if mine else 0) + 1:
                raise self._refusal(self._runs, principal)
            last, other = longest.popitem()
            self._waiting -= 1
            last.set_exception(self._refusal(self._runs, other))
        if mine is None:
            mine = self._queue[principal.tenant_id] = {}
        granted: _Waiting = asyncio.get_running_loop().create_future()
        mine[granted] = principal
        self._waiting += 1
        return granted

    def _leave(self, granted: _Waiting, principal: Principal) -> bool:
        """Out of the queue; False when it was out already: let in or sent away."""
        line = self._queue.get(principal.tenant_id)
        if line is None or line.pop(granted, None) is None:
            return False
        self._waiting -= 1
        if not line:
            del self._queue[principal.tenant_id]
        return True

    def _free_run(self, principal: Principal) -> None:
        self._runs.free(principal)
        if self._waiting:
            self._let_in()

    def _let_in(self) -> None:
        """Gives the place that came free to the first who may have it, of the tenant whose turn it is."""
        for tenant_id, line in self._queue.items():
            for granted, principal in line.items():
                if self._runs.take(principal):
                    self._leave(granted, principal)
                    if line:
                        self._queue.move_to_end(tenant_id)
                    granted.set_result(Place(principal, self._free_run))
                    return

    # --- refusals ---------------------------------------------------------------------------------------------------
    def _refusal(self, places: _Places, principal: Principal) -> AgentsvcError:
        limit = places.reached(principal)
        after = self._retry_after(limit)
        if not limit.own:
            message = f"The service is at its limit {limit.name} = {limit.value}. Call again in {after:.1f} s."
            return AgentsvcError(Reason.OVERLOADED, message, retry_after=after)
        return AgentsvcError(
            Reason.LIMIT_EXCEEDED,
            f"The limit {limit.name} = {limit.value} of {limit.subject} is reached. Call again in {after:.1f} s, "
            "or let one end first.",
            retry_after=after,
            metadata={"subject": limit.subject, "limit": limit.name, "value": str(limit.value)},
        )

    def _retry_after(self, limit: _Limit) -> float:
        """Seconds until a place will be free that nobody was promised before."""
        now = time.monotonic()
        key = limit.name, limit.subject
        if len(self._promised) >= _REMEMBERED and key not in self._promised:
            self._promised = {other: due for other, due in self._promised.items() if due > now}
        due = max(self._promised.get(key, now), now) + (self._run_length or _FIRST_GUESS) / limit.value
        self._promised[key] = due = min(due, now + LONGEST)
        return max(due - now, SHORTEST / _SPREAD) * random.uniform(_SPREAD, 1)  # noqa: S311 - spread, not secrecy
