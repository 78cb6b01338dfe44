"""The longest stall since any moment, for next to nothing."""

from __future__ import annotations

import asyncio
import time
from time import perf_counter_ns

from hypothesis import given
from hypothesis import strategies as st

from agentsvc.telemetry.lag import LoopLag

SECOND = 1_000_000_000
# (seconds since the tick before, by how many of its thousandths it was late): stalls do not overlap
ticks = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1000)), max_size=30)


@given(ticks, st.integers(0, 100_000))
def test_it_is_the_longest_since_then_and_of_one_that_had_begun_before_only_the_rest(
    steps: list[tuple[int, int]], moment_ms: int
) -> None:
    lag, at, seen, moment = LoopLag(), 0, [], moment_ms * SECOND // 1000
    for step, share in steps:
        at += step * SECOND
        late = step * SECOND * share // 1000
        lag.noticed(at, late)
        seen.append((at, late))
    assert lag.since(moment) == max((min(late, at - moment) for at, late in seen if at >= moment), default=0) // 1000


def test_what_is_an_hour_old_is_forgotten() -> None:
    lag = LoopLag()
    lag.noticed(1 * SECOND, 3 * SECOND)
    lag.noticed(4000 * SECOND, 1 * SECOND)
    assert lag.since(0) == 1_000_000


async def test_a_stall_is_seen_while_it_goes_on_and_after_it() -> None:
    lag, before = LoopLag(), perf_counter_ns()
    lag.start()
    try:
        time.sleep(0.35)  # noqa: ASYNC251 - the stall itself
        assert lag.since(before) >= 200_000  # the tick was due after 0.1 s
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        after = perf_counter_ns()
        assert lag.since(before) >= 200_000
        assert lag.since(after) < lag.since(before)
    finally:
        lag.stop()


async def test_a_loop_that_nobody_watches_has_no_lag() -> None:
    lag, before = LoopLag(), perf_counter_ns()
    lag.start()
    lag.stop()
    time.sleep(0.15)  # noqa: ASYNC251 - as above
    assert lag.since(before) == 0
