"""Readiness: cause by cause, told once, and never in the way of anything else."""

from __future__ import annotations

import asyncio
import logging

import pytest

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.transport.readiness import Readiness

OUTAGE = AgentsvcError(Reason.STORAGE_UNAVAILABLE, "out of reach")


@pytest.fixture
def told() -> list[bool]:
    return []


@pytest.fixture
def readiness(told: list[bool]) -> Readiness:
    async def tell(ready: bool) -> None:
        told.append(ready)

    readiness = Readiness()
    readiness.on_change = tell
    return readiness


async def test_it_is_ready_while_nothing_speaks_against_it(readiness: Readiness, told: list[bool]) -> None:
    assert readiness.reason == ""
    await readiness.lost("database", "the database is away")
    assert readiness.reason == "the database is away"
    await readiness.regained("database")
    assert readiness.reason == ""
    assert told == [False, True]


async def test_one_cause_less_is_not_none(readiness: Readiness, told: list[bool]) -> None:
    await readiness.lost("shutdown", "on its way out")
    await readiness.lost("database", "the database is away")
    await readiness.regained("database")
    assert readiness.reason == "on its way out"
    assert told == [False]


async def test_what_was_never_lost_cannot_be_regained(readiness: Readiness, told: list[bool]) -> None:
    await readiness.regained("database")
    assert told == []


class Probe:
    """Answers as it is told, then hangs; ``asked`` all is when it hangs."""

    def __init__(self, *answers: bool) -> None:
        self._answers = list(answers)
        self.asked_all = asyncio.Event()

    async def __call__(self) -> None:
        if not self._answers:
            self.asked_all.set()
            await asyncio.Event().wait()
        elif not self._answers.pop(0):
            raise OUTAGE


async def followed(readiness: Readiness, *answers: bool) -> None:
    probe = Probe(*answers)
    following = asyncio.create_task(readiness.follow("database", "the database is away", probe, 0.0))
    await probe.asked_all.wait()
    following.cancel()


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((True, True), []),
        ((False, True, False, True), []),  # one lost packet is no outage
        ((True, False, False), [False]),
        ((False, False, False, True, True), [False, True]),
        ((False, False, True, False, False), [False, True, False]),
    ],
)
async def test_it_follows_a_dependency(
    readiness: Readiness, told: list[bool], answers: tuple[bool, ...], expected: list[bool]
) -> None:
    await followed(readiness, *answers)
    assert told == expected


async def test_a_change_is_logged_once(readiness: Readiness, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "agentsvc"):
        await followed(readiness, *[False] * 10, *[True] * 10)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "the database is away" in caplog.text
