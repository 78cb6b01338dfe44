"""What a caller's stream does with a journal, beside real gRPC: when each message leaves, and what breaks a silence."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from agentsvc import v1
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import RunFinished, RunState, TextDelta
from agentsvc.domain.messages import Usage
from agentsvc.domain.runs import Principal, TokenRole
from agentsvc.engine.admission import Admission, LimitsConfig
from agentsvc.engine.journal import Journal, JournalConfig, Library
from agentsvc.transport.codec import encode_event
from agentsvc.transport.interceptors import Call
from agentsvc.transport.relay import Relay, Streams, relay

END = RunFinished(RunState.COMPLETED, None, "", None, Usage(), None, True, 0)


class Caller:
    """A gRPC context whose window can be shut. ``got`` is what it was handed, ``written`` what it has taken."""

    def __init__(self) -> None:
        self.got: list[v1.ChatEvent] = []
        self.written = 0
        self.window: asyncio.Future[None] | None = None
        self.gone: Exception | None = None

    def shut(self) -> Callable[[], None]:
        """Takes nothing from now on, until what is returned is called."""
        window = self.window = asyncio.get_running_loop().create_future()

        def opened() -> None:
            self.window = None
            window.set_result(None)

        return opened

    def disable_next_message_compression(self) -> None: ...

    async def write(self, wire: bytes) -> None:
        if self.gone is not None:
            raise self.gone
        self.got.append(v1.StreamChatResponse.FromString(wire).event)
        if self.window is not None:
            await self.window
        self.written += 1

    @property
    def kinds(self) -> list[str | None]:
        return [event.WhichOneof("kind") for event in self.got]


class Stream:
    """A journal, the one who reads it, and the relay between them."""

    def __init__(self, streams: Streams, caller: Caller, journal: Journal) -> None:
        self.streams, self.caller, self.journal = streams, caller, journal
        self.admission = Admission(LimitsConfig())
        self.closed: list[bool] = []
        reader = journal.reader()
        reader.on_close(self.closed.append)
        place = self.admission.take_reader(Principal("t", "k", TokenRole.CALLER))
        self.task = asyncio.create_task(relay(reader, cast("Call", SimpleNamespace(context=caller)), streams, place))

    def say(self, text: str) -> None:
        self.journal.append(TextDelta(text), 1)


@asynccontextmanager
async def streaming(
    heartbeat: float = 60.0, idle: float = 60.0, caller: Caller | None = None, **caps: Any
) -> AsyncIterator[Stream]:
    """One that has begun to wait."""
    stream = Stream(Streams(heartbeat, idle), caller or Caller(), Library(JournalConfig(**caps), encode_event).open())
    for _ in range(2):  # the task's first turn, and the one that it gives to the run
        await asyncio.sleep(0)
    try:
        yield stream
    finally:
        stream.task.cancel()
        await asyncio.gather(stream.task, return_exceptions=True)
        assert not stream.streams.relays
        assert stream.closed


async def seen(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - a test that looks from outside
            await asyncio.sleep(0.002)


async def test_an_event_is_handed_to_grpc_in_the_very_moment_in_which_it_is_appended():
    async with streaming() as stream:
        stream.say("a")
        assert [event.text_delta.text for event in stream.caller.got] == ["a"]  # nobody else had a turn


async def test_what_is_appended_during_a_write_follows_it_in_order_up_to_the_end():
    async with streaming() as stream:
        opened = stream.caller.shut()
        stream.say("a")
        stream.say("b")
        stream.journal.append(END, 1)
        assert stream.caller.kinds == ["text_delta"]
        opened()
        assert await stream.task == END
        assert [event.sequence for event in stream.caller.got] == [1, 2, 3]
        assert stream.caller.written == 3
        assert stream.closed == [False]


async def test_a_run_that_is_over_before_anybody_reads_is_read_all_the_same():
    async with streaming() as stream:
        stream.say("a")
        stream.journal.append(END, 1)
        again = Stream(stream.streams, Caller(), stream.journal)
        assert await again.task == END
        assert again.caller.kinds == ["text_delta", "run_finished"]


async def test_a_write_that_fails_ends_the_stream_and_never_the_run():
    async with streaming() as stream:
        stream.caller.gone = ConnectionError("the caller has gone")
        stream.say("a")
        stream.say("b")
        with pytest.raises(ConnectionError):
            await stream.task
        assert stream.journal.last == 2


async def test_a_silence_is_broken_again_and_again_and_only_a_silence():
    async with streaming(heartbeat=0.03) as stream:
        stream.say("a")
        await seen(lambda: len(stream.caller.got) > 2)
        assert stream.caller.kinds[:3] == ["text_delta", "heartbeat", "heartbeat"]
        assert {event.sequence for event in stream.caller.got} == {1}
    async with streaming(heartbeat=0.4) as stream:
        for _ in range(10):  # 0.5 s, in which no silence lasts 0.4 s
            stream.say("a")
            await asyncio.sleep(0.05)
        assert "heartbeat" not in stream.caller.kinds


async def test_a_write_that_a_shut_window_holds_up_is_no_silence():
    async with streaming(heartbeat=0.01) as stream:
        opened = stream.caller.shut()
        stream.say("a")
        await asyncio.sleep(0.05)
        assert stream.caller.kinds == ["text_delta"]
        opened()
        await seen(lambda: "heartbeat" in stream.caller.kinds)


async def test_draining_is_told_once_before_anything_else_and_not_before_anything():
    async with streaming() as stream:
        stream.streams.drain(2.0)
        assert stream.caller.got == []  # nothing was said yet: there is no cursor to go elsewhere with
        stream.say("a")
        stream.say("b")
        assert stream.caller.kinds == ["text_delta", "draining", "text_delta"]
        assert [event.sequence for event in stream.caller.got] == [1, 1, 2]
        stream.say("c")
        assert stream.caller.kinds.count("draining") == 1


async def test_draining_loses_nothing_of_what_waits_behind_it():
    async with streaming() as stream:
        stream.say("a")
        opened = stream.caller.shut()
        for text in ("b", "c", "d"):
            stream.say(text)
        stream.streams.drain(2.0)
        opened()
        await seen(lambda: len(stream.caller.got) == 5)
        assert [event.sequence for event in stream.caller.got] == [1, 2, 2, 3, 4]
        assert stream.caller.kinds == ["text_delta", "text_delta", "draining", "text_delta", "text_delta"]


async def test_a_stream_that_waits_hears_of_the_drain_at_once():
    async with streaming() as stream:
        stream.say("a")
        stream.streams.drain(2.0)
        assert stream.caller.kinds == ["text_delta", "draining"]
        assert stream.caller.got[-1].draining.retry_after.seconds == 2


async def test_a_reader_that_fell_off_the_cap_hears_it_when_it_reads_again_and_has_not_left():
    async with streaming(run_bytes=1000) as stream:
        opened = stream.caller.shut()
        for _ in range(100):
            stream.say("x" * 100)
        opened()
        with pytest.raises(AgentsvcError) as raised:
            await stream.task
        assert raised.value.error.reason is Reason.SLOW_CONSUMER
        assert stream.closed == [True]


async def test_who_takes_nothing_loses_its_place_then_has_left_and_hears_why_when_it_reads_again():
    async with streaming(idle=0.05) as stream:
        opened = stream.caller.shut()
        stream.say("a")
        await seen(lambda: stream.admission.readers == 0)
        assert not stream.closed
        await seen(lambda: bool(stream.closed))
        assert not stream.task.done()  # its write is never cut off
        opened()
        with pytest.raises(AgentsvcError) as raised:
            await stream.task
        assert raised.value.error.reason is Reason.SLOW_CONSUMER
        assert stream.closed == [False]


async def test_a_caller_that_leaves_in_silence_has_left():
    async with streaming() as stream:
        stream.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stream.task
        assert stream.closed == [False]
        stream.say("a")  # nobody is there to be told
        assert stream.caller.got == []


async def test_a_write_that_is_under_way_when_the_caller_leaves_is_ended_by_grpc():
    async with streaming() as stream:
        opened = stream.caller.shut()
        stream.say("a")
        stream.say("b")
        stream.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stream.task
        opened()
        await asyncio.sleep(0)
        assert (stream.caller.written, len(stream.caller.got)) == (1, 1)


class Odd(Caller):
    """Writes as no grpc.aio does yet, but as coroutines may."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self._fault = fault

    async def write(self, wire: bytes) -> None:
        match self._fault:
            case "yields":
                await asyncio.sleep(0)
            case "cancelled":
                raise asyncio.CancelledError
            case "waits for what is cancelled":
                future = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_soon(future.cancel)
                await future
        await super().write(wire)


