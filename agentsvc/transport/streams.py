"""The ends of a stream: its headers, its trailers, its status."""

from __future__ import annotations

from typing import Final

from agentsvc.domain.errors import AgentsvcError, Error, Reason
from agentsvc.domain.events import RunStarted, RunState
from agentsvc.domain.messages import Usage
from agentsvc.transport.errors import encoded
from agentsvc.transport.interceptors import REQUEST_ID, Call

RUN_ID: Final = "agentsvc-run-id"
OVERHEAD: Final = "agentsvc-overhead-us"
INPUT_TOKENS: Final = "agentsvc-input-tokens"
OUTPUT_TOKENS: Final = "agentsvc-output-tokens"
CACHED_INPUT_TOKENS: Final = "agentsvc-cached-input-tokens"
PROVIDER: Final = "agentsvc-provider"
MODEL: Final = "agentsvc-model"


async def open_stream(call: Call, run_id: str) -> None:
    """Sends the initial metadata: from now on no proxy repeats the call."""
    await call.context.send_initial_metadata(((REQUEST_ID, call.request_id), (RUN_ID, run_id)))


def set_trailers(call: Call, run_id: str, usage: Usage, overhead_us: int, started: RunStarted | None) -> None:
    """What a sidecar can bill and measure by, at the end of a call that saw a run to its end.

    ``started`` None: of a run that only the store still knows, what answered it is not known.
    """
    answered_by = ((PROVIDER, started.provider), (MODEL, encoded(started.model))) if started else ()
    call.context.set_trailing_metadata(
        (
            (REQUEST_ID, call.request_id),
            (RUN_ID, run_id),
            (OVERHEAD, str(overhead_us)),
            (INPUT_TOKENS, str(usage.input_tokens)),
            (OUTPUT_TOKENS, str(usage.output_tokens)),
            (CACHED_INPUT_TOKENS, str(usage.cached_input_tokens)),
            *answered_by,
        )
    )


def agree(state: RunState, error: Error | None) -> None:
    """Returns for ends whose status is OK, raises for the others: the status never contradicts run_finished."""
    if state in {RunState.COMPLETED, RunState.BUDGET_EXCEEDED}:
        return
    if error is None:
        reason = Reason.CANCELLED if state is RunState.CANCELLED else Reason.INTERNAL
        error = Error(reason, f"The run ended {state.value}.")
    raise AgentsvcError.of(error)
