"""Azure OpenAI: OpenAI's models under names of the customer's own (deployments), on either of two surfaces.

    {endpoint}/openai/v1/chat/completions                                              the newer one
    {endpoint}/openai/deployments/{deployment}/chat/completions?api-version=...        when an API version is set

The model of an agent is the name of a deployment. An endpoint that goes on to ``/openai/...`` or ``/models`` (Foundry) is
taken as it is. https://learn.microsoft.com/azure/ai-foundry/openai/reference
"""

from functools import partial
from urllib.parse import quote

from agentsvc.domain.ports import Capabilities
from agentsvc.providers.dialect import Endpoint, Provider
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent


def surface(endpoint: Endpoint, model: str) -> str:
    """The address of a deployment."""
    base, version = endpoint.base_url.rstrip("/"), endpoint.extra.get("api_version", "")
    if "/openai/" not in base and not base.endswith("/models"):
        root = base.removesuffix("/openai") + "/openai"
        base = f"{root}/deployments/{quote(model, safe='')}" if version else f"{root}/v1"
    query = f"?api-version={version}" if version and not base.endswith("/v1") else ""
    return f"{base}/chat/completions{query}"


azure = Provider.of(
    "azure",
    "Azure OpenAI",
    partial(OpenAIChat, accent=Accent(address=surface, key_header="api-key", key_prefix="")),
    key_env=("AZURE_OPENAI_API_KEY",),
    base_url_env=("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_BASE_URL"),
    capabilities=Capabilities(images=True, response_schema=True),
    extra_env={
        "api_version": ("AZURE_OPENAI_API_VERSION", "OPENAI_API_VERSION"),
        "model": ("AZURE_OPENAI_DEPLOYMENT", "AZURE_OPENAI_DEPLOYMENT_NAME"),
    },
)
