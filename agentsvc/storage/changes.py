"""What changed elsewhere: a counter per topic, bumped with the change and watched by every process.

A cache that listens here drops its entries at once for a change of its own process and within ``poll_interval`` and one
query for another's. Counters and not a log of changes: rows of a log become visible out of order and would need
cleaning; a counter's row lock puts writers in line.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from agentsvc.storage.database import Database
from agentsvc.storage.periodic import Periodic
from agentsvc.storage.tables import changes


class Topic(StrEnum):
    """What caches are kept of."""

    TOKENS = "tokens"
    AGENTS = "agents"


class Changes:
    """The watcher. ``start`` before caches fill, else a change between filling and watching goes unseen."""

    def __init__(self, database: Database, poll_interval: float) -> None:
        self._database = database
        self._seen: dict[str, int] = {}
        self._listeners: list[tuple[Topic, Callable[[], None]]] = []
        self._watcher = Periodic("watching for changes", poll_interval, self.poll)

    def on_change(self, topic: Topic, listener: Callable[[], None]) -> None:
        """``listener()`` is called on the event loop after every change of ``topic``, whoever made it."""
        self._listeners.append((topic, listener))

    async def bump(self, connection: AsyncConnection, topic: Topic) -> None:
        """Within the transaction that makes the change. ``tell`` after its commit."""
        await connection.execute(update(changes).where(changes.c.topic == topic).values(counter=changes.c.counter + 1))

    def tell(self, topic: Topic) -> None:
        """Tells this process's listeners."""
        for listens_to, listener in self._listeners:
            if listens_to is topic:
                listener()

    async def start(self) -> None:
        """Reads the counters and begins to watch them."""
        self._seen = await self._counters()
        self._watcher.start()

    async def poll(self) -> None:
        """Compares the counters with those seen last and tells the listeners of what moved."""
        counters = await self._counters()
        moved = [topic for topic in Topic if counters.get(topic) != self._seen.get(topic)]
        self._seen = counters
        for topic in moved:
            self.tell(topic)

    async def close(self) -> None:
        """Stops watching."""
        await self._watcher.close()

    async def _counters(self) -> dict[str, int]:
        return {row.topic: row.counter for row in await self._database.rows(select(changes))}
