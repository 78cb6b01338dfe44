"""What lasts, and that no stream waits for it or holds it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
from sqlalchemy import Engine, event
from sqlalchemy.pool import Pool

from agentsvc import v1
from agentsvc.domain.runs import TokenRole
from agentsvc.engine.tools import tool
from agentsvc.providers.script import Call, Reason, Say, Stall, Truncate, Turn
from tests.e2e.house import CONTINUE, PATIENCE, House, bearer, collect, open_house, read_until
from tests.e2e.process import agentsvc
from tests.upstream import Call as UpstreamCall
from tests.upstream import until

ROLES = {"user": v1.MESSAGE_ROLE_USER, "assistant": v1.MESSAGE_ROLE_ASSISTANT, "tool": v1.MESSAGE_ROLE_TOOL}
QUIET = {"poll_interval": 3600.0, "lease": 3600.0}  # nothing but requests touches the database


@tool(idempotent=True)
async def look_up(word: str) -> str:
    """The meaning of a word."""
    return f"{word} is a drink"


# --- What was streamed is stored ------------------------------------------------------------------------------------
async def test_a_streamed_turn_is_stored_whole() -> None:
    async with open_house(tools=[look_up]) as house:
        agent = await house.agent(tools=["look_up"])
        steps = (Reason("Tea?"), Say("Let me see."), Call("look_up", {"word": "tea"}), Turn(), Say("It is a drink."))
        answer = await house.ask(agent, *steps, message="What is tea?")
        assert answer.finished.persisted
        asked, calling, result, said = await house.messages(answer.session_id)
        assert [m.role for m in (asked, calling, result, said)] == [
            ROLES["user"], ROLES["assistant"], ROLES["tool"], ROLES["assistant"],
        ]  # fmt: skip
        assert asked.parts[0].text == "What is tea?"
        assert calling.parts[0].text == "Let me see."
        assert (calling.tool_calls[0].name, calling.tool_calls[0].arguments_json) == ("look_up", '{"word":"tea"}')
        assert result.tool_call_id == calling.tool_calls[0].tool_call_id
        assert result.parts[0].text == "tea is a drink"
        assert said.parts[0].text == "It is a drink."
        for message in (asked, calling, result, said):
            assert message.status == v1.MESSAGE_STATUS_COMPLETE
            assert message.run_id == answer.run_id


async def test_half_an_answer_is_stored_as_partial() -> None:
    async with open_house() as house:
        agent = await house.agent()
        answer = await house.ask(agent, Say("It was a dark"), Truncate())
        assert answer.finished.state == v1.RUN_STATE_FAILED
        _, said = await house.messages(answer.session_id)
        assert said.parts[0].text == "It was a dark"
        assert said.status == v1.MESSAGE_STATUS_PARTIAL


async def test_a_turn_can_be_read_as_soon_as_its_generation_completed() -> None:
    async with open_house() as house:
        agent = await house.agent()
        call = house.stream(agent, Say("Hello."))
        events = await read_until(call, "generation_completed")
        messages = await house.messages(events[0].run_started.session_id)
        assert [message.parts[0].text for message in messages] == ["What do you know?", "Hello."]
        assert (await collect(call)).finished.persisted


async def test_a_turn_that_is_not_to_be_stored_leaves_its_run_alone() -> None:
    async with open_house() as house:
        agent = await house.agent()
        answer = await house.ask(agent, Say("Between us."), store=False)
        assert not answer.session_id
        assert (await house.run(answer.run_id)).text == "Between us."
        sessions = await house.sessions.ListSessions(v1.ListSessionsRequest(), metadata=house.acme.caller)
        assert not sessions.sessions


# --- No stream waits for the database or holds it --------------------------------------------------------------------
class Gate:
    """A vendor that says one word, and the second when it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def __call__(self, call: UpstreamCall) -> None:
        await call.start()
        await call.send(b'data: {"choices":[{"index":0,"delta":{"content":"one "}}]}\n\n')
        await self.opened.wait()
        await call.send(b'data: {"choices":[{"index":0,"delta":{"content":"two"},"finish_reason":"stop"}]}\n\n')
        await call.end()


@contextmanager
def checkouts() -> Iterator[tuple[set[int], set[int]]]:
    """The connections that are checked out of any pool at the moment, and those that ever were."""
    out: set[int] = set()
    ever: set[int] = set()

    def taken(_: Any, record: Any, __: Any) -> None:
        out.add(id(record))
        ever.add(id(record))

    def returned(_: Any, record: Any) -> None:
        out.discard(id(record))

    event.listen(Pool, "checkout", taken)
    event.listen(Pool, "checkin", returned)
    try:
        yield out, ever
    finally:
        event.remove(Pool, "checkout", taken)
        event.remove(Pool, "checkin", returned)


