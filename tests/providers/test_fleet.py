"""Several ways to one provider: the best is asked, the next one when it fails, and none that is known to be down."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import pytest

from agentsvc.domain.errors import Reason
from agentsvc.domain.events import ModelFailed, ModelFinished
from agentsvc.domain.messages import FinishReason, Usage
from agentsvc.domain.providers import BreakerState
from agentsvc.domain.timeline import Timeline
from agentsvc.providers.bound import BoundModel
from agentsvc.providers.fleet import LOOK
from agentsvc.providers.pool import PoolConfig, RetryPolicy
from tests.providers.lines import ask
from tests.providers.talk import HELLO, failure, reason, text
from tests.providers.ways import DOWN, SILENT, by_key, patient, several, slow
from tests.upstream import reply, sequence, stream, until

GREET = stream(HELLO)
ONCE = PoolConfig(retry=RetryPolicy(max_retries=0))
AT_ONCE = 1.0  # seconds until a connection is closed: ten times what is promised


async def test_one_way_is_no_fleet_and_costs_no_layer() -> None:
    async with several(GREET) as ways:
        assert isinstance(ways.model, BoundModel)
        assert text(await ways.answer()) == "hello"


@pytest.mark.parametrize("failing", [reply(503), reply(429), reply(401), stream([], finish="reset"), DOWN])
async def test_a_way_that_fails_before_its_first_token_is_not_noticed(failing: object) -> None:
    async with several(failing, GREET) as ways:
        events = await ways.answer()
        assert text(events) == "hello"
        assert events[-1] == ModelFinished(FinishReason.STOP, Usage(3, 3))
        assert ways.requests[-1] == 1
        assert ways.stats.failovers == 1


async def test_a_way_that_stays_silent_is_left_when_its_patience_is_over() -> None:
    async with several(SILENT, GREET, config=patient(0.2)) as ways:
        asked = time.monotonic()
        assert text(await ways.answer()) == "hello"
        assert 0.2 <= time.monotonic() - asked < 0.7
        await until(lambda: not ways.upstreams[0].open)


async def test_notes_are_no_token_and_what_failed_after_them_is_made_good() -> None:
    async with several(stream([b"note searching\n", 0.05, b"error PROVIDER_OVERLOADED\n"]), GREET) as ways:
        assert text(await ways.answer()) == "hello"


async def test_what_breaks_after_the_first_token_is_told_and_asked_of_nobody_else() -> None:
    async with several(stream(HELLO[:1], finish="reset"), GREET) as ways:
        events = await ways.answer()
        assert (text(events), reason(events)) == ("hel", Reason.STREAM_TRUNCATED)
        assert ways.requests == [1, 0]


async def test_what_is_the_callers_fault_is_told_and_asked_of_nobody_else() -> None:
    async with several(stream([b"error CONTEXT_LENGTH\n"]), GREET) as ways:
        assert reason(await ways.answer()) is Reason.CONTEXT_LENGTH
        assert ways.requests == [1, 0]


async def test_every_way_is_asked_once_and_then_what_a_retry_may_mend_is_told() -> None:
    async with several(reply(401), reply(503), reply(401)) as ways:
        failed = failure(await ways.answer())
        assert (failed.error.reason, failed.error.retryable) == (Reason.PROVIDER_SERVER_ERROR, True)
        assert ways.requests == [1, 1, 1]


async def test_what_failed_answers_have_cost_is_on_the_bill() -> None:
    async with several(stream([b"usage 7\n", b"error PROVIDER_OVERLOADED\n"]), GREET) as ways:
        assert (await ways.answer())[-1] == ModelFinished(FinishReason.STOP, Usage(10, 10))


async def test_the_quickest_way_gets_the_questions_and_the_others_a_look_now_and_then() -> None:
    async with several(slow(0.03), slow(0.0)) as ways:
        await ways.answers(2 * LOOK)
        assert ways.requests == [3, 2 * LOOK - 3]


async def test_ranks_follow_the_ways_when_these_change() -> None:
    async with several(GREET, slow(0.02)) as ways:
        await ways.answers(5)
        assert ways.requests == [4, 1]
        ways.upstreams[0].handler = slow(0.1)
        await ways.answers(10)
        assert ways.requests[1] > ways.requests[0]


async def test_an_address_that_falls_silent_loses_its_rank_before_any_time_out() -> None:
    async with several(GREET, slow(0.01)) as ways:
        await ways.answers(3)
        ways.upstreams[0].handler = SILENT
        waiting = asyncio.create_task(ways.answer())
        await ways.upstreams[0].arrived(3)
        await asyncio.sleep(0.05)
        before = ways.requests[1]
        await ways.answers(5)
        assert ways.requests == [3, before + 5]
        waiting.cancel()
        await asyncio.wait({waiting})


async def test_only_one_at_a_time_tries_an_address_that_nobody_knows() -> None:
    async with several(GREET, SILENT) as ways:
        await ways.answer()
        trying = asyncio.create_task(ways.answer())
        await ways.upstreams[1].arrived()
        await ways.answers(10, at_once=5)
        assert ways.requests == [11, 1]
        trying.cancel()
        await asyncio.wait({trying})


async def test_keys_of_one_address_share_the_work() -> None:
    async with several(slow(0.01), keys=("k1", "k2", "k3")) as ways:
        await ways.answers(12, at_once=3)
        assert ways.keys == {"k1": 4, "k2": 4, "k3": 4}


async def test_a_key_that_had_enough_rests_while_there_is_another() -> None:
    tired = reply(429, headers={"Retry-After": "30"})
    async with several(by_key(k1=tired, k2=GREET), keys=("k1", "k2")) as ways:
        assert {text(events) for events in await ways.answers(10)} == {"hello"}
        assert ways.keys == {"k1": 1, "k2": 10}


async def test_keys_that_have_all_had_enough_are_asked_all_the_same_for_who_knows_better_than_the_vendor() -> None:
    tired = reply(429, headers={"Retry-After": "30"})
    async with several(tired, keys=("k1", "k2")) as ways:
        for _ in range(2):
            failed = failure(await ways.answer())
            assert (failed.error.reason, failed.error.retry_after) == (Reason.PROVIDER_RATE_LIMIT, 30)
        assert ways.keys == {"k1": 2, "k2": 2}


async def test_an_address_that_is_down_is_asked_no_more() -> None:
    async with several(reply(503), GREET, failures=3, open_for=60.0) as ways:
        assert {text(events) for events in await ways.answers(10)} == {"hello"}
        assert ways.requests == [3, 10]
        assert ways.providers.breakers() == {"lines": BreakerState.CLOSED}


async def test_with_all_addresses_down_it_is_said_at_once_and_when_to_come_back() -> None:
    async with several(reply(503), DOWN, failures=1, open_for=20.0) as ways:
        assert reason(await ways.answer()) in {Reason.PROVIDER_SERVER_ERROR, Reason.PROVIDER_UNREACHABLE}
        assert ways.providers.breakers() == {"lines": BreakerState.OPEN}
        asked = time.monotonic()
        answers = await ways.answers(10)
        assert time.monotonic() - asked < 10 * 0.01  # a millisecond each is promised
        for events in answers:
            (failed,) = events
            assert isinstance(failed, ModelFailed)
            assert (failed.error.reason, failed.error.retryable) == (Reason.PROVIDER_UNREACHABLE, True)
            assert 19 < (failed.error.retry_after or 0.0) <= 20
        assert ways.requests == [1]
        assert ways.stats.failovers == 1


async def test_with_all_addresses_down_the_first_to_be_asked_again_is_named() -> None:
    late = stream([0.3], status=503)
    async with several(reply(503), late, failures=1, open_for=20.0) as ways:
        await ways.answer()
        failed = failure(await ways.answer())
        assert 19 < (failed.error.retry_after or 0.0) <= 19.7


async def test_one_way_that_is_down_is_told_as_quickly() -> None:
    async with several(DOWN, failures=2, open_for=20.0) as ways:
        told = [reason(events) for events in await ways.answers(2)]
        assert told == [Reason.PROVIDER_UNREACHABLE] * 2
        asked = time.monotonic()
        failed = failure(await ways.answer())
        assert time.monotonic() - asked < 0.01
        assert 19 < (failed.error.retry_after or 0.0) <= 20
        assert "no connection to 127.0.0.1:9" in failed.error.message


async def test_an_address_that_is_back_is_found_by_one_request_at_a_time() -> None:
    async with several(sequence(reply(503), SILENT), config=ONCE, failures=1, open_for=0.05) as ways:
        await ways.answer()
        await asyncio.sleep(0.06)
        probe = asyncio.create_task(ways.answer())
        await ways.upstreams[0].arrived(2)
        assert ways.providers.breakers() == {"lines": BreakerState.HALF_OPEN}
        assert reason(await ways.answer()) is Reason.PROVIDER_UNREACHABLE
        probe.cancel()
        await asyncio.wait({probe})
        ways.upstreams[0].handler = GREET
        assert text(await ways.answer()) == "hello"
        assert ways.providers.breakers() == {"lines": BreakerState.CLOSED}


async def test_an_address_that_is_back_is_found_though_others_serve() -> None:
    async with several(sequence(reply(503), GREET), GREET, failures=1, open_for=0.01) as ways:
        await ways.answer()
        await asyncio.sleep(0.02)
        await ways.answers(LOOK)
        assert ways.requests[0] >= 2
        assert all(endpoint.breaker is BreakerState.CLOSED for endpoint in ways.providers.providers()[0].endpoints)


async def test_who_leaves_before_the_first_token_is_asked_for_nowhere_else() -> None:
    async with several(SILENT, GREET) as ways:
        asking = asyncio.create_task(ways.answer())
        await ways.upstreams[0].arrived()
        left = time.monotonic()
        asking.cancel()
        await asyncio.wait({asking})
        await until(lambda: not ways.upstreams[0].open)
        assert time.monotonic() - left < AT_ONCE
        assert ways.requests == [1, 0]


async def test_an_answer_left_in_the_middle_closes_its_connection_and_blames_nobody() -> None:
    async with several(stream(HELLO[:1], finish="stall"), GREET, failures=1) as ways:
        async with aclosing(ways.model.stream(ask(), Timeline())) as batches:
            await anext(batches)
            left = time.monotonic()
        await until(lambda: not ways.upstreams[0].open)
        assert time.monotonic() - left < AT_ONCE
        assert ways.providers.breakers() == {"lines": BreakerState.CLOSED}


async def test_the_time_of_ways_that_failed_is_told_too() -> None:
    async with several(stream([0.05], status=503), GREET) as ways:
        timeline = Timeline()
        await ways.answer(timeline)
        names = [stage.stage for stage in timeline.timings()]
        assert names == ["pool", "connect", "request", "first_token"] * 2
        assert timeline.timings()[3].duration_us > 40_000


async def test_operators_see_the_addresses_their_breakers_and_times() -> None:
    async with several(reply(503), GREET, failures=1, open_for=60.0) as ways:
        (before,) = ways.providers.providers()
        assert (before.breaker, before.ttft, before.warm_connections) == (BreakerState.CLOSED, None, 0)
        await ways.answers(3)
        (status,) = ways.providers.providers()
        assert (status.configured, status.breaker) == (True, BreakerState.CLOSED)
        assert [(each.region, each.breaker) for each in status.endpoints] == [
            ("eu", BreakerState.OPEN),
            ("us", BreakerState.CLOSED),
        ]
        assert [each.host for each in status.endpoints] == [f"127.0.0.1:{each.port}" for each in ways.upstreams]
        assert status.ttft is not None
        assert status.ttft.samples == 3
        assert 0 < status.ttft.p50 <= status.ttft.p99 < 1
        assert status.endpoints[1].warm_connections == 1


async def test_all_addresses_are_warmed_and_their_numbers_are_added_up() -> None:
    async with several(GREET, GREET, keys=("k1", "k2")) as ways:
        await ways.providers.warm()
        assert [len(upstream.open) for upstream in ways.upstreams] == [1, 1]
        await ways.answers(4)
        stats = ways.providers.stats()["lines"]
        assert (stats.requests, stats.open_connections, stats.in_flight) == (4, 2, 0)
