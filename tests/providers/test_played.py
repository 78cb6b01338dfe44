"""The scripted provider, once in process and once over a socket: the same script is the same answer."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentsvc.domain.agents import GenerationOptions
from agentsvc.domain.errors import Reason
from agentsvc.domain.events import (
    ModelEvent,
    ModelFailed,
    ModelFinished,
    ReasoningDelta,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallStarted,
)
from agentsvc.domain.messages import FinishReason
from agentsvc.domain.ports import ChatModel, ModelRequest
from agentsvc.domain.timeline import Timeline
from agentsvc.providers import script
from agentsvc.providers.bound import BoundModel
from agentsvc.providers.client import ProviderClient
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.played import PlayedModel
from agentsvc.providers.pool import PoolConfig, RetryPolicy
from agentsvc.providers.registry import PROVIDERS
from tests.providers.lines import ask
from tests.scripted import scripted
from tests.upstream import Upstream

CONFIG = PoolConfig(first_token_timeout=0.6, idle_timeout=0.6, retry=RetryPolicy(max_retries=0))
WEATHER = script.Call("get_weather", {"city": "Zürich"}, fragment=3)


def request(*steps: script.Step, stream: bool = True, **options: Any) -> ModelRequest:
    told = {"script": script.write(steps), **options}
    return replace(ask(stream=stream), model="mock-demo", generation=GenerationOptions(provider_options=told))


def joined(batches: Sequence[Sequence[ModelEvent]]) -> list[Any]:
    """The events with neighbouring deltas of one kind joined, and without what only one side can know."""
    told: list[Any] = []
    for event in (event for batch in batches for event in batch):
        match event:
            case TextDelta(piece) | ReasoningDelta(piece):
                kind: Any = type(event)
            case ToolCallArgumentsDelta(call, piece):
                kind = (ToolCallArgumentsDelta, call)
            case ModelFailed(error, usage):
                told.append((error.reason, usage))
                continue
            case _:
                told.append(event)
                continue
        if told and isinstance(told[-1], list) and told[-1][0] == kind:
            told[-1][1] += piece
        else:
            told.append([kind, piece])
    return told


async def play(model: ChatModel, asked: ModelRequest) -> list[Any]:
    return joined([batch async for batch in model.stream(asked, Timeline())])


SCRIPTS: dict[str, tuple[script.Step, ...]] = {
    "text": (script.Say("Grüße, 世界 🌍", chunk=1),),
    "tools": (script.Reason("Hm. "), script.Say("Let me see."), WEATHER, script.Call("add", "{}", id="c2")),
    "delays": (script.Say("a b c d", delay=0.01), script.Pause(0.05, pings=5), script.Say(" e")),
    "refused": (script.Refuse(429, "rate_limit_exceeded", headers={"retry-after": "9"}),),
    "error frame": (script.Say("half "), script.ErrorFrame("overloaded", 503)),
    "malformed": (script.Say("half "), script.Malformed()),
    "truncated": (script.Say("half "), script.Truncate()),
    "reset": (script.Say("half "), script.Pause(0.02), script.Reset()),
    "stalled": (script.Say("half "), script.Stall()),
    "never begun": (script.Pause(5, pings=50),),
    "no usage": (script.Say("x"), script.Finish("length", usage=False)),
    "flood": (script.Flood(2000, batch=100),),
}


@pytest.mark.parametrize("steps", SCRIPTS.values(), ids=SCRIPTS.keys())
async def test_in_process_and_over_a_socket_a_script_is_one_answer(steps: tuple[script.Step, ...]) -> None:
    provider = PROVIDERS["mock"]
    async with Upstream(scripted()) as upstream, ProviderClient(CONFIG) as client:
        remote = BoundModel(provider, Endpoint(upstream.url), client, setting="MOCK_BASE_URL")
        there = await play(remote, request(*steps))
        assert upstream.requests[0].path.endswith("/chat/completions")
    here = await play(PlayedModel(provider, CONFIG), request(*steps))
    assert here == there
    assert here


async def test_in_process_a_whole_answer_is_played_too() -> None:
    events = await play(PlayedModel(PROVIDERS["mock"], CONFIG), request(script.Say("all of it"), WEATHER, stream=False))
    assert events[0] == [TextDelta, "all of it"]
    assert isinstance(events[-1], ModelFinished)


async def test_every_write_is_a_read_of_its_own() -> None:
    model = PlayedModel(PROVIDERS["mock"], CONFIG)
    batches = [batch async for batch in model.stream(request(script.Say("one two three four")), Timeline())]
    assert [batch[0] for batch in batches[:-1]] == [TextDelta(word) for word in ("one ", "two ", "three ", "four")]


async def test_leaving_needs_no_waiting() -> None:
    model = PlayedModel(PROVIDERS["mock"], CONFIG)
    async with aclosing(model.stream(request(script.Say("x"), script.Stall()), Timeline())) as answers:
        await anext(answers)
        waiting = asyncio.ensure_future(anext(answers))
        await asyncio.sleep(0)
        waiting.cancel()
        left = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert time.monotonic() - left < 0.5


async def test_a_flood_in_process_leaves_others_their_turn() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(other())
    await play(PlayedModel(PROVIDERS["mock"], CONFIG), request(script.Flood(1000, batch=10)))
    beside.cancel()
    assert turns >= 100


async def test_the_time_of_a_scripted_answer_is_the_providers() -> None:
    timeline = Timeline()
    async for _ in PlayedModel(PROVIDERS["mock"], CONFIG).stream(request(script.Say("a b", delay=0.2)), timeline):
        pass
    assert [stage.stage for stage in timeline.timings()] == ["request", "first_token"]
    assert timeline.waited_ns > 350_000_000
    assert timeline.overhead_us() < 200_000


async def test_a_request_that_cannot_be_encoded_is_an_answer_that_failed() -> None:
    model = PlayedModel(PROVIDERS["mock"], CONFIG)
    asked = replace(ask(), generation=GenerationOptions(provider_options={"stream": False}))
    ((failed,),) = [batch async for batch in model.stream(asked, Timeline())]
    assert isinstance(failed, ModelFailed)
    assert failed.error.reason is Reason.INVALID_FIELD


async def test_the_anthropic_upstream_plays_the_same_scripts() -> None:
    steps = (script.Reason("Hm. "), script.Say("Let me see."), WEATHER)
    async with Upstream(scripted(steps)) as upstream, ProviderClient(CONFIG) as client:
        model = BoundModel(PROVIDERS["anthropic"], Endpoint(upstream.url, "k"), client, setting="ANTHROPIC_BASE_URL")
        events = await play(model, replace(ask(), model="claude-sonnet-4-5"))
        assert events[:2] == [[ReasoningDelta, "Hm. "], [TextDelta, "Let me see."]]
        assert isinstance(events[2], ToolCallStarted)
        assert events[3][1] == '{"city": "Z\\u00fcrich"}'
        assert events[4].finish_reason is FinishReason.TOOL_CALLS
        assert events[4].usage.output_tokens > 0


async def test_as_a_process_of_its_own_the_upstream_tells_its_address() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.upstream", stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        async with ProviderClient(CONFIG) as client:
            model = BoundModel(PROVIDERS["mock"], Endpoint(url), client, setting="MOCK_BASE_URL")
            assert (await play(model, replace(ask("a b"), model="mock-echo")))[0] == [TextDelta, "a b"]
    finally:
        process.kill()
        await process.wait()
