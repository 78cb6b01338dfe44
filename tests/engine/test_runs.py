"""Runs: from the request to the record, with everything that can go wrong on the way."""

import asyncio
import logging
import time
from typing import Any

import pytest

from agentsvc.domain.agents import (
    AgentStatus,
    Budget,
    LLMConfig,
    StreamingMode,
    StreamingOptions,
)
from agentsvc.domain.errors import AgentsvcError, Error, Reason
from agentsvc.domain.events import (
    BudgetKind,
    Event,
    GenerationCompleted,
    ModelFailed,
    RunFinished,
    RunStarted,
    RunState,
    TextDelta,
    Timings,
    ToolResult,
    ToolStatus,
)
from agentsvc.domain.messages import Media, Message, Role, Text
from agentsvc.domain.ports import Filter, PageRequest
from agentsvc.domain.providers import Capabilities
from agentsvc.domain.runs import Run, RunOptions, RunRequest, ToolChoice, ToolChoiceMode
from agentsvc.domain.timeline import Timeline
from agentsvc.engine.endings import CANCELLED
from agentsvc.engine.tools import tool
from tests.engine.fakes import (
    ALICE,
    FOREVER,
    MALLORY,
    USAGE,
    House,
    Move,
    call,
    calls,
    check_end,
    decode,
    done,
    failed,
    of,
    read,
    read_until,
    refusal,
    says,
    text_of,
)


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


async def test_timings_are_told_although_nothing_follows_the_first_delta() -> None:
    house = House([TextDelta("a"), FOREVER])
    live = await house.start(options=RunOptions(streaming=StreamingOptions(emit_timings=True)))

    events = await read_until(live.reader(), Timings)  # of their own accord, however long the vendor thinks now

    assert [type(event) for event in events] == [RunStarted, TextDelta, Timings]
    live.stop(CANCELLED)


@pytest.mark.parametrize("after", [FOREVER, failed()])
async def test_timings_that_are_owed_come_before_every_end(after: Move) -> None:
    house = House([TextDelta("a"), after])
    live = await house.start(options=RunOptions(streaming=StreamingOptions(emit_timings=True)))

    await read_until(live.reader(), TextDelta)
    live.stop(CANCELLED)

    assert [type(event) for event in await read(live)] == [RunStarted, TextDelta, Timings, RunFinished]


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


async def test_what_the_vendor_cannot_carry_is_refused_in_the_callers_own_history_too() -> None:
    house = House()
    house.model.capabilities = Capabilities()
    request = RunRequest("demo", (Text("Hi"),), history=(Message(Role.USER, (Media("file", "a/b", b"x"),)),))

    assert (await refusal(house.runs.start(ALICE, request, Timeline()))).reason is Reason.CAPABILITY_MISSING


@pytest.mark.parametrize(
    ("choice", "field"),
    [
        (ToolChoice(ToolChoiceMode.TOOL, "look_up"), "options.tool_choice.name"),
        (ToolChoice(ToolChoiceMode.REQUIRED), "options.tool_choice.mode"),
    ],
)
async def test_a_tool_that_the_agent_has_not_cannot_be_forced(choice: ToolChoice, field: str) -> None:
    house = House()

    error = await refusal(house.start(options=RunOptions(tool_choice=choice)))

    assert [violation.field for violation in error.error.violations] == [field]
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


async def test_a_run_of_another_process_is_neither_streamed_nor_stopped_and_says_so() -> None:
    house = House()
    house.rows.runs[ALICE.tenant_id, "run_far"] = Run("run_far", "demo", state=RunState.RUNNING)
    assert (await refusal(house.runs.cancel(ALICE, "run_far"))).reason is Reason.RUN_NOT_RESUMABLE
    assert (await refusal(house.runs.subscribe(ALICE, "run_far", 0))).reason is Reason.RUN_NOT_RESUMABLE


@pytest.mark.parametrize("reason", [Reason.PROVIDER_INVALID_REQUEST, Reason.CONTEXT_LENGTH, Reason.CONTENT_FILTER])
async def test_a_question_that_the_vendor_refuses_costs_nothing_and_does_not_spoil_the_session(reason: Reason) -> None:
    house = House([ModelFailed(Error(reason, "no"))], says("Hello"))
    refused = await house.start("too long", store=True)
    await read(refused)
    run = await refused.ended()
    assert (run.state, run.usage.total_tokens) == (RunState.FAILED, 0)
    assert house.history(run.session_id) == []
    await read(await house.start("short", session_id=run.session_id))
    assert [message.text for message in house.model.requests[-1].messages] == ["short"]


async def test_an_answer_that_breaks_off_is_charged_and_its_question_kept() -> None:
    house = House([TextDelta("Hel"), ModelFailed(Error(Reason.STREAM_TRUNCATED, "cut"))])
    live = await house.start("Hi")
    await read(live)
    run = await live.ended()
    assert run.usage.estimated
    assert run.usage.input_tokens
    assert [message.text for message in house.history(run.session_id)] == ["Hi", "Hel"]
