"""Bearer token in, principal out. A token seen before costs a hash and a look-up, and no database.

Both answers are remembered: principals until a token changes anywhere, strangers for a few seconds. Both memories are
bounded, look-ups of one token are one look-up, and few run at a time, so a flood of invented tokens reaches the database
as a trickle. While the database is away, remembered tokens keep working.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select

from agentsvc.domain import ports
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.runs import Principal, TokenRole
from agentsvc.storage.changes import Changes, Topic
from agentsvc.storage.database import Database
from agentsvc.storage.failures import unavailable
from agentsvc.storage.tables import tokens
from agentsvc.storage.tokens import fingerprint, token_id_of

_REMEMBERED = 10_000  # of each kind
_STRANGER_SECONDS = 5.0
_LOOK_UPS = 4  # at a time


@dataclass(frozen=True, slots=True)
class _Known:
    """``until`` in seconds of ``time.time``: for a principal its expiry, for a stranger (None) when to ask again."""

    principal: Principal | None
    until: float


class CachingAuthenticator(ports.Authenticator):
    """Keyed by the tokens' hashes: a dump of this process's memory shows no bearer token that is not in use."""

    def __init__(
        self, database: Database, changes: Changes, timeout: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._timeout = timeout
        self._clock = clock
        self._static: dict[bytes, _Known] = {}
        self._principals: dict[bytes, _Known] = {}
        self._strangers: dict[bytes, _Known] = {}
        self._look_ups: dict[bytes, asyncio.Task[_Known]] = {}
        self._permits = asyncio.Semaphore(_LOOK_UPS)
        self._generation = 0
        changes.on_change(Topic.TOKENS, self.forget)

    def add_static(self, token: str, principal: Principal) -> None:
        """A token of this process alone, in no database (``--dev``)."""
        known = self._static[fingerprint(token)] = _Known(principal, math.inf)
        self._principals[fingerprint(token)] = known

    def forget(self) -> None:
        """Asks the database anew about every token."""
        self._generation += 1  # look-ups under way may have read what is no longer true: they are not remembered
        self._principals = self._static.copy()
        self._strangers.clear()
        self._look_ups.clear()

    def recall(self, token: str) -> Principal | None:
        """Who calls, of a token seen before: a hash and a look-up, for every call there is."""
        known = self._principals.get(fingerprint(token))
        return known.principal if known is not None and known.until > self._clock() else None

    async def authenticate(self, token: str) -> Principal:
        """Who calls.

        Raises:
            AgentsvcError: UNAUTHENTICATED for an unknown, expired or revoked token; STORAGE_UNAVAILABLE when nothing is
                known of it and the database is out of reach.
        """
        key = fingerprint(token)
        known = self._static.get(key) or self._principals.get(key) or self._stranger(key)
        if known is None:
            known = await self._look_up(key, token)
        if known.principal is None or known.until <= self._clock():
            raise AgentsvcError(Reason.UNAUTHENTICATED, "The bearer token is unknown, expired or revoked.")
        return known.principal

    def _stranger(self, key: bytes) -> _Known | None:
        known = self._strangers.get(key)
        return known if known is not None and known.until > self._clock() else None

    async def _look_up(self, key: bytes, token: str) -> _Known:
        token_id = token_id_of(token)
        if token_id is None:
            return _Known(None, math.inf)
        look_up = self._look_ups.get(key)
        if look_up is None:
            look_up = asyncio.create_task(self._find(key, token_id), name="storage-authenticate")
            self._look_ups[key] = look_up
            look_up.add_done_callback(lambda done: self._finished(key, done))
        return await asyncio.shield(look_up)  # it serves other callers as well: one that leaves does not end it

    def _finished(self, key: bytes, look_up: asyncio.Task[_Known]) -> None:
        if self._look_ups.get(key) is look_up:
            del self._look_ups[key]
        if not look_up.cancelled():
            look_up.exception()  # retrieved, should every caller have left

    async def _find(self, key: bytes, token_id: str) -> _Known:
        generation = self._generation
        try:
            async with asyncio.timeout(self._timeout), self._permits:
                row = await self._database.row(select(tokens).where(tokens.c.token_id == token_id))
        except TimeoutError:
            raise unavailable() from None
        if row is None or row.revoked or not hmac.compare_digest(row.secret_hash, key):
            known, memory = _Known(None, self._clock() + _STRANGER_SECONDS), self._strangers
        else:
            until = row.expire_time.timestamp() if row.expire_time else math.inf
            known, memory = _Known(Principal(row.tenant_id, token_id, TokenRole(row.role)), until), self._principals
        if generation == self._generation:
            memory[key] = known
            if len(memory) > _REMEMBERED:
                del memory[next(iter(memory))]  # the oldest; asked for again it is looked up again
        return known
