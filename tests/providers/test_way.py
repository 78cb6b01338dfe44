"""What an answer's fate says about the way it was asked on: its address, its key, or neither."""

from __future__ import annotations

import pytest

from agentsvc.domain.errors import Error, ProviderError, Reason
from agentsvc.domain.events import ModelFailed, ModelFinished
from agentsvc.domain.messages import FinishReason
from agentsvc.domain.providers import BreakerState
from agentsvc.providers.way import Attempt, Fault, Health, RoutingConfig, Way, fault
from tests.providers.clocks import Clock

FINISHED = ModelFinished(FinishReason.STOP, None)
ADDRESS = ["PROVIDER_SERVER_ERROR", "PROVIDER_OVERLOADED", "PROVIDER_UNREACHABLE", "FIRST_TOKEN_TIMEOUT"]
KEY = [Reason.PROVIDER_RATE_LIMIT, Reason.PROVIDER_QUOTA, Reason.PROVIDER_AUTH]
CALLER = [Reason.PROVIDER_INVALID_REQUEST, Reason.CONTEXT_LENGTH, Reason.CONTENT_FILTER, Reason.PROVIDER_NOT_FOUND]


def error(reason: str, **more: object) -> Error:
    told = Reason(reason)
    return Error(told, f"it was {told}.", "acme", **{"retryable": told.retryable, **more})


def way(clock: Clock, failures: int = 2) -> Way:
    return Way("acme", Health(RoutingConfig(failures=failures, open_for=10.0), clock))


def asked(on: Way) -> Attempt:
    attempt = on.attempt()
    attempt.begin()
    return attempt


def fails(on: Way, reason: str, times: int = 1, **more: object) -> None:
    for _ in range(times):
        attempt = asked(on)
        attempt.failed(error(reason, **more))
        attempt.close()


@pytest.mark.parametrize("reason", [*ADDRESS, "IDLE_TIMEOUT", "STREAM_TRUNCATED", "MALFORMED_STREAM"])
def test_what_breaks_on_the_way_or_at_its_end_is_the_addresss_fault(reason: str) -> None:
    assert fault(error(reason)) is Fault.ADDRESS


@pytest.mark.parametrize("reason", KEY)
def test_what_is_refused_to_a_key_is_the_keys_fault(reason: str) -> None:
    assert fault(error(reason)) is Fault.KEY


@pytest.mark.parametrize("reason", [*CALLER, Reason.PROVIDER_PERMISSION, Reason.CAPABILITY_MISSING])
def test_what_would_be_refused_anywhere_is_the_callers_fault(reason: str) -> None:
    assert fault(error(reason)) is Fault.CALLER


def test_a_model_that_gave_up_is_not_its_addresss_fault_but_a_wrong_certificate_is() -> None:
    assert fault(error("PROVIDER_SERVER_ERROR", retryable=False)) is Fault.CALLER
    assert fault(error("PROVIDER_UNREACHABLE", retryable=False)) is Fault.ADDRESS


@pytest.mark.parametrize("reason", ADDRESS)
def test_an_address_that_failed_too_often_is_not_asked_and_says_why_and_for_how_long(reason: str) -> None:
    clock = Clock()
    down = way(clock)
    fails(down, reason, 2)
    clock.passes(4.0)
    attempt = down.attempt()
    with pytest.raises(ProviderError) as refused:
        attempt.begin()
    told = refused.value.error
    assert (told.reason, told.retryable, told.retry_after) == (Reason.PROVIDER_UNREACHABLE, True, 6.0)
    assert f"it was {reason}." in told.message
    attempt.failed(told)  # as the one who asked would tell it: no failure of the address
    attempt.close()
    assert (down.health.breaker.wait, down.in_flight) == (6.0, 0)


