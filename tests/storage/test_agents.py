from dataclasses import replace

import pytest

from agentsvc.domain.agents import Agent, GenerationOptions, LLMConfig, ModelRef, StreamingMode, StreamingOptions
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.ports import Filter, PageRequest
from agentsvc.storage import Storage
from tests.storage.databases import Opening

DEMO = Agent(
    "demo",
    LLMConfig("openai", "gpt-5", "https://llm.example", "sk-own", GenerationOptions(0.5, stop=("end",))),
    display_name="Demo",
    instructions="Be brief.",
    tools=("clock",),
    streaming=StreamingOptions(StreamingMode.BUFFERED, text_buffer_size=20),
    fallbacks=(ModelRef("anthropic", "claude"),),
    labels={"team": "a"},
)


async def test_an_agent_comes_back_as_it_was_stored(storage: Storage) -> None:
    made = await storage.agents.create("acme", DEMO)
    assert made == replace(DEMO, etag=made.etag, create_time=made.create_time, update_time=made.update_time)
    assert made.etag
    assert made.create_time == made.update_time is not None
    assert await storage.agents.get("acme", "demo") == made
    assert (await storage.agents.list("acme", PageRequest(), Filter())).items == (made,)


async def test_an_id_is_taken_once_per_tenant(storage: Storage) -> None:
    await storage.agents.create("acme", DEMO)
    await storage.agents.create("other", DEMO)
    with pytest.raises(AgentsvcError, match="agent demo") as refusal:
        await storage.agents.create("acme", DEMO)
    assert refusal.value.reason is Reason.ALREADY_EXISTS


async def test_an_update_keeps_the_birthday_and_changes_the_etag(storage: Storage) -> None:
    made = await storage.agents.create("acme", DEMO)
    changed = await storage.agents.update("acme", replace(made, display_name="New", create_time=None), made.etag)
    assert changed is not None
    assert changed.display_name == "New"
    assert changed.create_time == made.create_time
    assert changed.etag != made.etag
    assert await storage.agents.get("acme", "demo") == changed


async def test_a_stale_etag_changes_nothing(storage: Storage) -> None:
    made = await storage.agents.create("acme", DEMO)
    for attempt in (storage.agents.update("acme", made, "stale"), storage.agents.delete("acme", "demo", "stale")):
        with pytest.raises(AgentsvcError) as refusal:
            await attempt
        assert refusal.value.reason is Reason.ETAG_MISMATCH
    assert await storage.agents.get("acme", "demo") == made


async def test_without_an_etag_the_last_writer_wins(storage: Storage) -> None:
    await storage.agents.create("acme", DEMO)
    assert await storage.agents.update("acme", replace(DEMO, display_name="New"), "") is not None
    assert await storage.agents.delete("acme", "demo", "") is True
    assert await storage.agents.delete("acme", "demo", "") is False
    assert await storage.agents.update("acme", DEMO, "") is None


async def test_an_own_key_is_never_stored_in_clear(storage: Storage, opened: Opening, url: str) -> None:
    await storage.agents.create("acme", DEMO)
    rows = await storage._database.rows(__import__("sqlalchemy").text("SELECT * FROM agents"))
    assert "sk-own" not in repr([tuple(row) for row in rows])
    async with opened(secret_key="quite another secret") as elsewhere:
        with pytest.raises(AgentsvcError, match="AGENTSVC_SECRET_KEY") as refusal:
            await elsewhere.agents.get("acme", "demo")
        assert refusal.value.reason is Reason.PROVIDER_NOT_CONFIGURED
        [listed] = (await elsewhere.agents.list("acme", PageRequest(), Filter())).items
        assert listed.llm_config.api_key == ""
        assert await elsewhere.agents.delete("acme", "demo", "") is True


async def test_an_own_key_needs_a_secret_key(opened: Opening) -> None:
    async with opened(secret_key="") as storage:
        with pytest.raises(AgentsvcError, match="AGENTSVC_SECRET_KEY") as refusal:
            await storage.agents.create("acme", DEMO)
        assert refusal.value.reason is Reason.INVALID_FIELD
        assert refusal.value.error.violations[0].field == "agent.llm_config.api_key"
        assert await storage.agents.get("acme", "demo") is None
