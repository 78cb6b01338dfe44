"""The upstream says what a provider says, as its model name asks for."""

import asyncio
import re
import time

import aiohttp
import msgspec
import pytest

from bench.upstream import TOKEN_BYTES, WORD_BYTES


@pytest.fixture
def url(upstream):
    return f"http://127.0.0.1:{upstream.port}"


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(session, url, model):
    async with session.post(f"{url}/v1/chat/completions", json={"model": model, "stream": True}) as response:
        assert response.status == 200
        body = await response.read()
    *events, end = body.split(b"\n\n")
    assert end == b""
    assert events.pop() == b"data: [DONE]"
    return [msgspec.json.decode(event.removeprefix(b"data: ")) for event in events]


def texts(chunks):
    return [
        c["choices"][0]["delta"]["content"] for c in chunks if c["choices"] and c["choices"][0]["delta"].get("content")
    ]


@pytest.mark.parametrize(
    ("model", "tokens"),
    [("flood-8", 8), ("flood-5000", 5000), ("paced-7-1-2", 7), ("paced-1-0-0", 1), ("thinking-3-1-5", 3)],
)
async def test_as_many_tokens_as_asked_for_then_the_reason_the_usage_and_the_end(session, url, model, tokens):
    chunks = await ask(session, url, model)
    assert [len(text) for text in texts(chunks)] == [WORD_BYTES] * tokens
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == tokens


def test_a_token_weighs_what_a_real_one_weighs():
    assert 280 <= TOKEN_BYTES <= 300


async def test_a_stamped_token_is_the_time_at_which_it_left(session, url):
    before = time.monotonic_ns()
    stamps = texts(await ask(session, url, "stamped-3-1-1"))
    assert all(re.fullmatch(r"@\d{19}", stamp) for stamp in stamps)
    times = [before, *(int(stamp[1:]) for stamp in stamps), time.monotonic_ns()]
    assert times == sorted(times)


async def test_a_model_that_thinks_says_nothing_before_and_is_punctual(session, url):
    late = []
    for _ in range(5):
        began = time.monotonic()
        async with session.post(url, json={"model": "thinking-2-200-20"}) as response:
            late.append(time.monotonic() - began - 0.020)
            first = await response.content.readany()
        assert first.count(b"data: ") == 2  # the role and the first token, behind the headers in one packet
    assert min(late) >= 0
    assert min(late) < 0.02


async def test_connections_are_kept_and_idle_answers_are_counted_until_the_caller_is_gone(session, url):
    async def open_answers():
        async with session.get(f"{url}/stats") as response:
            return await response.json(content_type=None)

    first = await open_answers()
    async with session.post(url, json={"model": "idle"}) as response:
        assert response.status == 200
        assert (await open_answers())["open"] == 1
        response.close()
    async with asyncio.timeout(10):
        while (stats := await open_answers())["open"]:
            pass
    assert stats["requests"] > first["requests"]
    assert stats["cpu_ns"] >= first["cpu_ns"] > 0


async def test_an_unknown_model_is_said_to_be_unknown(session, url):
    async with session.post(url, json={"model": "gpt"}) as response:
        assert response.status == 404
