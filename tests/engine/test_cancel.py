"""Stopping a run in every phase leaves the same clean state."""

import asyncio

import pytest

from agentsvc.domain.agents import Budget
from agentsvc.domain.errors import Reason
from agentsvc.domain.events import (
    BudgetKind,
    Event,
    GenerationCompleted,
    RunStarted,
    RunState,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallStarted,
    ToolProgress,
    ToolResult,
)
from agentsvc.domain.messages import MessageStatus, Role
from agentsvc.domain.ports import ToolContext
from agentsvc.domain.runs import OnSessionBusy, RunOptions
from agentsvc.engine.endings import CANCELLED, DISCONNECTED
from agentsvc.engine.journal import Reader
from agentsvc.engine.live import Live
from agentsvc.engine.runs import RunsConfig
from agentsvc.engine.tools import tool
from tests.engine.fakes import (
    ALICE,
    CONTINUE,
    FOREVER,
    House,
    Script,
    call,
    calls,
    check_end,
    check_history,
    decode,
    no_tasks_left,
    of,
    read,
    read_until,
    says,
    text_of,
)

QUEUE = RunOptions(on_session_busy=OnSessionBusy.QUEUE)


@tool
async def endless(context: ToolContext) -> str:
    """Says that it runs, and never returns."""
    context.progress("running")
    await asyncio.Event().wait()
    return "never"


@tool
async def quick() -> str:
    """Returns at once."""
    return "done"


PHASES: dict[str, tuple[list[Script], type[Event]]] = {
    "before the first token": ([[FOREVER]], RunStarted),
    "in text": ([[TextDelta("Hel"), FOREVER]], TextDelta),
    "in arguments": ([[TextDelta("Hm"), call("quick", '{"a":1}')[:2], FOREVER]], ToolCallArgumentsDelta),
    "inside a tool": ([calls(call("quick", call_id="1"), call("endless", call_id="2"))], ToolProgress),
    "between steps": ([calls(call("quick")), [FOREVER]], ToolResult),
}


@pytest.fixture(params=PHASES)
async def phase(request: pytest.FixtureRequest) -> tuple[House, Live, Reader]:
    """A run that has got as far as the phase, and its only reader."""
    scripts, last_seen = PHASES[request.param]
    house = House(*scripts, tools=[endless, quick])
    live = await house.start()
    reader = live.reader()
    await read_until(reader, last_seen)
    if request.param == "between steps":
        await house.model.waits.wait()
    return house, live, reader


async def check_clean(house: House, live: Live) -> list[Event]:
    """One end, an agreeing state, a free session, a usable history, nothing left running; the next turn works."""
    events = await read(live)
    end = check_end(events, RunState.CANCELLED)
    assert isinstance(events[0], RunStarted)
    assert end.error is not None
    assert end.error.reason is Reason.CANCELLED
    assert end.persisted
    run = await house.runs.get(ALICE, live.run_id)
    assert (run.state, run.error, run.partial_text) == (RunState.CANCELLED, end.error, end.partial_text)
    assert run.last_sequence == live.journal.last == len(events)
    assert run.partial_text == text_of(events)
    assert house.model.open == 0
    assert await no_tasks_left()
    session = live.conversation.session.session_id
    check_history(house.history(session))

    house.model.scripts = (says("Welcome back"),)
    after = await house.ask("Still there?", session_id=session)
    check_end(after, RunState.COMPLETED)
    prompt = house.model.requests[-1].messages
    check_history(prompt)
    assert prompt[-1].text == "Still there?"
    assert next(m.text for m in prompt if m.role is Role.USER) == "Hi"
    return events


async def test_cancel_leaves_a_clean_state_in_every_phase(phase: tuple[House, Live, Reader]) -> None:
    house, live, _ = phase

    run = await house.runs.cancel(ALICE, live.run_id)

    assert run.state is RunState.CANCELLED
    assert await house.runs.cancel(ALICE, live.run_id) == run  # the second one changes nothing
    await check_clean(house, live)


async def test_the_last_reader_leaving_stops_the_run_in_every_phase(phase: tuple[House, Live, Reader]) -> None:
    house, live, reader = phase

    reader.close()

    await live.ended()
    await check_clean(house, live)
    assert live.record().error == DISCONNECTED.error


async def test_the_vendor_is_let_go_before_the_end_is_told_also_where_the_run_waits_for_its_reader() -> None:
    house = House([TextDelta(str(number)) for number in range(100)])
    live = await house.start()
    reader = live.reader()  # takes nothing
    open_at_the_end: list[int] = []
    live.on_ended = lambda _: open_at_the_end.append(house.model.open)
    while not live.journal.ahead:  # noqa: ASYNC110 - the run's own steps
        await asyncio.sleep(0)

    live.stop(CANCELLED)

    await live.ended()
    assert open_at_the_end == [0]
    reader.close()


async def test_cancel_before_the_task_ran_asks_nobody() -> None:
    house = House()
    live = await house.start()

    live.stop(CANCELLED)

    events = await read(live)
    assert [type(event).__name__ for event in events] == ["RunStarted", "RunFinished"]
    assert house.model.requests == []
    check_end(events, RunState.CANCELLED)


async def test_cancel_while_queued_leaves_the_queue() -> None:
    gate = asyncio.Event()
    house = House([gate, *says("one")], says("more"))
    first = await house.start("1")
    session = first.conversation.session.session_id
    second, third = [await house.start(str(n), session_id=session, options=QUEUE) for n in (2, 3)]
    await house.model.waits.wait()

    assert second.state is RunState.QUEUED
    assert (await house.runs.cancel(ALICE, second.run_id)).state is RunState.CANCELLED
    gate.set()

    assert [check_end(await read(live)).state for live in (first, third)] == [RunState.COMPLETED] * 2
    assert [m.text for m in house.history(session)] == ["1", "one", "3", "more"]
    assert await no_tasks_left()


