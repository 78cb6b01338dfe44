"""Runs at rest. The ledger writes them; here they are read, and those of dead processes ended."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, bindparam, select, update

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import RunState
from agentsvc.domain.ports import Filter, Page, PageRequest, RunStore
from agentsvc.domain.runs import Run
from agentsvc.storage.database import AnyRow, Database, require_tenant
from agentsvc.storage.leases import Leases, Presence
from agentsvc.storage.paging import newest_first
from agentsvc.storage.rows import Values, run_of, run_row
from agentsvc.storage.tables import runs

_log = logging.getLogger(__name__)
_INTERRUPTED = AgentsvcError(
    Reason.RUN_INTERRUPTED, "The process that ran it ended unexpectedly; start a new run."
).error


class Runs(RunStore):
    """``barrier`` as in Sessions. ``presence`` is there for SQLite."""

    def __init__(
        self,
        database: Database,
        barrier: Callable[[], Awaitable[None]],
        leases: Leases,
        presence: Presence | None = None,
    ) -> None:
        self._database = database
        self._barrier = barrier
        self._leases = leases
        self._presence = presence

    async def get(self, tenant_id: str, run_id: str) -> Run | None:
        """The run, None if the tenant has none of that id."""
        require_tenant(tenant_id)
        await self._barrier()
        row = await self._database.row(
            select(runs.c.document).where(runs.c.tenant_id == tenant_id, runs.c.run_id == run_id)
        )
        return None if row is None else run_of(row)

    async def list(self, tenant_id: str, page: PageRequest, where: Filter) -> Page[Run]:
        """Newest first."""
        require_tenant(tenant_id)
        await self._barrier()
        return await newest_first(self._database, runs, runs.c.run_id, tenant_id, page, where, run_of)

    async def by_request_id(self, tenant_id: str, request_id: str) -> Run | None:
        """The run that this request id started; an empty one started none."""
        require_tenant(tenant_id)
        if not request_id:
            return None
        await self._barrier()
        row = await self._database.row(
            select(runs.c.document).where(runs.c.tenant_id == tenant_id, runs.c.request_id == request_id)
        )
        return None if row is None else run_of(row)

    async def interrupt_orphans(self) -> int:
        """At the start, before any run: those a dead process left open become INTERRUPTED. How many there were.

        With SQLite and nobody else present that is every open run. Otherwise it is those whose owner's lease has run
        out; a process that crashed just now is found by ``interrupt_expired`` later.
        """
        with self._presence.alone() if self._presence else nullcontext(False) as alone:
            return await self._interrupt(self._leases.dead(runs.c.owner, alone=alone))

    async def interrupt_expired(self) -> None:
        """The same for processes whose lease has run out meanwhile. ``Storage`` does it every third of a lease."""
        await self._interrupt(self._leases.dead(runs.c.owner, alone=False))

    async def _interrupt(self, dead: ColumnElement[bool]) -> int:
        orphans = await self._database.rows(select(runs).where(runs.c.end_time.is_(None), dead))
        if orphans:
            _log.warning("%d runs of dead processes are interrupted", len(orphans))
            await self._end([_interrupted(row) for row in orphans])
        return len(orphans)

    async def _end(self, rows: Sequence[Values]) -> None:
        ending = (
            update(runs)
            .where(
                runs.c.tenant_id == bindparam("of_tenant"),
                runs.c.run_id == bindparam("of_run"),
                runs.c.end_time.is_(None),  # it may have ended, or a neighbour may have been here, meanwhile
            )
            .values({name: bindparam(name) for name in ("state", "document", "end_time")})
        )
        async with self._database.transaction() as connection:
            await connection.execute(ending, rows)


def _interrupted(row: AnyRow) -> Values:
    run = replace(run_of(row), state=RunState.INTERRUPTED, error=_INTERRUPTED, end_time=datetime.now(UTC))
    ended = run_row(row.tenant_id, run, row.owner)
    return {
        "of_tenant": row.tenant_id,
        "of_run": row.run_id,
        "state": ended["state"],
        "document": ended["document"],
        "end_time": ended["end_time"],
    }
