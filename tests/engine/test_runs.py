"""Runs: who reads them, what becomes of them, what they leave behind."""

import asyncio
import logging
import time
from typing import Any

import pytest

from agentsvc.domain.agents import (
    AgentStatus,
    Budget,
    LLMConfig,
    MemoryOptions,
    Session,
    StreamingMode,
    StreamingOptions,
)
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import (
    BudgetKind,
    Event,
    GenerationCompleted,
    RunFinished,
    RunStarted,
    RunState,
    TextDelta,
    Timings,
    ToolResult,
    ToolStatus,
)
from agentsvc.domain.messages import Media, Message, Role, Text
from agentsvc.domain.ports import Capabilities, Filter, PageRequest
from agentsvc.domain.runs import OnDisconnect, OnSessionBusy, Run, RunOptions, RunRequest
from agentsvc.domain.timeline import Timeline
from agentsvc.engine.journal import JournalConfig
from agentsvc.engine.tools import tool
from tests.engine.fakes import (
    ALICE,
    CONTINUE,
    FOREVER,
    MALLORY,
    USAGE,
    House,
    call,
    calls,
    check_end,
    check_history,
    decode,
    done,
    entries,
    failed,
    no_tasks_left,
    of,
    read,
    read_until,
    says,
    text_of,
)

QUEUE = RunOptions(on_session_busy=OnSessionBusy.QUEUE)
INTERRUPT = RunOptions(on_session_busy=OnSessionBusy.INTERRUPT)


async def refusal(awaitable: Any) -> AgentsvcError:
    with pytest.raises(AgentsvcError) as raised:
        await awaitable
    return raised.value


# --- a run --------------------------------------------------------------------------------------------------------
async def test_a_run_from_its_start_to_its_end() -> None:
    house = House(says("Hel", "lo"))

    live = await house.start(labels={"a": "b"}, user_id="u1")
    events = await read(live)

    started = events[0]
    assert isinstance(started, RunStarted)
    assert (started.run_id, started.agent_id, started.provider, started.model) == (
        live.run_id,
        "demo",
        "fake",
        "fake-1",
    )
    assert [type(event).__name__ for event in events[1:]] == [
        "TextDelta",
        "TextDelta",
        "StepCompleted",
        "GenerationCompleted",
        "RunFinished",
    ]
    end = check_end(events, RunState.COMPLETED)
    assert (end.persisted, end.usage, end.partial_text, end.error) == (True, USAGE, "", None)
    run = await house.runs.get(ALICE, live.run_id)
    assert (run.text, run.user_id, run.labels, run.last_sequence) == ("Hello", "u1", {"a": "b"}, len(events))
    assert run == house.rows.runs[ALICE.tenant_id, live.run_id]
    assert [m.message_id for m in house.history(started.session_id)] == [f"{live.run_id}.0", f"{live.run_id}.1"]


async def test_the_session_is_free_and_readable_when_the_answer_is_final() -> None:
    house = House()
    house.ledger.commit = lambda future: None  # the commit hangs
    live = await house.start()
    reader = live.reader()
    await read_until(reader, GenerationCompleted)

    assert reader.end is None
    assert live.conversation.run_id == ""
    assert [m.text for m in house.history(live.conversation.session.session_id)] == ["Hi", "Hello"]
    assert (await house.runs.get(ALICE, live.run_id)).state is RunState.COMPLETED


async def test_a_warm_request_waits_for_no_store() -> None:
    house = House()
    session = (await house.start()).conversation.session.session_id
    await asyncio.sleep(0.01)
    before = house.rows.lookups
    starting = house.start("Again", session_id=session)

    with pytest.raises(StopIteration) as returned:  # a coroutine that ends without suspending once
        starting.send(None)

    assert house.rows.lookups == before
    assert check_end(await read(returned.value.value)).state is RunState.COMPLETED


async def test_emit_timings_follow_the_first_delta() -> None:
    house = House(says("a", "b"))

    events = await house.ask(options=RunOptions(streaming=StreamingOptions(emit_timings=True)))

    assert [type(event) for event in events[:4]] == [RunStarted, TextDelta, Timings, TextDelta]
    assert len(of(events, Timings)) == 1
    stages = [timing.stage for timing in of(events, Timings)[0].stages]
    assert stages[-1] == "prompt"
    assert of(events, GenerationCompleted)[0].timings


