"""What can go wrong, and whose move it is then. The one table of reasons, gRPC codes, HTTP statuses and retryability.

    AgentsvcError
    |-- ProviderError     the vendor answered badly, late or not at all: the end of a run, never a refusal
    `-- everything else   a refusal (no run exists) or the end of a run, told apart by where it is raised

Raise ``AgentsvcError(Reason.SESSION_BUSY, "...")``; the doors translate it once. A message says to a person what
happened and what to do next; it never holds a vendor's body, a key or a stack trace.

Codes are google.rpc.Code, the HTTP mapping is the one in that file's comments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Self

from agentsvc.domain.quick import quick


class Code(IntEnum):
    """google.rpc.Code, the numbers of gRPC's canonical statuses."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @property
    def http_status(self) -> int:
        """The HTTP status that google/rpc/code.proto maps this code to."""
        return _HTTP_STATUS[self]


_HTTP_STATUS: Mapping[Code, int] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


class Reason(StrEnum):
    """Why, in one word of the contract: ``Error.reason``, ``ErrorInfo.reason`` and the problem type over HTTP."""

    PROVIDER_NOT_CONFIGURED = "PROVIDER_NOT_CONFIGURED"
    CAPABILITY_MISSING = "CAPABILITY_MISSING"
    PROVIDER_AUTH = "PROVIDER_AUTH"
    PROVIDER_PERMISSION = "PROVIDER_PERMISSION"
    PROVIDER_NOT_FOUND = "PROVIDER_NOT_FOUND"
    CONTENT_FILTER = "CONTENT_FILTER"
    PROVIDER_INVALID_REQUEST = "PROVIDER_INVALID_REQUEST"
    CONTEXT_LENGTH = "CONTEXT_LENGTH"
    PROVIDER_QUOTA = "PROVIDER_QUOTA"
    PROVIDER_RATE_LIMIT = "PROVIDER_RATE_LIMIT"
    PROVIDER_OVERLOADED = "PROVIDER_OVERLOADED"
    PROVIDER_SERVER_ERROR = "PROVIDER_SERVER_ERROR"
    PROVIDER_UNREACHABLE = "PROVIDER_UNREACHABLE"
    FIRST_TOKEN_TIMEOUT = "FIRST_TOKEN_TIMEOUT"  # noqa: S105 - a reason, not a password
    IDLE_TIMEOUT = "IDLE_TIMEOUT"
    STREAM_TRUNCATED = "STREAM_TRUNCATED"
    MALFORMED_STREAM = "MALFORMED_STREAM"
    INVALID_FIELD = "INVALID_FIELD"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    AGENT_NOT_FOUND = "AGENT_NOT_FOUND"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    RUN_NOT_FOUND = "RUN_NOT_FOUND"
    MEMORY_NOT_FOUND = "MEMORY_NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"
    INTERNAL = "INTERNAL"
    SESSION_BUSY = "SESSION_BUSY"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    RUN_NOT_WAITING = "RUN_NOT_WAITING"
    RUN_NOT_RESUMABLE = "RUN_NOT_RESUMABLE"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    OVERLOADED = "OVERLOADED"
    DRAINING = "DRAINING"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    RUN_INTERRUPTED = "RUN_INTERRUPTED"
    CURSOR_OUT_OF_RANGE = "CURSOR_OUT_OF_RANGE"
    SLOW_CONSUMER = "SLOW_CONSUMER"
    DEADLINE = "DEADLINE"
    CANCELLED = "CANCELLED"

    @property
    def code(self) -> Code:
        """The gRPC status this reason is answered with."""
        return _TABLE[self][0]

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later, unless the error itself says otherwise."""
        return _TABLE[self][1]

    @property
    def http_status(self) -> int:
        """The HTTP status of ``code``."""
        return self.code.http_status


_TABLE: Mapping[Reason, tuple[Code, bool]] = {
    Reason.PROVIDER_NOT_CONFIGURED: (Code.FAILED_PRECONDITION, False),
    Reason.CAPABILITY_MISSING: (Code.INVALID_ARGUMENT, False),
    Reason.PROVIDER_AUTH: (Code.FAILED_PRECONDITION, False),
    Reason.PROVIDER_PERMISSION: (Code.FAILED_PRECONDITION, False),
    Reason.PROVIDER_NOT_FOUND: (Code.FAILED_PRECONDITION, False),
    Reason.CONTENT_FILTER: (Code.FAILED_PRECONDITION, False),
    Reason.PROVIDER_INVALID_REQUEST: (Code.INVALID_ARGUMENT, False),
    Reason.CONTEXT_LENGTH: (Code.INVALID_ARGUMENT, False),
    Reason.PROVIDER_QUOTA: (Code.RESOURCE_EXHAUSTED, False),
    Reason.PROVIDER_RATE_LIMIT: (Code.UNAVAILABLE, True),
    Reason.PROVIDER_OVERLOADED: (Code.UNAVAILABLE, True),
    Reason.PROVIDER_SERVER_ERROR: (Code.UNAVAILABLE, True),
    Reason.PROVIDER_UNREACHABLE: (Code.UNAVAILABLE, True),
    Reason.FIRST_TOKEN_TIMEOUT: (Code.UNAVAILABLE, True),
    Reason.IDLE_TIMEOUT: (Code.UNAVAILABLE, True),
    Reason.STREAM_TRUNCATED: (Code.UNAVAILABLE, True),
    Reason.MALFORMED_STREAM: (Code.UNAVAILABLE, True),
    Reason.INVALID_FIELD: (Code.INVALID_ARGUMENT, False),
    Reason.REQUEST_ID_REUSED: (Code.INVALID_ARGUMENT, False),
    Reason.UNAUTHENTICATED: (Code.UNAUTHENTICATED, False),
    Reason.PERMISSION_DENIED: (Code.PERMISSION_DENIED, False),
    Reason.AGENT_NOT_FOUND: (Code.NOT_FOUND, False),
    Reason.SESSION_NOT_FOUND: (Code.NOT_FOUND, False),
    Reason.RUN_NOT_FOUND: (Code.NOT_FOUND, False),
    Reason.MEMORY_NOT_FOUND: (Code.NOT_FOUND, False),
    Reason.ALREADY_EXISTS: (Code.ALREADY_EXISTS, False),
    Reason.NOT_IMPLEMENTED: (Code.UNIMPLEMENTED, False),
    Reason.INTERNAL: (Code.INTERNAL, False),
    Reason.SESSION_BUSY: (Code.ABORTED, True),
    Reason.ETAG_MISMATCH: (Code.ABORTED, True),
    Reason.RUN_NOT_WAITING: (Code.FAILED_PRECONDITION, False),
    Reason.RUN_NOT_RESUMABLE: (Code.FAILED_PRECONDITION, False),
    Reason.LIMIT_EXCEEDED: (Code.RESOURCE_EXHAUSTED, True),
    Reason.OVERLOADED: (Code.RESOURCE_EXHAUSTED, True),
    Reason.DRAINING: (Code.UNAVAILABLE, True),
    Reason.STORAGE_UNAVAILABLE: (Code.UNAVAILABLE, True),
    Reason.RUN_INTERRUPTED: (Code.UNAVAILABLE, True),
    Reason.CURSOR_OUT_OF_RANGE: (Code.OUT_OF_RANGE, False),
    Reason.SLOW_CONSUMER: (Code.RESOURCE_EXHAUSTED, True),
    Reason.DEADLINE: (Code.DEADLINE_EXCEEDED, False),
    Reason.CANCELLED: (Code.CANCELLED, False),
}


@quick
@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that breaks a rule: google.rpc.BadRequest.FieldViolation."""

    field: str
    description: str