@pytest.mark.parametrize("reason", [*KEY, *CALLER])
def test_other_failures_prove_that_the_address_is_there(reason: str) -> None:
    clock = Clock()
    up = way(clock)
    fails(up, "PROVIDER_OVERLOADED", 2)
    clock.passes(10.0)
    fails(up, reason)
    assert up.health.breaker.state is BreakerState.CLOSED


def test_what_was_never_sent_proves_nothing() -> None:
    clock = Clock()
    down = way(clock)
    fails(down, "PROVIDER_OVERLOADED", 2)
    clock.passes(10.0)
    fails(down, "CAPABILITY_MISSING")
    assert down.health.breaker.state is BreakerState.HALF_OPEN


def test_answers_that_begin_and_break_off_are_failures_too() -> None:
    broken = way(Clock())
    for _ in range(2):
        attempt = asked(broken)
        attempt.began(token=True)
        attempt.over(ModelFailed(error("STREAM_TRUNCATED")))
        attempt.close()
    assert broken.health.breaker.state is BreakerState.OPEN


@pytest.mark.parametrize(("reason", "seconds"), [(KEY[0], 1.0), (KEY[1], 60.0), (KEY[2], 60.0)])
def test_a_refused_key_rests_for_a_while_or_as_long_as_the_vendor_says(reason: str, seconds: float) -> None:
    clock = Clock()
    tired = way(clock)
    for more, rest in ((seconds, {}), (7.5, {"retry_after": 7.5})):
        fails(tired, reason, **rest)
        clock.passes(more - 0.1)
        assert tired.resting
        clock.passes(0.2)
        assert not tired.resting


def test_a_key_that_is_served_again_rests_no_longer_unless_it_had_been_asked_before() -> None:
    clock = Clock(1.0)
    key = way(clock)
    earlier = asked(key)
    clock.passes(1.0)
    fails(key, "PROVIDER_AUTH")
    earlier.began(token=True)
    assert key.resting
    clock.passes(1.0)
    asked(key).began(token=True)
    assert not key.resting


def test_the_time_to_first_token_is_learnt_once_per_answer_and_from_streams_alone() -> None:
    clock = Clock()
    here = way(clock)
    for streamed in (True, False):
        attempt = here.attempt(streamed=streamed)
        attempt.begin()
        clock.passes(0.5)
        attempt.began(token=True)
        clock.passes(5.0)
        attempt.over(FINISHED)
        attempt.close()
    assert here.health.latency.recent() == [0.5]


def test_notes_before_the_first_token_are_a_sign_of_life_but_no_time_of_a_token() -> None:
    clock = Clock()
    here = way(clock)
    attempt = asked(here)
    attempt.began(token=False)
    assert (here.health.waiting, here.health.latency.recent()) == ({}, [])


def test_an_address_that_has_fallen_silent_is_expected_to_take_longer_and_longer() -> None:
    clock = Clock()
    here = way(clock)
    asked(here).began(token=True)
    assert here.health.expected == 0.0
    silent = asked(here)
    clock.passes(3.0)
    asked(here)
    assert here.health.expected == 3.0
    silent.close()
    assert here.health.expected == pytest.approx(0.6)  # it outlasted its caller: a fifth of that is learnt


def test_a_first_token_that_never_came_is_learnt_from() -> None:
    clock = Clock()
    here = way(clock)
    asked(here).began(token=True)
    attempt = asked(here)
    clock.passes(10.0)
    attempt.failed(error("FIRST_TOKEN_TIMEOUT"))
    attempt.close()
    assert here.health.latency.expected == pytest.approx(2.0)


def test_nothing_is_left_of_an_answer_that_is_closed_however_often() -> None:
    here = way(Clock())
    attempts = [asked(here) for _ in range(3)]
    assert here.in_flight == 3
    for attempt in attempts:
        attempt.close()
        attempt.close()
        attempt.over(ModelFailed(error("PROVIDER_OVERLOADED")))
    assert (here.in_flight, here.health.waiting, here.health.breaker.state) == (0, {}, BreakerState.CLOSED)
