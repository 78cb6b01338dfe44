"""Sessions and their messages at rest."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, and_, delete, select

from agentsvc.domain.agents import Session
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.messages import Message
from agentsvc.domain.ports import Filter, Page, PageRequest, SessionStore
from agentsvc.storage.database import Database, require_tenant
from agentsvc.storage.paging import newest_first, oldest_first
from agentsvc.storage.rows import message_of, session_of, session_row
from agentsvc.storage.tables import messages, sessions


class Sessions(SessionStore):
    """``barrier`` returns once everything accepted by the ledger is committed: read your writes."""

    def __init__(self, database: Database, barrier: Callable[[], Awaitable[None]]) -> None:
        self._database = database
        self._barrier = barrier

    async def get(self, tenant_id: str, session_id: str) -> Session | None:
        """The session, None if the tenant has none of that id."""
        require_tenant(tenant_id)
        await self._barrier()
        row = await self._database.row(select(sessions).where(_is(tenant_id, session_id)))
        return None if row is None else session_of(row)

    async def list(self, tenant_id: str, page: PageRequest, where: Filter) -> Page[Session]:
        """Newest first."""
        require_tenant(tenant_id)
        await self._barrier()
        return await newest_first(self._database, sessions, sessions.c.session_id, tenant_id, page, where, session_of)

    async def create(self, tenant_id: str, session: Session) -> Session:
        """Stores it with its times set, and an id where it has none. ALREADY_EXISTS when the id is taken."""
        require_tenant(tenant_id)
        now = datetime.now(UTC)
        made = replace(session, session_id=session.session_id or uuid.uuid4().hex, create_time=now, update_time=now)
        insert = self._database.insert(sessions).values(session_row(tenant_id, made)).on_conflict_do_nothing()
        async with self._database.transaction() as connection:
            if not (await connection.execute(insert)).rowcount:
                raise AgentsvcError(Reason.ALREADY_EXISTS, f"There is a session {made.session_id} already.")
        return made

    async def delete(self, tenant_id: str, session_id: str) -> bool:
        """Whether there was one. Its messages go with it; its runs stay."""
        require_tenant(tenant_id)
        await self._barrier()
        async with self._database.transaction() as connection:
            return bool((await connection.execute(delete(sessions).where(_is(tenant_id, session_id)))).rowcount)

    async def messages(self, tenant_id: str, session_id: str, page: PageRequest) -> Page[Message]:
        """Oldest first; an empty page when there is no such session."""
        require_tenant(tenant_id)
        await self._barrier()
        parent = {"tenant_id": tenant_id, "session_id": session_id}
        return await oldest_first(self._database, messages, messages.c.position, parent, page, message_of)

    async def history(self, tenant_id: str, session_id: str, last: int) -> tuple[Message, ...]:
        """The last ``last`` messages, oldest first, with provider state."""
        require_tenant(tenant_id)
        if last <= 0:
            return ()
        await self._barrier()
        query = (
            select(messages.c.document)
            .where(messages.c.tenant_id == tenant_id, messages.c.session_id == session_id)
            .order_by(messages.c.position.desc())
            .limit(last)
        )
        return tuple(message_of(row) for row in reversed(await self._database.rows(query)))


def _is(tenant_id: str, session_id: str) -> ColumnElement[bool]:
    return and_(sessions.c.tenant_id == tenant_id, sessions.c.session_id == session_id)
