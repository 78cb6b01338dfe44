"""Hedging: a question that waits too long is asked a second time, the quicker answer is taken, the other one is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from itertools import pairwise

import pytest

from agentsvc.domain.errors import Reason
from agentsvc.domain.events import Annotation, ModelEvent, ModelFinished, TextDelta
from agentsvc.domain.timeline import Timeline
from tests.providers.lines import ask
from tests.providers.talk import HELLO, reason, text
from tests.providers.ways import DOWN, SILENT, Ways, several, slow
from tests.upstream import Upstream, reply, sequence, stream, until

HEDGE = 0.1
GREET = stream(HELLO)
AT_ONCE = 1.0  # seconds until a loser's connection is closed: ten times what is promised


async def closed(upstream: Upstream, since: float) -> float:
    """Seconds from ``since`` until the client had closed its connections."""
    await until(lambda: not upstream.open)
    return max(connection.closed_at for connection in upstream.connections) - since


async def learnt(ways: Ways) -> None:
    """Every address is known, so that ranks decide: the first one is the quickest."""
    usual = [upstream.handler for upstream in ways.upstreams]
    for upstream, seconds in zip(ways.upstreams, (0.0, 0.02), strict=False):
        upstream.handler = slow(seconds)
    await ways.answers(len(usual))
    for upstream, handler in zip(ways.upstreams, usual, strict=True):
        upstream.handler = handler


def notes(events: Sequence[ModelEvent]) -> list[Annotation]:
    return [event for event in events if isinstance(event, Annotation)]


async def test_the_second_address_answers_for_the_silent_one_whose_connection_is_closed_at_once() -> None:
    async with several(SILENT, slow(0.05), hedge_after=HEDGE) as ways:
        await learnt(ways)
        asked = time.monotonic()
        async with aclosing(ways.model.stream(ask(), Timeline())) as batches:
            first = await anext(batches)
            answered = time.monotonic()
            assert await closed(ways.upstreams[0], answered) < AT_ONCE
            rest = [event async for events in batches for event in events]
        assert HEDGE + 0.05 <= answered - asked < HEDGE + 0.05 + AT_ONCE
        assert text([*first, *rest]) == "hello"
        (note,) = notes([*first, *rest])
        assert note.key == "hedge"
        assert note.value.startswith("eu was overtaken by us after 0.1")
        assert note.value.endswith("; about 1 input tokens more")
        assert (ways.stats.hedges, ways.stats.hedges_won, ways.stats.hedge_tokens) == (1, 1, 1)


async def test_a_first_token_in_time_is_asked_for_once() -> None:
    async with several(slow(0.02), GREET, hedge_after=5.0) as ways:
        events = await ways.answer()
        assert (text(events), notes(events)) == ("hello", [])
        assert ways.requests == [1, 0]
        assert ways.stats.hedges == 0


async def test_the_first_may_still_win() -> None:
    async with several(slow(HEDGE + 0.05), SILENT, hedge_after=HEDGE) as ways:
        await learnt(ways)
        events = await ways.answer()
        assert text(events) == "hello"
        assert notes(events)[0].value.startswith("us was overtaken by eu after 0.0")
        await until(lambda: not ways.upstreams[1].open)
        assert (ways.stats.hedges, ways.stats.hedges_won, ways.stats.hedge_tokens) == (1, 0, 1)


async def test_one_address_is_asked_again_on_another_connection() -> None:
    async with several(sequence(SILENT, GREET), hedge_after=HEDGE) as ways:
        events = await ways.answer()
        assert text(events) == "hello"
        assert notes(events)[0].value.startswith("127.0.0.1:")
        (upstream,) = ways.upstreams
        assert len(upstream.connections) == 2
        await upstream.connections[0].closed.wait()
        assert not upstream.connections[1].closed.is_set()


async def test_an_answer_asked_for_in_one_piece_is_asked_for_once() -> None:
    async with several(slow(3 * HEDGE), hedge_after=HEDGE) as ways:
        assert text(await ways.answer(stream=False)) == "hello"
        assert ways.requests == [1]


@pytest.mark.parametrize("failing", [reply(503), stream([0.05], status=503)])
async def test_a_second_that_fails_leaves_the_race_to_the_first(failing: object) -> None:
    async with several(slow(3 * HEDGE), failing, hedge_after=HEDGE) as ways:
        await learnt(ways)
        events = await ways.answer()
        assert (text(events), notes(events)) == ("hello", [])


async def test_a_first_that_fails_is_followed_by_the_next_without_a_hedge() -> None:
    async with several(DOWN, GREET, hedge_after=5.0) as ways:
        assert text(await ways.answer()) == "hello"
        assert (ways.stats.failovers, ways.stats.hedges) == (1, 0)


async def test_when_both_fail_one_error_is_told() -> None:
    late = stream([2 * HEDGE], status=503)
    async with several(late, reply(401), hedge_after=HEDGE) as ways:
        await learnt(ways)
        events = await ways.answer()
        assert len(events) == 1
        assert reason(events) is Reason.PROVIDER_SERVER_ERROR


async def test_what_is_the_callers_fault_ends_the_race() -> None:
    async with several(SILENT, stream([b"error CONTEXT_LENGTH\n"]), hedge_after=HEDGE) as ways:
        await learnt(ways)
        assert reason(await ways.answer()) is Reason.CONTEXT_LENGTH
        await until(lambda: not ways.upstreams[0].open)


@pytest.mark.parametrize("phase", ["before the hedge", "during the race", "after the first token"])
async def test_who_leaves_takes_both_connections_along(phase: str) -> None:
    second = stream([b"text hel\n"], finish="stall") if phase == "after the first token" else SILENT
    async with several(SILENT, second, hedge_after=HEDGE) as ways:
        await learnt(ways)
        before = sum(ways.requests)
        heard = asyncio.Event()

        async def read() -> None:
            async for events in ways.model.stream(ask(), Timeline()):
                assert any(isinstance(event, TextDelta) for event in events)
                heard.set()

        reading = asyncio.create_task(read())
        await until(lambda: sum(ways.requests) == before + (1 if phase == "before the hedge" else 2))
        if phase == "after the first token":
            await heard.wait()
        left = time.monotonic()
        reading.cancel()
        await asyncio.wait({reading})
        assert reading.cancelled()
        for upstream in ways.upstreams[: 1 if phase == "before the hedge" else 2]:
            assert await closed(upstream, left) < AT_ONCE


async def test_the_stages_of_the_winner_follow_the_wait_for_the_other_without_a_gap() -> None:
    async with several(SILENT, stream([0.05, *HELLO[:2], 0.2, *HELLO[2:]]), hedge_after=HEDGE) as ways:
        await learnt(ways)
        timeline = Timeline()
        async with aclosing(ways.model.stream(ask(), timeline)) as batches:
            await anext(batches)
            ttft = timeline.elapsed_us()
            async for _ in batches:
                pass
        stages = timeline.timings()
        assert [stage.stage for stage in stages] == ["first_token", "pool", "request", "first_token"]
        assert all(a.start_us + a.duration_us == b.start_us for a, b in pairwise(stages))
        assert stages[0].duration_us >= HEDGE * 1e6
        assert abs(stages[-1].start_us + stages[-1].duration_us - ttft) < 10_000
        # Two that wait at the same time have not waited twice.
        assert timeline.waited_ns // 1000 <= timeline.elapsed_us()
        assert timeline.overhead_us() < 50_000


async def test_the_second_answer_of_a_run_adds_waiting_and_no_stages() -> None:
    async with several(SILENT, slow(0.05), hedge_after=HEDGE) as ways:
        await learnt(ways)
        timeline = Timeline()
        timeline.answered = True
        assert isinstance((await ways.answer(timeline))[-1], ModelFinished)
        assert timeline.timings() == ()
        assert timeline.waited_ns > (HEDGE + 0.04) * 1e9


async def test_a_slow_address_is_known_as_slow_though_it_never_wins() -> None:
    async with several(SILENT, slow(0.01), hedge_after=HEDGE) as ways:
        await learnt(ways)
        await ways.answers(3)
        assert ways.stats.hedges < 3
        assert ways.requests[1] > ways.requests[0] - 1


async def test_nothing_is_left_when_it_is_over() -> None:
    async with several(SILENT, GREET, hedge_after=HEDGE) as ways:
        before = asyncio.all_tasks()
        await learnt(ways)
        await ways.answers(2)
        await until(lambda: asyncio.all_tasks() <= before)
