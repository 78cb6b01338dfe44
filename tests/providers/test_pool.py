"""When is asked again, and how long is waited."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsvc.domain.errors import Error, Reason
from agentsvc.providers.pool import RetryPolicy

POLICY = RetryPolicy(max_retries=2, first_delay=0.25, max_delay=5.0)


def error(reason: Reason, retry_after: float | None = None, *, retryable: bool | None = None) -> Error:
    return Error(reason, "", "", reason.retryable if retryable is None else retryable, retry_after)


@pytest.mark.parametrize("reason", list(Reason))
def test_only_what_may_pass_is_asked_again(reason: Reason) -> None:
    asked_again = POLICY.delay(error(reason), 0) is not None
    assert asked_again <= reason.retryable
    if reason.name.startswith("PROVIDER_"):
        assert asked_again is reason.retryable


@pytest.mark.parametrize("reason", [Reason.FIRST_TOKEN_TIMEOUT, Reason.IDLE_TIMEOUT, Reason.STREAM_TRUNCATED])
def test_spent_patience_and_begun_answers_are_not_asked_again(reason: Reason) -> None:
    assert POLICY.delay(error(reason), 0) is None


def test_the_vendor_may_forbid_it() -> None:
    assert POLICY.delay(error(Reason.PROVIDER_RATE_LIMIT, retryable=False), 0) is None


def test_the_vendor_may_allow_it() -> None:
    assert POLICY.delay(error(Reason.PROVIDER_INVALID_REQUEST, retryable=True), 0) is not None


def test_it_ends_after_max_retries() -> None:
    assert POLICY.delay(error(Reason.PROVIDER_OVERLOADED), 1) is not None
    assert POLICY.delay(error(Reason.PROVIDER_OVERLOADED), 2) is None
    assert RetryPolicy(max_retries=0).delay(error(Reason.PROVIDER_OVERLOADED), 0) is None


@given(retries=st.integers(0, 100), hint=st.none() | st.floats(0, 5))
def test_a_delay_grows_is_spread_and_never_above_the_cap_nor_below_the_hint(retries: int, hint: float | None) -> None:
    policy = RetryPolicy(max_retries=1000)
    delay = policy.delay(error(Reason.PROVIDER_RATE_LIMIT, hint), retries)
    assert delay is not None
    assert (hint or 0.0) <= delay <= 5.0
    assert delay >= min(5.0, 0.125 * 2**retries)


@given(hint=st.floats(5.001, 1e6))
def test_a_hint_above_the_cap_is_not_waited_for(hint: float) -> None:
    assert POLICY.delay(error(Reason.PROVIDER_RATE_LIMIT, hint), 0) is None


def test_the_aiohttp_in_use_does_not_poison_its_pool() -> None:
    """aiohttp 3.14.1 re-arms the read timer of pooled connections, so later calls time out."""
    assert tuple(map(int, version("aiohttp").split(".")[:3])) >= (3, 14, 5)
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert "aiohttp>=3.14.5" in project["project"]["dependencies"]
