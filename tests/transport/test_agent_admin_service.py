from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from agentsvc import v1
from tests.transport.house import ADMIN, CALLER, STRANGE_ADMIN, STRANGER, House, bearer
from tests.transport.rpc import refused


def whole() -> v1.Agent:
    """An agent with every field that can be built today."""
    agent = v1.Agent(agent_id="a", display_name="A", instructions="Be brief.", labels={"k": "v"})
    config = agent.llm_config
    config.provider, config.model, config.base_url, config.api_key = "mock", "m", "https://llm.example/v1", "sk-secret"
    config.parameters.temperature = 0
    config.parameters.stop.append("x")
    config.parameters.provider_options.update({"seed": 7})
    agent.streaming.text_buffer_size = 0
    agent.streaming.mode = v1.STREAMING_MODE_BUFFERED
    agent.streaming.text_delta_delay.nanos = 500_000_000
    agent.memory.last_messages = 3
    agent.budget.wall_clock.seconds = 60
    agent.budget.tokens = 100
    return agent


async def create(house: House, agent: v1.Agent | None = None) -> v1.Agent:
    response = await house.admin.CreateAgent(v1.CreateAgentRequest(agent=agent or whole()), metadata=bearer(ADMIN))
    created: v1.Agent = response.agent
    return created


async def update(house: House, *paths: str, **fields: Any) -> v1.Agent:
    agent = v1.Agent(**{"agent_id": "a", **fields})
    request = v1.UpdateAgentRequest(agent=agent, update_mask=FieldMask(paths=paths))
    updated: v1.Agent = (await house.admin.UpdateAgent(request, metadata=bearer(ADMIN))).agent
    return updated


async def get(house: House, agent_id: str = "a", token: str = ADMIN) -> v1.Agent:
    found: v1.Agent = (await house.admin.GetAgent(v1.GetAgentRequest(agent_id=agent_id), metadata=bearer(token))).agent
    return found


async def test_an_agent_comes_back_as_it_was_made_but_for_its_key(house: House) -> None:
    created = await create(house)
    expected = whole()
    expected.llm_config.api_key = ""
    expected.llm_config.api_key_set = True
    expected.status = v1.AGENT_STATUS_ACTIVE
    expected.etag = created.etag
    expected.create_time.CopyFrom(created.create_time)
    expected.update_time.CopyFrom(created.update_time)
    assert created == expected == await get(house)
    assert created.etag
    assert created.HasField("create_time")


async def test_an_agent_without_an_id_gets_one_and_a_taken_id_is_refused(house: House) -> None:
    agent = v1.Agent(llm_config=v1.LlmConfig(provider="mock"))
    assert (await create(house, agent)).agent_id
    agent.agent_id = "demo"
    taken = await refused(house.admin.CreateAgent(v1.CreateAgentRequest(agent=agent), metadata=bearer(ADMIN)))
    assert (taken.code, taken.reason) == ("ALREADY_EXISTS", "ALREADY_EXISTS")


async def test_callers_see_neither_instructions_nor_where_the_model_is(house: House) -> None:
    await create(house)
    seen = await get(house, token=CALLER)
    assert seen.llm_config == v1.LlmConfig(provider="mock", model="m")
    assert (seen.instructions, seen.display_name, seen.budget.tokens) == ("", "A", 100)


async def test_lists_leave_out_instructions_and_page(house: House) -> None:
    await create(house)
    page = await house.admin.ListAgents(v1.ListAgentsRequest(page_size=1), metadata=bearer(ADMIN))
    assert [(agent.agent_id, agent.instructions) for agent in page.agents] == [("a", "")]
    assert page.agents[0].llm_config.base_url
    rest = v1.ListAgentsRequest(page_size=1, page_token=page.next_page_token)
    page = await house.admin.ListAgents(rest, metadata=bearer(CALLER))
    assert [agent.agent_id for agent in page.agents] == ["demo"]
    assert not page.next_page_token


