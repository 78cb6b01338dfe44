from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import grpc
import pytest

from agentsvc import v1
from agentsvc.domain.errors import Reason
from agentsvc.domain.events import ModelEvent, TextDelta
from agentsvc.domain.ports import ModelRequest
from agentsvc.engine.journal import JournalConfig
from agentsvc.transport.server import ServerConfig
from tests.transport.house import CALLER, FINISHED, STRANGER, Gated, House, bearer, failing, open_house
from tests.transport.rpc import refusal, refused, rest, to_the_end

QUIET = ServerConfig(address="127.0.0.1:0", heartbeat=0.05)


def question(**fields: Any) -> v1.StreamChatRequest:
    return v1.StreamChatRequest(**{"agent_id": "demo", "message": "hi", **fields})


def going_on(continue_for: int = 0) -> v1.ChatOptions:
    options = v1.ChatOptions(on_disconnect=v1.ON_DISCONNECT_CONTINUE)
    if continue_for:
        options.on_disconnect = v1.ON_DISCONNECT_CONTINUE_FOR
        options.continue_for.seconds = continue_for
    return options


def kinds(events: Sequence[v1.ChatEvent]) -> list[str]:
    return [str(event.WhichOneof("kind")) for event in events]


def raw_stream(house: House, method: str, request: Any) -> Any:
    """A streaming call that leaves the responses as bytes."""
    return house.channel.unary_stream(f"/agentsvc.v1.AgentService/{method}")(
        request.SerializeToString(), metadata=bearer(CALLER)
    )


async def get_run(house: House, run_id: str) -> v1.Run:
    run: v1.Run = (await house.agents.GetRun(v1.GetRunRequest(run_id=run_id), metadata=bearer(CALLER))).run
    return run


async def test_an_answer_streams_from_run_started_to_run_finished(house: House) -> None:
    events = await house.ask()
    assert kinds(events) == [
        "run_started",
        "text_delta",
        "text_delta",
        "step_completed",
        "generation_completed",
        "run_finished",
    ]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-2].generation_completed.text == "Hello world"
    assert events[-1].run_finished.state == v1.RUN_STATE_COMPLETED


async def test_the_end_tells_what_to_bill_and_how_long_we_took(house: House) -> None:
    call = house.agents.StreamChat(question(), metadata=bearer(CALLER))
    events = [response.event async for response in call]
    trailers = dict(await call.trailing_metadata())
    finished = events[-1].run_finished
    assert trailers["agentsvc-run-id"] == events[0].run_started.run_id
    assert (trailers["agentsvc-input-tokens"], trailers["agentsvc-output-tokens"]) == ("7", "2")
    assert int(trailers["agentsvc-overhead-us"]) == finished.framework_overhead_us


async def test_a_stream_opens_with_its_first_event_and_a_unary_call_with_its_runs_name(house: House) -> None:
    call = house.agents.StreamChat(question(), metadata=bearer(CALLER))
    await call.initial_metadata()
    assert (await anext(aiter(call))).event.WhichOneof("kind") == "run_started"
    chat = house.agents.Chat(v1.ChatRequest(agent_id="demo", message="hi"), metadata=bearer(CALLER))
    run_id = (await chat.initial_metadata())["agentsvc-run-id"]
    assert (await chat).run.run_id == run_id


async def test_a_failed_run_ends_with_its_error_in_band_and_in_the_status() -> None:
    async with open_house(failing) as house:
        call = house.agents.StreamChat(question(), metadata=bearer(CALLER))
        events, ended = await to_the_end(call)
        error = events[-1].run_finished.error
        assert (error.reason, error.retryable, error.retry_after.ToMilliseconds()) == (
            "PROVIDER_OVERLOADED",
            True,
            2500,
        )
        status = refusal(ended)
        assert (status.code, status.reason, status.message) == ("UNAVAILABLE", error.reason, error.message)
        assert status.metadata == {"retryable": "true", "provider": "openai"}
        assert status.trailers["grpc-retry-pushback-ms"] == "2500"
        assert status.trailers["agentsvc-run-id"] == events[0].run_started.run_id
        run = await get_run(house, run_id_of(events))
        assert (run.state, run.partial_text, run.error.reason) == (v1.RUN_STATE_FAILED, "Hel", "PROVIDER_OVERLOADED")


def run_id_of(events: Sequence[v1.ChatEvent]) -> str:
    return events[0].run_started.run_id


