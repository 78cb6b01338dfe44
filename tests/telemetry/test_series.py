"""Our series say what prometheus-client's own would: the registry must not see the difference."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client import Histogram as TheirHistogram
from prometheus_client.core import GaugeMetricFamily

from agentsvc.telemetry.series import Histogram, Readings, Tally

BOUNDS = (0.1, 1.0, 2.5)
values = st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.5, 1.0, 2.5, 2.6, 1e9]) | st.floats(0, 10), max_size=20)


def rendered(*collectors: Any) -> list[str]:
    """Without when it was made, which is not said by ours."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@given(values, values)
def test_a_histogram_counts_as_theirs_does(good: list[float], bad: list[float]) -> None:
    ours = Histogram("took_seconds", "How long.", BOUNDS, ("end",))
    theirs = TheirHistogram("took_seconds", "How long.", ("end",), buckets=BOUNDS, registry=None)
    for end, observed in (("good", good), ("bad", bad)):
        for histogram in (ours.of(end), theirs.labels(end)):
            for value in observed:
                histogram.observe(value)
    assert rendered(ours) == rendered(theirs)


@given(st.lists(st.sampled_from(["a", "b", 'quoted "c"\n'])))
def test_a_tally_counts_as_their_counter_does(ends: list[str]) -> None:
    ours, theirs = Tally("ends", "Ends.", ("end",)), Counter("ends", "Ends.", ("end",), registry=None)
    for end in ends:
        ours.count(end)
        theirs.labels(end).inc()
    assert rendered(ours) == rendered(theirs)


def test_a_reading_is_taken_when_somebody_asks_and_not_before() -> None:
    level = [math.nan]
    ours = Readings(GaugeMetricFamily, "level", "Level.", lambda: level[0])
    theirs = Gauge("level", "Level.", registry=None)
    registry = CollectorRegistry()
    registry.register(ours)
    level[0] = 3.0
    theirs.set(3.0)
    assert generate_latest(registry).decode().splitlines() == rendered(theirs)


def test_a_reading_may_be_one_number_per_label() -> None:
    ours = Readings(GaugeMetricFamily, "level", "Level.", lambda: {("a",): 1, ("b",): 2}, ("tank",))
    assert rendered(ours)[2:] == ['level{tank="a"} 1.0', 'level{tank="b"} 2.0']
