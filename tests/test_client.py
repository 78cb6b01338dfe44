from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import grpc
import pytest

from agentsvc import client as client_module
from agentsvc import v1
from agentsvc.client import AgentClient, AgentError, ChatStream
from agentsvc.domain.errors import Error, Reason
from agentsvc.domain.events import ModelEvent, ModelFailed, TextDelta
from agentsvc.domain.ports import ModelRequest
from agentsvc.engine.admission import LimitsConfig
from agentsvc.transport.errors import RichStatus
from agentsvc.transport.server import ServerConfig
from tests.transport.house import CALLER, FINISHED, House, open_house
from tests.upstream import until


class Dictation:
    """A model that says one word whenever it is let."""

    def __init__(self, words: int) -> None:
        self.words = words
        self.turns = asyncio.Semaphore(0)

    async def __call__(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent], None]:
        for word in range(self.words):
            await self.turns.acquire()
            yield [TextDelta(f"{word} ")]
        yield [FINISHED]


class Cable:
    """A TCP relay that can be cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.target = ""
        self.plugged = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.target = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.plugged += 1
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers |= {writer, back}
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._carry(source, sink))
            self._tasks.add(task)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.transport.abort()


@asynccontextmanager
async def connected(house: House) -> AsyncIterator[tuple[AgentClient, Cable]]:
    async with Cable(house.server.port) as cable, AgentClient(cable.target, CALLER) as client:
        yield client, cable


def text(events: Sequence[v1.ChatEvent]) -> str:
    return "".join(event.text_delta.text for event in events)


async def to_the_end(
    stream: ChatStream, each: Callable[[], object] = bool
) -> tuple[list[v1.ChatEvent], AgentError | None]:
    """All events, and what the stream raised after them."""
    events = []
    try:
        async for event in stream:
            events.append(event)
            each()
    except AgentError as error:
        return events, error
    return events, None


async def state(client: AgentClient, run_id: str) -> v1.RunState.ValueType:
    while not (run := await client.get_run(run_id)).HasField("end_time"):
        pass
    return run.state


async def test_an_answer_is_read_in_three_lines() -> None:
    async with open_house() as house, AgentClient(house.target, CALLER) as client:
        async with client.stream_chat(agent_id="demo", message="hi") as stream:
            events = [event async for event in stream]
        assert text(events) == "Hello world"
        assert stream.finished == events[-1].run_finished
        assert stream.run_id == events[0].run_started.run_id
        assert (await client.get_run(stream.run_id)).state == v1.RUN_STATE_COMPLETED


async def test_chat_returns_the_answer_whole() -> None:
    async with open_house() as house, AgentClient(house.target, CALLER) as client:
        assert (await client.chat(agent_id="demo", message="hi")).text == "Hello world"


async def test_cut_at_every_event_the_stream_is_whole_and_the_model_was_asked_once() -> None:
    async with open_house(script := Dictation(12)) as house, connected(house) as (client, cable):

        def cut_and_go_on() -> None:
            cable.cut()
            script.turns.release()

        async with client.stream_chat(agent_id="demo", message="hi") as stream:
            events, _ = await to_the_end(stream, cut_and_go_on)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert text(events) == "".join(f"{n} " for n in range(12))
        assert len(house.model.requests) == 1
        assert cable.plugged > 5


async def test_a_stream_closed_early_cancels_its_run() -> None:
    async with open_house(script := Dictation(9)) as house, AgentClient(house.target, CALLER) as client:
        async with client.stream_chat(agent_id="demo", message="hi") as stream:
            script.turns.release()
            async for event in stream:
                if event.HasField("text_delta"):
                    break
        await asyncio.wait_for(house.model.left.wait(), 5)
        assert await state(client, stream.run_id) == v1.RUN_STATE_CANCELLED


async def test_a_reader_whose_task_is_cancelled_cancels_its_run() -> None:
    async with open_house(Dictation(9)) as house, AgentClient(house.target, CALLER) as client:
        started = asyncio.Event()

        async def read() -> None:
            async with client.stream_chat(agent_id="demo", message="hi") as stream:
                async for _ in stream:
                    started.set()

        task = asyncio.create_task(read())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(house.model.left.wait(), 5)


async def test_who_asks_for_continue_may_close_and_the_run_goes_on() -> None:
    async with open_house(script := Dictation(2)) as house, AgentClient(house.target, CALLER) as client:
        options = v1.ChatOptions(on_disconnect=v1.ON_DISCONNECT_CONTINUE)
        async with client.stream_chat(agent_id="demo", message="hi", options=options) as stream:
            await anext(aiter(stream))
        script.turns.release()
        script.turns.release()
        assert await state(client, stream.run_id) == v1.RUN_STATE_COMPLETED


async def test_who_asks_for_cancel_gets_no_resume() -> None:
    async with open_house(Dictation(2)) as house, connected(house) as (client, cable):
        options = v1.ChatOptions(on_disconnect=v1.ON_DISCONNECT_CANCEL)
        async with client.stream_chat(agent_id="demo", message="hi", options=options) as stream:
            _, error = await to_the_end(stream, cable.cut)
        assert error is not None
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "")
        await asyncio.wait_for(house.model.left.wait(), 5)


async def test_a_second_reader_joins_and_leaves_the_run_alone() -> None:
    async with open_house(script := Dictation(3)) as house, AgentClient(house.target, CALLER) as client:
        first = client.stream_chat(agent_id="demo", message="hi")
        started = await anext(aiter(first))
        async with client.subscribe_run(started.run_started.run_id) as second:
            assert await anext(aiter(second)) == started
        for _ in range(3):
            script.turns.release()
        assert text([event async for event in first]) == "0 1 2 "
        assert not house.model.left.is_set()


async def test_heartbeats_stay_inside() -> None:
    config = ServerConfig(address="127.0.0.1:0", heartbeat=0.02)
    async with open_house(script := Dictation(1), config) as house, AgentClient(house.target, CALLER) as client:
        asyncio.get_running_loop().call_later(0.2, script.turns.release)
        async with client.stream_chat(agent_id="demo", message="hi") as stream:
            assert [event.sequence async for event in stream] == [1, 2, 3, 4, 5]


async def test_a_failed_run_shows_its_end_and_then_raises() -> None:
    async def failing(request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent], None]:
        yield [ModelFailed(Error(Reason.PROVIDER_RATE_LIMIT, "slow down", "openai", True, 2.5))]

    async with open_house(failing) as house, AgentClient(house.target, CALLER) as client:
        events, error = await to_the_end(client.stream_chat(agent_id="demo", message="hi"))
        assert events[-1].run_finished.state == v1.RUN_STATE_FAILED
        assert error is not None
        assert (error.code, error.reason, error.message) == (
            grpc.StatusCode.UNAVAILABLE,
            "PROVIDER_RATE_LIMIT",
            "slow down",
        )
        assert (error.retryable, error.retry_after) == (True, 2.5)


async def test_a_refusal_tells_what_the_status_tells() -> None:
    async with open_house() as house, AgentClient(house.target, CALLER) as client:
        with pytest.raises(AgentError, match="INVALID_FIELD") as refused:
            await client.chat(agent_id="", message="hi")
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [name for name, _ in refused.value.violations] == ["agent_id"]
        assert refused.value.request_id
        assert not refused.value.retryable
        _, error = await to_the_end(client.stream_chat(agent_id="nobody", message="hi"))
        assert "AGENT_NOT_FOUND" in str(error)


Leg = Callable[[Any], Awaitable[None]]


class Actor:
    """A service that plays one leg per streaming call, whichever the call; for what a good service rarely does."""

    def __init__(self, *legs: Leg) -> None:
        self.calls: list[v1.StreamChatRequest | v1.SubscribeRunRequest] = []
        self._legs = iter(legs)

    def handlers(self) -> grpc.GenericRpcHandler:
        async def play(request: Any, context: Any) -> None:
            self.calls.append(request)
            await next(self._legs)(context)

        kinds: dict[str, Any] = {"StreamChat": v1.StreamChatRequest, "SubscribeRun": v1.SubscribeRunRequest}
        methods = {
            name: grpc.unary_stream_rpc_method_handler(play, kind.FromString, v1.StreamChatResponse.SerializeToString)
            for name, kind in kinds.items()
        }
        return grpc.method_handlers_generic_handler("agentsvc.v1.AgentService", methods)

    @property
    def cursors(self) -> list[int]:
        return [call.after_sequence for call in self.calls if isinstance(call, v1.SubscribeRunRequest)]


STARTED = v1.ChatEvent(sequence=1, run_started=v1.RunStarted(run_id="run_1", resumable=True))
WORD = v1.ChatEvent(sequence=2, text_delta=v1.TextDelta(text="hi"))
END = v1.ChatEvent(sequence=3, run_finished=v1.RunFinished(state=v1.RUN_STATE_COMPLETED))


def says(*events: v1.ChatEvent, then: Any = None) -> Leg:
    """Sends the events and ends: with OK, with a bare status code, or with an error of the service."""

    async def leg(context: Any) -> None:
        for event in events:
            await context.write(v1.StreamChatResponse(event=event))
        if isinstance(then, Reason):
            await context.abort_with_status(RichStatus(Error(then, "so it is", "", then.retryable, 0.01), "r"))
        if then is not None:
            await context.abort(then, "RST_STREAM")

    return leg


@asynccontextmanager
async def on_stage(*legs: Leg) -> AsyncIterator[tuple[AgentClient, Actor]]:
    actor, server = Actor(*legs), grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([actor.handlers()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with AgentClient(f"127.0.0.1:{port}", CALLER) as client:
            yield client, actor
    finally:
        await server.stop(None)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(client_module, "LONGEST_PAUSE", 0.002)
    monkeypatch.setattr(client_module, "LINGER", 0.05)


@pytest.mark.parametrize(
    "cut",
    [
        None,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        Reason.DRAINING,
        Reason.SLOW_CONSUMER,
        Reason.STORAGE_UNAVAILABLE,
    ],
)
async def test_whatever_breaks_off_without_an_end_is_resumed_from_the_last_sequence(cut: Any) -> None:
    async with on_stage(says(STARTED, WORD, then=cut), says(END)) as (client, actor):
        async with client.stream_chat(agent_id="demo", message="hi") as stream:
            assert [event async for event in stream] == [STARTED, WORD, END]
        assert actor.cursors == [2]


async def test_a_second_cut_before_any_event_keeps_the_cursor() -> None:
    unavailable = says(then=grpc.StatusCode.UNAVAILABLE)
    legs = (says(STARTED, WORD, then=grpc.StatusCode.INTERNAL), unavailable, unavailable, says(END))
    async with on_stage(*legs) as (client, actor), client.stream_chat(agent_id="demo", message="hi") as stream:
        assert [event async for event in stream] == [STARTED, WORD, END]
        assert actor.cursors == [2, 2, 2]


async def test_a_draining_server_is_left_at_once() -> None:
    draining = v1.ChatEvent(sequence=2, draining=v1.Draining())

    async def stays(context: Any) -> None:
        await says(STARTED, WORD, draining)(context)
        await asyncio.Event().wait()

    async with on_stage(stays, says(END)) as (client, actor):
        async with client.stream_chat(agent_id="demo", message="hi") as stream:
            assert [event async for event in stream] == [STARTED, WORD, END]
        assert actor.cursors == [2]


async def test_a_run_that_ends_with_its_server_is_read_to_its_end() -> None:
    draining = v1.ChatEvent(sequence=2, draining=v1.Draining())
    interrupted = v1.Error(code=int(Reason.RUN_INTERRUPTED.code), reason="RUN_INTERRUPTED", retryable=True)
    end = v1.ChatEvent(sequence=3, run_finished=v1.RunFinished(state=v1.RUN_STATE_INTERRUPTED, error=interrupted))
    async with on_stage(says(STARTED, WORD, draining, end, then=Reason.RUN_INTERRUPTED)) as (client, actor):
        events, error = await to_the_end(client.stream_chat(agent_id="demo", message="hi"))
        assert events == [STARTED, WORD, end]
        assert error is not None
        assert error.reason == "RUN_INTERRUPTED"
        assert len(actor.calls) == 1


PASSING = [Reason.LIMIT_EXCEEDED, Reason.OVERLOADED, Reason.DRAINING, Reason.STORAGE_UNAVAILABLE]


@pytest.mark.parametrize("reason", PASSING)
async def test_a_refusal_that_passes_is_waited_out_without_the_caller_noticing(reason: Reason) -> None:
    refused = says(then=reason)
    async with on_stage(refused, refused, says(STARTED, WORD, END)) as (client, actor):
        async with client.stream_chat(agent_id="demo", message="hi") as stream:
            assert [event async for event in stream] == [STARTED, WORD, END]
        assert actor.calls[0] == actor.calls[1] == actor.calls[2]


async def test_a_caller_that_is_refused_again_and_again_hears_of_it() -> None:
    async with on_stage(*[says(then=Reason.OVERLOADED)] * 50) as (client, actor):
        _, error = await to_the_end(client.stream_chat(agent_id="demo", message="hi"))
        assert error is not None
        assert error.reason == "OVERLOADED"
        assert len(actor.calls) == client_module.REFUSALS + 1


async def test_a_busy_session_is_the_callers_to_decide_about() -> None:
    async with on_stage(says(then=Reason.SESSION_BUSY)) as (client, actor):
        _, error = await to_the_end(client.stream_chat(agent_id="demo", message="hi"))
        assert "SESSION_BUSY" in str(error)
        assert len(actor.calls) == 1


async def test_chat_waits_a_refusal_out_as_well() -> None:
    limits = LimitsConfig(max_runs=1, queue=0)
    async with (
        open_house(script := Dictation(1), limits=limits) as house,
        AgentClient(house.target, CALLER) as client,
        client.stream_chat(agent_id="demo", message="hi") as first,
    ):
        await anext(aiter(first))
        second = asyncio.create_task(client.chat(agent_id="demo", message="hi"))
        await until(lambda: house.runs.admission._promised)  # it has been told when to come back
        script.turns.release()
        script.turns.release()
        _ = [event async for event in first]
        assert (await second).text == "0 "


@pytest.mark.parametrize("then", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, Reason.DRAINING])
async def test_what_ended_with_run_finished_is_never_resumed(then: Any) -> None:
    async with on_stage(says(STARTED, WORD, END, then=then)) as (client, actor):
        async with client.stream_chat(agent_id="demo", message="hi") as stream:
            assert [event async for event in stream] == [STARTED, WORD, END]
        assert len(actor.calls) == 1


@pytest.mark.parametrize("reason", [Reason.CURSOR_OUT_OF_RANGE, Reason.RUN_NOT_FOUND, Reason.INTERNAL])
async def test_an_answer_of_the_service_is_no_broken_connection(reason: Reason) -> None:
    legs = (says(STARTED, then=grpc.StatusCode.UNAVAILABLE), says(then=reason))
    async with on_stage(*legs) as (client, actor), client.stream_chat(agent_id="demo", message="hi") as stream:
        _, error = await to_the_end(stream)
        assert reason.value in str(error)
        assert len(actor.calls) == 2


async def test_a_run_that_lost_its_journal_is_not_resumed() -> None:
    lost = v1.ChatEvent(sequence=2, resumability_changed=v1.ResumabilityChanged(resumable=False))
    async with on_stage(says(STARTED, lost, then=grpc.StatusCode.UNAVAILABLE)) as (client, actor):
        _, error = await to_the_end(client.stream_chat(agent_id="demo", message="hi"))
        assert "UNAVAILABLE" in str(error)
        assert len(actor.calls) == 1


@pytest.mark.parametrize("request_id", ["", "once"])
async def test_a_start_that_broke_off_is_repeated_only_under_a_request_id(request_id: str) -> None:
    legs = (says(then=grpc.StatusCode.UNAVAILABLE), says(STARTED, WORD, END))
    async with on_stage(*legs) as (client, actor):
        stream = client.stream_chat(agent_id="demo", message="hi", request_id=request_id)
        if request_id:
            assert [event async for event in stream] == [STARTED, WORD, END]
            assert actor.calls[0] == actor.calls[1]
        else:
            with pytest.raises(AgentError, match="UNAVAILABLE"):
                await anext(aiter(stream))


async def test_a_service_that_stays_away_is_given_up() -> None:
    legs = [says(STARTED, then=grpc.StatusCode.UNAVAILABLE)] + [says(then=grpc.StatusCode.UNAVAILABLE)] * 50
    async with on_stage(*legs) as (client, actor):
        _, error = await to_the_end(client.stream_chat(agent_id="demo", message="hi"))
        assert "UNAVAILABLE" in str(error)
        assert len(actor.calls) == client_module.ATTEMPTS + 1


async def test_the_policy_of_this_client_is_to_come_back_within_a_minute() -> None:
    async with on_stage(says(STARTED, END)) as (client, actor):
        async with client.stream_chat(agent_id="demo", message="hi") as stream:
            assert [event async for event in stream] == [STARTED, END]
        options = actor.calls[0].options  # type: ignore[union-attr]
        assert (options.on_disconnect, options.continue_for.seconds) == (v1.ON_DISCONNECT_CONTINUE_FOR, 60)
