"""Sessions: whose turn it is, what the model is shown of what was said, what is kept."""

import asyncio
import time

from agentsvc.domain.agents import (
    MemoryOptions,
    Session,
)
from agentsvc.domain.errors import Reason
from agentsvc.domain.events import (
    RunState,
    TextDelta,
)
from agentsvc.domain.messages import Message, Role, Text
from agentsvc.domain.ports import PageRequest
from agentsvc.domain.runs import OnSessionBusy, RunOptions
from agentsvc.engine.tools import tool
from tests.engine.fakes import (
    ALICE,
    CONTINUE,
    FOREVER,
    House,
    call,
    calls,
    check_end,
    check_history,
    no_tasks_left,
    read,
    read_until,
    refusal,
    says,
    text_of,
)

QUEUE = RunOptions(on_session_busy=OnSessionBusy.QUEUE)
INTERRUPT = RunOptions(on_session_busy=OnSessionBusy.INTERRUPT)


async def test_a_busy_session_rejects_and_names_the_run() -> None:
    house = House([FOREVER])
    live = await house.start()
    session = live.conversation.session.session_id

    error = await refusal(house.start(session_id=session))

    assert (error.reason, error.error.metadata) == (Reason.SESSION_BUSY, {"run_id": live.run_id})
    assert (await refusal(house.sessions.delete(ALICE, session))).reason is Reason.SESSION_BUSY
    await house.runs.cancel(ALICE, live.run_id)


async def test_a_queue_is_served_in_order() -> None:
    gate = asyncio.Event()
    house = House([gate, *says("1")], says("n"))
    first = await house.start("q1", options=QUEUE)
    session = first.conversation.session.session_id
    rest = [await house.start(f"q{n}", session_id=session, options=QUEUE) for n in range(2, 6)]
    assert (await refusal(house.start(session_id=session))).reason is Reason.SESSION_BUSY
    gate.set()

    ends = [check_end(await read(live)) for live in (first, *rest)]

    assert {end.state for end in ends} == {RunState.COMPLETED}
    assert [m.text for m in house.history(session) if m.role is Role.USER] == ["q1", "q2", "q3", "q4", "q5"]
    assert [m.text for m in house.model.requests[-1].messages[::2]] == ["q1", "q2", "q3", "q4", "q5"]
    assert house.ledger.sessions_begun == [session]


async def test_a_queued_run_starts_at_once_in_a_free_session() -> None:
    house = House()
    live = await house.start(options=QUEUE)

    assert live.state is RunState.RUNNING
    check_end(await read(live), RunState.COMPLETED)


async def test_interrupt_takes_the_place_of_the_run_and_of_those_that_wait() -> None:
    house = House([TextDelta("old"), FOREVER], says("new"))
    house.ledger.commit = lambda future: None  # nobody waits for a commit of the replaced
    first = await house.start("q1", options=CONTINUE)
    session = first.conversation.session.session_id
    waiting = await house.start("q2", session_id=session, options=QUEUE)
    await house.model.waits.wait()
    began = time.monotonic()

    newest = await house.start("q3", session_id=session, options=INTERRUPT)
    seen = await read_until(newest.reader(), TextDelta)

    assert text_of(seen) == "new"
    assert time.monotonic() - began < 0.9
    assert [(await live.ended()).state for live in (first, waiting)] == [RunState.CANCELLED] * 2
    assert [m.text for m in house.history(session)] == ["q1", "old", "q3", "new"]


async def test_of_two_interrupts_the_later_one_stays() -> None:
    house = House([FOREVER], [FOREVER])
    first = await house.start("q1", options=CONTINUE)
    session = first.conversation.session.session_id
    second = await house.start("q2", session_id=session, options=INTERRUPT)
    third = await house.start("q3", session_id=session, options=INTERRUPT)
    queued = await house.start("q4", session_id=session, options=QUEUE)

    assert (await second.ended()).state is RunState.CANCELLED
    assert (third.conversation.run_id, third.state, queued.state) == (third.run_id, RunState.RUNNING, RunState.QUEUED)
    for live in (queued, third):
        await house.runs.cancel(ALICE, live.run_id)
    assert await no_tasks_left()


