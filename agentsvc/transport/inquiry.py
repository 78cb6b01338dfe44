"""A running service asked from outside how its providers are doing: what `agentsvc providers` runs."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.protobuf.json_format import MessageToJson

from agentsvc import v1
from agentsvc.client import AgentClient, AgentError
from agentsvc.domain.providers import ProviderStatus
from agentsvc.transport.codec_providers import from_provider, to_provider

_PATIENCE = 5.0  # seconds
_ALL = 1000


async def providers_of(target: str, token: str) -> Sequence[ProviderStatus] | None:
    """The providers as the service on ``target`` (host:port) sees them; None: nobody answers there.

    Raises:
        AgentError: the service refuses.
    """
    async with AgentClient(target, token) as client:
        stub = v1.ProviderServiceStub(client.channel)
        try:
            response = await stub.ListProviders(
                v1.ListProvidersRequest(page_size=_ALL), metadata=client.metadata, timeout=_PATIENCE
            )
        except grpc.aio.AioRpcError as error:
            refusal = AgentError.from_rpc(error)
            if refusal.code is grpc.StatusCode.UNAVAILABLE and not refusal.reason:
                return None
            raise refusal from error
    return [from_provider(provider) for provider in response.providers]


def json_of(providers: Sequence[ProviderStatus]) -> str:
    """As ListProviders answers in JSON, with every field that can be told."""
    response = v1.ListProvidersResponse(providers=[to_provider(provider) for provider in providers])
    return MessageToJson(response, always_print_fields_with_no_presence=True)