async def test_a_run_out_of_budget_ends_ok(house: House) -> None:
    events = await house.ask(options=v1.ChatOptions(budget=v1.Budget(tokens=1)))
    finished = events[-1].run_finished
    assert (finished.state, finished.budget_kind) == (v1.RUN_STATE_BUDGET_EXCEEDED, v1.BUDGET_KIND_TOKENS)


async def test_cancel_run_ends_every_reader_with_cancelled_and_may_be_repeated() -> None:
    async with open_house(Gated()) as house:
        call = house.agents.StreamChat(question(), metadata=bearer(CALLER))
        started = (await call.read()).event.run_started
        await call.read()  # the first delta
        request = v1.CancelRunRequest(run_id=started.run_id)
        first = (await house.agents.CancelRun(request, metadata=bearer(CALLER))).run
        again = (await house.agents.CancelRun(request, metadata=bearer(CALLER))).run
        assert first == again
        assert (first.state, first.partial_text) == (v1.RUN_STATE_CANCELLED, "Hello")
        assert (await call.read()).event.run_finished.state == v1.RUN_STATE_CANCELLED
        assert await call.code() is grpc.StatusCode.CANCELLED


async def test_the_caller_gone_closes_the_provider_at_once() -> None:
    async with open_house(Gated()) as house:
        call = house.agents.StreamChat(question(), metadata=bearer(CALLER))
        await call.read()
        await call.read()
        call.cancel()
        await asyncio.wait_for(house.model.left.wait(), 5)


async def test_a_run_that_continues_is_joined_late_and_read_to_its_end() -> None:
    async with open_house(script := Gated()) as house:
        call = house.agents.StreamChat(question(options=going_on()), metadata=bearer(CALLER))
        started = (await call.read()).event.run_started
        assert started.resumable
        call.cancel()
        again = house.agents.SubscribeRun(v1.SubscribeRunRequest(run_id=started.run_id), metadata=bearer(CALLER))
        assert (await again.initial_metadata())["agentsvc-run-id"] == started.run_id
        script.gate.set()
        events = [response.event async for response in again]
        assert events[-1].run_finished.state == v1.RUN_STATE_COMPLETED
        assert len(house.model.requests) == 1


async def test_resumed_anywhere_the_bytes_are_the_same(house: House) -> None:
    whole = [wire async for wire in raw_stream(house, "StreamChat", question(options=going_on()))]
    run_id = run_id_of([v1.StreamChatResponse.FromString(whole[0]).event])
    for cursor in range(len(whole)):
        request = v1.SubscribeRunRequest(run_id=run_id, after_sequence=cursor)
        assert [wire async for wire in raw_stream(house, "SubscribeRun", request)] == whole[cursor:]
    past = v1.SubscribeRunRequest(run_id=run_id, after_sequence=99)
    assert [wire async for wire in raw_stream(house, "SubscribeRun", past)] == whole[-1:]


async def test_a_cursor_that_is_not_kept_is_refused_with_the_oldest() -> None:
    async def long(request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent], None]:
        for _ in range(300):
            yield [TextDelta("x" * 100)]
            await asyncio.sleep(0)
        yield [FINISHED]

    async with open_house(long, journal=JournalConfig(run_bytes=4096)) as house:
        whole = await house.agents.Chat(v1.ChatRequest(agent_id="demo", message="hi"), metadata=bearer(CALLER))
        assert whole.text == "x" * 30_000
        request = v1.SubscribeRunRequest(run_id=whole.run.run_id, after_sequence=1)
        call = house.agents.SubscribeRun(request, metadata=bearer(CALLER))
        gone = await refused(call)
        assert (gone.code, gone.reason) == ("OUT_OF_RANGE", "CURSOR_OUT_OF_RANGE")
        assert int(gone.metadata["oldest_sequence"]) > 2
        assert int(gone.metadata["last_sequence"]) == whole.run.last_sequence


async def test_a_reader_that_fell_off_the_cap_is_told_so_and_its_run_goes_on() -> None:
    async def flood(request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent], None]:
        yield [TextDelta("x" * 100) for _ in range(100)]
        yield [TextDelta("end"), FINISHED]

    async with open_house(flood, journal=JournalConfig(run_bytes=4096)) as house:
        call = house.agents.StreamChat(question(), metadata=bearer(CALLER))
        _, ended = await to_the_end(call)
        assert (refusal(ended).code, refusal(ended).reason) == ("RESOURCE_EXHAUSTED", "SLOW_CONSUMER")
        (run_id,) = (run_id for _, run_id in house.shelves.runs)
        while (run := await get_run(house, run_id)).state == v1.RUN_STATE_RUNNING:
            pass
        assert (run.state, run.text) == (v1.RUN_STATE_COMPLETED, "x" * 10_000 + "end")


