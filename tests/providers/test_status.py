"""What is told of a provider comes from its settings and its addresses, and holds no secret."""

from __future__ import annotations

import pytest

from agentsvc.domain.providers import BreakerState
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.status import best, host, place, status
from agentsvc.providers.way import Health
from tests.providers.clocks import Clock
from tests.providers.lines import LINES

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://api.example/v1", "api.example"),
        ("http://user:secret@gateway.example:8080/v1", "gateway.example:8080"),
        ("http://[::1]:11434", "[::1]:11434"),
        ("", ""),
    ],
)
def test_a_host_is_shown_without_path_and_credentials(url: str, shown: str) -> None:
    assert host(url) == shown


def test_an_address_is_called_by_its_region_or_else_its_host() -> None:
    assert place(Endpoint("https://eu.example", "k", {"region": "eu"})) == "eu"
    assert place(Endpoint("https://eu.example", "k")) == "eu.example"


def test_a_provider_is_asked_as_much_as_the_best_of_its_addresses() -> None:
    assert best([OPEN, HALF_OPEN, CLOSED]) is CLOSED
    assert best([OPEN, HALF_OPEN]) is HALF_OPEN
    assert best([OPEN]) is OPEN


def test_addresses_are_told_once_in_the_order_of_preference_with_the_times_of_all() -> None:
    urls = ("https://b.example", "https://a.example")
    endpoints = [Endpoint(url, key, {"model": "theirs"}) for url in urls for key in ("k1", "k2")]
    health = {url: Health(clock=Clock()) for url in urls}
    for seconds, url in ((0.1, urls[0]), (0.3, urls[1])):
        health[url].latency.add(seconds)
    found = status(LINES, endpoints, (), health, {urls[0]: 2, urls[1]: 1}.__getitem__)
    assert [each.host for each in found.endpoints] == ["b.example", "a.example"]
    assert (found.host, found.warm_connections, found.default_model) == ("b.example", 3, "theirs")
    assert found.ttft is not None
    assert (found.ttft.p50, found.ttft.p99, found.ttft.samples) == (0.1, 0.3, 2)


def test_one_that_is_not_configured_has_no_addresses_and_no_state() -> None:
    found = status(LINES, [Endpoint("https://a.example")], ("LINES_API_KEY",), {}, lambda _: 0)
    assert (found.configured, found.missing_settings) == (False, ("LINES_API_KEY",))
    assert (found.breaker, found.endpoints, found.host) == (None, (), "")