async def test_a_hundred_open_streams_hold_no_connection() -> None:
    gate = Gate()
    with checkouts() as (out, ever):
        async with open_house(gate, storage={"pool_size": 2, **QUIET}) as house:
            agent = await house.agent()
            calls = [house.stream(agent) for _ in range(100)]
            await asyncio.gather(*(read_until(call, "text_delta") for call in calls))
            async with asyncio.timeout(PATIENCE):
                await until(lambda: not out)  # the rows of their beginnings are written
            await asyncio.gather(
                *(house.agents.ListRuns(v1.ListRunsRequest(), metadata=house.acme.caller) for _ in range(20))
            )
            gate.opened.set()
            ends = await asyncio.gather(*(collect(call) for call in calls))
            assert all(answer.finished.persisted for answer in ends)
            assert {answer.finished.state for answer in ends} == {v1.RUN_STATE_COMPLETED}
            states = v1.ListRunsRequest(page_size=200, states=[v1.RUN_STATE_COMPLETED])
            listed = await house.agents.ListRuns(states, metadata=house.acme.caller)
            assert len(listed.runs) == 100
            assert ever


@contextmanager
def statements() -> Iterator[list[str]]:
    """The SQL that is executed meanwhile."""
    seen: list[str] = []

    def execute(_: Any, __: Any, statement: str, *___: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", execute)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", execute)


def reads(seen: list[str]) -> list[str]:
    """Those that look into a table; a sign of life does not."""
    return [statement for statement in seen if statement.startswith("SELECT") and "FROM" in statement]


async def test_a_warm_request_reads_no_database_and_waits_for_none() -> None:
    gate = Gate()
    gate.opened.set()
    async with open_house(gate, storage=QUIET) as house:
        agent = await house.agent()
        warm = await house.ask(agent)
        with statements() as seen, closing(sqlite3.connect(house.database, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")  # a request that needed the database would not get its first token
            for session_id in (warm.session_id, ""):
                call = house.stream(agent, session_id=session_id)
                async with asyncio.timeout(PATIENCE):
                    events = await read_until(call, "text_delta")
                assert events[-1].text_delta.text.startswith("one ")
                assert not reads(seen)
                async with asyncio.timeout(PATIENCE):
                    finished = (await read_until(call, "run_finished"))[-1].run_finished
                assert finished.state == v1.RUN_STATE_COMPLETED
                assert not finished.persisted
            other.execute("ROLLBACK")
            async with asyncio.timeout(PATIENCE):
                while len(await house.messages(warm.session_id)) < 4:  # noqa: ASYNC110 - nobody announces it
                    await asyncio.sleep(0.01)
            assert reads(seen)  # now one was needed


# --- a restart, and other processes ---------------------------------------------------------------------------------
async def test_a_restart_keeps_everything_that_ended(tmp_path: Path) -> None:
    database = tmp_path / "kept.sqlite3"
    async with open_house(database=database) as house:
        agent = await house.agent()
        first = await house.ask(agent, Say("My name is Ada."), options=CONTINUE)
        before = await house.run(first.run_id)
        unfinished = house.stream(agent, Say("I was about to"), Stall(), options=CONTINUE)
        (started,) = await read_until(unfinished, "run_started")
    async with open_house(database=database) as house:
        assert await house.run(first.run_id) == before
        ended = await collect(house.subscribe(first.run_id, after=len(first.events)))
        assert ended.events[0].sequence == len(first.events)
        assert ended.finished.state == v1.RUN_STATE_COMPLETED
        assert ended.finished.usage == first.finished.usage
        assert ended.status is grpc.StatusCode.OK
        cut = await house.run(started.run_started.run_id)
        assert cut.state == v1.RUN_STATE_INTERRUPTED
        assert cut.error.reason == "RUN_INTERRUPTED"
        await house.ask(agent, Say("Ada."), session_id=first.session_id)
        asked = house.upstream.requests[0].json["messages"]
        assert [message["content"] for message in asked] == [
            "What do you know?",
            "My name is Ada.",
            "What do you know?",
        ]


async def test_a_token_revoked_on_the_command_line_is_refused_within_a_second() -> None:
    async with open_house() as house:
        token = await house.service.storage.tokens.create("acme", TokenRole.CALLER)
        list_runs = v1.ListRunsRequest()
        await house.agents.ListRuns(list_runs, metadata=bearer(token.text))
        database = f"sqlite:///{house.database}"
        await agentsvc("token", "revoke", "--org", "acme", token.record.token_id, AGENTSVC_DATABASE_URL=database)
        revoked = time.monotonic()
        assert await _refused_after(house, token.text) - revoked < 1.0 + 0.5  # half a second for the machine
        await house.agents.ListRuns(list_runs, metadata=house.acme.caller)


async def _refused_after(house: House, token: str) -> float:
    async with asyncio.timeout(PATIENCE):
        while True:
            call = house.agents.ListRuns(v1.ListRunsRequest(), metadata=bearer(token))
            if await call.code() is grpc.StatusCode.UNAUTHENTICATED:
                return time.monotonic()
            await asyncio.sleep(0.02)


async def test_an_agent_made_on_the_command_line_answers_at_once() -> None:
    async with open_house() as house:
        database = f"sqlite:///{house.database}"
        await agentsvc(
            "agent", "create", "fresh", "--org", "acme", "--provider", "openai", AGENTSVC_DATABASE_URL=database
        )
        assert (await house.ask("fresh", Say("Hello."))).text == "Hello."