async def test_silence_is_broken_by_heartbeats_that_repeat_the_last_sequence() -> None:
    async with open_house(script := Gated(), QUIET) as house:
        call = house.agents.StreamChat(question(), metadata=bearer(CALLER))
        events = [(await call.read()).event for _ in range(4)]
        assert kinds(events) == ["run_started", "text_delta", "heartbeat", "heartbeat"]
        assert [event.sequence for event in events] == [1, 2, 2, 2]
        assert events[1].elapsed_us < events[2].elapsed_us < events[3].elapsed_us
        script.gate.set()
        after = [event.sequence for event in await rest(call) if not event.HasField("heartbeat")]
        assert after == [3, 4, 5, 6]


async def test_heartbeats_reach_every_reader_and_stay_out_of_the_journal() -> None:
    async with open_house(script := Gated(), QUIET) as house:
        first = house.agents.StreamChat(question(options=going_on()), metadata=bearer(CALLER))
        run_id = (await first.read()).event.run_started.run_id
        await first.read()
        request = v1.SubscribeRunRequest(run_id=run_id, after_sequence=2)
        second = house.agents.SubscribeRun(request, metadata=bearer(CALLER))
        assert kinds([(await first.read()).event, (await second.read()).event]) == ["heartbeat", "heartbeat"]
        script.gate.set()
        assert (await rest(first))[-1].HasField("run_finished")
        assert (await rest(second))[-1].HasField("run_finished")
        replay = house.agents.SubscribeRun(v1.SubscribeRunRequest(run_id=run_id), metadata=bearer(CALLER))
        assert "heartbeat" not in kinds([response.event async for response in replay])


async def test_a_call_cancelled_in_silence_is_cancelled_and_not_taken_for_a_heartbeat() -> None:
    async with open_house(Gated(), QUIET) as house:
        call = house.agents.StreamChat(question(), metadata=bearer(CALLER))
        while (await call.read()).event.WhichOneof("kind") != "heartbeat":
            pass
        call.cancel()
        await asyncio.wait_for(house.model.left.wait(), 5)


async def test_the_same_request_id_joins_the_run(house: House) -> None:
    one = await house.ask(request_id="once", options=going_on())
    two = await house.ask(request_id="once", options=going_on())
    assert one == two
    assert len(house.model.requests) == 1
    other = await refused(house.agents.StreamChat(question(request_id="once", user_id="x"), metadata=bearer(CALLER)))
    assert (other.code, other.reason) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")


async def test_runs_are_listed_newest_first_without_their_texts(house: House) -> None:
    ids = [run_id_of(await house.ask(labels={"n": str(n)})) for n in range(3)]
    page = await house.agents.ListRuns(v1.ListRunsRequest(page_size=2, agent_id="demo"), metadata=bearer(CALLER))
    assert [run.run_id for run in page.runs] == ids[:0:-1]
    assert not any(run.text for run in page.runs)
    assert house.shelves.where.agent_id == "demo"
    rest = v1.ListRunsRequest(page_size=2, page_token=page.next_page_token)
    page = await house.agents.ListRuns(rest, metadata=bearer(CALLER))
    assert [run.run_id for run in page.runs] == ids[:1]
    assert not page.next_page_token


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown agent": ({"agent_id": "nobody"}, "AGENT_NOT_FOUND", ""),
    "no agent": ({"agent_id": ""}, "INVALID_FIELD", "agent_id"),
    "empty message": ({"message": ""}, "INVALID_FIELD", ""),
    "5 MB message": ({"message": "x" * 5_000_000}, "INVALID_FIELD", "message"),
    "bad option": ({"options": v1.ChatOptions(max_steps=0)}, "INVALID_FIELD", "options.max_steps"),
    "unbuilt option": (
        {"options": v1.ChatOptions(memory=v1.MemoryOptions(top_k=3))},
        "INVALID_FIELD",
        "options.memory.top_k",
    ),
    "unknown session": ({"session_id": "s"}, "SESSION_NOT_FOUND", ""),
    "keyless provider": ({"options": v1.ChatOptions(provider="keyless")}, "PROVIDER_NOT_CONFIGURED", ""),
    "unknown provider": ({"options": v1.ChatOptions(provider="x")}, "INVALID_FIELD", "options.provider"),
}


