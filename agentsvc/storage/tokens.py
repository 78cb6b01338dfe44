"""Bearer tokens at rest: ``agentsvc_<token id>_<256 random bits>``, kept as SHA-256 and never in clear.

A fast hash is enough: nobody guesses 256 bits, and every cold request pays for it. Revoked tokens stay listed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from agentsvc.domain.ports import Filter, Page, PageRequest, TokenRecord
from agentsvc.domain.runs import TokenRole
from agentsvc.storage.changes import Changes, Topic
from agentsvc.storage.database import Database, require_tenant
from agentsvc.storage.paging import newest_first
from agentsvc.storage.rows import token_of
from agentsvc.storage.tables import organisations, tokens

_FORM = re.compile(r"agentsvc_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token just made. ``text`` is what a caller sends, shown this once."""

    record: TokenRecord
    text: str = field(repr=False)


class Tokens:
    """The operator's side of tokens; ``authenticator`` is the callers'."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def ensure_organisation(self, tenant_id: str, display_name: str = "") -> None:
        """Makes the organisation unless it exists."""
        require_tenant(tenant_id)
        async with self._database.transaction() as connection:
            await self._ensure(connection, tenant_id, display_name)

    async def create(
        self, tenant_id: str, role: TokenRole, display_name: str = "", expire_time: datetime | None = None
    ) -> NewToken:
        """A new token of the organisation, which is made where it does not exist."""
        require_tenant(tenant_id)
        token_id = secrets.token_hex(8)
        text = f"agentsvc_{token_id}_{secrets.token_urlsafe(32)}"
        record = TokenRecord(token_id, tenant_id, role, display_name, datetime.now(UTC), expire_time)
        async with self._database.transaction() as connection:
            await self._ensure(connection, tenant_id)
            await connection.execute(
                self._database.insert(tokens).values(
                    token_id=token_id,
                    tenant_id=tenant_id,
                    role=role.value,
                    display_name=display_name,
                    secret_hash=fingerprint(text),
                    create_time=record.create_time,
                    expire_time=expire_time,
                    revoked=False,
                )
            )
            await self._changes.bump(connection, Topic.TOKENS)
        self._changes.tell(Topic.TOKENS)
        return NewToken(record, text)

    async def list(self, tenant_id: str, page: PageRequest) -> Page[TokenRecord]:
        """Newest first, revoked and expired ones included."""
        require_tenant(tenant_id)
        return await newest_first(self._database, tokens, tokens.c.token_id, tenant_id, page, Filter(), token_of)

    async def revoke(self, tenant_id: str, token_id: str) -> bool:
        """Whether the tenant has such a token. It is refused from now on here, within a second elsewhere."""
        require_tenant(tenant_id)
        revoking = update(tokens).where(tokens.c.tenant_id == tenant_id, tokens.c.token_id == token_id)
        async with self._database.transaction() as connection:
            found = bool((await connection.execute(revoking.values(revoked=True))).rowcount)
            if found:
                await self._changes.bump(connection, Topic.TOKENS)
        if found:
            self._changes.tell(Topic.TOKENS)
        return found

    async def _ensure(self, connection: AsyncConnection, tenant_id: str, display_name: str = "") -> None:
        row = {"tenant_id": tenant_id, "display_name": display_name, "create_time": datetime.now(UTC)}
        await connection.execute(self._database.insert(organisations).values(row).on_conflict_do_nothing())


def fingerprint(text: str) -> bytes:
    """What is stored of a token: SHA-256 of its text."""
    return hashlib.sha256(text.encode(errors="replace")).digest()


def token_id_of(text: str) -> str | None:
    """The public part of a token; None for what cannot be one."""
    match = _FORM.fullmatch(text)
    return match and match[1]
