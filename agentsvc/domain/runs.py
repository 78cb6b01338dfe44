"""A run: one question of a caller and everything that follows from it. The request, the record, the policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from agentsvc.domain.agents import Budget, GenerationOptions, MemoryOptions, ModelRef, StreamingOptions
from agentsvc.domain.errors import Error
from agentsvc.domain.events import BudgetKind, RunState
from agentsvc.domain.messages import NO_USAGE, Cost, FinishReason, Message, Part, ToolCall, Usage
from agentsvc.domain.quick import quick


class TokenRole(StrEnum):
    """What a token may do. An ADMIN token may do all that a CALLER token may."""

    CALLER = "caller"
    ADMIN = "admin"


@quick
@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, as the bearer token alone says it. ``tenant_id`` is the organisation; every store call is scoped by it."""

    tenant_id: str
    token_id: str
    role: TokenRole

    @property
    def is_admin(self) -> bool:
        """Whether admin RPCs are open to it."""
        return self.role is TokenRole.ADMIN


class OnDisconnect(StrEnum):
    """What becomes of a run when its last reader is gone."""

    CANCEL = "cancel"
    CONTINUE = "continue"
    CONTINUE_FOR = "continue_for"


class OnSessionBusy(StrEnum):
    """What becomes of a call whose session has a run already."""

    REJECT = "reject"
    QUEUE = "queue"
    INTERRUPT = "interrupt"


class ToolChoiceMode(StrEnum):
    """Whether the model may, must not or must call a tool."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    TOOL = "tool"  # exactly the one named


@quick
@dataclass(frozen=True, slots=True)
class ToolChoice:
    """``name`` is set exactly when ``mode`` is TOOL."""

    mode: ToolChoiceMode = ToolChoiceMode.AUTO
    name: str = ""


@quick
@dataclass(frozen=True, slots=True)
class RunOptions:
    """A call's own wishes; None means the agent's, and below that the service's default."""

    provider: str = ""
    model: str = ""
    generation: GenerationOptions = GenerationOptions()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_schema: Mapping[str, Any] | None = None
    max_steps: int | None = None
    streaming: StreamingOptions = StreamingOptions()
    memory: MemoryOptions = MemoryOptions()
    budget: Budget = Budget()
    on_disconnect: OnDisconnect = OnDisconnect.CANCEL
    continue_for: float = 0.0  # seconds; CONTINUE_FOR only
    on_session_busy: OnSessionBusy = OnSessionBusy.REJECT
    fallbacks: tuple[ModelRef, ...] = ()


NO_OPTIONS = RunOptions()
"""Of the call that says nothing: all is the agent's. The one value, so that it is known by identity."""


@quick
@dataclass(frozen=True, slots=True)
class RunRequest:
    """One StreamChat or Chat call, validated and without protobuf.

    ``history`` not None: the caller's own, instead of the session's. ``fingerprint`` identifies the request's content:
    the same ``request_id`` with another fingerprint is REQUEST_ID_REUSED. ``deadline`` is a ``time.monotonic`` reading.
    """

    agent_id: str
    parts: tuple[Part, ...]
    session_id: str = ""
    history: tuple[Message, ...] | None = None
    store: bool = True
    instructions: str | None = None
    user_id: str = ""
    request_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    options: RunOptions = NO_OPTIONS
    fingerprint: str = ""
    deadline: float | None = None


@quick
@dataclass(frozen=True, slots=True)
class Run:
    """The record of a run: what GetRun returns and the store keeps."""

    run_id: str
    agent_id: str
    session_id: str = ""
    user_id: str = ""
    request_id: str = ""
    fingerprint: str = ""
    state: RunState = RunState.RUNNING
    text: str = ""
    partial_text: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage = NO_USAGE
    cost: Cost | None = None
    error: Error | None = None
    budget_kind: BudgetKind | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    pending_tool_calls: tuple[ToolCall, ...] = ()
    first_sequence: int = 0
    last_sequence: int = 0
    framework_overhead_us: int = 0
    create_time: datetime | None = None
    end_time: datetime | None = None
