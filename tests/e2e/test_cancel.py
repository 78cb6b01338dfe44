"""Stop, in any phase: the vendor's connection closes at once and the session goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from agentsvc import v1
from agentsvc.engine.tools import Tool, tool
from agentsvc.providers.script import Call, Say, Script, Stall, Turn
from tests.e2e.house import PATIENCE, House, collect, open_house, question, read_until
from tests.upstream import Connection

AT_ONCE = 1.0  # seconds; the promise is 0.1, on a machine that is not shared


@dataclass(frozen=True)
class Phase:
    """What the vendor does, the event after which the run is stopped, and what then remains of it."""

    script: Script
    reached: str
    requests: int = 1
    partial: str = ""


PHASES = {
    "before-the-first-token": Phase((Stall(),), "run_started"),
    "in-text": Phase((Say("Once upon"), Stall()), "text_delta", partial="Once upon"),
    "in-arguments": Phase(
        (Say("Well."), Call("hang", '{"half":'), Stall()), "tool_call_arguments_delta", partial="Well."
    ),
    "in-a-tool": Phase((Call("hang"), Turn(), Say("Never.")), "tool_progress"),
    "between-steps": Phase((Call("look"), Turn(), Stall()), "step_completed", requests=2),
    "in-the-second-text": Phase(
        (Say("First."), Call("look"), Turn(), Say("Second"), Stall()), "step_completed", requests=2, partial="Second"
    ),
}


class Hanging:
    """A tool that never answers, and knows when it was stopped."""

    def __init__(self) -> None:
        self.stopped = asyncio.Event()

    @property
    def tool(self) -> Tool:
        async def hang(context: Any) -> str:
            context.progress("hanging")
            try:
                await asyncio.Event().wait()
            finally:
                self.stopped.set()
            return "never"

        return tool(hang)


@tool
async def look() -> str:
    """Looks."""
    return "seen"


Stop = Callable[[House, Any, str], Coroutine[Any, Any, None]]


async def hang_up(house: House, call: Any, run_id: str) -> None:
    call.cancel()


async def cancel_run(house: House, call: Any, run_id: str) -> None:
    run = await house.cancel(run_id)
    assert run.state == v1.RUN_STATE_CANCELLED


async def reach(house: House, call: Any, phase: Phase) -> str:
    """Reads until the phase is there; the run's id."""
    events = await read_until(call, "run_started")
    if phase.reached != "run_started":
        events += await read_until(call, phase.reached)
    await house.upstream.arrived(phase.requests)
    if phase.requests > 1 and phase.partial:
        await read_until(call, "text_delta")
    return events[0].run_started.run_id


def answering(house: House, number: int) -> Connection:
    """The connection that answered the last of ``number`` requests."""
    request = house.upstream.requests[number - 1]
    (connection,) = [c for c in house.upstream.connections if any(r is request for r in c.requests)]
    return connection


@pytest.mark.parametrize("stop", [hang_up, cancel_run], ids=["the-caller-hangs-up", "CancelRun"])
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("name", PHASES)
async def test_a_stopped_run_frees_the_vendor_and_the_session(name: str, provider: str, stop: Stop) -> None:
    phase, hanging = PHASES[name], Hanging()
    async with open_house(tools=[hanging.tool, look]) as house:
        agent = await house.agent(provider, tools=["hang", "look"])
        call = house.stream(agent, *phase.script)
        run_id = await reach(house, call, phase)
        stopped = time.monotonic()
        await stop(house, call, run_id)
        async with asyncio.timeout(PATIENCE):
            if name == "in-a-tool":
                await hanging.stopped.wait()
                assert time.monotonic() - stopped < AT_ONCE
            else:
                connection = answering(house, phase.requests)
                await connection.closed.wait()
                assert connection.closed_at - stopped < AT_ONCE

        run = await house.ended(run_id)
        assert run.state == v1.RUN_STATE_CANCELLED
        assert run.error.reason == "CANCELLED"
        assert run.partial_text == phase.partial
        assert run.usage.input_tokens > 0
        assert run.usage.estimated == (name != "in-a-tool")  # there the vendor had told
        assert (await house.cancel(run_id)) == run  # once more: nothing to do, no error
        await assert_history_is_whole(house, run.session_id, phase.partial)
        answer = await house.ask(agent, Say("Still here."), session_id=run.session_id)
        assert answer.text == "Still here."  # the vendor would have refused a dangling call


async def assert_history_is_whole(house: House, session_id: str, partial: str) -> None:
    """Every call has its result, and what was cut off says so."""
    messages = await house.messages(session_id)
    assert messages[0].role == v1.MESSAGE_ROLE_USER
    called = {call.tool_call_id for message in messages for call in message.tool_calls}
    assert called == {message.tool_call_id for message in messages if message.role == v1.MESSAGE_ROLE_TOOL}
    cut = [message.parts[0].text for message in messages if message.status == v1.MESSAGE_STATUS_PARTIAL]
    assert cut == ([partial] if partial else [])


async def test_the_caller_of_a_cancelled_run_reads_its_end() -> None:
    async with open_house() as house:
        agent = await house.agent()
        call = house.stream(agent, Say("Once"), Stall())
        events = await read_until(call, "text_delta")
        await house.cancel(events[0].run_started.run_id)
        events += await read_until(call, "run_finished")
        assert events[-1].run_finished.state == v1.RUN_STATE_CANCELLED
        assert events[-1].run_finished.partial_text == "Once"
        assert await call.code() is grpc.StatusCode.CANCELLED


async def test_a_run_under_continue_outlives_its_caller() -> None:
    async with open_house() as house:
        agent = await house.agent()
        options = v1.ChatOptions(on_disconnect=v1.ON_DISCONNECT_CONTINUE)
        call = house.stream(agent, Say("one two three four", delay=0.05), options=options)
        events = await read_until(call, "text_delta")
        call.cancel()
        run = await house.ended(events[0].run_started.run_id)
        assert run.state == v1.RUN_STATE_COMPLETED
        assert run.text == "one two three four"


async def test_a_run_under_continue_for_ends_when_nobody_comes_back() -> None:
    async with open_house() as house:
        agent = await house.agent()
        options = v1.ChatOptions(on_disconnect=v1.ON_DISCONNECT_CONTINUE_FOR, continue_for=Duration(nanos=100_000_000))
        call = house.stream(agent, Say("Once"), Stall(), options=options)
        events = await read_until(call, "text_delta")
        call.cancel()
        async with asyncio.timeout(PATIENCE):
            await answering(house, 1).closed.wait()
        run = await house.run(events[0].run_started.run_id)
        assert run.partial_text == "Once"


async def test_the_callers_deadline_ends_the_run() -> None:
    async with open_house() as house:
        agent = await house.agent()
        await house.ask(agent, Say("Warm."))
        call = house.agents.StreamChat(question(agent, Say("Once"), Stall()), metadata=house.acme.caller, timeout=0.5)
        events = await read_until(call, "text_delta")
        late = await collect(call)  # its own clock and the service's run a race, to the same end
        assert late.status is grpc.StatusCode.DEADLINE_EXCEEDED
        run = await house.ended(events[0].run_started.run_id)
        assert run.state == v1.RUN_STATE_FAILED
        assert run.error.reason == "DEADLINE"
        assert run.partial_text == "Once"
