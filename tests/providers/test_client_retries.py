"""What is asked again, and what never."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from dataclasses import replace

import pytest
import uvloop

from agentsvc.domain.errors import Reason
from agentsvc.providers.client import ProviderClient
from agentsvc.providers.pool import PoolConfig, RetryPolicy
from tests.providers.talk import CONFIG, HELLO, answer, failure, model_for, reason, talk, text
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


async def answer_503_and_accept_no_more(listening: socket.socket, crowd: ExitStack) -> None:
    """From then on a dial neither succeeds nor fails: the crowd fills the queue of the listening socket."""
    loop = asyncio.get_running_loop()
    accepted, _ = await loop.sock_accept(listening)
    with accepted:
        await loop.sock_recv(accepted, 65536)
        for _ in range(4):
            waiting = crowd.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        await loop.sock_sendall(accepted, b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


async def dial_in_vain() -> Reason:
    """What an answer ends with whose second attempt is still dialling when its 0.2 s are over."""
    with ExitStack() as crowd:
        listening = crowd.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        listening.setblocking(False)
        async with ProviderClient(replace(CONFIG, first_token_timeout=0.2, connect_timeout=30.0)) as client:
            model = model_for(client, f"http://127.0.0.1:{listening.getsockname()[1]}")
            asked = asyncio.ensure_future(answer(model))
            await answer_503_and_accept_no_more(listening, crowd)
            events = await asyncio.wait_for(asked, 2)
            assert client.stats().retries == 1
            return reason(events)


def test_the_patience_for_a_first_token_covers_the_dial_of_a_further_attempt() -> None:
    """Ten on uvloop, which counts in milliseconds: the dial's limit may end before the patience does, and means the same."""

    async def told() -> list[Reason]:
        return await asyncio.gather(*(dial_in_vain() for _ in range(10)))

    assert uvloop.run(told()) == [Reason.FIRST_TOKEN_TIMEOUT] * 10
