"""A breaker keeps callers from an address that is down, and lets them back as soon as it is there again."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from agentsvc.domain.providers import BreakerState
from agentsvc.providers.breaker import LONGEST, Breaker
from tests.providers.clocks import Clock

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def ticket(breaker: Breaker) -> int:
    given = breaker.begin()
    assert given is not None
    return given


def fail(breaker: Breaker, times: int = 1, *, begun: bool = False) -> None:
    for _ in range(times):
        given = ticket(breaker)
        if begun:
            breaker.began(given)
        breaker.failed(given, begun=begun)


def opened(clock: Clock, failures: int = 3, open_for: float = 10.0) -> Breaker:
    breaker = Breaker(failures, open_for, clock)
    fail(breaker, failures)
    assert breaker.state is OPEN
    return breaker


@pytest.mark.parametrize("begun", [False, True])
def test_it_opens_after_so_many_failures_in_a_row_and_not_before(begun: bool) -> None:
    breaker = Breaker(3, 10.0, Clock())
    fail(breaker, 2, begun=begun)
    assert breaker.state is CLOSED
    fail(breaker, begun=begun)
    assert (breaker.state, breaker.begin()) == (OPEN, None)


def test_a_first_token_ends_a_row_of_answers_that_never_began() -> None:
    breaker = Breaker(3, 10.0, Clock())
    long = ticket(breaker)
    fail(breaker, 2)
    breaker.began(long)
    fail(breaker, 2)
    assert breaker.state is CLOSED


def test_only_a_complete_answer_ends_a_row_of_those_that_broke_off() -> None:
    breaker = Breaker(3, 10.0, Clock())
    fail(breaker, 2, begun=True)
    breaker.succeeded(ticket(breaker))
    fail(breaker, 2, begun=True)
    breaker.began(ticket(breaker))
    assert breaker.state is CLOSED
    fail(breaker, begun=True)
    assert breaker.state is OPEN


def test_while_it_is_open_nobody_passes_and_the_time_is_told() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.passes(4.0)
    assert (breaker.begin(), breaker.wait) == (None, 6.0)


def test_after_the_pause_one_passes_at_a_time() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.passes(10.0)
    assert (breaker.state, breaker.wait) == (HALF_OPEN, 0.0)
    ticket(breaker)
    assert (breaker.state, breaker.begin()) == (HALF_OPEN, None)


def test_the_probes_first_sign_of_life_lets_everybody_in() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.passes(10.0)
    breaker.began(ticket(breaker))
    assert breaker.state is CLOSED
    assert ticket(breaker) == ticket(breaker)


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_a_minute() -> None:
    clock = Clock()
    breaker = opened(clock)
    pauses = []
    for _ in range(5):
        pauses.append(breaker.wait)
        clock.passes(breaker.wait)
        fail(breaker)
    assert pauses == [10.0, 20.0, 40.0, LONGEST, LONGEST]


def test_a_complete_answer_makes_the_pause_short_again() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.passes(10.0)
    fail(breaker)
    clock.passes(20.0)
    breaker.succeeded(ticket(breaker))
    fail(breaker, 3)
    assert breaker.wait == 10.0


def test_a_probe_whose_caller_left_makes_way_for_the_next() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.passes(10.0)
    breaker.left(ticket(breaker))
    assert breaker.state is HALF_OPEN
    ticket(breaker)


def test_a_probe_that_brings_nothing_keeps_nobody_waiting_longer_than_a_pause() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.passes(10.0)
    silent = ticket(breaker)
    clock.passes(20.0)
    breaker.succeeded(ticket(breaker))
    breaker.failed(silent, begun=False)
    assert breaker.state is CLOSED


@pytest.mark.parametrize("told", ["began", "succeeded", "failed", "left"])
def test_what_began_before_it_opened_is_too_old_to_count(told: str) -> None:
    clock = Clock()
    breaker = Breaker(3, 10.0, clock)
    old = ticket(breaker)
    fail(breaker, 3)
    if told == "failed":
        breaker.failed(old, begun=False)
    else:
        getattr(breaker, told)(old)
    assert (breaker.state, breaker.wait) == (OPEN, 10.0)


def test_with_no_number_of_failures_it_never_opens() -> None:
    breaker = Breaker(0, 10.0, Clock())
    fail(breaker, 1000)
    assert breaker.state is CLOSED


class Life(RuleBasedStateMachine):
    """Any order of answers, ends and time, told to a breaker and to the rule as one would write it down."""

    tickets = Bundle("tickets")
    FAILURES, PAUSE = 3, 10.0

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(self.FAILURES, self.PAUSE, self.clock)
        self.current: set[int] = set()  # tickets whose fate counts
        self.early = self.late = 0
        self.probe: tuple[int, float] | None = None  # and when it set out
        self.down_since: float | None = None
        self.pause = self.PAUSE

    @rule(target=tickets)
    def ask(self):
        before = self.breaker.state
        given = self.breaker.begin()
        if self.down_since is None:
            assert given is not None
        elif given is not None:
            free = self.down_since + self.pause if self.probe is None else self.probe[1] + self.following
            assert self.clock() >= free
            assert before is HALF_OPEN
            self.current, self.probe = set(), (given, self.clock())
        if given is None:
            assert self.breaker.wait > 0
            return multiple()
        self.current.add(given)
        return given

    @property
    def following(self) -> float:
        return min(2 * self.pause, LONGEST)

    @rule(given=tickets)
    def first_token(self, given: int):
        self.breaker.began(given)
        if given in self.current:
            self._alive()

    @rule(given=consumes(tickets))
    def completes(self, given: int):
        self.breaker.succeeded(given)
        if given in self.current:
            self._alive()
            self.late, self.pause, self.grown = 0, self.PAUSE, False

    grown = False

    @rule(given=consumes(tickets), begun=st.booleans())
    def fails(self, given: int, begun: bool):
        self.breaker.failed(given, begun=begun)
        if given not in self.current:
            return
        self.late, self.early = self.late + begun, self.early + (not begun)
        if self.down_since is not None or max(self.early, self.late) >= self.FAILURES:
            self.pause = self.following if self.grown else self.PAUSE
            self.grown, self.down_since, self.probe, self.current = True, self.clock(), None, set()

    @rule(given=consumes(tickets))
    def is_left(self, given: int):
        self.breaker.left(given)
        if self.probe and self.probe[0] == given:
            self.probe, self.down_since = None, self.clock() - self.pause

    @rule(seconds=st.sampled_from([0.5, 5.0, 10.0, 25.0, 70.0]))
    def time_passes(self, seconds: float):
        self.clock.passes(seconds)

    @invariant()
    def it_is_open_exactly_while_it_ought_to_be(self):
        assert (self.breaker.state is CLOSED) == (self.down_since is None)
        assert 0 <= self.breaker.wait <= LONGEST

    def teardown(self):
        """Whatever happened: a minute later somebody is let through, and a good answer ends it."""
        self.clock.passes(LONGEST)
        self.breaker.succeeded(ticket(self.breaker))
        assert self.breaker.state is CLOSED

    def _alive(self) -> None:
        self.early, self.down_since, self.probe = 0, None, None


Life.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
