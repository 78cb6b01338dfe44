"""What providers can do, and how they are doing as this process sees it: what ListProviders tells operators."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agentsvc.domain.quick import quick


@quick
@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider's dialect can carry."""

    tools: bool = True
    parallel_tool_calls: bool = True
    tool_choice: bool = True
    reasoning: bool = False
    images: bool = False
    files: bool = False
    response_schema: bool = False


class BreakerState(StrEnum):
    """Whether an address is asked: always, not at all, or by one request at a time that sees whether it is back."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@quick
@dataclass(frozen=True, slots=True)
class TimeToFirstToken:
    """Seconds that 50, 95 and 99 of 100 answers undercut, and how many answers that rests on."""

    p50: float
    p95: float
    p99: float
    samples: int


@quick
@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """One address of a provider. ``host`` as in its URL, without path or credentials; ``region`` is the operator's name."""

    region: str
    host: str
    breaker: BreakerState
    warm_connections: int


@quick
@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """One provider. ``missing_settings`` are environment variables; empty when it is configured.

    ``breaker`` is the best of its addresses', None where it is not configured; ``ttft`` None before its first answer.
    """

    provider: str
    display_name: str
    configured: bool
    missing_settings: tuple[str, ...]
    default_model: str
    capabilities: Capabilities
    breaker: BreakerState | None = None
    ttft: TimeToFirstToken | None = None
    endpoints: tuple[EndpointStatus, ...] = ()

    @property
    def host(self) -> str:
        """Of the address that is preferred; empty where there is none."""
        return self.endpoints[0].host if self.endpoints else ""

    @property
    def warm_connections(self) -> int:
        """Idle ones that the next request finds open, over all addresses."""
        return sum(endpoint.warm_connections for endpoint in self.endpoints)
