"""What a run leaves behind: its record, its turn in the session, its last event. Pure: nothing happens here.

The record is made once, when the answer is final; what readers are told at the end is the record again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from agentsvc.domain.errors import Error, Reason
from agentsvc.domain.events import RunFinished, RunState
from agentsvc.domain.messages import Cost, Message
from agentsvc.domain.quick import replace
from agentsvc.domain.runs import Run, RunRequest
from agentsvc.engine import prompt
from agentsvc.engine.endings import Ending
from agentsvc.engine.transcript import Transcript

# The vendor will not have such a question: with it in the history no later turn would pass.
_UNASKABLE = frozenset(
    {
        Reason.CAPABILITY_MISSING,
        Reason.CONTENT_FILTER,
        Reason.CONTEXT_LENGTH,
        Reason.INVALID_FIELD,
        Reason.PROVIDER_INVALID_REQUEST,
    }
)


def so_far(run: Run, transcript: Transcript, last_sequence: int) -> Run:
    """The record of a run that goes on."""
    return replace(
        run, partial_text="".join(transcript.answer.text), usage=transcript.usage, last_sequence=last_sequence
    )


def settled(
    run: Run, ending: Ending, transcript: Transcript, cost: Cost | None, *, last_sequence: int, overhead_us: int
) -> Run:
    """The record of a run that has ended; ``last_sequence`` is that of run_finished."""
    completed = ending.state is RunState.COMPLETED
    return replace(
        run,
        state=ending.state,
        text=transcript.text if completed else "",
        partial_text="" if completed else transcript.text,
        finish_reason=transcript.finish_reason,
        usage=transcript.usage,
        cost=cost,
        error=ending.error,
        budget_kind=ending.budget_kind,
        last_sequence=last_sequence,
        framework_overhead_us=overhead_us,
        end_time=datetime.now(UTC),
    )


def turn(run: Run, request: RunRequest, said: Sequence[Message]) -> tuple[Message, ...]:
    """What the session keeps of a run that was asked: the question, and what was ``said`` to it."""
    if run.error is not None and run.error.reason in _UNASKABLE and not said:
        return ()
    now = datetime.now(UTC)
    return tuple(
        replace(message, message_id=f"{run.run_id}.{position}", run_id=run.run_id, create_time=now)
        for position, message in enumerate((*prompt.question(request), *said))
    )


def finished(run: Run, *, persisted: bool, event_loop_lag_us: int = 0) -> RunFinished:
    """run_finished of a settled record."""
    return RunFinished(
        state=run.state,
        error=run.error,
        partial_text=run.partial_text,
        budget_kind=run.budget_kind,
        usage=run.usage,
        cost=run.cost,
        persisted=persisted,
        framework_overhead_us=run.framework_overhead_us,
        event_loop_lag_us=event_loop_lag_us,
    )


def final(error: Error, transcript: Transcript) -> Error:
    """The error as the caller sees it: who failed, and no promise of a retry once a tool was started for good."""
    return replace(
        error,
        provider=error.provider or transcript.provider,
        retryable=error.retryable and not transcript.started_unrepeatable,
    )