async def test_a_write_that_only_asks_for_a_turn_gets_it():
    async with streaming(caller=Odd("yields")) as stream:
        stream.say("a")
        stream.journal.append(END, 1)
        assert await stream.task == END
        assert stream.caller.kinds == ["text_delta", "run_finished"]


@pytest.mark.parametrize("fault", ["cancelled", "waits for what is cancelled"])
async def test_a_write_that_is_cancelled_ends_the_stream_and_is_no_cancellation_of_the_run(fault: str):
    async with streaming(caller=Odd(fault)) as stream:
        stream.say("a")
        with pytest.raises(grpc.aio.BaseError):
            await stream.task


@pytest.mark.parametrize("ends", ["gone", "fallen"])
async def test_a_stream_that_ends_badly_leaves_nothing_to_the_collector_either(ends: str):
    gc.collect()
    gc.disable()
    try:
        async with streaming(run_bytes=1000) as stream:
            opened = stream.caller.shut()
            stream.say("a")
            if ends == "gone":
                stream.caller.gone = ConnectionError()
            for _ in range(100):
                stream.say("x" * 100)
            opened()
            with pytest.raises((ConnectionError, AgentsvcError)):
                await stream.task
        del stream, opened
        await asyncio.sleep(0)
        assert not [thing for thing in gc.get_objects() if isinstance(thing, Relay)]
    finally:
        gc.enable()
