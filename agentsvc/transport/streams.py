"""From a run's journal to one caller: write what is there, wait, and break a long silence with a heartbeat."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from agentsvc.domain.errors import AgentsvcError, Error, Reason
from agentsvc.domain.events import Heartbeat, RunFinished, RunState
from agentsvc.domain.messages import Usage
from agentsvc.engine.journal import Reader
from agentsvc.transport.codec import encode_event
from agentsvc.transport.interceptors import REQUEST_ID, Call

RUN_ID: Final = "agentsvc-run-id"
OVERHEAD: Final = "agentsvc-overhead-us"
INPUT_TOKENS: Final = "agentsvc-input-tokens"
OUTPUT_TOKENS: Final = "agentsvc-output-tokens"


async def open_stream(call: Call, run_id: str) -> None:
    """Sends the initial metadata: from now on no proxy repeats the call."""
    await call.context.send_initial_metadata(((REQUEST_ID, call.request_id), (RUN_ID, run_id)))


async def relay(reader: Reader, call: Call, run_id: str, heartbeat: float, *, opened: bool = False) -> RunFinished:
    """Writes every event of ``reader`` up to run_finished, which it returns; closes the reader, come what may.

    ``heartbeat``: seconds of silence before a sign of life. Unless the stream is ``opened`` already, the initial
    metadata leaves with the first event and one turn of the loop after it: by then the provider's request is on the
    wire, which it would otherwise delay by 70-90 us.

    Raises:
        AgentsvcError: SLOW_CONSUMER when the reader fell off the journal's cap.
    """
    pulse = Pulse(heartbeat)
    write = call.context.write
    try:
        while (finished := reader.end) is None:
            entries = reader.take()
            if not entries and not await pulse.silent(reader.wait):
                continue
            if not opened:
                await asyncio.sleep(0)
                await open_stream(call, run_id)
                opened = True
            for wire in entries or (encode_event(reader.cursor, reader.elapsed_us(), 0, Heartbeat()),):
                await write(wire)
            pulse.felt()
    except AgentsvcError:
        reader.close(detached=True)  # too slow, by our judgement: that is not leaving
        raise
    finally:
        pulse.stop()
        reader.close()
    return finished


class Pulse:
    """Ends a wait that took longer than ``interval`` seconds. One timer per stream; a message costs one clock reading.

    The wait is ended by cancelling the task and taking the cancellation back, as asyncio.timeout does; but a write is
    never cut off, and no timer is armed per message. Used by the task that made it.
    """

    __slots__ = ("_due", "_interval", "_last", "_loop", "_task", "_timer", "_waiting")

    def __init__(self, interval: float) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine asks
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._interval = interval
        self._last = self._loop.time()
        self._waiting = self._due = False
        self._timer = self._loop.call_later(interval, self._look)

    def felt(self) -> None:
        """A message was written: the silence begins anew."""
        self._last = self._loop.time()

    async def silent(self, wait: Callable[[], Awaitable[None]]) -> bool:
        """Awaits ``wait()``; True when the silence lasted too long before it was over."""
        self._waiting = True
        try:
            await wait()
        except asyncio.CancelledError:
            if not self._due or self._task.uncancel() > 0:
                raise  # the caller has gone, perhaps in the same instant
            return True
        finally:
            self._waiting = self._due = False
        return False

    def stop(self) -> None:
        """No more beats."""
        self._timer.cancel()

    def _look(self) -> None:
        rest = self._last + self._interval - self._loop.time()
        if rest <= 0 and self._waiting:
            self._due = True
            self._task.cancel()
        # A write that is under way means that the window is shut: the caller's proxies see no silence of ours.
        self._timer = self._loop.call_later(rest if rest > 0 else self._interval, self._look)


def set_trailers(call: Call, run_id: str, usage: Usage, overhead_us: int) -> None:
    """What a sidecar can bill and measure by, at the end of the call that started a run."""
    call.context.set_trailing_metadata(
        (
            (REQUEST_ID, call.request_id),
            (RUN_ID, run_id),
            (OVERHEAD, str(overhead_us)),
            (INPUT_TOKENS, str(usage.input_tokens)),
            (OUTPUT_TOKENS, str(usage.output_tokens)),
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
