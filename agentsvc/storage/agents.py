"""Agents at rest."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from agentsvc.domain.agents import Agent
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.ports import AgentStore, Filter, Page, PageRequest
from agentsvc.storage.changes import Changes, Topic
from agentsvc.storage.database import AnyRow, Database, require_tenant
from agentsvc.storage.paging import newest_first
from agentsvc.storage.rows import agent_of, agent_row
from agentsvc.storage.secrets import SealedSecrets
from agentsvc.storage.tables import agents


class Agents(AgentStore):
    """Every change is told to the caches of all processes. Keys are sealed on the way in, opened on the way out."""

    def __init__(self, database: Database, changes: Changes, sealed: SealedSecrets) -> None:
        self._database = database
        self._changes = changes
        self._sealed = sealed

    async def get(self, tenant_id: str, agent_id: str) -> Agent | None:
        """The agent with its own API key in clear. PROVIDER_NOT_CONFIGURED when that key cannot be opened."""
        require_tenant(tenant_id)
        row = await self._database.row(select(agents).where(_is(tenant_id, agent_id)))
        if row is None:
            return None
        return agent_of(row, self._sealed.open(row.api_key, tenant_id, agent_id))

    async def list(self, tenant_id: str, page: PageRequest, where: Filter) -> Page[Agent]:
        """Newest first. A key that cannot be opened is left out: one agent must not hide the others."""
        require_tenant(tenant_id)
        return await newest_first(self._database, agents, agents.c.agent_id, tenant_id, page, where, self._listed)

    async def create(self, tenant_id: str, agent: Agent) -> Agent:
        """Stores it with etag and times set. ALREADY_EXISTS when the id is taken in this tenant."""
        require_tenant(tenant_id)
        now = datetime.now(UTC)
        made = replace(agent, etag=_etag(), create_time=now, update_time=now)
        insert = self._database.insert(agents).values(self._row(tenant_id, made)).on_conflict_do_nothing()
        async with self._database.transaction() as connection:
            if not (await connection.execute(insert)).rowcount:
                raise AgentsvcError(Reason.ALREADY_EXISTS, f"There is an agent {agent.agent_id} already.")
            await self._changes.bump(connection, Topic.AGENTS)
        self._changes.tell(Topic.AGENTS)
        return made

    async def update(self, tenant_id: str, agent: Agent, etag: str) -> Agent | None:
        """Replaces it, API key included. ETAG_MISMATCH when ``etag`` is not empty and not the stored one."""
        require_tenant(tenant_id)
        async with self._database.transaction() as connection:
            stored = await self._lock(connection, tenant_id, agent.agent_id, etag)
            if stored is None:
                return None
            made = replace(agent, etag=_etag(), create_time=stored.create_time, update_time=datetime.now(UTC))
            row = self._row(tenant_id, made)
            await connection.execute(update(agents).where(_is(tenant_id, agent.agent_id)).values(row))
            await self._changes.bump(connection, Topic.AGENTS)
        self._changes.tell(Topic.AGENTS)
        return made

    async def delete(self, tenant_id: str, agent_id: str, etag: str) -> bool:
        """Whether there was one. ETAG_MISMATCH as in ``update``. Its sessions and runs stay."""
        require_tenant(tenant_id)
        async with self._database.transaction() as connection:
            if await self._lock(connection, tenant_id, agent_id, etag) is None:
                return False
            await connection.execute(delete(agents).where(_is(tenant_id, agent_id)))
            await self._changes.bump(connection, Topic.AGENTS)
        self._changes.tell(Topic.AGENTS)
        return True

    async def _lock(self, connection: AsyncConnection, tenant_id: str, agent_id: str, etag: str) -> AnyRow | None:
        query = select(agents.c.etag, agents.c.create_time).where(_is(tenant_id, agent_id)).with_for_update()
        row = (await connection.execute(query)).first()
        if row is not None and etag and etag != row.etag:
            raise AgentsvcError(
                Reason.ETAG_MISMATCH, f"Agent {agent_id} was changed meanwhile: read it again, then repeat the change."
            )
        return row

    def _row(self, tenant_id: str, agent: Agent) -> dict[str, Any]:
        return agent_row(tenant_id, agent, self._sealed.seal(agent.llm_config.api_key, tenant_id, agent.agent_id))

    def _listed(self, row: AnyRow) -> Agent:
        try:
            return agent_of(row, self._sealed.open(row.api_key, row.tenant_id, row.agent_id))
        except AgentsvcError:
            return agent_of(row, "")


def _is(tenant_id: str, agent_id: str) -> ColumnElement[bool]:
    return and_(agents.c.tenant_id == tenant_id, agents.c.agent_id == agent_id)


def _etag() -> str:
    return secrets.token_hex(8)
