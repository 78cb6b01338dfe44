"""What is asked again, and what never."""

from __future__ import annotations

import asyncio

import pytest

from agentsvc.domain.errors import Reason
from agentsvc.providers.pool import PoolConfig, RetryPolicy
from tests.providers.talk import HELLO, answer, failure, reason, talk, text
from tests.upstream import Call, Handler, reply, sequence, stream, until


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
        assert failure(events).error.retry_after == 48
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
        assert failure(events).error.message == "status 400, 65536 bytes"
        await upstream.connections[0].closed.wait()
