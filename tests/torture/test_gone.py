"""Gone means gone: whoever hangs up frees the vendor, the tools and the session at once, a thousand times."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentsvc import v1
from agentsvc.providers.script import Call, Say, Script, Stall, Turn
from tests.e2e.house import CONTINUE, read_until
from tests.torture.station import AT_ONCE, Station, open_station, soon

PROMISE = 0.1  # seconds
QUEUE = v1.ON_SESSION_BUSY_QUEUE


@dataclass(frozen=True)
class Phase:
    """What the run does, and the event after which its caller hangs up."""

    script: Script
    reached: str


def phases(port: int) -> dict[str, Phase]:
    return {
        "before the first token": Phase((Stall(),), "run_started"),
        "in text": Phase((Say("Once upon"), Stall()), "text_delta"),
        "in a tool": Phase((Call("hold", {"port": port}), Turn(), Say("Never.")), "tool_call_requested"),
        "between steps": Phase((Call("look"), Turn(), Stall()), "tool_result"),
    }


async def leave(station: Station, agent: str, phase: Phase, session: str) -> tuple[str, float]:
    """Reads up to the phase and hangs up; the session, and the seconds until nothing was left of the run outside."""
    # A session whose slot was never given back would never let the next run begin.
    call = station.stream(agent, *phase.script, session_id=session, options=v1.ChatOptions(on_session_busy=QUEUE))
    events = await read_until(call, "run_started")
    if phase.reached != "run_started":
        await read_until(call, phase.reached)
    if phase.reached != "tool_result":  # there the second request may or may not have left
        await soon(station.answering, "the vendor or the tool is at work")
    call.cancel()
    return events[0].run_started.session_id, await soon(lambda: not station.answering(), "the connection closes")


async def hang_up(directory: Path, times: int) -> None:
    async with open_station(directory) as station:
        agent = await station.agent(tools=["hold", "look"])
        for name, phase in phases(station.upstream.port).items():
            session, _ = await leave(station, agent, phase, "")
            before = await station.inside()
            took = []
            for _ in range(times):
                session, seconds = await leave(station, agent, phase, session)
                took.append(seconds)
            await station.back_to(before)
            assert max(took) < AT_ONCE, name
            assert statistics.median(took) < PROMISE, name
        assert "Traceback" not in station.log


async def test_a_caller_that_leaves_leaves_nothing_behind(tmp_path: Path) -> None:
    await hang_up(tmp_path, 10)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_thousand_callers_that_leave_leave_nothing_behind(tmp_path: Path) -> None:
    await hang_up(tmp_path, 250)


async def test_under_continue_the_run_takes_as_long_as_with_a_reader_and_is_stored(tmp_path: Path) -> None:
    words = "one two three four five six seven eight nine ten"
    async with open_station(tmp_path) as station:
        agent = await station.agent()

        async def run(*, stays: bool) -> v1.Run:
            call = station.stream(agent, Say(words, delay=0.05), options=CONTINUE)
            events = await read_until(call, "text_delta")
            if not stays:
                call.cancel()
            return await station.ended(events[0].run_started.run_id)

        def seconds(run: v1.Run) -> float:
            return run.end_time.ToMicroseconds() / 1e6 - run.create_time.ToMicroseconds() / 1e6

        read, left = [await run(stays=stays) for stays in (True, False)]
        assert left.state == read.state == v1.RUN_STATE_COMPLETED
        assert left.text == words
        assert seconds(left) == pytest.approx(seconds(read), abs=0.25)
        sessions: Any = v1.SessionServiceStub(station.channel)
        stored = await sessions.ListMessages(
            v1.ListMessagesRequest(session_id=left.session_id), metadata=station.metadata
        )
        assert [message.parts[0].text for message in stored.messages] == ["What do you know?", words]
