"""Who can be asked: every provider by its id.

A provider is a line here, or an entry point of another package in the group ``agentsvc.providers`` that loads a
``Provider``:

    [project.entry-points."agentsvc.providers"]
    acme = "acme_agentsvc:acme"
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points

from agentsvc.domain.ports import Capabilities
from agentsvc.providers.anthropic import Anthropic
from agentsvc.providers.dialect import Provider
from agentsvc.providers.errors import Vendor
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent

GROUP = "agentsvc.providers"

_CLAUDE = Capabilities(reasoning=True, images=True, files=True, response_schema=True)

openai = Provider(
    name="openai",
    dialect=OpenAIChat(
        Vendor("openai", "OpenAI", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
        Accent(headers={"organization": "OpenAI-Organization", "project": "OpenAI-Project"}),
    ),
    base_url="https://api.openai.com/v1",
    key_env=("OPENAI_API_KEY",),
    base_url_env=("OPENAI_BASE_URL",),
    default_model="gpt-5-mini",
    capabilities=Capabilities(images=True, files=True, response_schema=True),
    extra_env={"organization": "OPENAI_ORG_ID", "project": "OPENAI_PROJECT_ID"},
)
anthropic = Provider(
    name="anthropic",
    dialect=Anthropic(Vendor("anthropic", "Anthropic", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")),
    base_url="https://api.anthropic.com",
    key_env=("ANTHROPIC_API_KEY",),
    base_url_env=("ANTHROPIC_BASE_URL",),
    default_model="claude-sonnet-4-5",
    capabilities=_CLAUDE,
)
# The same dialect under the model's name. Its own settings come first.
claude = Provider(
    name="claude",
    dialect=Anthropic(Vendor("claude", "Claude", "CLAUDE_API_KEY", "CLAUDE_BASE_URL")),
    base_url="https://api.anthropic.com",
    key_env=("CLAUDE_API_KEY", "ANTHROPIC_API_KEY"),
    base_url_env=("CLAUDE_BASE_URL", "ANTHROPIC_BASE_URL"),
    default_model="claude-sonnet-4-5",
    capabilities=_CLAUDE,
)
mock = Provider(
    name="mock",
    dialect=OpenAIChat(Vendor("mock", "Mock", "MOCK_API_KEY", "MOCK_BASE_URL")),
    key_env=("MOCK_API_KEY",),
    base_url_env=("MOCK_BASE_URL",),
    needs_key=False,
    default_model="mock-demo",
    capabilities=Capabilities(reasoning=True, response_schema=True),
)

PROVIDERS: Mapping[str, Provider] = {provider.name: provider for provider in (openai, anthropic, claude, mock)}


@cache
def installed() -> Mapping[str, Provider]:
    """``PROVIDERS`` and those that other packages bring. A package may replace one of ours by its id.

    Loaded at the first call and not at import, since such a package imports this one.

    Raises:
        TypeError: an entry point is no ``Provider``.
    """
    found = dict(PROVIDERS)
    for point in entry_points(group=GROUP):
        provider = point.load()
        if not isinstance(provider, Provider):
            raise TypeError(f"the entry point {point.value} of the group {GROUP} is no agentsvc Provider")
        found[provider.name] = provider
    return found
