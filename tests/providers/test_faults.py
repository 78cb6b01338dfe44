"""Every fault in every dialect, over a real socket: told as docs/faults.md says, once, last, and without secrets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from agentsvc.domain.errors import Reason
from agentsvc.domain.events import ModelEvent, ModelFailed, ModelFinished
from agentsvc.domain.messages import FinishReason, Message, Role, Text
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.timeline import Timeline
from agentsvc.providers.bound import BoundModel
from agentsvc.providers.client import ProviderClient
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.pool import PoolConfig, RetryPolicy
from agentsvc.providers.registry import PROVIDERS
from tests.providers.faults import (
    CUT,
    FAULTS,
    HTML,
    KEY,
    PAGE,
    VOICES,
    Breaks,
    Complains,
    Fault,
    Refuses,
    Stalls,
    Voice,
    failed_response,
    generated,
    generation_error,
    page,
)
from tests.providers.talk import text
from tests.upstream import Call, Upstream, until

PATIENCE = 0.15  # seconds
PATIENT = PoolConfig(retry=RetryPolicy(max_retries=0))
SPOKEN, LAST = "High water ", "at six."


def cases(*kinds: type) -> list[Any]:
    """Every fault of these kinds in every dialect that has it."""
    faults = [fault for fault in FAULTS if isinstance(fault.does, kinds or object)]
    return [pytest.param(name, fault, id=f"{name}-{fault.name}") for fault in faults for name in fault.dialects]


class Vendor:
    """Commits one fault. What it ``said`` comes before; a connection breaks after more than the reader has ``heard``."""

    def __init__(self, voice: Voice, fault: Refuses | Complains | Breaks | Stalls) -> None:
        self.voice = voice
        self.fault = fault
        self.said = ""
        self.heard = asyncio.Event()

    async def __call__(self, call: Call) -> None:
        match self.fault:
            case Refuses():
                await self._refuse(call, self.fault)
            case Complains(inside):
                await self._speak(call, self.voice.inside[inside])
                await call.gone()
            case Breaks("headers"):
                call.connection.reset()
            case Breaks(before, well):
                await self._speak(call, b"")
                await self.heard.wait()
                await self._break(call, before, well=well)
            case Stalls(begun):
                await self._stall(call, begun=begun)

    async def _refuse(self, call: Call, fault: Refuses) -> None:
        error = self.voice.errors.get(fault.body_of or fault.status)
        html = fault.html or error is None
        kind = "text/html" if html else "application/json"
        body = HTML if html else json.dumps(error).encode()
        await call.reply(fault.status, body, {"Content-Type": kind, **fault.headers()})

    async def _speak(self, call: Call, then: bytes) -> None:
        self.said = SPOKEN
        await call.start(content_type=self.voice.content_type)
        await call.send(self.voice.opening + self.voice.says(SPOKEN) + then)

    async def _break(self, call: Call, before: str, *, well: bool) -> None:
        self.said += LAST
        then = {"line": self.voice.says("or so")[:-12], "finish": b"", "end": self.voice.finish}[before]
        await call.send(self.voice.says(LAST) + then)
        if well:
            await call.end()
        else:
            call.connection.reset()

    async def _stall(self, call: Call, *, begun: bool) -> None:
        if begun:
            await self._speak(call, b"")
        else:
            await call.start(content_type=self.voice.content_type)
            await call.send(self.voice.opening)
        while True:
            await asyncio.sleep(PATIENCE / 10)
            await call.send(self.voice.life)


class Heard(NamedTuple):
    """One answer, read to its end, and what is left of its connection."""

    events: list[ModelEvent]
    seconds: float
    upstream: Upstream
    client: ProviderClient


def patience_with(fault: Fault) -> PoolConfig:
    match fault.does:
        case Stalls(begun=True):
            return replace(PATIENT, idle_timeout=PATIENCE)
        case Stalls(begun=False):
            return replace(PATIENT, first_token_timeout=PATIENCE)
        case _:
            return PATIENT


async def read(model: BoundModel, vendor: Vendor, client: ProviderClient) -> list[ModelEvent]:
    """All events of an answer, by a reader who comes back after the break."""
    request = ModelRequest("m-1", (Message(Role.USER, (Text("High water in Ayr?"),)),))
    events: list[ModelEvent] = []
    async for batch in model.stream(request, Timeline()):
        events += batch
        if text(events) == SPOKEN and isinstance(vendor.fault, Breaks):
            vendor.heard.set()
            if not vendor.fault.well:
                await until(lambda: not client.stats().open_connections)
    return events


@asynccontextmanager
async def suffer(voice: Voice, fault: Fault) -> AsyncIterator[Heard]:
    vendor = Vendor(voice, fault.does)
    async with Upstream(vendor) as upstream, ProviderClient(patience_with(fault)) as client:
        model = BoundModel(PROVIDERS[voice.provider], Endpoint(upstream.url, KEY), client, setting="THE_BASE_URL")
        asked = time.monotonic()
        events = await read(model, vendor, client)
        assert text(events) == vendor.said
        yield Heard(events, time.monotonic() - asked, upstream, client)


@pytest.mark.parametrize(("dialect", "fault"), cases())
async def test_a_fault_is_told_as_the_page_says(dialect: str, fault: Fault) -> None:
    told = fault.tells(dialect)
    async with suffer(VOICES[dialect], fault) as heard:
        end = heard.events[-1]
        assert isinstance(end, ModelFailed), heard.events
        assert sum(isinstance(event, ModelFailed | ModelFinished) for event in heard.events) == 1
        error = end.error
        assert (error.reason, error.retryable) == (told.reason, told.reason.retryable)
        assert error.retry_after == (None if told.retry_after is None else pytest.approx(told.retry_after, abs=1))
        assert error.provider == VOICES[dialect].provider
        assert "tell-tale" not in repr(error).lower()
        assert len(heard.upstream.requests) == 1
        assert heard.client.stats().in_flight == 0


@pytest.mark.parametrize(("dialect", "fault"), cases(Complains, Breaks, Stalls))
async def test_only_an_answer_that_ended_in_order_leaves_its_connection_open(dialect: str, fault: Fault) -> None:
    kept = int(fault.does == Breaks("finish", well=True))
    async with suffer(VOICES[dialect], fault) as heard, asyncio.timeout(1):  # 0.1 s is promised
        await until(lambda: len(heard.upstream.open) == heard.client.stats().open_connections == kept)


@pytest.mark.parametrize(("dialect", "fault"), cases(Stalls))
async def test_signs_of_life_do_not_lengthen_a_stall(dialect: str, fault: Fault) -> None:
    async with suffer(VOICES[dialect], fault) as heard:
        assert PATIENCE <= heard.seconds < 10 * PATIENCE


@pytest.mark.parametrize("dialect", [name for name, voice in VOICES.items() if voice.finish])
async def test_a_reset_after_the_finish_reason_is_no_fault(dialect: str) -> None:
    async with suffer(VOICES[dialect], Fault("", Breaks("end"), CUT)) as heard:
        end = heard.events[-1]
        assert isinstance(end, ModelFinished)
        assert end.finish_reason is FinishReason.STOP


def test_the_page_is_what_the_table_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.providers.faults writes it anew"


# --- what single vendors say -------------------------------------------------------------------------------------------
def reason_of(provider: str, *chunks: bytes) -> Reason:
    """How a stream of these chunks fails."""
    decoder = PROVIDERS[provider].dialect.decoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    (end,) = [event for event in [*events, *decoder.close()] if isinstance(event, ModelFailed)]
    return end.error.reason


def test_the_status_in_a_comment_of_dashscope_counts_however_the_stream_is_cut() -> None:
    stream = generated(":HTTP_STATUS/401\n:HTTP_STATUS/401") + generation_error(503, "ModelUnavailable")
    for cut in range(len(stream)):
        assert reason_of("qwen-native", stream[:cut], stream[cut:]) is Reason.PROVIDER_OVERLOADED


def test_a_code_of_dashscope_that_leaves_no_doubt_outweighs_its_status() -> None:
    assert reason_of("qwen-native", generation_error(400, "DataInspectionFailed")) is Reason.CONTENT_FILTER


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("image_file_too_large", Reason.PROVIDER_INVALID_REQUEST),
        ("failed_to_download_image", Reason.PROVIDER_INVALID_REQUEST),
        ("image_content_policy_violation", Reason.CONTENT_FILTER),
        ("slow_down", Reason.PROVIDER_OVERLOADED),
        ("vector_store_timeout", Reason.PROVIDER_SERVER_ERROR),
    ],
)
def test_a_failed_response_is_told_by_its_code(code: str, reason: Reason) -> None:
    assert reason_of("openai-responses", failed_response(code)) is reason
