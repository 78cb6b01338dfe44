"""docs/ tells the truth: about every setting, and in its examples."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from agentsvc import v1
from agentsvc.providers.registry import PROVIDERS
from agentsvc.variables import PREFIX, Variables, _leaves

PAGE = Path(__file__).parents[1] / "docs" / "operations.md"
TABLE = dict(re.findall(r"^\| `(AGENTSVC_\w+)` \| (?:`([^`]*)`|-) \|", PAGE.read_text(), re.MULTILINE))
SETTINGS = {PREFIX + path.upper(): default for path, default in _leaves(Variables.model_construct())}


def written(default: Any) -> str:
    match default:
        case None:
            return ""
        case bool():
            return "on" if default else "off"
        case Enum():
            return str(default.value)
        case float():
            return f"{default:g}"
        case _:
            return str(default)


def test_every_setting_is_there_and_no_other() -> None:
    assert set(TABLE) == set(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_its_default_is_the_real_one(name: str) -> None:
    assert TABLE[name] == written(SETTINGS[name])


def test_what_is_called_by_its_short_name_exists() -> None:
    short = set(re.findall(r"`(?!AGENTSVC)([A-Z]+(?:_+[A-Z]+)+)`", PAGE.read_text()))
    names = {name.removeprefix(PREFIX) for name in SETTINGS}
    assert short
    assert short <= names | {name.rpartition("__")[2] for name in names}


def test_the_fallbacks_in_the_docs_are_an_agents() -> None:
    page = PAGE.with_name("routing.md").read_text()
    (snippet,) = [line.strip() for line in page.splitlines() if line.startswith('    {"fallbacks"')]
    agent = json_format.Parse(snippet, v1.Agent())
    assert [fallback.provider for fallback in agent.fallbacks] == ["anthropic", "ollama"]
    assert {fallback.provider for fallback in agent.fallbacks} <= set(PROVIDERS)
