"""An observer that fails is its own problem."""

from __future__ import annotations

import logging

import pytest

from agentsvc.telemetry.harmless import Failures


def test_a_failing_observer_raises_nothing_is_counted_and_logged_ever_more_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[int] = []

    def observe(number: int) -> None:
        seen.append(number)
        raise ZeroDivisionError

    failures = Failures()
    harmless = failures.harmless(observe)
    with caplog.at_level(logging.ERROR):
        for number in range(100):
            harmless(number)
    assert seen == list(range(100))
    assert failures.count == 100
    assert [record.args for record in caplog.records] == [(1,), (2,), (4,), (8,), (16,), (32,), (64,)]


def test_one_that_works_is_heard() -> None:
    seen: list[int] = []
    failures = Failures()
    failures.harmless(seen.append)(7)
    assert (seen, failures.count) == ([7], 0)
