"""What is remembered of an address's times to first token, and what is expected of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsvc.providers.latency import HORIZON, KEPT, Latency, percentiles
from tests.providers.clocks import Clock

seconds = st.floats(0.0, 600.0)


def test_of_nobody_known_nothing_is_expected() -> None:
    assert Latency(Clock()).expected is None


def test_what_is_expected_moves_towards_what_is_measured() -> None:
    latency = Latency(Clock())
    latency.add(1.0)
    assert latency.expected == 1.0
    latency.add(2.0)
    assert latency.expected == pytest.approx(1.2)
    for _ in range(50):
        latency.add(3.0)
    assert latency.expected == pytest.approx(3.0, abs=0.01)


def test_an_answer_given_up_counts_as_slower_than_usual_never_as_quicker() -> None:
    latency = Latency(Clock())
    latency.add(1.0)
    latency.outlasted(0.1)
    assert latency.expected == 1.0
    latency.outlasted(6.0)
    assert latency.expected == pytest.approx(2.0)
    assert latency.recent() == [1.0]


def test_the_first_true_value_replaces_what_was_only_guessed() -> None:
    latency = Latency(Clock())
    latency.outlasted(0.05)
    assert latency.expected == 0.05
    latency.add(2.0)
    assert latency.expected == 2.0


def test_what_is_old_says_nothing_about_now() -> None:
    clock = Clock()
    latency = Latency(clock)
    latency.add(9.0)
    clock.passes(HORIZON + 1)
    assert (latency.expected, latency.recent()) == (None, [])
    latency.add(1.0)
    assert (latency.expected, latency.recent()) == (1.0, [1.0])


@given(st.lists(seconds, max_size=3 * KEPT))
def test_it_keeps_the_latest_and_no_more_than_so_many(times: list[float]) -> None:
    latency = Latency(Clock())
    for each in times:
        latency.add(each)
    assert latency.recent() == times[-KEPT:]
    if times:
        assert min(times) <= latency.expected <= max(times) or latency.expected == pytest.approx(max(times))


def test_percentiles_are_times_that_were_measured() -> None:
    found = percentiles([each / 100 for each in range(100, 0, -1)])
    assert found is not None
    assert (found.p50, found.p95, found.p99, found.samples) == (0.5, 0.95, 0.99, 100)
    assert percentiles([]) is None


@given(st.lists(seconds, min_size=1, max_size=200))
def test_percentiles_are_in_order_and_no_fewer_are_quicker_than_they_say(times: list[float]) -> None:
    found = percentiles(times)
    assert found is not None
    assert min(times) <= found.p50 <= found.p95 <= found.p99 <= max(times)
    for time, share in ((found.p50, 0.5), (found.p95, 0.95), (found.p99, 0.99)):
        assert sum(each <= time for each in times) >= share * len(times)
