"""The registry: ours, and what other packages bring."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from agentsvc.providers import PROVIDERS, Provider, registry


def test_a_provider_is_known_by_its_name() -> None:
    assert set(PROVIDERS) == {"openai", "anthropic", "claude", "mock"}
    assert all(provider.name == name for name, provider in PROVIDERS.items())


def test_claude_and_anthropic_are_one_dialect_so_state_travels() -> None:
    assert PROVIDERS["claude"].dialect.name == PROVIDERS["anthropic"].dialect.name
    assert PROVIDERS["claude"].key_env == ("CLAUDE_API_KEY", "ANTHROPIC_API_KEY")


@pytest.mark.parametrize("name", ["openai", "anthropic", "claude", "mock"])
def test_errors_speak_in_the_providers_name(name: str) -> None:
    provider = PROVIDERS[name]
    error = provider.dialect.error(401, {}, b"")
    assert error.provider == name
    assert provider.key_env[0] in error.message


def plugged(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    points = [EntryPoint("acme", value, registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.GROUP else [])
    registry.installed.cache_clear()


def test_another_package_brings_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged(monkeypatch, "tests.providers.test_registry:ACME")
    assert registry.installed()["acme"].base_url == "https://api.acme.test"
    assert set(PROVIDERS) < set(registry.installed())


def test_an_entry_point_that_is_no_provider_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged(monkeypatch, "json:dumps")
    with pytest.raises(TypeError, match="json:dumps"):
        registry.installed()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    registry.installed.cache_clear()


ACME = Provider("acme", PROVIDERS["openai"].dialect, "https://api.acme.test")
