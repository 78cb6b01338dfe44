"""Whatever happens to a run, wherever it is stopped: one end, last, agreeing with the record; and nothing is left."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsvc.domain.agents import Budget, Session, StreamingMode, StreamingOptions
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import Annotation, GenerationCompleted, ReasoningDelta, RunStarted, RunState, TextDelta
from agentsvc.domain.messages import FinishReason, MessageStatus, Role, Usage
from agentsvc.domain.ports import ToolContext
from agentsvc.domain.runs import OnDisconnect, OnSessionBusy, RunOptions
from agentsvc.engine.endings import CANCELLED
from agentsvc.engine.journal import JournalConfig
from agentsvc.engine.live import Live
from agentsvc.engine.tools import ToolError, tool
from tests.engine.fakes import (
    ALICE,
    FOREVER,
    House,
    Move,
    call,
    check_end,
    check_history,
    done,
    entries,
    failed,
    no_tasks_left,
    of,
    read,
    says,
    text_of,
)


@tool(timeout=0.005)
async def moody(mood: str, context: ToolContext) -> str:
    """Does what its mood says."""
    context.progress(mood)
    match mood:
        case "error":
            raise ToolError(mood)
        case "bug":
            raise OSError(mood)
        case "hang":
            await asyncio.Event().wait()
        case "cancel":
            raise asyncio.CancelledError
        case "slow":
            await asyncio.sleep(0)
    return mood


texts = st.sampled_from(["a", "Grüße", "世界", "x" * 50])
moods = st.sampled_from(["ok", "error", "bug", "hang", "cancel", "slow"])
good_calls = st.builds(lambda mood, i: call("moody", f'{{"mood":"{mood}"}}', i), moods, st.sampled_from("01"))
bad_calls = st.sampled_from([call("moody", "{"), call("nobody"), call("moody", '{"tone":1}', "7")])
usages = st.sampled_from([None, Usage(), Usage(3, 4), Usage(input_tokens=9)])
moves: st.SearchStrategy[Move] = st.one_of(
    texts.map(TextDelta),
    texts.map(ReasoningDelta),
    st.builds(lambda a, b: (TextDelta(a), ReasoningDelta(b)), texts, texts),
    st.just(Annotation("key", "value")),
    st.none(),
    good_calls,
    good_calls,
    bad_calls,
)
ends: st.SearchStrategy[Move] = st.one_of(
    st.builds(done, st.sampled_from([FinishReason.STOP, FinishReason.LENGTH, FinishReason.PAUSE]), usages),
    st.builds(done, st.just(FinishReason.TOOL_CALLS), usages),
    st.builds(failed, usage=usages),
    st.builds(done, st.just(FinishReason.ERROR)),
    st.just(FOREVER),
    st.just(OSError("a bug")),
    st.none(),
)
scripts = st.builds(lambda body, end: [*body, end], st.lists(moves, max_size=5), ends)
options = st.builds(
    RunOptions,
    max_steps=st.sampled_from([1, 3]),
    streaming=st.builds(
        StreamingOptions,
        mode=st.sampled_from(StreamingMode),
        text_buffer_size=st.sampled_from([0, 3]),
        text_delta_delay=st.sampled_from([0.0, 0.0005]),
        emit_metadata=st.booleans(),
        emit_timings=st.booleans(),
    ),
    budget=st.builds(
        Budget,
        tokens=st.sampled_from([None, 40]),
        tool_calls=st.sampled_from([None, 1]),
        wall_clock=st.just(0.02),
    ),
    on_disconnect=st.sampled_from(OnDisconnect),
    continue_for=st.sampled_from([0.0, 0.001]),
    on_session_busy=st.sampled_from(OnSessionBusy),
)


@dataclass(frozen=True)
class Fate:
    """What the outside does to the run."""

    stop: str
    after_turns: int
    commit: str
    store: bool


fates = st.builds(
    Fate,
    st.sampled_from(["nothing", "cancel", "leave", "deadline", "interrupt"]),
    st.integers(0, 30),
    st.sampled_from(["at once", "soon", "fails"]),
    st.booleans(),
)


def commit(fate: Fate, future: asyncio.Future[None]) -> None:
    match fate.commit:
        case "at once":
            future.set_result(None)
        case "soon":
            asyncio.get_running_loop().call_later(0.001, future.set_result, None)
        case "fails":
            future.set_exception(OSError("disk full"))


async def strike(house: House, live: Live, session: str, fate: Fate) -> None:
    for _ in range(fate.after_turns):
        await asyncio.sleep(0)
    match fate.stop:
        case "cancel":
            live.stop(CANCELLED)
        case "leave" if live.journal.size:  # else it is over, and its retention too
            live.reader().close()
        case "interrupt" if fate.store:
            newer = RunOptions(on_session_busy=OnSessionBusy.INTERRUPT, budget=Budget(wall_clock=0.02))
            await read(await house.start("me first", session_id=session, options=newer))


async def scene(script: Sequence[Sequence[Move]], wishes: RunOptions, fate: Fate) -> None:
    house = House(*script, tools=[moody], journal=JournalConfig(retention=0.001))
    house.ledger.commit = lambda future: commit(fate, future)
    deadline = asyncio.get_running_loop().time() + 0.001 if fate.stop == "deadline" else None
    live = await house.start(options=wishes, deadline=deadline, store=fate.store)
    session = live.conversation.session.session_id
    journal = live.journal.reader()  # one that does not count as somebody who could leave

    got, _ = await asyncio.gather(entries(journal), strike(house, live, session, fate))
    events = [event for *_, event in got]
    run = await live.ended()

    end = check_end(events)
    assert isinstance(events[0], RunStarted)
    assert end.state.ended
    assert (end.state, end.error, end.usage, end.partial_text) == (run.state, run.error, run.usage, run.partial_text)
    assert (end.error is None) is (run.state in {RunState.COMPLETED, RunState.BUDGET_EXCEEDED})
    assert bool(of(events, GenerationCompleted)) is (run.state is RunState.COMPLETED)
    assert end.persisted is (fate.commit != "fails")
    assert run.last_sequence == len(events) == live.journal.last
    assert text_of(events).endswith(run.text or "") or wishes.streaming.mode is StreamingMode.BUFFERED
    check_history(house.history(session))
    assert house.model.open == 0
    assert live.conversation.run_id == ""
    assert await no_tasks_left()
    if fate.store:
        house.model.scripts = (says("fine"),)
        check_end(await house.ask("next", session_id=session), RunState.COMPLETED)
        check_history(house.model.requests[-1].messages)
    await house.library.empty.wait()
    assert house.library.used == 0
    assert house.runs._live == {}
    assert (await house.runs.get(ALICE, live.run_id)) == run


@pytest.mark.usefixtures("quiet")
@given(st.lists(scripts, min_size=1, max_size=3), options, fates)
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_exactly_one_end_whatever_happens(script: list[Any], wishes: RunOptions, fate: Fate) -> None:
    asyncio.run(scene(script, wishes, fate))


callers = st.lists(st.tuples(st.sampled_from(OnSessionBusy), st.integers(0, 6), st.booleans()), min_size=1, max_size=8)


async def one_session(crowd: Sequence[tuple[OnSessionBusy, int, bool]]) -> None:
    house = House([TextDelta("a"), None, None, done()], journal=JournalConfig(retention=0.001))
    await house.sessions.create(ALICE, Session("s", "demo"))
    runs: list[Live] = []
    for number, (policy, turns, cancelled) in enumerate(crowd):
        wishes = RunOptions(on_session_busy=policy, on_disconnect=OnDisconnect.CONTINUE)
        try:
            runs.append(await house.start(str(number), session_id="s", options=wishes))
        except AgentsvcError as refused:
            assert refused.reason is Reason.SESSION_BUSY  # noqa: PT017 - one of two good ends
            assert policy is OnSessionBusy.REJECT
        for _ in range(turns):
            await asyncio.sleep(0)
        if cancelled and runs:
            runs[-1].stop(CANCELLED)
    ends = [await live.ended() for live in runs]

    assert {end.state for end in ends} <= {RunState.COMPLETED, RunState.CANCELLED}
    assert house.sessions.cached(ALICE.tenant_id, "s").lined_up == ()  # type: ignore[union-attr] # it was just used
    history = house.history("s")
    check_history(history)
    asked = [int(message.text) for message in history if message.role is Role.USER]
    assert asked == sorted(asked)
    completed = [end.run_id for end in ends if end.state is RunState.COMPLETED]
    assert completed == [m.run_id for m in history if m.text == "a" and m.status is MessageStatus.COMPLETE]
    assert await no_tasks_left()
    if runs:
        await house.library.empty.wait()
    assert house.library.used == 0


@given(callers)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_a_crowd_in_one_session_is_answered_one_by_one_in_order(
    crowd: list[tuple[OnSessionBusy, int, bool]],
) -> None:
    asyncio.run(one_session(crowd))


@pytest.fixture(scope="module")
def quiet() -> Any:
    """Bugs are logged, and here there are many."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)