@pytest.mark.parametrize(
    ("agent", "field"),
    [
        (v1.Agent(), "agent"),
        (v1.Agent(agent_id="a b", llm_config=v1.LlmConfig(provider="mock")), "agent.agent_id"),
        (v1.Agent(llm_config=v1.LlmConfig(provider="mock", api_key="sk")), "agent.llm_config.api_key"),
        (v1.Agent(llm_config=v1.LlmConfig(provider="mock", base_url="http://x")), "agent.llm_config.base_url"),
        (
            v1.Agent(llm_config=v1.LlmConfig(provider="mock"), fallbacks=[v1.Fallback(provider="openai")]),
            "agent.fallbacks[0].provider",
        ),
    ],
)
async def test_an_agent_that_could_never_run_is_refused_by_field(house: House, agent: v1.Agent, field: str) -> None:
    found = await refused(house.admin.CreateAgent(v1.CreateAgentRequest(agent=agent), metadata=bearer(ADMIN)))
    assert (found.reason, found.fields) == ("INVALID_FIELD", (field,))


async def test_an_update_changes_what_the_mask_names_and_nothing_else(house: House) -> None:
    before = await create(house)
    fields = {"display_name": "B", "instructions": "ignored", "llm_config": v1.LlmConfig(model="m2")}
    after = await update(house, "display_name", "llm_config.model", **fields)
    assert after.etag != before.etag
    before.display_name, before.llm_config.model = "B", "m2"
    for agent in (before, after):
        agent.ClearField("etag")
        agent.ClearField("update_time")
    assert after == before


async def test_a_path_that_is_named_but_not_set_is_cleared(house: House) -> None:
    await create(house)
    after = await update(house, "labels", "streaming.text_buffer_size", "budget", "llm_config.parameters.temperature")
    assert not after.labels
    assert not after.HasField("budget")
    assert not after.streaming.HasField("text_buffer_size")
    assert after.streaming.mode == v1.STREAMING_MODE_BUFFERED
    assert not after.llm_config.parameters.HasField("temperature")
    assert list(after.llm_config.parameters.stop) == ["x"]


async def test_lists_and_maps_are_replaced_not_joined(house: House) -> None:
    await create(house)
    parameters = v1.GenerationParameters(stop=["y"])
    after = await update(
        house,
        "labels",
        "llm_config.parameters.stop",
        labels={"n": "w"},
        llm_config=v1.LlmConfig(parameters=parameters),
    )
    assert dict(after.labels) == {"n": "w"}
    assert list(after.llm_config.parameters.stop) == ["y"]


async def test_without_a_mask_everything_that_is_set_changes_down_to_single_fields(house: House) -> None:
    await create(house)
    after = await update(house, display_name="B", llm_config=v1.LlmConfig(model="m2"))
    assert (after.display_name, after.instructions) == ("B", "Be brief.")
    assert (after.llm_config.provider, after.llm_config.model) == ("mock", "m2")


async def test_a_star_replaces_the_whole_agent_and_keeps_the_key_of_the_same_place(house: House) -> None:
    await create(house)
    config = v1.LlmConfig(provider="mock", base_url="https://llm.example/v1")
    after = await update(house, "*", llm_config=config)
    assert (after.display_name, after.instructions, dict(after.labels)) == ("", "", {})
    assert after.llm_config.api_key_set
    assert after.agent_id == "a"


KEYS = {
    "kept by another field": (["llm_config.model"], v1.LlmConfig(model="m2"), "sk-secret"),
    "kept with its place": (
        ["llm_config"],
        v1.LlmConfig(provider="mock", base_url="https://llm.example/v1"),
        "sk-secret",
    ),
    "dropped with its place": (["llm_config.base_url"], v1.LlmConfig(base_url="https://evil.example"), ""),
    "dropped though a key stands outside the mask": (
        ["llm_config.base_url"],
        v1.LlmConfig(base_url="https://evil.example", api_key="new"),
        "",
    ),
    "dropped with the whole config": (["llm_config"], v1.LlmConfig(provider="mock"), ""),
    "cleared": (["llm_config.api_key"], v1.LlmConfig(), ""),
    "changed": (["llm_config.api_key"], v1.LlmConfig(api_key="new", base_url="https://llm.example/v1"), "new"),
    "moved": (
        ["llm_config.base_url", "llm_config.api_key"],
        v1.LlmConfig(api_key="new", base_url="https://new.example"),
        "new",
    ),
}


