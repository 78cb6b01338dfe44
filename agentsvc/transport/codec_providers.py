"""How the providers are doing, on the wire and off it: an operator's command reads what the service writes."""

from __future__ import annotations

from agentsvc import v1
from agentsvc.domain.providers import BreakerState, Capabilities, EndpointStatus, ProviderStatus, TimeToFirstToken
from agentsvc.transport.codec_values import Names

breaker_states = Names(BreakerState, v1.BreakerState.Value, "BREAKER_STATE")
_CAPABILITIES = Capabilities.__dataclass_fields__  # their names are the contract's


def to_provider(status: ProviderStatus) -> v1.Provider:
    """A provider as it travels."""
    return v1.Provider(
        provider=status.provider,
        display_name=status.display_name,
        configured=status.configured,
        missing_settings=status.missing_settings,
        default_model=status.default_model,
        host=status.host,
        capabilities=_to_capabilities(status.capabilities),
        breaker_state=breaker_states.wire[status.breaker],
        ttft=_to_ttft(status.ttft),
        warm_connections=status.warm_connections,
        endpoints=[_to_endpoint(endpoint) for endpoint in status.endpoints],
    )


def from_provider(wire: v1.Provider) -> ProviderStatus:
    """A provider as another process sees it."""
    ttft = wire.ttft
    return ProviderStatus(
        wire.provider,
        wire.display_name,
        wire.configured,
        tuple(wire.missing_settings),
        wire.default_model,
        Capabilities(**{name: getattr(wire.capabilities, name) for name in _CAPABILITIES}),
        breaker_states.ours(wire.breaker_state),
        TimeToFirstToken(ttft.p50_ms / 1e3, ttft.p95_ms / 1e3, ttft.p99_ms / 1e3, ttft.samples)
        if wire.HasField("ttft")
        else None,
        tuple(_from_endpoint(endpoint) for endpoint in wire.endpoints),
    )


def _to_capabilities(capabilities: Capabilities) -> v1.ProviderCapabilities:
    """All that we ask stream their answers."""
    return v1.ProviderCapabilities(streaming=True, **{name: getattr(capabilities, name) for name in _CAPABILITIES})


def _to_ttft(ttft: TimeToFirstToken | None) -> v1.TimeToFirstToken | None:
    if ttft is None:
        return None
    return v1.TimeToFirstToken(
        p50_ms=ttft.p50 * 1e3, p95_ms=ttft.p95 * 1e3, p99_ms=ttft.p99 * 1e3, samples=ttft.samples
    )


def _to_endpoint(endpoint: EndpointStatus) -> v1.ProviderEndpoint:
    return v1.ProviderEndpoint(
        region=endpoint.region,
        host=endpoint.host,
        breaker_state=breaker_states.wire[endpoint.breaker],
        warm_connections=endpoint.warm_connections,
    )


def _from_endpoint(wire: v1.ProviderEndpoint) -> EndpointStatus:
    state = breaker_states.said(wire.breaker_state, BreakerState.CLOSED)
    return EndpointStatus(wire.region, wire.host, state, wire.warm_connections)
