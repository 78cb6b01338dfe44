import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.ports import PageRequest
from agentsvc.domain.runs import Principal, TokenRole
from agentsvc.storage import Storage, Topic
from agentsvc.storage.authenticator import CachingAuthenticator
from tests.storage.databases import Opening


class Statements:
    """Counts the look-ups of tokens that reach the database."""

    def __init__(self, storage: Storage) -> None:
        self.count = 0
        event.listen(storage._database._engine.sync_engine, "before_cursor_execute", self._count)

    def _count(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        self.count += "FROM tokens" in statement


async def refused(storage: Storage, token: str) -> None:
    with pytest.raises(AgentsvcError) as refusal:
        await storage.authenticator.authenticate(token)
    assert refusal.value.reason is Reason.UNAUTHENTICATED
    assert "acme" not in str(refusal.value)


async def test_a_token_names_its_tenant_and_role(storage: Storage) -> None:
    for role in TokenRole:
        new = await storage.tokens.create("acme", role)
        assert await storage.authenticator.authenticate(new.text) == Principal("acme", new.record.token_id, role)


async def test_a_token_seen_before_needs_no_database(storage: Storage) -> None:
    new = await storage.tokens.create("acme", TokenRole.CALLER)
    statements = Statements(storage)
    for _ in range(5):
        await storage.authenticator.authenticate(new.text)
    assert statements.count == 1


async def test_callers_of_one_token_share_one_look_up_and_may_leave(storage: Storage) -> None:
    new = await storage.tokens.create("acme", TokenRole.CALLER)
    statements = Statements(storage)
    callers = [asyncio.create_task(storage.authenticator.authenticate(new.text)) for _ in range(50)]
    await asyncio.sleep(0)
    callers[0].cancel()
    principals = await asyncio.gather(*callers[1:])
    assert {principal.token_id for principal in principals} == {new.record.token_id}
    assert statements.count == 1


async def test_what_is_no_token_never_reaches_the_database(storage: Storage) -> None:
    new = await storage.tokens.create("acme", TokenRole.CALLER)
    statements = Statements(storage)
    for garbage in ("", "x", "agentsvc_", "agentsvc_1_2", new.text + "x", " " + new.text, new.text.upper(), "é" * 70):
        await refused(storage, garbage)
    assert statements.count == 0


async def test_a_wrong_secret_is_refused_and_remembered(storage: Storage) -> None:
    new = await storage.tokens.create("acme", TokenRole.CALLER)
    wrong = new.text[:-1] + ("A" if new.text[-1] != "A" else "B")
    statements = Statements(storage)
    for _ in range(5):
        await refused(storage, wrong)
    assert statements.count == 1
    assert (await storage.authenticator.authenticate(new.text)).tenant_id == "acme"


async def test_memory_is_bounded(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentsvc.storage.authenticator._REMEMBERED", 10)
    new = await storage.tokens.create("acme", TokenRole.CALLER)
    for number in range(30):
        await refused(storage, f"agentsvc_{number:016x}_{'x' * 43}")
    await storage.authenticator.authenticate(new.text)
    assert len(storage.authenticator._strangers) == 10
    assert len(storage.authenticator._principals) == 1


async def test_a_flood_of_strangers_is_a_trickle_of_look_ups(storage: Storage) -> None:
    busy = peak = 0
    rows = storage._database.row

    async def counted(statement: Any) -> Any:
        nonlocal busy, peak
        busy += 1
        peak = max(peak, busy)
        try:
            return await rows(statement)
        finally:
            busy -= 1

    storage._database.row = counted  # type: ignore[method-assign]  # a look at how many run at once
    flood = [storage.authenticator.authenticate(f"agentsvc_{number:016x}_{'x' * 43}") for number in range(100)]
    results = await asyncio.gather(*flood, return_exceptions=True)
    assert all(isinstance(r, AgentsvcError) and r.reason is Reason.UNAUTHENTICATED for r in results)
    assert 0 < peak <= 4


async def test_a_revoked_token_is_refused_at_once_here_and_within_a_second_elsewhere(opened: Opening) -> None:
    async with opened() as here, opened() as elsewhere:
        new = await here.tokens.create("acme", TokenRole.CALLER)
        for storage in (here, elsewhere):
            await storage.authenticator.authenticate(new.text)
        noticed = asyncio.Event()
        elsewhere.changes.on_change(Topic.TOKENS, noticed.set)
        assert await here.tokens.revoke("acme", new.record.token_id) is True
        revoked = time.monotonic()
        await refused(here, new.text)
        await noticed.wait()
        assert time.monotonic() - revoked < 1.0
        await refused(elsewhere, new.text)


async def test_a_token_made_elsewhere_works_although_it_was_unknown_before(opened: Opening) -> None:
    async with opened() as here, opened() as elsewhere:
        noticed = asyncio.Event()
        elsewhere.changes.on_change(Topic.TOKENS, noticed.set)
        new = await here.tokens.create("acme", TokenRole.CALLER)
        await noticed.wait()
        assert (await elsewhere.authenticator.authenticate(new.text)).tenant_id == "acme"


async def test_a_look_up_overtaken_by_a_revocation_is_not_remembered(storage: Storage) -> None:
    new = await storage.tokens.create("acme", TokenRole.CALLER)
    engine = storage._database._engine.sync_engine
    event.listen(engine, "after_cursor_execute", lambda *_: storage.authenticator.forget())  # the row has been read
    await storage.authenticator.authenticate(new.text)
    assert storage.authenticator._principals == {}


async def test_expiry_is_looked_at_with_every_use(storage: Storage) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    new = await storage.tokens.create("acme", TokenRole.CALLER, expire_time=soon)
    now = time.time()
    authenticator = CachingAuthenticator(storage._database, storage.changes, 5.0, clock=lambda: now)
    assert (await authenticator.authenticate(new.text)).token_id == new.record.token_id
    now += 3601
    with pytest.raises(AgentsvcError) as refusal:
        await authenticator.authenticate(new.text)
    assert refusal.value.reason is Reason.UNAUTHENTICATED


async def test_a_static_token_is_in_no_database(storage: Storage) -> None:
    dev = Principal("dev", "static", TokenRole.ADMIN)
    storage.authenticator.add_static("my-dev-token", dev)
    storage.authenticator.forget()
    assert await storage.authenticator.authenticate("my-dev-token") == dev
    assert (await storage.tokens.list("dev", PageRequest())).items == ()


async def test_a_token_is_never_stored_in_clear(storage: Storage) -> None:
    from sqlalchemy import text

    new = await storage.tokens.create("acme", TokenRole.CALLER, "CI")
    rows = [tuple(row) for row in await storage._database.rows(text("SELECT * FROM tokens"))]
    assert new.text.rsplit("_", 1)[1] not in repr(rows)
    assert new.text not in repr(new)
    assert (await storage.tokens.list("acme", PageRequest())).items == (new.record,)


async def test_tokens_stay_listed_when_revoked(storage: Storage) -> None:
    new = await storage.tokens.create("acme", TokenRole.CALLER)
    assert await storage.tokens.revoke("acme", new.record.token_id) is True
    assert await storage.tokens.revoke("acme", "0" * 16) is False
    [listed] = (await storage.tokens.list("acme", PageRequest())).items
    assert listed.revoked


async def test_an_agent_changed_elsewhere_is_noticed_within_a_second(opened: Opening) -> None:
    from agentsvc.domain.agents import Agent, LLMConfig

    async with opened() as here, opened() as elsewhere:
        for change in (
            here.agents.create("acme", Agent("demo", LLMConfig("mock"))),
            here.agents.update("acme", Agent("demo", LLMConfig("mock", "new")), ""),
            here.agents.delete("acme", "demo", ""),
        ):
            noticed, told_here = asyncio.Event(), asyncio.Event()
            elsewhere.changes.on_change(Topic.AGENTS, noticed.set)
            here.changes.on_change(Topic.AGENTS, told_here.set)
            await change
            changed = time.monotonic()
            assert told_here.is_set()
            await noticed.wait()
            assert time.monotonic() - changed < 1.0
