"""Tokens and agents from the command line, straight on the configured database: it works wherever the server runs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.table import Table

from agentsvc.domain.agents import Agent, LLMConfig
from agentsvc.domain.ports import Filter, PageRequest
from agentsvc.domain.runs import Principal, TokenRole
from agentsvc.engine.catalog import Catalog
from agentsvc.engine.tools import Tool, Toolset
from agentsvc.providers.models import Providers
from agentsvc.providers.registry import installed
from agentsvc.settings import Settings
from agentsvc.storage import NewToken, Storage

_PAGE = 1000


async def create_token(
    settings: Settings, organisation: str, role: TokenRole, name: str, expires_in: timedelta | None
) -> NewToken:
    """A new bearer token; its organisation is made if need be."""
    expire_time = datetime.now(UTC) + expires_in if expires_in else None
    async with await Storage.open(settings.storage) as storage:
        return await storage.tokens.create(organisation, role, name, expire_time)


async def list_tokens(settings: Settings, organisation: str) -> Table:
    """The organisation's tokens, newest first."""
    table = _table("token", "role", "name", "created", "expires", "state")
    async with await Storage.open(settings.storage) as storage:
        page = PageRequest(_PAGE)
        while True:
            found = await storage.tokens.list(organisation, page)
            for token in found.items:
                expired = token.expire_time is not None and token.expire_time <= datetime.now(UTC)
                state = "revoked" if token.revoked else "expired" if expired else "active"
                times = _time(token.create_time), _time(token.expire_time)
                table.add_row(token.token_id, token.role.value, token.display_name, *times, state)
            if not found.next_token:
                return table
            page = replace(page, token=found.next_token)


async def revoke_token(settings: Settings, organisation: str, token_id: str) -> bool:
    """Whether there was such a token. It is refused everywhere within a second."""
    # The public id is part of the token: whoever pastes the whole of it means the same.
    match = re.fullmatch(r"agentsvc_([0-9a-f]+)_.*", token_id)
    async with await Storage.open(settings.storage) as storage:
        return await storage.tokens.revoke(organisation, match[1] if match else token_id)


async def create_agent(settings: Settings, organisation: str, agent: Agent, tools: Sequence[Tool]) -> Agent:
    """Stores an agent under the same rules as CreateAgent."""
    async with _catalog(settings, tools) as (storage, catalog):
        await storage.tokens.ensure_organisation(organisation)
        return await catalog.create(_operator(organisation), agent)


async def list_agents(settings: Settings, organisation: str) -> Table:
    """The organisation's agents, newest first."""
    table = _table("agent", "name", "provider", "model", "tools", "status", "updated")
    async with await Storage.open(settings.storage) as storage:
        page = PageRequest(_PAGE)
        while True:
            found = await storage.agents.list(organisation, page, Filter())
            for agent in found.items:
                model = agent.llm_config.provider, agent.llm_config.model or "(default)"
                tools = ", ".join(agent.tools)
                table.add_row(
                    agent.agent_id, agent.display_name, *model, tools, agent.status.value, _time(agent.update_time)
                )
            if not found.next_token:
                return table
            page = replace(page, token=found.next_token)


async def set_model(
    settings: Settings, organisation: str, agent_id: str, provider: str, model: str, tools: Sequence[Tool]
) -> Agent:
    """Switches an agent's model while it runs; ``provider`` empty: the one it has. Its parameters stay.

    With the provider an address and key of the agent's own go: they were the old one's.
    """
    async with _catalog(settings, tools) as (_, catalog):
        principal = _operator(organisation)
        agent = await catalog.get(principal, agent_id)
        config = agent.llm_config
        if provider and provider != config.provider:
            config = LLMConfig(provider, parameters=config.parameters)
        return await catalog.update(principal, replace(agent, llm_config=replace(config, model=model)), agent.etag)


def show(table: Table) -> None:
    """On stdout; without a terminal one row is one line, however long, so that scripts can read it."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=1000)
    console.print(table)


@asynccontextmanager
async def _catalog(settings: Settings, tools: Sequence[Tool]) -> AsyncIterator[tuple[Storage, Catalog]]:
    async with await Storage.open(settings.storage) as storage:
        models = Providers(installed(), settings.endpoints, settings.pool)
        yield storage, Catalog(storage.agents, models, Toolset.of((*settings.load_tools(), *tools)))


def _operator(organisation: str) -> Principal:
    return Principal(organisation, "command line", TokenRole.ADMIN)


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False)


def _time(time: datetime | None) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ") if time else "-"
