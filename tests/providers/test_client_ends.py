"""The ends of an answer that nobody wants: silence, truncation, errors, no way there."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace

import pytest

from agentsvc.domain.errors import Reason
from agentsvc.domain.events import ModelEvent, ModelFinished
from agentsvc.domain.messages import Usage
from agentsvc.domain.timeline import Timeline
from agentsvc.providers.bound import BoundModel
from agentsvc.providers.client import ProviderClient
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.pool import PoolConfig, RetryPolicy
from tests.providers.lines import LINES, ask
from tests.providers.talk import CONFIG, HELLO, answer, failure, model_for, reason, talk, text
from tests.upstream import Call, Upstream, reply, sequence, stream, until

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
        assert "lines" in failure(events).error.message
        await upstream.connections[0].closed.wait()


async def test_the_patience_for_a_first_token_covers_all_attempts() -> None:
    config = replace(CONFIG, first_token_timeout=0.6)
    async with talk(sequence(stream([0.5], status=503), stream([], finish="stall")), config) as (model, _, _):
        asked = time.monotonic()
        assert reason(await answer(model)) is Reason.FIRST_TOKEN_TIMEOUT
        assert time.monotonic() - asked < 1.0


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
        assert failure(events).usage == Usage(7, 7)
        await upstream.connections[0].closed.wait()


async def test_an_annotation_is_progress_but_no_token() -> None:
    config = replace(CONFIG, first_token_timeout=0.15)
    async with talk(stream([0.05, b"note searching\n", 0.25, *HELLO]), config) as (model, _, _):
        timeline = Timeline()
        assert text(await answer(model, timeline)) == "hello"
        assert timeline.timings()[-1].duration_us > 280_000


async def test_tokens_do_end_it() -> None:
    pieces = [piece for _ in range(30) for piece in (b"text x\n", 0.02)]
    async with talk(stream([*pieces, b"end\n"]), replace(CONFIG, idle_timeout=0.5)) as (model, _, _):
        assert text(await answer(model)) == "x" * 30


async def test_a_reader_that_takes_its_time_is_no_silence_of_the_provider() -> None:
    config = replace(CONFIG, idle_timeout=0.2)
    async with talk(stream([b"text hel\n", 0.02, b"text lo\n", b"end\n"]), config) as (model, _, _):
        batches: list[ModelEvent] = []
        async for events in model.stream(ask(), Timeline()):
            batches += events
            await asyncio.sleep(0.5)
        assert text(batches) == "hello"
        assert isinstance(batches[-1], ModelFinished)


async def test_a_whole_answer_has_its_own_patience() -> None:
    config = replace(CONFIG, first_token_timeout=0.05, answer_timeout=5.0)

    async def slow(call: Call) -> None:
        await asyncio.sleep(0.2)
        await call.reply(200, b"".join(HELLO))

    async with talk(slow, config) as (model, _, _):
        assert text(await answer(model, streamed=False)) == "hello"


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
        assert "LINES_BASE_URL" in failure(events).error.message


async def test_a_redirect_is_not_followed() -> None:
    async with talk(reply(302, headers={"Location": "http://127.0.0.1:1/"})) as (model, upstream, _):
        assert reason(await answer(model)) is Reason.PROVIDER_SERVER_ERROR
        assert len(upstream.requests) == 3  # as any server error here: what a status means is the dialect's word


@pytest.mark.parametrize("status", [101, 204, 304])
async def test_a_status_without_a_body_is_a_refusal_at_once(status: int) -> None:
    async def bodiless(call: Call) -> None:
        await call.raw(b"HTTP/1.1 %d Told\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n" % status)

    async with talk(bodiless, PoolConfig(retry=RetryPolicy(max_retries=0))) as (model, _, client):
        events = await asyncio.wait_for(answer(model), 1)
        assert failure(events).error.message == f"status {status}, 0 bytes"
        assert client.stats().in_flight == 0


async def test_a_body_that_cannot_be_read_on_ends_the_answer_at_once() -> None:
    async def garbled(call: Call) -> None:
        await call.start()
        await call.send(b"text hel\n")
        await asyncio.sleep(0.02)
        await call.raw(b"zz\r\n\r\n")  # where the size of a chunk should be
        await call.gone()

    async with talk(garbled) as (model, upstream, _):
        events = await asyncio.wait_for(answer(model), 1)
        assert text(events) == "hel"
        assert reason(events) is Reason.STREAM_TRUNCATED
        await asyncio.wait_for(upstream.connections[0].closed.wait(), 1)


async def test_a_refusal_in_the_middle_of_the_question_does_not_wait_until_the_peer_has_read_it() -> None:
    async def told(model: BoundModel) -> list[ModelEvent]:
        return [event async for events in model.stream(ask("x" * 20_000_000), Timeline()) for event in events]

    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        async with ProviderClient(PoolConfig(retry=RetryPolicy(max_retries=0))) as client:
            asked = asyncio.ensure_future(told(model_for(client, f"http://127.0.0.1:{listening.getsockname()[1]}")))
            accepted, _ = await loop.sock_accept(listening)
            with accepted:
                await loop.sock_recv(accepted, 1000)  # and no more: the rest of the question waits
                await loop.sock_sendall(accepted, b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
                assert failure(await asked).error.message == "status 413, 2 bytes"
                await asyncio.wait_for(until(lambda: not client.stats().open_connections), 1)


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
        message = failure(events).error.message
        assert says in message
        assert "LINES_BASE_URL" in message
        assert "hunter2" not in message
        assert "secret" not in message


async def test_a_key_that_no_header_can_hold_is_told_without_showing_it() -> None:
    async with Upstream(stream(HELLO)) as upstream, ProviderClient(CONFIG) as client:
        model = BoundModel(LINES, Endpoint(upstream.url, "sec\nret"), client, setting="LINES_BASE_URL")
        events = await answer(model)
        assert reason(events) is Reason.PROVIDER_UNREACHABLE
        assert not failure(events).error.retryable
        assert "ret" not in failure(events).error.message.replace("retry", "")
        assert not upstream.requests


async def test_closing_the_client_ends_what_is_under_way() -> None:
    async with talk(stream(HELLO[:1], finish="stall")) as (model, _, client):
        answers = model.stream(ask(), Timeline())
        await anext(answers)
        waiting = asyncio.ensure_future(anext(answers))
        await asyncio.sleep(0)
        await client.close()
        assert reason(list(await asyncio.wait_for(waiting, 5))) is Reason.STREAM_TRUNCATED
        later = await answer(model)
        assert reason(later) is Reason.PROVIDER_UNREACHABLE
        assert "its connections are closed" in failure(later).error.message
        assert not failure(later).error.retryable
