"""The deadline is a budget: at its moment the vendor is hung up on, and nothing of the run goes on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from agentsvc import v1
from agentsvc.providers.script import Call, Pause, Say, Script, Stall, Turn
from tests.e2e.house import CONTINUE, collect, question, read_until
from tests.torture.station import Station, open_station, soon

PROMISE = 0.05  # seconds after the deadline
FAILS = 0.5
GIVEN = 0.4  # seconds the calls have


def phases(port: int) -> dict[str, Script]:
    return {
        "before the first token": (Stall(),),
        "in text": (Say("Once upon"), Stall()),
        "in a tool": (Call("hold", {"port": port}), Turn(), Say("Never.")),
        "in a tool that cannot be ended": (Call("block", {"seconds": 1.0}), Turn(), Say("Never.")),
        "between steps": (Call("look"), Turn(), Pause(60), Say("Never.")),
    }


async def overrun(station: Station, agent: str, steps: Script) -> tuple[str, float]:
    """A call that its deadline ends; the run's id, and the seconds from the deadline until nobody was being asked."""
    due = time.monotonic() + GIVEN
    call = station.stream(agent, *steps, timeout=GIVEN)
    events = await read_until(call, "run_started")
    code = asyncio.ensure_future(call.code())
    await soon(lambda: time.monotonic() >= due and not station.answering(), "the vendor is hung up on")
    late = time.monotonic() - due
    assert await code is grpc.StatusCode.DEADLINE_EXCEEDED
    return events[0].run_started.run_id, late


async def test_at_the_deadline_everything_ends(tmp_path: Path) -> None:
    async with open_station(tmp_path) as station:
        agent = await station.agent(tools=["hold", "look", "block"])
        before = await station.inside()
        for name, steps in phases(station.upstream.port).items():
            lateness = []
            for _ in range(3):
                run_id, late = await overrun(station, agent, steps)
                lateness.append(late)
                run = await station.ended(run_id)
                assert run.state == v1.RUN_STATE_FAILED, name
                assert (run.error.reason, run.error.retryable) == ("DEADLINE", False), name
                assert run.partial_text == ("Once upon" if name == "in text" else ""), name
            assert max(lateness) < FAILS, name
            assert min(lateness) < PROMISE, name
        await station.back_to(before)
        await blocked_results_are_dropped(station, agent)
        assert "Traceback" not in station.log


async def blocked_results_are_dropped(station: Station, agent: str) -> None:
    """A thread cannot be ended; what it still says is said to nobody."""
    run_id, _ = await overrun(station, agent, (Call("block", {"seconds": 1.0}), Turn(), Say("Never.")))
    ended = await station.ended(run_id)
    await station.ask(agent, Call("block", {"seconds": 1.0}), Turn(), Say("Later."))  # outlasts the other thread
    assert await station.ended(run_id) == ended
    events = (await collect(station.subscribe(run_id))).events
    assert not [event for event in events if event.HasField("tool_result")]


async def test_a_deadline_on_a_subscription_ends_only_that_reader(tmp_path: Path) -> None:
    async with open_station(tmp_path) as station:
        agent = await station.agent()
        call = station.stream(agent, Say("one "), Pause(1.0), Say("two"))
        events = await read_until(call, "text_delta")
        run_id = events[0].run_started.run_id
        short = await collect(station.subscribe(run_id, timeout=0.3))
        assert short.status is grpc.StatusCode.DEADLINE_EXCEEDED
        assert short.events == events
        rest = await collect(call)
        assert rest.status is grpc.StatusCode.OK
        assert rest.finished.state == v1.RUN_STATE_COMPLETED
        assert (await station.ended(run_id)).text == "one two"


@pytest.mark.parametrize("method", ["Chat", "StreamChat"])
async def test_a_deadline_of_no_time_leaves_nothing_behind(tmp_path: Path, method: str) -> None:
    async with open_station(tmp_path) as station:
        agent = await station.agent()
        await station.ask(agent, Say("Warm."))
        late = question(agent, Pause(5.0), Say("Late.")).SerializeToString()  # the fields of both have the same numbers
        for _ in range(20):
            request: Any = v1.ChatRequest if method == "Chat" else v1.StreamChatRequest
            call = getattr(station.agents, method)(request.FromString(late), metadata=station.metadata, timeout=0.0001)
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await soon(lambda: not station.answering(), "the vendor is left alone")
        await station.ask(agent, Say("Still here."))


async def test_under_continue_the_deadline_ends_the_reader_and_not_the_run(tmp_path: Path) -> None:
    async with open_station(tmp_path) as station:
        agent = await station.agent()
        call = station.stream(agent, Say("one "), Pause(0.6), Say("two"), options=CONTINUE, timeout=0.3)
        events = await read_until(call, "text_delta")
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        run = await station.ended(events[0].run_started.run_id)
        assert (run.state, run.text) == (v1.RUN_STATE_COMPLETED, "one two")
