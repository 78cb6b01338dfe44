"""Which processes are alive, so that the runs of a dead one can be ended and a live neighbour's never are.

Every process renews a lease in the database; who has none has died (or been cut off longer than ``lease``, by clocks
that differ by less than that). Beside a SQLite file, which one machine has to itself, a lock tells sooner: the kernel
gives it back the moment its holder dies.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import Column, ColumnElement, and_, delete, select

from agentsvc.storage.database import Database
from agentsvc.storage.failures import translated
from agentsvc.storage.tables import leases


class Leases:
    """This process's sign of life and the look at others'. ``owner`` is its name in ``runs.owner``."""

    def __init__(self, database: Database, lease: float) -> None:
        self.owner = uuid.uuid4().hex
        self._database = database
        self._lease = timedelta(seconds=lease)

    async def renew(self) -> None:
        """Alive for another ``lease``."""
        row = {"owner": self.owner, "expire_time": datetime.now(UTC) + self._lease}
        insert = self._database.insert(leases).values(row)
        async with self._database.transaction() as connection:
            await connection.execute(insert.on_conflict_do_update(index_elements=["owner"], set_=row))

    async def release(self) -> None:
        """Gone, on purpose. Long dead processes are forgotten on this occasion: no lease says the same."""
        gone = (leases.c.owner == self.owner) | (leases.c.expire_time < datetime.now(UTC))
        async with self._database.transaction() as connection:
            await connection.execute(delete(leases).where(gone))

    def dead(self, owner: Column[str], *, alone: bool) -> ColumnElement[bool]:
        """Whether ``owner`` has died. ``alone``: nobody but this process is alive (see Presence)."""
        if alone:
            return owner != self.owner
        alive = select(leases.c.owner).where(leases.c.expire_time >= datetime.now(UTC))
        return and_(owner != self.owner, owner.not_in(alive))


class Presence:
    """A shared lock on the file ``<database>-owners``, held while this process lives. SQLite's own locks, so portable.

    Taking and giving it is quick; it blocks the loop only at start-up, and then for as long as a neighbour looks around.
    """

    def __init__(self, database: str, timeout: float) -> None:
        with translated():
            self._lock = sqlite3.connect(f"{database}-owners", timeout=timeout, isolation_level=None)
        self._enter()

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """True inside if no other process is present; then none can become so before the end of the block.

        For the start only, when this process has no runs yet: to look it lets go of its own lock for a moment.
        """
        self._lock.execute("ROLLBACK")
        try:
            with _without_waiting(self._lock):
                self._lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            yield False
        else:
            yield True
            self._lock.execute("ROLLBACK")
        self._enter()

    def close(self) -> None:
        """Gone."""
        self._lock.close()

    def _enter(self) -> None:
        with translated():
            self._lock.execute("BEGIN")
            self._lock.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # the lock comes with the first read


@contextmanager
def _without_waiting(lock: sqlite3.Connection) -> Iterator[None]:
    (patience,) = lock.execute("PRAGMA busy_timeout").fetchone()
    lock.execute("PRAGMA busy_timeout = 0")
    try:
        yield
    finally:
        lock.execute(f"PRAGMA busy_timeout = {patience}")