async def test_options_lie_over_the_agents() -> None:
    house = House(agent={"streaming": StreamingOptions(mode=StreamingMode.BUFFERED), "budget": Budget(tokens=1)})

    events = await house.ask(options=RunOptions(budget=Budget(tokens=1000)))

    assert of(events, RunStarted)[0].mode is StreamingMode.BUFFERED
    assert house.model.requests[0].stream is False
    check_end(events, RunState.COMPLETED)


async def test_steps_over_the_limit_are_a_budget() -> None:
    house = House([TextDelta("Once more. "), *calls(call("nope"))])

    end = check_end(await house.ask(options=RunOptions(max_steps=2)), RunState.BUDGET_EXCEEDED)

    assert (end.budget_kind, end.partial_text) == (BudgetKind.STEPS, "Once more. ")


# --- errors -------------------------------------------------------------------------------------------------------
async def test_a_failing_vendor_ends_the_run_and_is_named() -> None:
    house = House([TextDelta("Hel"), failed(Reason.PROVIDER_OVERLOADED)], says("Better now"))
    live = await house.start()

    end = check_end(await read(live), RunState.FAILED)

    assert end.error is not None
    assert (end.error.reason, end.error.provider, end.error.retryable) == (Reason.PROVIDER_OVERLOADED, "fake", True)
    assert end.partial_text == "Hel"
    check_end(await house.ask(session_id=live.conversation.session.session_id), RunState.COMPLETED)


@pytest.mark.parametrize("idempotent", [True, False])
async def test_no_retry_is_promised_once_a_tool_started_for_good(idempotent: bool) -> None:
    @tool(idempotent=idempotent)
    async def pay() -> str:
        return "paid"

    house = House(calls(call("pay")), [failed(Reason.PROVIDER_OVERLOADED)], tools=[pay])

    end = check_end(await house.ask(), RunState.FAILED)

    assert end.error is not None
    assert end.error.retryable is idempotent


