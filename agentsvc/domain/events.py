"""Everything that happens in a run, as immutable values of one closed union. The type is the kind: match on it.

The grammar of a run's stream, as every reader gets it (heartbeat and draining may stand anywhere and are not journaled):

    run    = RunStarted MemoryRetrieved? step* (GenerationCompleted MemoryUpdated*)? RunFinished
    step   = (delta | call | AttemptChanged | Annotation | Timings)* (ToolProgress | InputRequired | ToolResult)* StepCompleted
    delta  = TextDelta | ReasoningDelta
    call   = ToolCallStarted ToolCallArgumentsDelta* ToolCallRequested

What a provider's decoder yields is the smaller union ``ModelEvent``:

    answer = (TextDelta | ReasoningDelta | ToolCallStarted | ToolCallArgumentsDelta | Annotation)* (ModelFinished | ModelFailed)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from agentsvc.domain.agents import StreamingMode
from agentsvc.domain.errors import Error
from agentsvc.domain.messages import Cost, FinishReason, Part, ProviderState, Usage
from agentsvc.domain.quick import quick
from agentsvc.domain.timeline import StageTiming


class RunState(StrEnum):
    """QUEUED, RUNNING, WAITING_INPUT, then one end."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING_INPUT = "waiting_input"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    BUDGET_EXCEEDED = "budget_exceeded"
    INTERRUPTED = "interrupted"

    @property
    def ended(self) -> bool:
        """Whether this is one of the five ends."""
        return self not in {RunState.QUEUED, RunState.RUNNING, RunState.WAITING_INPUT}


class BudgetKind(StrEnum):
    """Which hard limit ended the run."""

    TOKENS = "tokens"
    COST = "cost"
    WALL_CLOCK = "wall_clock"
    TOOL_CALLS = "tool_calls"
    STEPS = "steps"


class ToolExecutor(StrEnum):
    """Who runs a tool: this service or the caller."""

    SERVER = "server"
    CLIENT = "client"


class ToolStatus(StrEnum):
    """How a tool call ended. UNKNOWN: found started after a crash, never started again."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    DENIED = "denied"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class MemoryOutcome(StrEnum):
    """Where retrieved memories came from, or why there are none."""

    CACHED = "cached"
    FRESH = "fresh"
    LATE = "late"
    SKIPPED = "skipped"
    FAILED = "failed"


@quick
@dataclass(frozen=True, slots=True)
class RunStarted:
    """First event; leaves when the provider's request is on its way, never waits for the model."""

    run_id: str
    session_id: str
    agent_id: str
    provider: str
    model: str
    mode: StreamingMode
    resumable: bool


@quick
@dataclass(frozen=True, slots=True)
class MemoryRetrieved:
    """What recall brought before the prompt had to leave."""

    outcome: MemoryOutcome
    items: int
    duration_us: int


@quick
@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer; never splits a code point.

    ``pieces``, here and below: in how many of the vendor's chunks it came, for who has to estimate tokens. It is no part
    of what was said.
    """

    text: str
    pieces: int = field(default=1, compare=False, repr=False)


@quick
@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's reasoning, where the vendor shows it."""

    text: str
    pieces: int = field(default=1, compare=False, repr=False)


@quick
@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """The model began a tool call; its arguments follow as deltas."""

    tool_call_id: str
    name: str


@quick
@dataclass(frozen=True, slots=True)
class ToolCallArgumentsDelta:
    """A piece of the arguments' JSON text; pieces concatenate, they do not parse alone."""

    tool_call_id: str
    fragment: str
    pieces: int = field(default=1, compare=False, repr=False)


@quick
@dataclass(frozen=True, slots=True)
class ToolCallRequested:
    """The call is complete and its arguments are valid JSON."""

    tool_call_id: str
    name: str
    arguments_json: str
    executor: ToolExecutor = ToolExecutor.SERVER
    approval_required: bool = False


