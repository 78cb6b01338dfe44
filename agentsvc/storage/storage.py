"""Everything kept, opened and closed as one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Self

from sqlalchemy import literal, select

from agentsvc.domain.errors import AgentsvcError
from agentsvc.storage import schema
from agentsvc.storage.agents import Agents
from agentsvc.storage.authenticator import CachingAuthenticator
from agentsvc.storage.changes import Changes
from agentsvc.storage.database import Database, StorageConfig
from agentsvc.storage.leases import Leases, Presence
from agentsvc.storage.ledger import BatchingLedger
from agentsvc.storage.periodic import Periodic
from agentsvc.storage.runs import Runs
from agentsvc.storage.secrets import SealedSecrets
from agentsvc.storage.sessions import Sessions
from agentsvc.storage.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Storage:
    """``async with await Storage.open(config) as storage``. One per process."""

    agents: Agents
    sessions: Sessions
    runs: Runs
    ledger: BatchingLedger
    tokens: Tokens
    authenticator: CachingAuthenticator
    changes: Changes
    _leases: Leases
    _renewal: Periodic
    _presence: Presence | None
    _database: Database

    @classmethod
    async def open(cls, config: StorageConfig) -> Self:
        """Connects, and begins to write, to watch and to renew its lease. SQLite is migrated, PostgreSQL only checked.

        Raises:
            ValueError: not a database URL, or a secret key that is too short.
            AgentsvcError: STORAGE_UNAVAILABLE, out of reach or not migrated.
        """
        sealed = SealedSecrets(config.secret_key)
        async with contextlib.AsyncExitStack() as undo:
            database = Database(config)
            undo.push_async_callback(database.close)
            await database.reach()
            await (schema.upgrade if database.dialect == "sqlite" else schema.check)(database)
            presence = Presence(database.url.database or "", config.timeout) if database.dialect == "sqlite" else None
            if presence:
                undo.callback(presence.close)
            leases = Leases(database, config.lease)
            await leases.renew()
            changes = Changes(database, config.poll_interval)
            await changes.start()
            undo.pop_all()
        ledger = BatchingLedger(database, config, leases.owner)
        ledger.start()
        runs = Runs(database, ledger.barrier, leases, presence)

        async def live_on() -> None:
            await leases.renew()
            await runs.interrupt_expired()

        renewal = Periodic("renewing the lease", config.lease / 3, live_on)
        renewal.start()
        return cls(
            agents=Agents(database, changes, sealed),
            sessions=Sessions(database, ledger.barrier),
            runs=runs,
            ledger=ledger,
            tokens=Tokens(database, changes),
            authenticator=CachingAuthenticator(database, changes, config.timeout),
            changes=changes,
            _leases=leases,
            _renewal=renewal,
            _presence=presence,
            _database=database,
        )

    async def probe(self) -> None:
        """Asks the database for a sign of life. STORAGE_UNAVAILABLE."""
        await self._database.rows(select(literal(1)))

    async def close(self) -> None:
        """Writes what is left and lets everything go. Call it once."""
        await self.ledger.close()
        await self._renewal.close()
        await self.changes.close()
        with contextlib.suppress(AgentsvcError):  # out of reach: the lease will run out
            await self._leases.release()
        if self._presence:
            self._presence.close()
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