@quick
@dataclass(frozen=True, slots=True)
class Error:
    """An error as a value: what ``run_finished`` carries, GetRun returns and the store keeps.

    ``retry_after`` is in seconds, None when nobody can say. ``metadata`` becomes ErrorInfo.metadata.
    """

    reason: Reason
    message: str
    provider: str = ""
    retryable: bool = False
    retry_after: float | None = None
    violations: tuple[Violation, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def code(self) -> Code:
        """The gRPC status of the reason."""
        return self.reason.code


class AgentsvcError(Exception):
    """Everything agentsvc raises on purpose. ``error`` is the value that callers see."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        provider: str = "",
        retryable: bool | None = None,
        retry_after: float | None = None,
        violations: tuple[Violation, ...] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.error = Error(
            reason,
            message,
            provider,
            reason.retryable if retryable is None else retryable,
            retry_after,
            violations,
            metadata or {},
        )

    @property
    def reason(self) -> Reason:
        """Shorthand for ``error.reason``."""
        return self.error.reason

    @classmethod
    def of(cls, error: Error) -> Self:
        """The exception that carries this value."""
        raised = cls(error.reason, error.message)
        raised.error = error
        return raised


class ProviderError(AgentsvcError):
    """The vendor answered badly, late or not at all. Always the end of an attempt, never a refusal."""


def invalid_field(name: str, description: str) -> AgentsvcError:
    """INVALID_FIELD for one field. ``name`` is its path in the request, as in ``options.max_steps``."""
    return AgentsvcError(Reason.INVALID_FIELD, f"{name}: {description}", violations=(Violation(name, description),))
