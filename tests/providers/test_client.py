"""The client against a real socket: what reaches the reader, when the connection closes, what is asked again."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsvc.domain.errors import Reason
from agentsvc.domain.events import ModelEvent, ModelFailed, ModelFinished, TextDelta
from agentsvc.domain.messages import FinishReason, Usage
from agentsvc.domain.timeline import Timeline
from agentsvc.providers.client import ProviderClient
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.models import BoundModel
from agentsvc.providers.pool import PoolConfig, RetryPolicy
from tests.providers.lines import LINES, ask
from tests.upstream import Call, Handler, Upstream, reply, sequence, stream, until

HELLO = [b"text hel\n", b"text lo\n", b"usage 3\n", b"end\n"]
QUICK = RetryPolicy(first_delay=0.01)
CONFIG = PoolConfig(retry=QUICK)


def model_for(client: ProviderClient, url: str) -> BoundModel:
    return BoundModel(LINES, Endpoint(url, "secret"), client, setting="LINES_BASE_URL")


@asynccontextmanager
async def talk(
    handler: Handler, config: PoolConfig = CONFIG
) -> AsyncIterator[tuple[BoundModel, Upstream, ProviderClient]]:
    async with Upstream(handler) as upstream, ProviderClient(config) as client:
        yield model_for(client, upstream.url), upstream, client


async def answer(model: BoundModel, timeline: Timeline | None = None, **wishes: bool) -> list[ModelEvent]:
    return [event async for events in model.stream(ask(**wishes), timeline or Timeline()) for event in events]


def text(events: list[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def kept(client: ProviderClient) -> int:
    """How many connections rest in the pool, for which there is no public word."""
    return sum(map(len, client.session.connector._conns.values()))


def reason(events: list[ModelEvent]) -> Reason:
    assert isinstance(events[-1], ModelFailed), events
    return events[-1].error.reason


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
        events = await answer(model, stream=streamed)
        assert text(events) == "hello"
        assert isinstance(events[-1], ModelFinished)


async def test_a_stream_that_nobody_asked_for_is_read_as_a_stream() -> None:
    async with talk(stream(HELLO)) as (model, _, _):
        batches = [events async for events in model.stream(ask(stream=False), Timeline())]
        assert text([event for batch in batches for event in batch]) == "hello"


# --- the connection and the end of an answer (D1, D24, D25, D26, D28) -------------------------------------------------
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


async def close_early(model: BoundModel, batches: int) -> None:
    async with aclosing(model.stream(ask(), Timeline())) as answers:
        for _ in range(batches):
            await anext(answers)


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
    """D24, short form: as many requests as fit around the moment at which the server hangs up."""
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


# --- asking again (D5, D23) -------------------------------------------------------------------------------------------
def reset_when(number: int, then: Handler) -> Handler:
    """Resets the connection under the ``number``-th request before a byte of an answer."""
    seen = 0

    async def handler(call: Call) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            call.connection.reset()
        else:
            await then(call)

    return handler


async def test_a_kept_connection_found_dead_is_replaced_silently_once() -> None:
    async with talk(reset_when(2, stream(HELLO)), PoolConfig(retry=RetryPolicy(max_retries=0))) as (
        model,
        upstream,
        client,
    ):
        assert text(await answer(model)) == "hello"
        assert text(await answer(model)) == "hello"
        assert len(upstream.requests) == 3
        assert client.stats().reconnects == 1
        assert client.stats().retries == 0


async def test_it_is_replaced_by_a_fresh_one_though_others_rest() -> None:
    deadly: set[int] = set()

    async def handler(call: Call) -> None:
        if id(call.connection) in deadly:
            call.connection.reset()
        else:
            await stream([0.05, *HELLO])(call)

    async with talk(handler, PoolConfig(retry=RetryPolicy(max_retries=0))) as (model, upstream, _):
        await asyncio.gather(*(answer(model) for _ in range(3)))
        deadly.update(map(id, upstream.connections))
        assert text(await answer(model)) == "hello"
        assert len(upstream.requests) == 5


@pytest.mark.parametrize("byte", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Type: text/event-"])
@pytest.mark.parametrize("end", ["reset", "close"])
async def test_after_the_first_byte_nothing_is_asked_again(byte: bytes, end: str) -> None:
    async def begin(call: Call) -> None:
        await call.raw(byte)
        await asyncio.sleep(0.02)
        getattr(call.connection, end)()

    async with talk(sequence(stream(HELLO), begin)) as (model, upstream, _):
        await answer(model)
        assert reason(await answer(model)) in {Reason.STREAM_TRUNCATED, Reason.MALFORMED_STREAM}
        assert len(upstream.requests) == 2


async def test_a_new_connection_that_dies_unheard_is_asked_again_as_often_as_configured() -> None:
    async def die(call: Call) -> None:
        call.connection.reset()

    async with talk(die) as (model, upstream, client):
        assert reason(await answer(model)) is Reason.PROVIDER_UNREACHABLE
        assert len(upstream.requests) == 3
        assert client.stats().retries == 2


async def test_a_status_that_may_pass_is_asked_again() -> None:
    async with talk(sequence(reply(503), reply(429), stream(HELLO))) as (model, upstream, client):
        assert text(await answer(model)) == "hello"
        assert len(upstream.requests) == 3
        assert len(upstream.connections) == 1
        assert client.stats().retries == 2


async def test_a_status_that_will_not_pass_is_told() -> None:
    async with talk(reply(401, b"x" * 10)) as (model, upstream, _):
        events = await answer(model)
        assert reason(events) is Reason.PROVIDER_AUTH
        assert len(upstream.requests) == 1


async def test_a_hint_of_the_vendor_is_waited_for() -> None:
    async with talk(sequence(reply(429, headers={"Retry-After": "0.3"}), stream(HELLO))) as (model, upstream, _):
        assert text(await answer(model)) == "hello"
        assert upstream.requests[1].at - upstream.requests[0].at >= 0.3


async def test_a_hint_that_is_too_long_is_handed_on() -> None:
    async with talk(reply(429, headers={"Retry-After": "48"})) as (model, upstream, _):
        events = await answer(model)
        assert reason(events) is Reason.PROVIDER_RATE_LIMIT
        assert events[-1].error.retry_after == 48
        assert len(upstream.requests) == 1


async def test_who_leaves_during_the_back_off_causes_no_further_request() -> None:
    config = PoolConfig(retry=RetryPolicy(first_delay=0.2, max_delay=0.2))
    async with talk(reply(503), config) as (model, upstream, client):
        asked = asyncio.ensure_future(answer(model))
        await upstream.arrived()
        await until(lambda: client.stats().retries)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await asyncio.sleep(0.3)
        assert len(upstream.requests) == 1
        assert client.stats().in_flight == 0


async def test_an_endless_error_body_is_not_read_to_its_end() -> None:
    async def endless(call: Call) -> None:
        await call.start(400, "text/html")
        while True:
            await call.send(b"x" * 10_000)
            await asyncio.sleep(0)

    async with talk(endless, PoolConfig(retry=RetryPolicy(max_retries=0))) as (model, upstream, _):
        events = await answer(model)
        assert events[-1].error.message == "status 400, 65536 bytes"
        await upstream.connections[0].closed.wait()


# --- the ends nobody wants (D16, D17, D18, D19, D22) ------------------------------------------------------------------
PINGS = [piece for _ in range(200) for piece in (b"ping\n", 0.01)]


async def test_pings_are_no_first_token() -> None:
    async with talk(stream(PINGS, finish="stall"), replace(CONFIG, first_token_timeout=0.2)) as (model, upstream, _):
        asked = time.monotonic()
        events = await answer(model)
        assert reason(events) is Reason.FIRST_TOKEN_TIMEOUT
        assert 0.2 <= time.monotonic() - asked < 1
        assert len(upstream.requests) == 1
        await upstream.connections[0].closed.wait()


async def test_silence_before_the_headers_is_no_first_token_either() -> None:
    async def silent(call: Call) -> None:
        await call.gone()

    async with talk(silent, replace(CONFIG, first_token_timeout=0.1)) as (model, upstream, _):
        events = await answer(model)
        assert reason(events) is Reason.FIRST_TOKEN_TIMEOUT
        assert "lines" in events[-1].error.message
        await upstream.connections[0].closed.wait()


async def test_the_patience_for_a_first_token_covers_all_attempts() -> None:
    config = replace(CONFIG, first_token_timeout=0.3)
    async with talk(sequence(stream([0.2], status=503), stream([], finish="stall")), config) as (model, _, _):
        asked = time.monotonic()
        assert reason(await answer(model)) is Reason.FIRST_TOKEN_TIMEOUT
        assert time.monotonic() - asked < 0.45


async def test_no_time_is_left_for_another_attempt() -> None:
    config = PoolConfig(first_token_timeout=0.3, retry=RetryPolicy(first_delay=2.0))
    async with talk(reply(503), config) as (model, upstream, _):
        assert reason(await answer(model)) is Reason.PROVIDER_SERVER_ERROR
        assert len(upstream.requests) == 1


async def test_pings_do_not_end_a_silence_in_the_middle() -> None:
    pieces = [b"usage 7\n", b"text hel\n", *PINGS]
    async with talk(stream(pieces, finish="stall"), replace(CONFIG, idle_timeout=0.2)) as (model, upstream, _):
        events = await answer(model)
        assert text(events) == "hel"
        assert reason(events) is Reason.IDLE_TIMEOUT
        assert events[-1].usage == Usage(7, 7)
        await upstream.connections[0].closed.wait()


async def test_an_annotation_is_progress_but_no_token() -> None:
    config = replace(CONFIG, first_token_timeout=0.15)
    async with talk(stream([0.05, b"note searching\n", 0.25, *HELLO]), config) as (model, _, _):
        timeline = Timeline()
        assert text(await answer(model, timeline)) == "hello"
        assert timeline.timings()[-1].duration_us > 280_000


async def test_tokens_do_end_it() -> None:
    pieces = [piece for _ in range(30) for piece in (b"text x\n", 0.02)]
    async with talk(stream([*pieces, b"end\n"]), replace(CONFIG, idle_timeout=0.3)) as (model, _, _):
        assert text(await answer(model)) == "x" * 30


async def test_a_reader_that_takes_its_time_is_no_silence_of_the_provider() -> None:
    config = replace(CONFIG, idle_timeout=0.05, first_token_timeout=0.2)
    async with talk(stream([b"text hel\n", 0.02, b"text lo\n", b"end\n"]), config) as (model, _, _):
        batches = []
        async for events in model.stream(ask(), Timeline()):
            batches += events
            await asyncio.sleep(0.3)
        assert text(batches) == "hello"
        assert isinstance(batches[-1], ModelFinished)


async def test_a_whole_answer_has_its_own_patience() -> None:
    config = replace(CONFIG, first_token_timeout=0.05, answer_timeout=5.0)

    async def slow(call: Call) -> None:
        await asyncio.sleep(0.2)
        await call.reply(200, b"".join(HELLO))

    async with talk(slow, config) as (model, _, _):
        assert text(await answer(model, stream=False)) == "hello"


@pytest.mark.parametrize("finish", ["end", "cut", "reset"])
@pytest.mark.parametrize("pieces", [[], [b"ping\n"], HELLO[:2], [b"text hello\ntext half a li"]])
async def test_an_answer_without_its_end_is_no_success(finish: str, pieces: list[bytes]) -> None:
    async with talk(stream([*pieces, 0.02], finish=finish)) as (model, upstream, _):
        events = await answer(model)
        assert text(events) in {"", "hello"}
        assert reason(events) is Reason.STREAM_TRUNCATED
        assert len(upstream.requests) == 1


async def test_what_arrived_before_a_reset_is_not_lost() -> None:
    async def handler(call: Call) -> None:
        await call.start()
        await call.send(b"text hel\n")
        await reading.wait()
        await call.send(b"text lo\n")
        await asyncio.sleep(0.02)
        call.connection.reset()

    reading = asyncio.Event()
    async with talk(handler) as (model, upstream, client):
        answers = model.stream(ask(), Timeline())
        events = [*await anext(answers)]
        reading.set()
        await upstream.connections[0].closed.wait()
        await until(lambda: not client.stats().open_connections)
        events += [event async for batch in answers for event in batch]
        assert text(events) == "hello"
        assert reason(events) is Reason.STREAM_TRUNCATED


async def test_an_error_in_the_stream_ends_it() -> None:
    async with talk(stream([b"text hel\n", b"error PROVIDER_OVERLOADED\n"], finish="stall")) as (model, upstream, _):
        events = await answer(model)
        assert text(events) == "hel"
        assert reason(events) is Reason.PROVIDER_OVERLOADED
        await asyncio.wait_for(upstream.connections[0].closed.wait(), 5)


async def test_something_else_than_http_is_told_as_that() -> None:
    async def ssh(call: Call) -> None:
        await call.raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        await call.gone()

    async with talk(ssh) as (model, _, _):
        events = await answer(model)
        assert reason(events) is Reason.MALFORMED_STREAM
        assert "LINES_BASE_URL" in events[-1].error.message


async def test_a_redirect_is_not_followed() -> None:
    async with talk(reply(302, headers={"Location": "http://127.0.0.1:1/"})) as (model, upstream, _):
        assert reason(await answer(model)) is Reason.PROVIDER_SERVER_ERROR
        assert len(upstream.requests) == 3  # as any server error here: what a status means is the dialect's word


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:1", "127.0.0.1:1 (connection refused)"),
        ("http://no-such-host.invalid/v1", "no-such-host.invalid cannot be resolved"),
        ("http://user:hunter2@127.0.0.1:1", "base URL"),
        ("not a url", "not"),
        ("http://", "URL"),
    ],
)
async def test_an_endpoint_out_of_reach_is_named_with_its_setting_and_without_secrets(url: str, says: str) -> None:
    async with ProviderClient(CONFIG) as client:
        events = await answer(model_for(client, url))
        assert reason(events) is Reason.PROVIDER_UNREACHABLE
        message = events[-1].error.message
        assert says in message
        assert "LINES_BASE_URL" in message
        assert "hunter2" not in message
        assert "secret" not in message


async def test_a_key_that_no_header_can_hold_is_told_without_showing_it() -> None:
    async with Upstream(stream(HELLO)) as upstream, ProviderClient(CONFIG) as client:
        model = BoundModel(LINES, Endpoint(upstream.url, "sec\nret"), client, setting="LINES_BASE_URL")
        events = await answer(model)
        assert reason(events) is Reason.PROVIDER_UNREACHABLE
        assert not events[-1].error.retryable
        assert "ret" not in events[-1].error.message.replace("retry", "")
        assert not upstream.requests


async def test_closing_the_client_ends_what_is_under_way() -> None:
    async with talk(stream(HELLO[:1], finish="stall")) as (model, _, client):
        answers = model.stream(ask(), Timeline())
        await anext(answers)
        waiting = asyncio.ensure_future(anext(answers))
        await asyncio.sleep(0)
        await client.close()
        assert reason(list(await asyncio.wait_for(waiting, 5))) is Reason.STREAM_TRUNCATED
        assert reason(await answer(model)) is Reason.PROVIDER_UNREACHABLE


# --- any bytes at any time --------------------------------------------------------------------------------------------
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


# --- where the time goes ----------------------------------------------------------------------------------------------
async def test_the_stages_of_a_first_answer_follow_each_other_without_a_gap() -> None:
    async with talk(stream([0.05, *HELLO])) as (model, _, _):
        timeline = Timeline()
        await answer(model, timeline)
        stages = timeline.timings()
        assert [stage.stage for stage in stages] == ["pool", "connect", "request", "first_token"]
        assert all(a.start_us + a.duration_us == b.start_us for a, b in pairwise(stages))
        assert stages[-1].duration_us > 40_000
        timeline = Timeline()
        await answer(model, timeline)
        assert [stage.stage for stage in timeline.timings()] == ["pool", "request", "first_token"]


async def test_the_second_answer_of_a_run_adds_only_waiting() -> None:
    async with talk(stream([0.05, *HELLO])) as (model, _, _):
        timeline = Timeline()
        await answer(model, timeline)
        stages, waited = timeline.timings(), timeline.waited_ns
        assert waited > 40_000_000
        await answer(model, timeline)
        assert timeline.timings() == stages
        assert timeline.waited_ns - waited > 40_000_000


async def test_what_the_provider_kept_us_waiting_for_is_not_ours() -> None:
    pieces = [piece for word in HELLO for piece in (0.05, word)]
    async with talk(stream(pieces)) as (model, _, _):
        timeline = Timeline()
        await answer(model, timeline)
        assert timeline.elapsed_us() > 190_000
        assert timeline.overhead_us() < 100_000


async def test_the_time_of_failed_attempts_is_told_too() -> None:
    async with talk(sequence(reply(503), stream(HELLO)), PoolConfig(retry=RetryPolicy(first_delay=0.1))) as (
        model,
        _,
        _,
    ):
        timeline = Timeline()
        await answer(model, timeline)
        names = [stage.stage for stage in timeline.timings()]
        assert names == ["pool", "connect", "request", "first_token", "pool", "request", "first_token"]
        assert timeline.timings()[3].duration_us > 40_000


# --- warmth -----------------------------------------------------------------------------------------------------------
async def test_warm_connections_are_there_before_the_first_request() -> None:
    async with talk(stream(HELLO), replace(CONFIG, warm=2)) as (model, upstream, client):
        assert await client.warm(upstream.url) == 2
        assert len(upstream.connections) == 2
        timeline = Timeline()
        await answer(model, timeline)
        assert "connect" not in {stage.stage for stage in timeline.timings()}
        assert len(upstream.connections) == 2
        assert not upstream.requests[1:]


async def test_warm_connections_are_replaced_before_they_are_too_old() -> None:
    async with talk(stream(HELLO), replace(CONFIG, warm=1, keepalive=0.2)) as (_, upstream, client):
        await client.warm(upstream.url)
        await until(lambda: len(upstream.connections) == 3)
        assert upstream.open


async def test_warming_an_endpoint_out_of_reach_is_no_error() -> None:
    async with ProviderClient(CONFIG) as client:
        assert await client.warm("http://127.0.0.1:1") == 0


async def test_nothing_is_left_for_the_collector() -> None:
    """An unclosed session, connection or response warns when it is collected, and warnings are errors."""
    async with talk(sequence(reply(503), stream(HELLO[:1], finish="reset"), stream(HELLO))) as (model, _, _):
        await answer(model)
        await close_early(model, 1)
    gc.collect()