@pytest.mark.parametrize(("fields", "reason", "field"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("method", ["StreamChat", "Chat"])
async def test_bad_input_is_refused_with_one_typed_error_and_leaves_nothing(
    house: House, method: str, fields: dict[str, Any], reason: str, field: str
) -> None:
    kind = v1.StreamChatRequest if method == "StreamChat" else v1.ChatRequest
    request = kind(**{"agent_id": "demo", "message": "hi", **fields})
    found = await refused(getattr(house.agents, method)(request, metadata=bearer(CALLER)))
    assert (found.reason, found.code) == (reason, Reason(reason).code.name)
    assert found.fields == ((field,) if reason == "INVALID_FIELD" else ())
    assert found.message
    assert not house.shelves.runs
    assert not house.model.requests
    assert await house.ask()


async def test_a_busy_session_names_the_run_that_holds_it() -> None:
    async with open_house(script := Gated()) as house:
        call = house.agents.StreamChat(question(), metadata=bearer(CALLER))
        started = (await call.read()).event.run_started
        busy = await refused(house.agents.StreamChat(question(session_id=started.session_id), metadata=bearer(CALLER)))
        assert (busy.code, busy.reason, busy.metadata["run_id"]) == ("ABORTED", "SESSION_BUSY", started.run_id)
        assert busy.trailers["grpc-retry-pushback-ms"] == "1000"
        script.gate.set()
        assert await rest(call)


async def test_a_bug_of_ours_is_internal_and_shows_nothing(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.shelves.agents["acme", "odd"] = "not an agent"  # type: ignore[assignment]
    found = await refused(house.agents.StreamChat(question(agent_id="odd"), metadata=bearer(CALLER)))
    assert (found.code, found.reason) == ("INTERNAL", "INTERNAL")
    assert "str" not in found.message
    assert found.request_id in found.message
    assert found.request_id in caplog.text
    assert await house.ask()


async def test_the_deadline_is_handed_to_the_run() -> None:
    async with open_house(Gated()) as house:
        call = house.agents.StreamChat(question(), metadata=bearer(CALLER), timeout=0.3)
        _, ended = await to_the_end(call)
        assert ended.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(house.model.left.wait(), 5)


async def test_a_subscribers_deadline_ends_that_reader_alone() -> None:
    async with open_house(script := Gated()) as house:
        call = house.agents.StreamChat(question(), metadata=bearer(CALLER))
        run_id = (await call.read()).event.run_started.run_id
        request = v1.SubscribeRunRequest(run_id=run_id)
        _, ended = await to_the_end(house.agents.SubscribeRun(request, metadata=bearer(CALLER), timeout=0.2))
        assert ended.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        script.gate.set()
        assert (await rest(call))[-1].run_finished.state == v1.RUN_STATE_COMPLETED


async def test_run_started_does_not_wait_for_the_model() -> None:
    async def silent(request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent], None]:
        await asyncio.Event().wait()
        yield [FINISHED]

    async with open_house(silent) as house:
        call = house.agents.StreamChat(question(), metadata=bearer(CALLER))
        assert (await call.read()).event.HasField("run_started")
        call.cancel()


async def test_what_is_not_built_yet_says_so(house: House) -> None:
    found = await refused(house.agents.SubmitToolResults(v1.SubmitToolResultsRequest(), metadata=bearer(CALLER)))
    assert (found.code, found.reason) == ("UNIMPLEMENTED", "NOT_IMPLEMENTED")


async def test_anothers_run_is_answered_as_one_that_never_was(house: House) -> None:
    run_id = run_id_of(await house.ask(options=going_on()))

    async def answers(asked: str) -> list[tuple[Any, ...]]:
        calls = [
            house.agents.GetRun(v1.GetRunRequest(run_id=asked), metadata=bearer(STRANGER)),
            house.agents.CancelRun(v1.CancelRunRequest(run_id=asked), metadata=bearer(STRANGER)),
            house.agents.SubscribeRun(v1.SubscribeRunRequest(run_id=asked), metadata=bearer(STRANGER)),
            house.agents.StreamChat(question(session_id=asked), metadata=bearer(STRANGER)),
        ]
        found = [await refused(call) for call in calls]
        return [each.but_for(asked) for each in found]

    assert await answers(run_id) == await answers("run_0000")
    assert "RUN_NOT_FOUND" in (await answers(run_id))[0]
