import asyncio

import pytest
from sqlalchemy import text

from agentsvc.domain.agents import Agent, LLMConfig
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.storage import Storage, StorageConfig
from agentsvc.storage.database import parse_url
from tests.storage.databases import Opening


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ("sqlite:///a/b.db", "sqlite+aiosqlite:///a/b.db"),
        ("sqlite+aiosqlite:////a/b.db", "sqlite+aiosqlite:////a/b.db"),
        ("postgres://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgresql://u:p@h:5433/d?sslmode=require", "postgresql+asyncpg://u:p@h:5433/d?ssl=require"),
        ("postgresql+asyncpg://h/d", "postgresql+asyncpg://h/d"),
    ],
)
def test_urls_as_people_write_them(given: str, understood: str) -> None:
    assert parse_url(given).render_as_string(hide_password=False) == understood


@pytest.mark.parametrize(
    "url", ["", "x", "mysql://h/d", "sqlite://", "sqlite:///:memory:", "postgresql+psycopg2://h/d"]
)
def test_a_url_that_cannot_work_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        parse_url(url)


def test_a_configuration_shows_no_secret() -> None:
    shown = repr(StorageConfig("postgresql://u:hunter2@h/d", secret_key="swordfish and chips"))
    assert "hunter2" not in shown
    assert "swordfish" not in shown


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_sqlite_is_set_up_for_a_service(storage: Storage) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 5000}
    for name, value in wanted.items():
        [row] = await storage._database.rows(text(f"PRAGMA {name}"))
        assert row[0] == value, name


async def test_a_caller_that_leaves_in_the_middle_harms_nobody(opened: Opening) -> None:
    async with opened(pool_size=1) as storage:
        for turns in range(1, 12):
            write = asyncio.create_task(storage.agents.create("acme", Agent(f"a{turns}", LLMConfig("mock"))))
            for _ in range(turns):
                await asyncio.sleep(0)
            write.cancel()
            await asyncio.wait({write})
            assert await storage.agents.get("acme", "nobody") is None
        await storage.agents.create("acme", Agent("last", LLMConfig("mock")))
        assert await storage.agents.get("acme", "last") is not None


async def test_a_refused_statement_is_our_bug_and_shows_no_sql(storage: Storage) -> None:
    with pytest.raises(AgentsvcError) as refusal:
        async with storage._database.transaction() as connection:
            await connection.execute(text("INSERT INTO changes (topic) VALUES ('secret')"))
    assert "secret" not in str(refusal.value)
    assert refusal.value.reason in {Reason.ALREADY_EXISTS, Reason.INTERNAL}


async def test_few_connections_serve_many_callers(opened: Opening) -> None:
    async with opened(pool_size=2) as storage:
        found = await asyncio.gather(*(storage.agents.get("acme", f"a{n}") for n in range(200)))
        assert found == [None] * 200
