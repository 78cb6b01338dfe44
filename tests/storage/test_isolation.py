"""In this room: another tenant's ids are answered as random ids are. And: no tenant, no query."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from agentsvc.domain.agents import Agent, LLMConfig, Session
from agentsvc.domain.messages import Message, Role, Text
from agentsvc.domain.ports import Filter, PageRequest
from agentsvc.domain.runs import Run, TokenRole
from agentsvc.storage import Storage

Call = Callable[[Storage, str, str], Awaitable[Any]]

AGENT = Agent("?", LLMConfig("mock"))
CALLS: dict[str, Call] = {
    "agents.get": lambda storage, tenant, key: storage.agents.get(tenant, key),
    "agents.list": lambda storage, tenant, key: storage.agents.list(tenant, PageRequest(), Filter(agent_id=key)),
    "agents.update": lambda storage, tenant, key: storage.agents.update(tenant, replace(AGENT, agent_id=key), ""),
    "agents.update, etag": lambda storage, tenant, key: storage.agents.update(
        tenant, replace(AGENT, agent_id=key), "stale"
    ),
    "agents.delete": lambda storage, tenant, key: storage.agents.delete(tenant, key, ""),
    "sessions.get": lambda storage, tenant, key: storage.sessions.get(tenant, key),
    "sessions.list": lambda storage, tenant, key: storage.sessions.list(tenant, PageRequest(), Filter(session_id=key)),
    "sessions.messages": lambda storage, tenant, key: storage.sessions.messages(tenant, key, PageRequest()),
    "sessions.history": lambda storage, tenant, key: storage.sessions.history(tenant, key, 10),
    "sessions.delete": lambda storage, tenant, key: storage.sessions.delete(tenant, key),
    "runs.get": lambda storage, tenant, key: storage.runs.get(tenant, key),
    "runs.list": lambda storage, tenant, key: storage.runs.list(tenant, PageRequest(), Filter(session_id=key)),
    "runs.by_request_id": lambda storage, tenant, key: storage.runs.by_request_id(tenant, key),
    "tokens.list": lambda storage, tenant, _key: storage.tokens.list(tenant, PageRequest()),
}


async def furnish(storage: Storage, tenant: str, key: str) -> None:
    """One of everything, all named ``key``."""
    await storage.agents.create(tenant, replace(AGENT, agent_id=key))
    await storage.tokens.create(tenant, TokenRole.CALLER)
    storage.ledger.started(tenant, Run(key, key, key, request_id=key), Session(key, key))
    await storage.ledger.ended(tenant, Run(key, key, key, request_id=key), [Message(Role.USER, (Text(tenant),))])


async def contents(storage: Storage, tenant: str) -> list[Any]:
    page = PageRequest(1000)
    return [
        (await storage.agents.list(tenant, page, Filter())).items,
        (await storage.sessions.list(tenant, page, Filter())).items,
        (await storage.runs.list(tenant, page, Filter())).items,
        (await storage.tokens.list(tenant, page)).items,
        await storage.sessions.history(tenant, "theirs", 10),
    ]


@pytest.mark.parametrize("name", CALLS)
async def test_a_foreign_id_is_answered_as_a_random_one_and_nothing_is_touched(storage: Storage, name: str) -> None:
    await furnish(storage, "owner", "theirs")
    before = await contents(storage, "owner")
    call = CALLS[name]
    assert await call(storage, "stranger", "theirs") == await call(storage, "stranger", "random")
    assert await contents(storage, "owner") == before


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_without_a_tenant_is_a_bug(storage: Storage, name: str) -> None:
    await furnish(storage, "owner", "theirs")
    with pytest.raises(ValueError, match="tenant"):
        await CALLS[name](storage, "", "theirs")


async def test_a_write_without_a_tenant_is_a_bug(storage: Storage) -> None:
    run, session = Run("r", "demo"), Session("s", "demo")
    with pytest.raises(ValueError, match="tenant"):
        storage.ledger.started("", run, session)
    with pytest.raises(ValueError, match="tenant"):
        storage.ledger.ended("", run, ())
    for write in (
        storage.agents.create("", AGENT),
        storage.sessions.create("", session),
        storage.tokens.create("", TokenRole.ADMIN),
        storage.tokens.revoke("", "0" * 16),
        storage.tokens.ensure_organisation(""),
    ):
        with pytest.raises(ValueError, match="tenant"):
            await write


async def test_tenants_may_use_the_same_ids(storage: Storage) -> None:
    for tenant in ("one", "two"):
        await furnish(storage, tenant, "same")
    for tenant in ("one", "two"):
        assert [m.text for m in await storage.sessions.history(tenant, "same", 10)] == [tenant]
    assert await storage.sessions.delete("one", "same")
    assert await storage.agents.delete("one", "same", "")
    assert [m.text for m in await storage.sessions.history("two", "same", 10)] == ["two"]
    assert await storage.agents.get("two", "same") is not None


async def test_a_foreign_session_cannot_be_written_to(storage: Storage) -> None:
    await furnish(storage, "owner", "theirs")
    await storage.ledger.ended("stranger", Run("r", "demo", "theirs"), [Message(Role.USER, (Text("intruder"),))])
    assert [m.text for m in await storage.sessions.history("owner", "theirs", 10)] == ["owner"]
    assert await storage.sessions.history("stranger", "theirs", 10) == ()


async def test_a_foreign_run_cannot_be_written_over(storage: Storage) -> None:
    await furnish(storage, "owner", "theirs")
    before = await contents(storage, "owner")
    await storage.ledger.ended("stranger", Run("theirs", "demo", text="intruder"), ())
    assert await contents(storage, "owner") == before


async def test_a_foreign_token_cannot_be_revoked(storage: Storage) -> None:
    new = await storage.tokens.create("owner", TokenRole.CALLER)
    assert await storage.tokens.revoke("stranger", new.record.token_id) is False
    assert (await storage.authenticator.authenticate(new.text)).tenant_id == "owner"
