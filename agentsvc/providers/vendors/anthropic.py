"""Anthropic, the Messages API. https://docs.anthropic.com/en/api/messages"""

from agentsvc.domain.providers import Capabilities
from agentsvc.providers.anthropic import Anthropic
from agentsvc.providers.dialect import Provider

anthropic = Provider.of(
    "anthropic",
    "Anthropic",
    Anthropic,
    base_url="https://api.anthropic.com",
    default_model="claude-sonnet-4-5",
    capabilities=Capabilities(reasoning=True, images=True, files=True, response_schema=True),
)
