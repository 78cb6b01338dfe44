"""Where the time of an answer goes, and connections that are there before they are needed."""

from __future__ import annotations

import gc
from dataclasses import replace
from itertools import pairwise

from agentsvc.domain.timeline import Timeline
from agentsvc.providers.client import ProviderClient
from agentsvc.providers.pool import PoolConfig, RetryPolicy
from tests.providers.talk import CONFIG, HELLO, answer, close_early, model_for, talk, text
from tests.upstream import Upstream, reply, sequence, stream, until


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


async def test_a_name_that_is_looked_up_is_a_stage_once() -> None:
    async with Upstream(stream(HELLO)) as upstream, ProviderClient(replace(CONFIG, max_age=0.0)) as client:
        model = model_for(client, f"http://localhost:{upstream.port}")
        stages = []
        for _ in range(2):
            timeline = Timeline()
            assert text(await answer(model, timeline)) == "hello"
            stages.append([stage.stage for stage in timeline.timings()])
        assert stages[0] == ["pool", "dns", "connect", "request", "first_token"]
        assert stages[1] == ["pool", "connect", "request", "first_token"]  # remembered for ``dns_ttl``


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
    pieces = [piece for word in HELLO for piece in (0.1, word)]
    async with talk(stream(pieces)) as (model, _, _):
        timeline = Timeline()
        await answer(model, timeline)
        assert timeline.elapsed_us() > 380_000
        assert timeline.overhead_us() < 200_000


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
