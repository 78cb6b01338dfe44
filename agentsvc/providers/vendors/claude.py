"""Claude: Anthropic under the model's name. Its own settings come first, Anthropic's serve it too."""

from agentsvc.providers.anthropic import Anthropic
from agentsvc.providers.dialect import Provider
from agentsvc.providers.vendors.anthropic import anthropic

claude = Provider.of(
    "claude",
    "Claude",
    Anthropic,
    base_url=anthropic.base_url,
    key_env=("ANTHROPIC_API_KEY",),
    base_url_env=("ANTHROPIC_BASE_URL",),
    default_model=anthropic.default_model,
    capabilities=anthropic.capabilities,
)
