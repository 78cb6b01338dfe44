"""A token in the key's place: asked for once, renewed in time, asked for anew when refused, and no secret told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from agentsvc.domain.errors import Reason
from agentsvc.domain.events import Annotation, ModelEvent, ModelFailed, ModelFinished, TextDelta
from agentsvc.domain.ports import ChatModel, ModelRequest
from agentsvc.domain.timeline import Stage, Timeline
from agentsvc.providers import PROVIDERS, Endpoint
from agentsvc.providers.bound import BoundModel
from agentsvc.providers.client import ProviderClient
from agentsvc.providers.models import connect
from agentsvc.providers.pool import PoolConfig, RetryPolicy
from agentsvc.providers.qianfan_v1_token import QianfanV1Token
from agentsvc.providers.token_exchange import TokenModel
from agentsvc.settings import Settings
from tests.providers.native import ASKED
from tests.providers.recorded import RECORDINGS
from tests.providers.talk import failure, text
from tests.upstream import Call, Upstream, until

BAIDU = PROVIDERS["baidu-v1"]
DAYS = 86_400.0
LIFE = 30 * DAYS
KEY, SECRET = "Va5yQRHlA4Fq4eR3LT0vuXV4", "0rDSjzQ20XUj5itV7WRtznPQSzr5pVw2"
(HELLO,) = [recording for recording in RECORDINGS if recording.name == "baidu-v1/text"]
CONFIG = PoolConfig(retry=RetryPolicy(max_retries=0), first_token_timeout=5.0)


@dataclass
class Qianfan:
    """The vendor: gives out tokens 24.1, 24.2, ... and takes those in ``good``; ``refusal`` is how it refuses others."""

    good: set[str] = field(default_factory=set)
    given: int = 0
    refusal: int = 110
    status: int = 200
    life: float = LIFE
    answer: dict[str, Any] | bytes | None = None  # instead of a token
    open: asyncio.Event = field(default_factory=asyncio.Event)  # the desk
    late: asyncio.Event | None = None  # what the next answer waits for
    asked: list[dict[str, list[str]]] = field(default_factory=list)
    used: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.open.set()

    async def __call__(self, call: Call) -> None:
        parts = urlsplit(call.request.path)
        if parts.path == "/oauth/2.0/token":
            self.asked.append(parse_qs(parts.query))
            await self.open.wait()
            await call.reply(self.status, self.body())
            return
        assert parts.path.endswith("/chat/completions_pro")
        (token,) = parse_qs(parts.query)["access_token"]
        self.used.append(token)
        late, self.late = self.late, None
        if late is not None:
            await late.wait()
        if token in self.good:
            await call.reply(200, HELLO.body, HELLO.headers)
        else:
            await call.reply(
                200, b'{"error_code":%d,"error_msg":"Access token invalid: %b"}' % (self.refusal, SECRET.encode())
            )

    def body(self) -> bytes:
        if isinstance(self.answer, bytes):
            return self.answer
        if self.answer is not None:
            return json.dumps(self.answer).encode()
        self.given += 1
        self.good.add(f"24.{self.given}")
        return json.dumps({"access_token": f"24.{self.given}", "expires_in": self.life, "scope": "public"}).encode()


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Shop:
    model: ChatModel
    vendor: Qianfan
    clock: Clock
    upstream: Upstream


@asynccontextmanager
async def shop(config: PoolConfig = CONFIG, **told: Any) -> AsyncIterator[Shop]:
    vendor, clock = Qianfan(**told), Clock()
    async with Upstream(vendor) as upstream, ProviderClient(config) as client:
        assert BAIDU.tokens is not None
        endpoint = Endpoint(upstream.url, KEY, {"secret_key": SECRET})
        model, desk = [
            BoundModel(provider, endpoint, client, setting="BAIDU_V1_BASE_URL")
            for provider in (BAIDU, replace(BAIDU, dialect=BAIDU.tokens))
        ]
        yield Shop(TokenModel(model, BAIDU.tokens, desk, clock), vendor, clock, upstream)


async def answer(model: ChatModel, timeline: Timeline | None = None) -> list[ModelEvent]:
    request = ModelRequest("ernie-4.0-8k", (ASKED,))
    return [event async for events in model.stream(request, timeline or Timeline()) for event in events]


def assert_answered(events: Sequence[ModelEvent]) -> None:
    assert text(events) == HELLO.expect["text"]
    assert isinstance(events[-1], ModelFinished)


async def test_key_and_secret_are_exchanged_once_for_many_answers() -> None:
    async with shop() as here:
        for _ in range(3):
            assert_answered(await answer(here.model))
        assert here.vendor.asked == [
            {"grant_type": ["client_credentials"], "client_id": [KEY], "client_secret": [SECRET]}
        ]
        assert here.upstream.requests[0].method == "POST"
        assert here.vendor.used == ["24.1"] * 3
        assert len(here.upstream.connections) == 1


async def test_those_who_ask_at_once_share_one_token() -> None:
    async with shop() as here:
        here.vendor.open.clear()
        answers = [asyncio.create_task(answer(here.model)) for _ in range(20)]
        await here.upstream.arrived()
        here.vendor.open.set()
        for events in await asyncio.gather(*answers):
            assert_answered(events)
        assert here.vendor.given == 1


async def test_those_who_ask_at_once_share_one_failure_and_the_next_asks_again() -> None:
    async with shop(status=503, answer={}) as here:
        here.vendor.open.clear()
        answers = [asyncio.create_task(answer(here.model)) for _ in range(20)]
        await here.upstream.arrived()
        here.vendor.open.set()
        for events in await asyncio.gather(*answers):
            assert failure(events).error.reason is Reason.PROVIDER_OVERLOADED
            assert failure(events).error.retryable
        assert len(here.vendor.asked) == 1
        here.vendor.status, here.vendor.answer = 200, None
        assert_answered(await answer(here.model))


async def test_when_the_one_who_asked_leaves_another_asks() -> None:
    async with shop() as here:
        here.vendor.open.clear()
        first, second = [asyncio.create_task(answer(here.model)) for _ in range(2)]
        await here.upstream.arrived()
        first.cancel()
        await asyncio.wait([first])
        await here.upstream.connections[0].closed.wait()
        await here.upstream.arrived(2)
        here.vendor.open.set()
        assert_answered(await second)
        assert (len(here.vendor.asked), here.vendor.used) == (2, ["24.1"])


async def test_a_token_is_renewed_before_it_ends_and_not_much_before() -> None:
    async with shop() as here:
        assert_answered(await answer(here.model))
        here.clock.now += 26 * DAYS
        assert_answered(await answer(here.model))
        here.clock.now += 2 * DAYS
        assert_answered(await answer(here.model))
        assert here.vendor.used == ["24.1", "24.1", "24.2"]


async def test_a_token_that_cannot_be_renewed_serves_until_its_end() -> None:
    async with shop() as here:
        assert_answered(await answer(here.model))
        here.vendor.status, here.vendor.answer = 500, {}
        here.clock.now += 28 * DAYS
        for _ in range(3):
            assert_answered(await answer(here.model))
        assert len(here.vendor.asked) == 2  # and not with every answer
        here.clock.now += 61.0
        assert_answered(await answer(here.model))
        assert len(here.vendor.asked) == 3
        here.clock.now = 1_000.0 + LIFE - 5.0
        assert_answered(await answer(here.model))
        here.clock.now += 6.0
        assert failure(await answer(here.model)).error.reason is Reason.PROVIDER_SERVER_ERROR
        assert set(here.vendor.used) == {"24.1"}


@pytest.mark.parametrize("code", [110, 111])
async def test_a_token_refused_before_its_end_is_asked_for_anew_and_the_answer_with_it(code: int) -> None:
    async with shop(refusal=code) as here:
        assert_answered(await answer(here.model))
        here.vendor.good.clear()
        assert_answered(await answer(here.model))
        assert here.vendor.used == ["24.1", "24.1", "24.2"]
        assert_answered(await answer(here.model))
        assert here.vendor.given == 2


async def test_many_who_are_refused_at_once_ask_for_one_new_token() -> None:
    async with shop() as here:
        assert_answered(await answer(here.model))
        here.vendor.good.clear()
        for events in await asyncio.gather(*(answer(here.model) for _ in range(10))):
            assert_answered(events)
        assert here.vendor.given == 2


async def test_who_hears_late_that_the_old_token_is_refused_takes_the_new_one() -> None:
    async with shop() as here:
        assert_answered(await answer(here.model))
        here.vendor.good.clear()
        here.vendor.late = late = asyncio.Event()
        pending = asyncio.create_task(answer(here.model))
        await here.upstream.arrived(3)
        assert_answered(await answer(here.model))
        late.set()
        assert_answered(await pending)
        assert here.vendor.given == 2


async def test_a_new_token_that_is_refused_too_is_the_end() -> None:
    async with shop() as here:
        here.vendor.good = Refusing()
        error = failure(await answer(here.model)).error
        assert error.reason is Reason.PROVIDER_AUTH
        assert here.vendor.used == ["24.1", "24.2"]


class Refusing(set[str]):
    """Takes no token."""

    def add(self, element: str, /) -> None:
        pass


@pytest.mark.parametrize("code", [6, 13, 18, 336006])
async def test_other_errors_of_an_answer_ask_for_no_token(code: int) -> None:
    async with shop(refusal=code) as here:
        here.vendor.good = Refusing()
        failure(await answer(here.model))
        assert (here.vendor.given, len(here.vendor.used)) == (1, 1)


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, {"error": "invalid_client", "error_description": f"unknown client id {SECRET}"}, Reason.PROVIDER_AUTH),
        (400, {"error": "invalid_grant"}, Reason.PROVIDER_AUTH),
        (200, {"error": "invalid_client"}, Reason.PROVIDER_AUTH),
        (200, {"expires_in": 5}, Reason.PROVIDER_AUTH),
        (404, b"<html>", Reason.PROVIDER_NOT_FOUND),
        (429, {}, Reason.PROVIDER_RATE_LIMIT),
        (500, b"", Reason.PROVIDER_SERVER_ERROR),
        (200, b"<html>", Reason.MALFORMED_STREAM),
        (200, b'{"access_token":"24.x"' + b" " * 100_000 + b"}", Reason.MALFORMED_STREAM),
        (200, {"access_token": 7}, Reason.MALFORMED_STREAM),
    ],
)
async def test_an_exchange_that_fails_is_an_error_without_secrets(status: int, body: Any, reason: Reason) -> None:
    async with shop(status=status, answer=body) as here:
        (failed,) = await answer(here.model)
        assert isinstance(failed, ModelFailed)
        assert failed.error.reason is reason
        assert failed.error.provider == "baidu-v1"
        assert not any(secret in repr(failed) for secret in (KEY, SECRET))
        assert not here.vendor.used
        if reason is Reason.PROVIDER_AUTH:
            assert "BAIDU_V1_API_KEY" in failed.error.message
            assert "BAIDU_V1_SECRET_KEY or QIANFAN_SK" in failed.error.message


async def test_a_desk_that_says_nothing_is_waited_for_no_longer_than_a_first_token() -> None:
    async with shop(replace(CONFIG, first_token_timeout=0.05)) as here:
        here.vendor.open.clear()
        assert failure(await answer(here.model)).error.reason is Reason.FIRST_TOKEN_TIMEOUT
        await until(lambda: not here.upstream.open)


async def test_an_exchange_is_asked_for_again_as_any_request_is() -> None:
    async with shop(PoolConfig(retry=RetryPolicy(max_retries=1, first_delay=0.01)), status=503) as here:
        pending = asyncio.create_task(answer(here.model))
        await here.upstream.arrived()
        here.vendor.status = 200
        assert_answered(await pending)
        assert (len(here.vendor.asked), here.vendor.used) == (2, ["24.2"])


async def test_a_token_that_never_lives_is_asked_for_with_every_answer() -> None:
    async with shop(life=-1.0) as here:
        for _ in range(2):
            assert_answered(await answer(here.model))
        assert here.vendor.used == ["24.1", "24.2"]


async def test_the_wait_for_a_token_is_the_providers_time_and_explained() -> None:
    async with shop() as here:
        here.vendor.open.clear()
        timeline = Timeline()
        pending = asyncio.create_task(answer(here.model, timeline))
        await here.upstream.arrived()
        await asyncio.sleep(0.05)
        here.vendor.open.set()
        assert_answered(await pending)
        first = timeline.timings()[0]
        assert (first.stage, first.duration_us >= 50_000) == (Stage.REQUEST, True)
        assert timeline.waited_ns >= 50_000_000
        assert timeline.answered
        warm = Timeline()
        await answer(here.model, warm)
        assert warm.timings()[0].stage == Stage.POOL


# --- what is configured ---------------------------------------------------------------------------------------------
def test_the_secret_has_names_of_its_own_and_is_not_shown() -> None:
    for variables in (
        {"QIANFAN_AK": KEY, "QIANFAN_SK": SECRET},
        {"BAIDU_V1_API_KEY": KEY, "BAIDU_V1_SECRET_KEY": SECRET},
    ):
        endpoint = Settings.load(variables).endpoints["baidu-v1"][0]
        assert (endpoint.api_key, endpoint.extra["secret_key"]) == (KEY, SECRET)
        assert not any(secret in repr(endpoint) for secret in (KEY, SECRET))


@pytest.mark.parametrize(
    ("key", "extra", "served"),
    [(KEY, {"secret_key": SECRET}, True), (KEY, {}, False), ("24.6c5e.2592000.1-2", {"secret_key": SECRET}, False)],
)
def test_a_token_that_is_there_already_is_used_as_it_is(key: str, extra: dict[str, str], *, served: bool) -> None:
    assert QianfanV1Token(BAIDU.dialect.vendor).serves(Endpoint("https://x.example", key, extra)) is served  # type: ignore[attr-defined]


async def test_whoever_connects_with_a_secret_gets_a_model_that_asks_for_its_token() -> None:
    vendor = Qianfan(good={"24.own"})
    async with Upstream(vendor) as upstream:
        async with connect("baidu-v1", api_key=KEY, base_url=upstream.url, extra={"secret_key": SECRET}) as model:
            assert_answered(await answer(model))
            assert model.capabilities == BAIDU.capabilities
        async with connect("baidu-v1", api_key="24.own", base_url=upstream.url) as model:
            assert_answered(await answer(model))
        assert (vendor.given, vendor.used) == (1, ["24.1", "24.own"])


def test_a_token_whose_life_is_not_told_lives_for_thirty_days() -> None:
    assert BAIDU.tokens is not None
    decoder = BAIDU.tokens.decoder()
    assert not decoder.feed(b'{"access_token":')
    assert not decoder.feed(b'"24.1"}')
    assert decoder.close()[:2] == (TextDelta("24.1"), Annotation("expires_in", str(LIFE)))
