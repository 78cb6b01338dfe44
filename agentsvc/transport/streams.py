"""From a run's journal to one caller: write what is there, wait, and break a long silence with a heartbeat.

A caller that takes nothing of what is waiting for it is let be for ``idle`` seconds. Then it holds no place any more and
hears SLOW_CONSUMER when it reads again; after as long once more it has left. Its write is never cut off: gRPC could send
no status behind it. When the server goes away every stream is told ``draining``, once, before anything else.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from agentsvc.domain.errors import AgentsvcError, Error, Reason
from agentsvc.domain.events import Draining, Heartbeat, RunFinished, RunStarted, RunState
from agentsvc.domain.messages import Usage
from agentsvc.engine.admission import Place
from agentsvc.engine.journal import Reader
from agentsvc.transport.codec import encode_event
from agentsvc.transport.compression import is_plain_in_a_stream
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


class Streams:
    """What all streams of a server have in common. ``heartbeat``: seconds of silence before a sign of life; ``idle``: as above."""

    def __init__(self, heartbeat: float, idle: float = math.inf) -> None:
        self.heartbeat = heartbeat
        self.idle = idle
        self.draining: Draining | None = None
        self.pulses: set[Pulse] = set()

    def drain(self, retry_after: float) -> None:
        """Tells ``draining`` to every stream, also to those that are yet to come."""
        self.draining = Draining(retry_after)
        for pulse in self.pulses:
            pulse.nudge()


async def relay(reader: Reader, call: Call, streams: Streams, place: Place) -> RunFinished:
    """Writes every event of ``reader`` up to run_finished, which it returns; closes the reader, come what may.

    ``place`` is given back early by a caller that takes nothing. gRPC sends the headers of
    a stream that is not open yet together with the first event; by themselves they would cost as much as a message.

    Raises:
        AgentsvcError: SLOW_CONSUMER when the reader fell off the journal's cap, or took nothing for too long.
    """
    pulse = Pulse(streams.heartbeat, streams.idle, (place.release, reader.close))
    streams.pulses.add(pulse)
    told = False
    write, plain = call.context.write, call.context.disable_next_message_compression
    try:
        while (finished := reader.end) is None:
            entries = reader.take()
            if streams.draining is not None and not told and (last := reader.cursor - len(entries)):
                entries = [encode_event(last, reader.elapsed_us(), 0, streams.draining), *entries]
                told = True
            if not entries:
                pulse.waiting = reader.waiting()
                await pulse.waiting
                pulse.waiting = None
                if not pulse.due:
                    continue
                pulse.due = False
                entries = [encode_event(reader.cursor, reader.elapsed_us(), 0, Heartbeat())]
            for wire in entries:
                if is_plain_in_a_stream(len(wire)):
                    plain()
                await write(wire)
                pulse.felt()
                if pulse.late:
                    raise _too_slow(streams.idle)
    except AgentsvcError:
        reader.close(detached=True)  # too slow, by our judgement: that is not leaving
        raise
    finally:
        pulse.stop()
        streams.pulses.discard(pulse)
        reader.close()
    return finished


def _too_slow(idle: float) -> AgentsvcError:
    return AgentsvcError(
        Reason.SLOW_CONSUMER,
        f"The client took nothing for {idle:g} s. Subscribe again from the last sequence received.",
    )


class Pulse:
    """Breaks a wait that took longer than ``interval`` seconds. One timer per stream; a message costs one clock reading.

    ``waiting`` is the future that is awaited at the moment, if any: a wait is broken by making it done, and ``due`` says
    that it was. A write is never broken off, and no timer is armed per message. A write that hangs for ``idle`` seconds
    makes it call the first of ``when_idle``, after as long again the second, and so on.
    """

    __slots__ = ("_hanging", "_idle", "_interval", "_last", "_loop", "_timer", "_when_idle", "due", "late", "waiting")

    def __init__(self, interval: float, idle: float = math.inf, when_idle: tuple[Callable[[], None], ...] = ()) -> None:
        self._loop = asyncio.get_running_loop()
        self._interval = interval
        self._idle = idle
        self._when_idle = when_idle
        self._last = self._loop.time()
        self._hanging = -1.0, 0.0  # the last message before the write that hangs, and since when that is known
        self.waiting: asyncio.Future[None] | None = None
        self.due = False
        self.late = 0  # for how many times ``idle`` a write has hung
        self._timer = self._loop.call_later(min(interval, idle), self._look)

    def felt(self) -> None:
        """A message was written: the silence begins anew."""
        self._last = self._loop.time()

    def nudge(self) -> bool:
        """Ends the wait that is under way, if one is: there is something else to do. Whether it did."""
        if self.waiting is None or self.waiting.done():
            return False
        self.waiting.set_result(None)
        return True

    def stop(self) -> None:
        """No more beats."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        rest = self._last + self._interval - now
        if self.waiting is None:
            # A write that is under way means that the window is shut: the caller's proxies see no silence of ours.
            self._watch_write(now)
        elif rest <= 0:
            self.due = self.nudge() or self.due
        self._timer = self._loop.call_later(min(rest if rest > 0 else self._interval, self._idle), self._look)

    def _watch_write(self, now: float) -> None:
        """Two looks that find a write, and no message written in between, have seen the same write."""
        last, since = self._hanging
        if last != self._last:
            self._hanging = self._last, now
        elif now - since >= self._idle * (self.late + 1):
            self.late += 1
            for step in self._when_idle[self.late - 1 : self.late]:
                step()


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