@quick
@dataclass(frozen=True, slots=True)
class ToolProgress:
    """A running tool tells how far it is; not part of the model's context. ``fraction`` in 0..1, None if unknown."""

    tool_call_id: str
    message: str
    fraction: float | None = None


@quick
@dataclass(frozen=True, slots=True)
class ToolResult:
    """A tool call ended; ``content`` is what the model is told."""

    tool_call_id: str
    status: ToolStatus
    content: tuple[Part, ...]
    duration_us: int


@quick
@dataclass(frozen=True, slots=True)
class InputRequired:
    """The run parks until SubmitToolResults answers these calls."""

    tool_call_ids: tuple[str, ...]


@quick
@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time to the first delta went (with ``emit_timings``)."""

    stages: tuple[StageTiming, ...]


@quick
@dataclass(frozen=True, slots=True)
class AttemptChanged:
    """Failover: forget every event after ``discard_after_sequence`` of the attempt that failed. ``from_``/``to`` are provider/model."""

    from_: str
    to: str
    reason: str
    discard_after_sequence: int


@quick
@dataclass(frozen=True, slots=True)
class ResumabilityChanged:
    """Resume became possible or impossible."""

    resumable: bool


@quick
@dataclass(frozen=True, slots=True)
class StepCompleted:
    """One call of the model, its tools included, is over."""

    step: int
    finish_reason: FinishReason
    usage: Usage


@quick
@dataclass(frozen=True, slots=True)
class Annotation:
    """Something worth knowing beside the answer (with ``emit_metadata``): a citation, a server tool, the vendor's model name."""

    key: str
    value: str


@quick
@dataclass(frozen=True, slots=True)
class GenerationCompleted:
    """The answer is final, the session is free. ``text`` is the last step's."""

    text: str
    finish_reason: FinishReason
    total_steps: int
    usage: Usage
    timings: tuple[StageTiming, ...] = ()


@quick
@dataclass(frozen=True, slots=True)
class MemoryUpdated:
    """What extraction learnt (with ``emit_memory_updates``)."""

    operation: str
    memory_id: str
    content: str


@quick
@dataclass(frozen=True, slots=True)
class RunFinished:
    """Exactly one per run, always last. ``event_loop_lag_us``: the longest stall of the process while the run went on."""

    state: RunState
    error: Error | None
    partial_text: str
    budget_kind: BudgetKind | None
    usage: Usage
    cost: Cost | None
    persisted: bool
    framework_overhead_us: int
    event_loop_lag_us: int = 0


@quick
@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Silence, but alive. Not journaled; repeats the last sequence."""


@quick
@dataclass(frozen=True, slots=True)
class Draining:
    """Subscribe elsewhere from the last sequence. ``retry_after`` in seconds. Not journaled."""

    retry_after: float


@quick
@dataclass(frozen=True, slots=True)
class ModelFinished:
    """The model's answer ended well. ``usage`` is None when the vendor did not say."""

    finish_reason: FinishReason
    usage: Usage | None
    provider_state: ProviderState | None = None


@quick
@dataclass(frozen=True, slots=True)
class ModelFailed:
    """The model's answer ended in an error. An event and not an exception, so that what came before it in the same
    read is not lost. ``usage`` is what the vendor had reported until then, None when nothing.
    """

    error: Error
    usage: Usage | None = None


Event = (
    RunStarted
    | MemoryRetrieved
    | TextDelta
    | ReasoningDelta
    | ToolCallStarted
    | ToolCallArgumentsDelta
    | ToolCallRequested
    | ToolProgress
    | ToolResult
    | InputRequired
    | Timings
    | AttemptChanged
    | ResumabilityChanged
    | StepCompleted
    | Annotation
    | GenerationCompleted
    | MemoryUpdated
    | RunFinished
    | Heartbeat
    | Draining
)
ModelEvent = (
    TextDelta | ReasoningDelta | ToolCallStarted | ToolCallArgumentsDelta | Annotation | ModelFinished | ModelFailed
)