@pytest.mark.parametrize(
    "bug",
    [OSError("secret"), KeyError("x"), asyncio.CancelledError(), RuntimeError(), AssertionError()],
    ids=lambda bug: type(bug).__name__,
)
async def test_a_bug_ends_the_run_in_order(bug: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    house = House([TextDelta("Hel"), bug], says("Better now"))
    live = await house.start()

    end = check_end(await read(live), RunState.FAILED)

    assert end.error is not None
    assert end.error.reason is Reason.INTERNAL
    assert live.run_id in end.error.message
    assert "secret" not in end.error.message
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    check_end(await house.ask(session_id=live.conversation.session.session_id), RunState.COMPLETED)


async def test_a_delta_that_cannot_be_encoded_ends_the_run_in_order() -> None:
    house = House([TextDelta("good"), TextDelta("\ud800"), FOREVER])
    plain = house.library.encode

    def like_protobuf(sequence: int, elapsed_us: int, step: int, event: Event) -> bytes:
        for text in (getattr(event, "text", ""), getattr(event, "partial_text", "")):
            text.encode()
        return plain(sequence, elapsed_us, step, event)

    house.library.encode = like_protobuf

    end = check_end(await house.ask(), RunState.FAILED)

    assert end.error is not None
    assert (end.error.reason, end.partial_text) == (Reason.INTERNAL, "good?")


@pytest.mark.parametrize("fate", ["fails", "hangs", "is cancelled"])
async def test_a_sick_ledger_costs_persisted_and_nothing_else(fate: str) -> None:
    house = House(says("Hel", "lo"))
    commits: list[asyncio.Future[None]] = []

    def commit(future: asyncio.Future[None]) -> None:
        commits.append(future)
        if fate == "fails":
            future.set_exception(AgentsvcError(Reason.STORAGE_UNAVAILABLE, "down"))
        elif fate == "is cancelled":
            future.cancel()

    house.ledger.commit = commit
    began = time.monotonic()

    events = await house.ask()

    assert time.monotonic() - began < 3
    assert text_of(events) == "Hello"
    assert check_end(events, RunState.COMPLETED).persisted is False
    assert fate != "hangs" or not commits[0].cancelled()  # the write is not withdrawn


# --- refusals -----------------------------------------------------------------------------------------------------
async def test_unknown_and_disabled_agents_are_refused() -> None:
    house = House()
    unknown = house.runs.start(ALICE, RunRequest("nope", (Text("Hi"),)), Timeline())
    assert (await refusal(unknown)).reason is Reason.AGENT_NOT_FOUND
    disabled = House(agent={"status": AgentStatus.DISABLED})
    assert (await refusal(disabled.start())).reason is Reason.AGENT_NOT_FOUND
    assert house.rows.runs == disabled.rows.runs == {}


async def test_what_the_vendor_cannot_carry_is_refused() -> None:
    house = House()
    house.model.capabilities = Capabilities()
    request = RunRequest("demo", (Media("image", "image/png", b"x"),))

    assert (await refusal(house.runs.start(ALICE, request, Timeline()))).reason is Reason.CAPABILITY_MISSING
    assert house.library.used == 0


async def test_an_agent_with_its_own_endpoint_is_not_sent_elsewhere() -> None:
    house = House(agent={"llm_config": LLMConfig("fake", base_url="https://llm.example")})

    error = await refusal(house.start(options=RunOptions(provider="other")))

    assert error.reason is Reason.INVALID_FIELD


async def test_an_agent_read_while_it_changed_is_not_kept() -> None:
    house = House(agent={"instructions": "old"})
    house.agent_store.reading = asyncio.Event()
    starting = asyncio.ensure_future(house.start())
    await asyncio.sleep(0)
    agent = house.rows.agents[ALICE.tenant_id, "demo"]
    await house.catalog.update(ALICE, type(agent)("demo", LLMConfig("fake"), instructions="new"), "")
    house.agent_store.reading.set()
    await read(await starting)

    await house.ask()

    assert house.model.requests[-1].instructions == "new"


# --- foreign eyes -------------------------------------------------------------------------------------------------
async def test_another_tenants_ids_are_answered_like_random_ones() -> None:
    house = House([TextDelta("Hel"), FOREVER])
    live = await house.start()
    session = live.conversation.session.session_id
    await read_until(live.reader(), TextDelta)
    page, where = PageRequest(), Filter()
    sessions, runs = house.sessions, house.runs

    for foreign, random in ((live.run_id, "run_x"), (session, "session_x")):
        for ask in (
            lambda i: runs.get(MALLORY, i),
            lambda i: runs.subscribe(MALLORY, i, 0),
            lambda i: runs.cancel(MALLORY, i),
            lambda i: house.start("Hi", MALLORY, session_id=i),
            lambda i: sessions.get(MALLORY, i),
            lambda i: sessions.delete(MALLORY, i),
            lambda i: sessions.messages(MALLORY, i, page),
        ):
            theirs, nobodys = await refusal(ask(foreign)), await refusal(ask(random))
            assert str(theirs).replace(foreign, random) == str(nobodys)
            assert theirs.error.metadata == nobodys.error.metadata
    assert (await runs.list(MALLORY, page, where)).items == ()
    assert (await sessions.list(MALLORY, page, where)).items == ()
    assert live.state is RunState.RUNNING


async def test_a_session_belongs_to_its_agent_and_user() -> None:
    house = House()
    live = await house.start(user_id="u1")
    session = live.conversation.session.session_id
    await read(live)

    assert (await refusal(house.start(session_id=session))).reason is Reason.SESSION_NOT_FOUND
    assert (await refusal(house.start(session_id=session, user_id="u2"))).reason is Reason.SESSION_NOT_FOUND
    check_end(await house.ask(session_id=session, user_id="u1"), RunState.COMPLETED)


# --- readers ------------------------------------------------------------------------------------------------------
async def test_on_disconnect_cancel_waits_for_the_last_reader() -> None:
    house = House([TextDelta("Hel"), FOREVER])
    live = await house.start()
    first, second = live.reader(), live.reader()
    await read_until(first, TextDelta)

    first.close()
    first.close()
    await asyncio.sleep(0)
    assert live.state is RunState.RUNNING
    second.close()

    assert (await live.ended()).state is RunState.CANCELLED
    assert house.model.open == 0


async def test_on_disconnect_continue_goes_on_and_is_saved() -> None:
    gate = asyncio.Event()
    house = House([TextDelta("Hel"), gate, *says("lo")])
    live = await house.start(options=CONTINUE)
    reader = live.reader()
    seen = await read_until(reader, TextDelta)
    assert of(seen, RunStarted)[0].resumable
    reader.close()
    gate.set()

    assert (await live.ended()).text == "Hello"
    assert house.history(live.conversation.session.session_id)[-1].text == "Hello"


async def test_on_disconnect_continue_for_ends_after_its_time() -> None:
    house = House([TextDelta("Hel"), FOREVER])
    live = await house.start(options=RunOptions(on_disconnect=OnDisconnect.CONTINUE_FOR, continue_for=0.03))
    reader = live.reader()
    await read_until(reader, TextDelta)
    began = time.monotonic()
    reader.close()

    assert (await live.ended()).state is RunState.CANCELLED
    assert time.monotonic() - began >= 0.025


async def test_coming_back_in_time_keeps_the_run() -> None:
    gate = asyncio.Event()
    house = House([TextDelta("Hel"), gate, *says("lo")])
    live = await house.start(options=RunOptions(on_disconnect=OnDisconnect.CONTINUE_FOR, continue_for=0.02))
    live.reader().close()
    back = await house.runs.subscribe(ALICE, live.run_id, 0)
    await asyncio.sleep(0.04)  # the timer's time, twice
    gate.set()

    check_end([event for *_, event in await entries(back)], RunState.COMPLETED)


@pytest.mark.parametrize("order", ["detached last", "detached first"])
async def test_being_detached_is_not_leaving(order: str) -> None:
    house = House([TextDelta("Hel"), FOREVER])
    live = await house.start()
    slow, other = live.reader(), live.reader()
    await read_until(other, TextDelta)

    if order == "detached last":
        other.close()
        slow.close(detached=True)
        assert live._cause is None
        live.reader().close()
    else:
        slow.close(detached=True)
        other.close()

    assert (await live.ended()).state is RunState.CANCELLED


async def test_a_300_event_run_cut_at_every_event_is_byte_identical() -> None:
    house = House(says(*(f"token {n} " for n in range(296))))
    live = await house.start(options=CONTINUE)
    uncut = live.reader()
    whole: list[bytes] = []
    cut: list[bytes] = []
    while uncut.end is None:
        await uncut.wait()
        whole += uncut.take()
        # A second caller, who loses the connection after every single event.
        while len(cut) < len(whole):
            resumed = await house.runs.subscribe(ALICE, live.run_id, len(cut))
            cut += resumed.take()[:1]
            resumed.close()

    assert len(whole) == 300
    assert cut == whole
    for cursor in range(300):
        assert (await house.runs.subscribe(ALICE, live.run_id, cursor)).take() == whole[cursor:]
    assert (await house.runs.subscribe(ALICE, live.run_id, 300)).take() == whole[-1:]
    assert len(house.model.requests) == 1


async def test_a_reader_of_a_flooding_run_finds_the_text_in_the_record() -> None:
    house = House(says(*["x" * 1000] * 200), journal=JournalConfig(run_bytes=50_000))
    live = await house.start(options=CONTINUE)
    reader = live.reader()
    await live.ended()

    with pytest.raises(AgentsvcError) as told:
        reader.take()
    assert told.value.reason is Reason.SLOW_CONSUMER
    reader.close(detached=True)
    gone = await refusal(house.runs.subscribe(ALICE, live.run_id, 1))
    assert gone.reason is Reason.CURSOR_OUT_OF_RANGE
    assert int(gone.error.metadata["oldest_sequence"]) == live.journal.oldest
    assert (await house.runs.get(ALICE, live.run_id)).text == "x" * 200_000


async def test_after_retention_nothing_is_left_but_the_end_in_the_store() -> None:
    house = House(journal=JournalConfig(retention=0.0))
    live = await house.start(request_id="r1")
    events = await read(live)
    await house.library.empty.wait()

    assert house.runs.find(ALICE, live.run_id) is None
    assert house.library.used == 0
    assert [*house.library._live, *house.library._ended, *house.runs._live, *house.runs._by_request] == []
    ((sequence, *_, last),) = await entries(await house.runs.subscribe(ALICE, live.run_id, len(events)))
    assert (sequence, last.state) == (len(events), RunState.COMPLETED)  # type: ignore[union-attr] # RunFinished
    assert (await refusal(house.runs.subscribe(ALICE, live.run_id, 1))).reason is Reason.CURSOR_OUT_OF_RANGE
    assert house.library.used == 0
    assert (await refusal(house.start(request_id="r1"))).reason is Reason.RUN_NOT_RESUMABLE


async def test_the_end_of_a_run_that_crashed_follows_whatever_was_seen() -> None:
    house = House()
    house.rows.runs[ALICE.tenant_id, "run_dead"] = Run("run_dead", "demo", state=RunState.INTERRUPTED)

    for after in (0, 57):
        ((sequence, *_, end),) = await entries(await house.runs.subscribe(ALICE, "run_dead", after))
        assert sequence == after + 1
        assert end.state is RunState.INTERRUPTED  # type: ignore[union-attr] # RunFinished


async def test_a_run_of_another_process_is_not_resumable_here() -> None:
    house = House()
    house.rows.runs[ALICE.tenant_id, "run_far"] = Run("run_far", "demo", state=RunState.RUNNING)

    assert (await refusal(house.runs.subscribe(ALICE, "run_far", 0))).reason is Reason.RUN_NOT_RESUMABLE


# --- sessions -----------------------------------------------------------------------------------------------------
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


# --- request_id ---------------------------------------------------------------------------------------------------
async def test_the_same_request_id_joins_the_run() -> None:
    started: list[str] = []

    @tool
    async def count() -> str:
        started.append("once")
        return "ok"

    house = House(calls(call("count")), says("done"), tools=[count])
    house.run_store.reading = asyncio.Event()
    both = [asyncio.ensure_future(house.start(request_id="r1", fingerprint="f")) for _ in range(2)]
    await asyncio.sleep(0)
    house.run_store.reading.set()
    one, two = await asyncio.gather(*both)
    await read(one)

    assert one is two
    assert one is await house.start(request_id="r1", fingerprint="f")
    assert started == ["once"]
    assert (await refusal(house.start(request_id="r1", fingerprint="g"))).reason is Reason.REQUEST_ID_REUSED
    assert (await house.start("Hi", MALLORY, request_id="r1", fingerprint="g")) is not one


async def test_a_refused_or_abandoned_first_call_lets_the_next_one_try() -> None:
    house = House()
    refused = await refusal(house.start(request_id="r1", session_id="nope"))
    assert refused.reason is Reason.SESSION_NOT_FOUND

    house.run_store.reading = asyncio.Event()
    first, second = [asyncio.ensure_future(house.start(request_id="r1")) for _ in range(2)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    house.run_store.reading.set()

    check_end(await read(await second), RunState.COMPLETED)
    assert len(house.model.requests) == 1


async def test_a_waiting_caller_that_leaves_does_not_take_the_claim_along() -> None:
    house = House()
    house.run_store.reading = asyncio.Event()
    first, second = [asyncio.ensure_future(house.start(request_id="r1")) for _ in range(2)]
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    house.run_store.reading.set()

    check_end(await read(await first), RunState.COMPLETED)


async def test_a_request_id_the_store_knows_is_not_run_again() -> None:
    house = House()
    house.rows.runs[ALICE.tenant_id, "run_1"] = Run("run_1", "demo", request_id="r1", fingerprint="f")

    known = await refusal(house.start(request_id="r1", fingerprint="f"))
    assert (known.reason, known.error.metadata) == (Reason.RUN_NOT_RESUMABLE, {"run_id": "run_1"})
    assert (await refusal(house.start(request_id="r1", fingerprint="g"))).reason is Reason.REQUEST_ID_REUSED


# --- many at once -------------------------------------------------------------------------------------------------
async def test_fifty_parallel_runs_never_mix() -> None:
    def echo(request: Any) -> list[Any]:
        canary = next(m for m in reversed(request.messages) if m.role is Role.USER).text
        if request.messages[-1].role is Role.TOOL:
            return [*(TextDelta(c) for c in request.messages[-1].text), done()]
        return calls(call("repeat", f'{{"word":"{canary}"}}'))

    @tool
    async def repeat(word: str) -> str:
        await asyncio.sleep(0)
        return word

    house = House(echo, tools=[repeat])
    runs = await asyncio.gather(*(house.start(f"canary-{n}") for n in range(50)))
    events = await asyncio.gather(*(read(live) for live in runs))

    for n, (live, got) in enumerate(zip(runs, events, strict=True)):
        assert text_of(got) == f"canary-{n}"
        assert of(got, ToolResult)[0].status is ToolStatus.OK
        history = house.history(live.conversation.session.session_id)
        assert {m.text for m in history} <= {f"canary-{n}", ""}
        assert len(history) == 4


async def test_ended_runs_keep_their_journal_and_nothing_else_of_size() -> None:
    house = House(says(*["x" * 1000] * 100))
    live = await house.start()
    await read(live)

    assert live._plan is None
    assert live._transcript.messages == []
    assert isinstance(decode(live.reader(10**9).take()[0])[-1], RunFinished)