@pytest.mark.parametrize(("paths", "config", "key"), KEYS.values(), ids=KEYS)
async def test_the_stored_key_never_follows_to_another_place(
    house: House, paths: list[str], config: v1.LlmConfig, key: str
) -> None:
    await create(house)
    after = await update(house, *paths, llm_config=config)
    assert house.shelves.agents["acme", "a"].llm_config.api_key == key
    assert after.llm_config.api_key == ""
    assert after.llm_config.api_key_set == bool(key)


@pytest.mark.parametrize(
    "path",
    ["nonsense", "llm_config.nonsense", "labels.k", "etag", "agent_id", "create_time", "create_time.seconds", ""],
)
async def test_a_path_that_does_not_exist_or_cannot_change_is_refused(house: House, path: str) -> None:
    await create(house)
    request = v1.UpdateAgentRequest(agent=v1.Agent(agent_id="a"), update_mask=FieldMask(paths=[path]))
    found = await refused(house.admin.UpdateAgent(request, metadata=bearer(ADMIN)))
    assert (found.reason, found.fields) == ("INVALID_FIELD", ("update_mask",))


async def test_a_stale_etag_is_refused_for_updates_and_deletes(house: House) -> None:
    stale = (await create(house)).etag
    await update(house, display_name="B")
    request = v1.UpdateAgentRequest(agent=v1.Agent(agent_id="a", display_name="C", etag=stale))
    found = await refused(house.admin.UpdateAgent(request, metadata=bearer(ADMIN)))
    assert (found.code, found.reason) == ("ABORTED", "ETAG_MISMATCH")
    delete = v1.DeleteAgentRequest(agent_id="a", etag=stale)
    assert (await refused(house.admin.DeleteAgent(delete, metadata=bearer(ADMIN)))).reason == "ETAG_MISMATCH"
    assert (await get(house)).display_name == "B"


async def test_without_an_etag_a_write_in_between_is_not_lost(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await create(house)
    agents = house.shelves.agents
    catalog = house.catalog
    read = catalog.get

    async def get_and_be_overtaken(principal: Any, agent_id: str) -> Any:
        stored = await read(principal, agent_id)
        if stored.display_name == "A":
            agents["acme", "a"] = replace(stored, display_name="between", etag="e9")
        return stored

    monkeypatch.setattr(catalog, "get", get_and_be_overtaken)
    after = await update(house, "instructions", instructions="new")
    assert (after.display_name, after.instructions) == ("between", "new")


async def test_a_deleted_agent_is_gone(house: House) -> None:
    await create(house)
    request = v1.DeleteAgentRequest(agent_id="a")
    await house.admin.DeleteAgent(request, metadata=bearer(ADMIN))
    assert (await refused(house.admin.DeleteAgent(request, metadata=bearer(ADMIN)))).reason == "AGENT_NOT_FOUND"


async def test_anothers_agent_is_answered_as_one_that_never_was(house: House) -> None:
    await create(house)

    async def answers(asked: str) -> list[tuple[Any, ...]]:
        agent = v1.Agent(agent_id=asked, display_name="x")
        calls = [
            house.admin.GetAgent(v1.GetAgentRequest(agent_id=asked), metadata=bearer(STRANGER)),
            house.admin.UpdateAgent(v1.UpdateAgentRequest(agent=agent), metadata=bearer(STRANGE_ADMIN)),
            house.admin.DeleteAgent(v1.DeleteAgentRequest(agent_id=asked), metadata=bearer(STRANGE_ADMIN)),
            house.agents.StreamChat(v1.StreamChatRequest(agent_id=asked, message="x"), metadata=bearer(STRANGER)),
            house.sessions.CreateSession(
                v1.CreateSessionRequest(session=v1.Session(agent_id=asked)), metadata=bearer(STRANGER)
            ),
        ]
        found = [await refused(call) for call in calls]
        return [refusal.but_for(asked) for refusal in found]

    assert await answers("a") == await answers("zzz")
    assert all("AGENT_NOT_FOUND" in answer for answer in await answers("a"))
    assert (await house.admin.ListAgents(v1.ListAgentsRequest(), metadata=bearer(STRANGER))).agents == []
