"""How a run can end, other than by its model: each cause of a stop has its end here."""

from __future__ import annotations

from dataclasses import dataclass

from agentsvc.domain.errors import Error, Reason
from agentsvc.domain.events import BudgetKind, RunState
from agentsvc.domain.quick import quick


@quick
@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended, or must end now."""

    state: RunState
    error: Error | None = None
    budget_kind: BudgetKind | None = None

    @classmethod
    def failed(cls, reason: Reason, message: str, state: RunState = RunState.FAILED) -> Ending:
        """An end with an error."""
        return cls(state, Error(reason, message, retryable=reason.retryable))


COMPLETED = Ending(RunState.COMPLETED)
CANCELLED = Ending.failed(Reason.CANCELLED, "The run was cancelled.", RunState.CANCELLED)
DISCONNECTED = Ending.failed(
    Reason.CANCELLED, "The last reader left, and on_disconnect ends the run.", RunState.CANCELLED
)
REPLACED = Ending.failed(Reason.CANCELLED, "A newer message of the session took its place.", RunState.CANCELLED)
DEADLINE = Ending.failed(Reason.DEADLINE, "The call's deadline passed before the run ended.")
WALL_CLOCK = Ending(RunState.BUDGET_EXCEEDED, budget_kind=BudgetKind.WALL_CLOCK)
INTERRUPTED = Ending.failed(
    Reason.RUN_INTERRUPTED, "The service is shutting down and the run could not end in time.", RunState.INTERRUPTED
)