async def test_a_session_nobody_has_at_hand_is_read_from_the_store() -> None:
    house = House()
    live = await house.start("q1")
    session = live.conversation.session.session_id
    await read(live)
    house.sessions._open.clear()  # as after a restart

    await asyncio.gather(house.ask("q2", session_id=session), house.ask("q3", session_id=session, options=QUEUE))

    assert [m.text for m in house.model.requests[-1].messages[::2]] == ["q1", "q2", "q3"]


async def test_store_false_leaves_no_words_behind() -> None:
    house = House()
    live = await house.start(store=False)
    end = check_end(await read(live), RunState.COMPLETED)

    assert end.state is RunState.COMPLETED
    assert house.rows.sessions == {}
    assert [m for kept in house.rows.messages.values() for m in kept] == []
    assert not house.sessions._open


async def test_store_false_reads_its_session_and_adds_nothing() -> None:
    house = House()
    live = await house.start("q1")
    session = live.conversation.session.session_id
    await read(live)

    await house.ask("q2", session_id=session, store=False)
    await house.ask("q3", session_id=session)

    assert [m.text for m in house.model.requests[1].messages] == ["q1", "Hello", "q2"]
    assert [m.text for m in house.model.requests[2].messages] == ["q1", "Hello", "q3"]


async def test_the_callers_own_history_takes_the_sessions_place() -> None:
    house = House()
    own = (
        Message(Role.SYSTEM, (Text("Be brief."),)),
        Message(Role.USER, (Text("a"),)),
        Message(Role.ASSISTANT, (Text("b"),)),
    )

    await house.ask("c", history=own)

    (request,) = house.model.requests
    assert request.instructions == "Be brief."
    assert [m.text for m in request.messages] == ["a", "b", "c"]


async def test_a_prompt_is_cut_before_a_question_never_inside_a_call() -> None:
    @tool
    async def ping() -> str:
        return "pong"

    house = House(calls(call("ping")), says("done"), tools=[ping], agent={"memory": MemoryOptions(last_messages=5)})
    live = await house.start("q1")
    session = live.conversation.session.session_id
    await read(live)
    for question in ("q2", "q3"):
        await house.ask(question, session_id=session)
        check_history(house.model.requests[-1].messages)
        assert house.model.requests[-1].messages[0].role is Role.USER

    assert [m.text for m in house.model.requests[-1].messages] == ["q2", "done", "q3"]


async def test_two_turns_share_the_bytes_of_their_prefix() -> None:
    house = House(agent={"instructions": "Be brief."})
    live = await house.start("q1")
    await read(live)
    await house.ask("q2", session_id=live.conversation.session.session_id)

    first, second = house.model.requests
    assert (first.instructions, first.tools) == (second.instructions, second.tools)
    said = [(m.role, m.parts, m.tool_calls) for m in second.messages]
    assert said[: len(first.messages)] == [(m.role, m.parts, m.tool_calls) for m in first.messages]


async def test_sessions_are_made_read_listed_and_deleted() -> None:
    house = House()
    session = await house.sessions.create(ALICE, Session("", "demo"))
    await house.ask("q1", session_id=session.session_id)

    assert (await house.sessions.get(ALICE, session.session_id)).agent_id == "demo"
    page = await house.sessions.messages(ALICE, session.session_id, PageRequest())
    assert [m.text for m in page.items] == ["q1", "Hello"]
    await house.sessions.delete(ALICE, session.session_id)
    assert (await refusal(house.ask(session_id=session.session_id))).reason is Reason.SESSION_NOT_FOUND
    assert (await refusal(house.sessions.delete(ALICE, session.session_id))).reason is Reason.SESSION_NOT_FOUND
