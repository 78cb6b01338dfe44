"""How connections are kept and how often is asked again: values and arithmetic, no sockets."""

from __future__ import annotations

import random
from dataclasses import dataclass

from agentsvc.domain.errors import Error, Reason
from agentsvc.providers.sse import LINE_LIMIT

# Retryable for the caller, not for us: the patience is gone, or the peer began to answer and may have done the work.
_SPENT = frozenset({Reason.FIRST_TOKEN_TIMEOUT, Reason.IDLE_TIMEOUT, Reason.STREAM_TRUNCATED, Reason.MALFORMED_STREAM})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a request that brought no event yet is sent again. Delays in seconds.

    ``max_delay`` caps our own back-off and is the longest hint of a vendor that is waited for.
    """

    max_retries: int = 2
    first_delay: float = 0.25
    max_delay: float = 5.0

    def delay(self, error: Error, retries: int) -> float | None:
        """Seconds until the next attempt after ``retries`` retries, None to give up and tell ``error``.

        A hint longer than ``max_delay`` is not waited for: asking earlier is futile, and the caller can decide better.
        """
        if not error.retryable or error.reason in _SPENT or retries >= self.max_retries:
            return None
        hint = error.retry_after or 0.0
        if hint > self.max_delay:
            return None
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret
        return min(self.max_delay, max(hint, jitter * self.first_delay * (1 << retries)))


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """The connections to one endpoint and the patience with it. All times in seconds.

    ``connections_per_host`` 0 is no limit: a stream holds its connection, so a limit is a limit of concurrent answers,
    and waiting for it shows up as the stage ``pool``. ``warm`` connections are kept open ahead of need.
    ``first_token_timeout`` counts from sending, over all attempts; ``idle_timeout`` between events afterwards, which
    pings do not reset; ``answer_timeout`` is the former for an answer asked for in one body. ``line_limit``: bytes of one
    event of a stream (SSE) or one line of it (NDJSON); a larger one ends the answer, whoever sends it.
    """

    connections_per_host: int = 0
    warm: int = 1
    keepalive: float = 60.0
    max_age: float = 600.0  # reuse ends then, so that a changed DNS record takes the busiest connection along too
    dns_ttl: int = 30
    ca_file: str = ""  # PEM; certificate authorities to trust beside the system's, for an operator's own gateways
    connect_timeout: float = 5.0  # per address, for TCP and TLS; also for the name
    first_token_timeout: float = 60.0
    idle_timeout: float = 60.0
    answer_timeout: float = 600.0
    line_limit: int = LINE_LIMIT
    retry: RetryPolicy = RetryPolicy()


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A reading of one pool's gauges (``in_flight``, ``open_connections``) and counters since its start.

    ``retries``: requests sent again after an error. ``reconnects``: silent ones, after a kept connection turned out dead.
    """

    in_flight: int
    open_connections: int
    requests: int
    retries: int
    reconnects: int