async def test_cancel_while_settling_comes_too_late() -> None:
    house = House()
    house.ledger.commit = lambda future: asyncio.get_running_loop().call_later(0.02, future.set_result, None)
    live = await house.start()
    await read_until(live.reader(), GenerationCompleted)

    assert (await house.runs.cancel(ALICE, live.run_id)).state is RunState.COMPLETED
    assert check_end(await read(live), RunState.COMPLETED).persisted


async def test_what_tools_said_before_the_cancel_stays_in_call_order() -> None:
    house = House(calls(call("endless", call_id="1"), call("quick", call_id="2")), tools=[endless, quick])
    live = await house.start()
    await read_until(live.reader(), ToolResult)

    await house.runs.cancel(ALICE, live.run_id)

    *_, first, second = house.history(live.conversation.session.session_id)
    assert (first.tool_call_id, first.text) == ("1", "The call was cancelled.")
    assert (second.tool_call_id, second.text) == ("2", "done")


async def test_partial_text_is_saved_as_partial() -> None:
    house = House([TextDelta("Hel"), FOREVER])
    live = await house.start()
    await read_until(live.reader(), TextDelta)

    run = await house.runs.cancel(ALICE, live.run_id)

    question, answer = house.history(live.conversation.session.session_id)
    assert (question.text, question.status) == ("Hi", MessageStatus.COMPLETE)
    assert (answer.text, answer.status) == ("Hel", MessageStatus.PARTIAL)
    assert run.usage.estimated
    assert run.usage.output_tokens > 0


async def test_unfinished_arguments_are_dropped() -> None:
    house = House([TextDelta("Hm"), call("quick", '{"a":1}')[:2], FOREVER], tools=[quick])
    live = await house.start()
    await read_until(live.reader(), ToolCallStarted)

    await house.runs.cancel(ALICE, live.run_id)

    question, said = house.history(live.conversation.session.session_id)
    assert (question.role, said.text, said.tool_calls) == (Role.USER, "Hm", ())


@pytest.mark.parametrize("swallow", ["ignores it", "makes it an error", "fails on its way out"])
async def test_a_model_that_mishandles_cancellation_cannot_change_the_end(swallow: str) -> None:
    house = House()

    async def stream(*_: object):  # type: ignore[no-untyped-def] # stands in for FakeModel.stream
        try:
            yield (TextDelta("a"),)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if swallow == "makes it an error":
                raise OSError from None
        finally:
            if swallow == "fails on its way out":
                raise OSError
        while True:
            yield (TextDelta("b"),)

    house.model.stream = stream  # type: ignore[method-assign,assignment] # as above
    live = await house.start()
    await read_until(live.reader(), TextDelta)

    assert (await house.runs.cancel(ALICE, live.run_id)).error == CANCELLED.error
    check_end(await read(live), RunState.CANCELLED)


# --- time ---------------------------------------------------------------------------------------------------------
def in_seconds(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_the_deadline_ends_the_run_under_cancel() -> None:
    house = House([TextDelta("Hel"), FOREVER])

    end = check_end(await house.ask(deadline=in_seconds(0.02)), RunState.FAILED)

    assert end.error is not None
    assert end.error.reason is Reason.DEADLINE
    assert end.partial_text == "Hel"


async def test_losing_the_caller_at_the_deadline_is_the_deadline() -> None:
    house = House([TextDelta("Hel"), FOREVER])
    live = await house.start(deadline=in_seconds(0.03))
    reader = live.reader()
    await read_until(reader, TextDelta)

    reader.close()  # what the door does when gRPC cancels it a moment before our timer

    assert (await live.ended()).error.reason is Reason.DEADLINE  # type: ignore[union-attr] # it has one


async def test_the_deadline_does_not_end_a_run_that_continues() -> None:
    gate = asyncio.Event()
    house = House([TextDelta("Hel"), gate, *says("lo")])
    live = await house.start(deadline=in_seconds(-1), options=CONTINUE)
    await read_until(live.reader(), TextDelta)
    gate.set()

    check_end(await read(live), RunState.COMPLETED)


@pytest.mark.parametrize("place", ["agent", "call", "service"])
async def test_wall_clock_ends_the_run_with_what_it_has(place: str) -> None:
    house = House(
        [TextDelta("Hel"), FOREVER],
        agent={"budget": Budget(wall_clock=0.02)} if place == "agent" else {},
        config=RunsConfig(max_run_time=0.02 if place == "service" else 3600),
    )
    options = RunOptions(budget=Budget(wall_clock=0.02 if place == "call" else None))

    end = check_end(await house.ask(options=options), RunState.BUDGET_EXCEEDED)

    assert (end.budget_kind, end.partial_text, end.error) == (BudgetKind.WALL_CLOCK, "Hel", None)


@pytest.mark.parametrize("when", range(40))
async def test_cancel_at_every_turn_of_the_loop(when: int) -> None:
    """The same run, stopped after 0, 1, 2, ... turns of the event loop."""
    house = House([TextDelta("a"), *calls(call("quick"))], says("b", "c"), tools=[quick])
    live = await house.start()
    for _ in range(when):
        await asyncio.sleep(0)

    run = await house.runs.cancel(ALICE, live.run_id)

    events = [decode(wire)[-1] for wire in live.reader().take()]
    assert check_end(events).state is run.state
    assert run.state in {RunState.CANCELLED, RunState.COMPLETED}
    assert run.last_sequence == len(events)
    assert bool(of(events, GenerationCompleted)) is (run.state is RunState.COMPLETED)
    assert live.conversation.run_id == ""
    check_history(house.history(run.session_id))
    assert await no_tasks_left()
