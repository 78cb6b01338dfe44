"""The registry: ours, and what other packages bring."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentsvc.domain.agents import GenerationOptions, LLMConfig
from agentsvc.domain.events import ModelFinished, TextDelta
from agentsvc.domain.messages import FinishReason
from agentsvc.domain.timeline import Timeline
from agentsvc.providers import PROVIDERS, registry
from agentsvc.providers.models import Providers
from agentsvc.settings import Settings
from tests.providers.lines import ask
from tests.upstream import Upstream, stream


def test_a_provider_is_known_by_its_name() -> None:
    assert all(provider.name == name for name, provider in PROVIDERS.items())


def test_claude_and_anthropic_are_one_dialect_so_state_travels() -> None:
    assert PROVIDERS["claude"].dialect.name == PROVIDERS["anthropic"].dialect.name
    assert PROVIDERS["claude"].key_env == ("CLAUDE_API_KEY", "ANTHROPIC_API_KEY")


# What somebody else publishes: a module, and the metadata that an installer writes beside it.
ACME = """
from functools import partial
from agentsvc.providers import Accent, OpenAIChat, Provider

acme = Provider.of(
    "acme",
    "Acme",
    partial(OpenAIChat, accent=Accent(max_tokens="max_tokens")),
    base_url="https://api.acme.test/v1",
    default_model="acme-1",
)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package ``acme-agentsvc`` that is installed; its module is ``acme_agentsvc``."""
    metadata = tmp_path / "acme_agentsvc-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-agentsvc\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "acme_agentsvc", raising=False)
    return tmp_path


def enter(package: Path, source: str, value: str) -> None:
    (package / "acme_agentsvc.py").write_text(source)
    points = package / "acme_agentsvc-1.0.dist-info" / "entry_points.txt"
    points.write_text(f"[agentsvc.providers]\nacme = {value}\n")
    importlib.invalidate_caches()


async def test_another_package_brings_a_provider_and_it_streams(package: Path) -> None:
    enter(package, ACME, "acme_agentsvc:acme")
    assert set(registry.installed()) == {*PROVIDERS, "acme"}
    async with Upstream(stream([b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'])) as acme:
        settings = Settings.load({"ACME_API_KEY": "k", "ACME_BASE_URL": f"{acme.url}/v1/"})
        providers = Providers(registry.installed(), settings.endpoints)
        model, name = providers.bind(LLMConfig("acme"))
        asked = replace(ask(), model=name, generation=GenerationOptions(max_output_tokens=5))
        events = [event async for batch in model.stream(asked, Timeline()) for event in batch]
        await providers.close()
    assert events == [TextDelta("Hi"), ModelFinished(FinishReason.STOP, None)]
    assert (acme.requests[0].path, acme.requests[0].headers["authorization"]) == ("/v1/chat/completions", "Bearer k")
    assert acme.requests[0].json | {"model": "acme-1", "max_tokens": 5} == acme.requests[0].json


def test_a_package_may_replace_one_of_ours(package: Path) -> None:
    enter(package, ACME.replace('"acme",', '"openai",', 1), "acme_agentsvc:acme")
    assert registry.installed()["openai"].default_model == "acme-1"


def test_an_entry_point_that_is_no_provider_is_named(package: Path) -> None:
    enter(package, ACME, "acme_agentsvc:Accent")
    with pytest.raises(TypeError, match="acme_agentsvc:Accent"):
        registry.installed()


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    registry.installed.cache_clear()
    yield
    registry.installed.cache_clear()
