from dataclasses import replace

import pytest

from agentsvc.domain.agents import Session
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.messages import Media, Message, MessageStatus, ProviderState, Role, Text, ToolCall
from agentsvc.domain.ports import Filter, PageRequest
from agentsvc.domain.runs import Run
from agentsvc.storage import Storage

TURN = (
    Message(Role.USER, (Text("What is this?"), Media("image", "image/png", b"\x89PNG\x00"))),
    Message(
        Role.ASSISTANT,
        tool_calls=(ToolCall("call-1", "look", '{"at":"it"}'),),
        provider_state=ProviderState("anthropic", [{"type": "thinking", "signature": "s=="}]),
    ),
    Message(Role.TOOL, (Text("too dark"),), tool_call_id="call-1", is_error=True),
    Message(Role.ASSISTANT, (Text("I cannot"),), status=MessageStatus.PARTIAL),
)


async def test_a_session_comes_back_as_it_was_stored(storage: Storage) -> None:
    made = await storage.sessions.create("acme", Session("s1", "demo", "ann", {"topic": "x"}))
    assert made.create_time == made.update_time is not None
    assert await storage.sessions.get("acme", "s1") == made
    with pytest.raises(AgentsvcError) as refusal:
        await storage.sessions.create("acme", made)
    assert refusal.value.reason is Reason.ALREADY_EXISTS


async def test_a_session_without_an_id_gets_one(storage: Storage) -> None:
    one = await storage.sessions.create("acme", Session("", "demo"))
    two = await storage.sessions.create("acme", Session("", "demo"))
    assert one.session_id != two.session_id != ""
    assert await storage.sessions.get("acme", two.session_id) == two


async def test_a_turn_comes_back_whole_and_in_order(storage: Storage) -> None:
    created = await storage.sessions.create("acme", Session("s1", "demo"))
    await storage.ledger.ended("acme", Run("r1", "demo", "s1"), TURN)
    stored = (await storage.sessions.messages("acme", "s1", PageRequest())).items
    assert [replace(m, message_id="", run_id="", create_time=None) for m in stored] == list(TURN)
    assert {m.run_id for m in stored} == {"r1"}
    assert len({m.message_id for m in stored}) == len(TURN)
    assert all(m.create_time for m in stored)
    touched = await storage.sessions.get("acme", "s1")
    assert touched is not None
    assert created.update_time is not None
    assert touched.update_time is not None
    assert touched.update_time > created.update_time


async def test_history_is_the_end_of_the_conversation_oldest_first(storage: Storage) -> None:
    await storage.sessions.create("acme", Session("s1", "demo"))
    for number in range(5):
        storage.ledger.ended("acme", Run(f"r{number}", "demo", "s1"), [Message(Role.USER, (Text(str(number)),))])
    assert [m.text for m in await storage.sessions.history("acme", "s1", 3)] == ["2", "3", "4"]
    assert [m.text for m in await storage.sessions.history("acme", "s1", 99)] == ["0", "1", "2", "3", "4"]
    assert await storage.sessions.history("acme", "s1", 0) == ()


async def test_messages_go_with_their_session_and_runs_stay(storage: Storage) -> None:
    await storage.sessions.create("acme", Session("s1", "demo"))
    await storage.ledger.ended("acme", Run("r1", "demo", "s1"), TURN)
    assert await storage.sessions.delete("acme", "s1") is True
    assert await storage.sessions.delete("acme", "s1") is False
    await storage.sessions.create("acme", Session("s1", "demo"))
    assert (await storage.sessions.messages("acme", "s1", PageRequest())).items == ()
    assert await storage.runs.get("acme", "r1") is not None


async def test_a_turn_of_a_session_deleted_meanwhile_leaves_the_run_alone(storage: Storage) -> None:
    storage.ledger.started("acme", Run("r1", "demo", "s1"), Session("s1", "demo"))
    assert await storage.sessions.delete("acme", "s1") is True
    await storage.ledger.ended("acme", Run("r1", "demo", "s1", text="done"), TURN)
    run = await storage.runs.get("acme", "r1")
    assert run is not None
    assert run.text == "done"
    assert await storage.sessions.get("acme", "s1") is None
    assert (await storage.sessions.list("acme", PageRequest(), Filter())).items == ()
