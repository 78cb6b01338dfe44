"""The client against a real socket: what reaches the reader, and what becomes of the connection."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsvc.domain.events import ModelEvent, ModelFinished
from agentsvc.domain.messages import FinishReason, Usage
from agentsvc.domain.timeline import Timeline
from agentsvc.providers.bound import BoundModel
from agentsvc.providers.client import ProviderClient
from tests.providers.lines import ask
from tests.providers.talk import CONFIG, HELLO, answer, close_early, kept, model_for, talk, text
from tests.upstream import Call, Upstream, reply, sequence, stream, until


async def test_an_answer_arrives_and_ends() -> None:
    async with talk(stream(HELLO)) as (model, upstream, client):
        events = await answer(model)
        assert text(events) == "hello"
        assert events[-1] == ModelFinished(FinishReason.STOP, Usage(3, 3))
        (request,) = upstream.requests
        assert (request.method, request.path, request.body) == ("POST", "/ask", b"hello")
        assert request.headers["authorization"] == "Bearer secret"
        assert client.stats().in_flight == 0


async def test_no_header_is_sent_that_was_not_meant() -> None:
    async with talk(stream(HELLO)) as (model, upstream, _):
        await answer(model)
        assert set(upstream.requests[0].headers) == {
            "host",
            "user-agent",
            "accept",
            "accept-encoding",
            "content-type",
            "content-length",
            "authorization",
        }


async def test_what_arrived_together_is_handed_over_together() -> None:
    async with talk(stream([b"".join(HELLO[:2] * 1000), b"end\n"])) as (model, _, _):
        batches = [events async for events in model.stream(ask(), Timeline())]
        assert len(batches) < 20
        assert all(batches)
        assert sum(len(batch) for batch in batches) <= 2 * len(batches)


async def test_a_line_of_5_mb_is_just_a_line() -> None:
    async with talk(stream([b"text " + b"x" * 5_000_000 + b"\nend\n"])) as (model, _, _):
        assert len(text(await answer(model))) == 5_000_000


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_json_body_is_read_as_a_whole_answer(streamed: bool) -> None:
    handler = reply(200, b"".join(HELLO), {"Content-Type": "application/json; charset=utf-8"})
    async with talk(handler) as (model, _, _):
        events = await answer(model, streamed=streamed)
        assert text(events) == "hello"
        assert isinstance(events[-1], ModelFinished)


async def test_a_stream_that_nobody_asked_for_is_read_as_a_stream() -> None:
    async with talk(stream(HELLO)) as (model, _, _):
        batches = [events async for events in model.stream(ask(stream=False), Timeline())]
        assert text([event for batch in batches for event in batch]) == "hello"


async def test_a_hundred_answers_use_one_connection() -> None:
    async with talk(stream(HELLO)) as (model, upstream, _):
        dialled = 0
        for _ in range(100):
            timeline = Timeline()
            assert text(await answer(model, timeline)) == "hello"
            dialled += any(stage.stage == "connect" for stage in timeline.timings())
        assert len(upstream.connections) == 1
        assert dialled == 1


async def test_the_connection_is_kept_when_the_body_ends_after_the_answer() -> None:
    told = asyncio.Event()

    async def late(call: Call) -> None:
        await call.start()
        await call.send(b"".join(HELLO))
        await told.wait()
        await call.send(b"ping\n")
        await call.end()

    async with talk(late) as (model, upstream, client):
        assert text(await answer(model)) == "hello"
        assert not kept(client)
        told.set()
        await until(lambda: kept(client))
        assert text(await answer(model)) == "hello"
        assert len(upstream.connections) == 1


async def test_a_body_that_does_not_end_costs_its_connection_after_a_second() -> None:
    async with talk(stream(HELLO, finish="stall")) as (model, upstream, _):
        assert text(await answer(model)) == "hello"
        ended = time.monotonic()
        await asyncio.wait_for(upstream.connections[0].closed.wait(), 10)
        assert upstream.connections[0].closed_at - ended > 0.9


@pytest.mark.parametrize("ended_by", ["close", "cancel"])
@pytest.mark.parametrize("batches", [0, 1])
async def test_who_leaves_closes_the_connection_at_once(ended_by: str, batches: int) -> None:
    pieces = HELLO[:1] * batches
    async with talk(stream(pieces, finish="stall")) as (model, upstream, client):
        answers = model.stream(ask(), Timeline())
        for _ in range(batches):
            await anext(answers)
        waiting = asyncio.ensure_future(anext(answers))
        await upstream.arrived()
        if ended_by == "cancel" or not batches:
            waiting.cancel()
            left = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        else:
            waiting.cancel()
            left = time.monotonic()
            await asyncio.wait([waiting])
        await answers.aclose()
        await asyncio.wait_for(upstream.connections[0].closed.wait(), 5)
        assert upstream.connections[0].closed_at - left < 1  # 0.1 is promised, the rest is for a busy machine
        assert client.stats().in_flight == 0


async def test_a_reader_that_stops_between_two_batches_closes_the_connection_at_once() -> None:
    async with talk(stream(HELLO[:1], finish="stall")) as (model, upstream, _):
        await close_early(model, 1)
        left = time.monotonic()
        await asyncio.wait_for(upstream.connections[0].closed.wait(), 5)
        assert upstream.connections[0].closed_at - left < 1


async def test_a_flood_that_is_left_stops() -> None:
    async def flood(call: Call) -> None:
        await call.start()
        while True:
            await call.send(b"text xxxxxxxxxxxxxxxx\n" * 1000)
            await asyncio.sleep(0)

    async with talk(flood) as (model, upstream, _):
        await close_early(model, 3)
        left = time.monotonic()
        await asyncio.wait_for(upstream.connections[0].closed.wait(), 5)
        assert upstream.connections[0].closed_at - left < 1


async def test_the_pool_is_clean_after_answers_that_were_left() -> None:
    handler = sequence(*[stream(HELLO[:1], finish="stall")] * 5, stream(HELLO))
    async with talk(handler) as (model, upstream, _):
        for _ in range(5):
            await close_early(model, 1)
        for _ in range(5):
            assert text(await answer(model)) == "hello"
        assert len(upstream.connections) == 6


async def test_thousand_cancelled_answers_leave_no_task() -> None:
    async with talk(stream(HELLO[:1], finish="stall")) as (model, upstream, client):
        before = len(asyncio.all_tasks())
        for _ in range(10):
            await asyncio.gather(*(close_early(model, 1) for _ in range(20)))
        assert client.stats().in_flight == 0
        await asyncio.gather(*(connection.closed.wait() for connection in upstream.connections))
        assert len(asyncio.all_tasks()) <= before + 1


def test_dials_that_are_cancelled_leave_no_connection() -> None:
    """On uvloop, which never tells the protocol of a cancelled dial that its connection is lost."""

    async def leave(model: BoundModel, turns: int) -> None:
        dialling = [asyncio.ensure_future(answer(model)) for _ in range(4)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for asked in dialling:
            asked.cancel()
        await asyncio.gather(*dialling, return_exceptions=True)

    async def told() -> None:
        async with talk(stream([], finish="stall")) as (model, upstream, client):
            for number in range(120):
                await leave(model, number % 12)
            await asyncio.wait_for(until(lambda: not upstream.open), 5)
            assert client.stats().open_connections == 0

    uvloop.run(told())


async def test_a_hundred_answers_at_once_do_not_queue() -> None:
    everybody = asyncio.Event()

    async def together(call: Call) -> None:
        if len(call.connection.upstream.requests) == 100:
            everybody.set()
        await everybody.wait()
        await stream(HELLO)(call)

    async with talk(together) as (model, upstream, client):
        answers = await asyncio.gather(*(answer(model) for _ in range(100)))
        assert [text(events) for events in answers] == ["hello"] * 100
        assert len(upstream.connections) == 100
        assert client.stats().open_connections == 100


async def test_a_limit_of_connections_is_a_queue_and_shows_as_a_stage() -> None:
    async with talk(stream([0.1, *HELLO]), replace(CONFIG, connections_per_host=1)) as (model, upstream, _):
        timelines = [Timeline() for _ in range(3)]
        await asyncio.gather(*(answer(model, timeline) for timeline in timelines))
        assert len(upstream.connections) == 1
        waits = sorted(timeline.timings()[0].duration_us for timeline in timelines)
        assert waits[1] > 80_000
        assert waits[2] > 160_000


async def test_connections_that_the_server_closes_while_they_rest_surface_nowhere() -> None:
    """Short form: as many requests as fit around the moment at which the server hangs up."""
    async with Upstream(stream(HELLO), idle_close=0.05) as upstream, ProviderClient(CONFIG) as client:
        model = model_for(client, upstream.url)
        rng = random.Random(7)
        for _ in range(60):
            assert text(await answer(model)) == "hello"
            await asyncio.sleep(0.05 + rng.uniform(-0.004, 0.004))
        assert len(upstream.requests) == 60


@pytest.mark.parametrize("hint", ["timeout=1", "timeout=1, max=100"])
async def test_a_connection_is_left_before_the_server_said_it_will_close_it(hint: str) -> None:
    async with talk(stream(HELLO, headers={"Keep-Alive": hint})) as (model, upstream, _):
        for _ in range(3):
            assert text(await answer(model)) == "hello"
        assert len(upstream.connections) == 3


async def test_an_old_connection_is_not_used_again() -> None:
    async with talk(stream(HELLO), replace(CONFIG, max_age=0.0)) as (model, upstream, _):
        for _ in range(3):
            assert text(await answer(model)) == "hello"
        assert len(upstream.connections) == 3


UNASKED = {
    "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\ntext wrong\nend\n",
    "a farewell": b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n",
    "a head alone": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("unasked", UNASKED.values(), ids=UNASKED)
async def test_a_connection_that_spoke_unasked_is_not_used_again(unasked: bytes) -> None:
    async with talk(stream(HELLO)) as (model, upstream, client):
        await answer(model)
        await until(lambda: kept(client))
        (wire,) = client._connector.wires
        wire.heard = False
        await upstream.connections[0].write(unasked)
        await until(lambda: wire.heard)
        assert text(await asyncio.wait_for(answer(model), 1)) == "hello"
        assert len(upstream.requests) == len(upstream.connections) == 2


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=8), max_size=8),
    seed=st.integers(),
)
def test_characters_survive_any_split_of_the_bytes(words: list[str], seed: int) -> None:
    body = "".join(f"text {word}\n" for word in words).encode() + b"end\n"
    rng = random.Random(seed)
    cuts = sorted(rng.sample(range(len(body)), min(len(body), 5)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b]

    async def told() -> list[ModelEvent]:
        async with talk(stream(pieces)) as (model, _, _):
            return await answer(model)

    assert text(asyncio.run(told())) == "".join(words)
