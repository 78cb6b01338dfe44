"""Azure OpenAI: OpenAI's models under names of the customer's own (deployments), on either of two surfaces.

    {endpoint}/openai/v1/chat/completions                                              the newer one
    {endpoint}/openai/deployments/{deployment}/chat/completions?api-version=...        when an API version is set

The model of an agent is the name of a deployment. An endpoint that goes on to ``/openai/...`` or ``/models`` (Foundry) is
taken as it is. A key is either the resource's or a token of Entra, which lives an hour or so and is told by its form.
https://learn.microsoft.com/azure/ai-foundry/openai/reference
"""

import re
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import quote

from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Endpoint, HttpRequest, Provider
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


_KEY = "api-key"
_ENTRA = re.compile(r"eyJ[\w-]+(?:\.[\w-]*){2,}", re.ASCII)  # a JSON Web Token


@dataclass(frozen=True, slots=True)
class AzureChat(OpenAIChat):
    """Chat completions with the resource's key or with a token of Entra."""

    def encode(self, request: ModelRequest, endpoint: Endpoint) -> HttpRequest:
        """The request. A token is a bearer's, a key has a header of its own."""
        sent = OpenAIChat.encode(self, request, endpoint)
        if not _ENTRA.fullmatch(endpoint.api_key):
            return sent
        headers = {name: value for name, value in sent.headers.items() if name != _KEY}
        return replace(sent, headers=headers | {"Authorization": f"Bearer {endpoint.api_key}"})


azure = Provider.of(
    "azure",
    "Azure OpenAI",
    partial(AzureChat, accent=Accent(address=surface, key_header=_KEY, key_prefix="")),
    key_env=("AZURE_OPENAI_AD_TOKEN", "AZURE_OPENAI_API_KEY"),  # in that order as the vendor's own SDK
    base_url_env=("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_BASE_URL"),
    capabilities=Capabilities(images=True, response_schema=True),
    extra_env={
        "api_version": ("AZURE_OPENAI_API_VERSION", "OPENAI_API_VERSION"),
        "model": ("AZURE_OPENAI_DEPLOYMENT", "AZURE_OPENAI_DEPLOYMENT_NAME"),
    },
)
