"""Cohere, the second version of its chat API. https://docs.cohere.com/reference/chat-stream"""

from agentsvc.domain.providers import Capabilities
from agentsvc.providers.cohere import Cohere
from agentsvc.providers.dialect import Provider

cohere = Provider.of(
    "cohere",
    "Cohere",
    Cohere,
    base_url="https://api.cohere.com",
    key_env=("CO_API_KEY",),
    base_url_env=("CO_API_URL",),
    default_model="command-a-03-2025",
    capabilities=Capabilities(reasoning=True, images=True, response_schema=True),
)
