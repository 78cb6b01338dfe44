"""From a run's journal to one caller: each event is handed to gRPC in the moment in which it is appended.

No task sits between. A task would be woken once for every event and once more for every write that is over, which costs
a short answer more than its events; here the journal's append begins the write, and the end of a write begins the next.
What is appended meanwhile waits in the journal, where it costs nothing.

A caller that takes nothing of what is waiting for it is let be for ``idle`` seconds. Then it holds no place any more and
hears SLOW_CONSUMER when it reads again; after as long once more it has left. Its write is never cut off: gRPC could send
no status behind it. When the server goes away every stream is told ``draining``, once, before anything else.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import Draining, Event, Heartbeat, RunFinished
from agentsvc.engine.admission import Place
from agentsvc.engine.journal import Reader
from agentsvc.transport.codec import encode_event
from agentsvc.transport.compression import is_plain_in_a_stream
from agentsvc.transport.interceptors import Call, Context


class Streams:
    """What all streams of a server have in common. ``heartbeat``: seconds of silence before a sign of life; ``idle``: as above."""

    def __init__(self, heartbeat: float, idle: float = math.inf) -> None:
        self.heartbeat = heartbeat
        self.idle = idle
        self.draining: Draining | None = None
        self.relays: set[Relay] = set()

    def drain(self, retry_after: float) -> None:
        """Tells ``draining`` to every stream, also to those that are yet to come."""
        self.draining = Draining(retry_after)
        for relay in tuple(self.relays):
            relay.go_on()


async def relay(reader: Reader, call: Call, streams: Streams, place: Place) -> RunFinished:
    """Writes every event of ``reader`` up to run_finished, which it returns; closes the reader, come what may.

    ``place`` is given back early by a caller that takes nothing. gRPC sends the headers of
    a stream that is not open yet together with the first event; by themselves they would cost as much as a message.

    Raises:
        AgentsvcError: SLOW_CONSUMER when the reader fell off the journal's cap, or took nothing for too long.
    """
    try:
        # A run that was just started has its first turn now: the provider's request leaves before anything is made ready
        # for its answer.
        await asyncio.sleep(0)
        return await _relayed(reader, call, streams, place)
    except AgentsvcError:
        reader.close(detached=True)  # too slow, by our judgement: that is not leaving
        raise
    finally:
        reader.close()


async def _relayed(reader: Reader, call: Call, streams: Streams, place: Place) -> RunFinished:
    stream = Relay(reader, call.context, streams, place)
    streams.relays.add(stream)
    try:
        reader.follow(stream.go_on)
        return await stream.over
    finally:
        stream.stop()
        streams.relays.discard(stream)
        del stream  # what is raised holds on to this frame, and the stream to what is raised


class Relay:
    """One caller's stream. ``over`` is done with run_finished, once that is written, or with what went wrong.

    One timer per stream and none per message: a message costs one reading of the loop's clock.
    """

    __slots__ = (
        "_context",
        "_entries",
        "_hanging",
        "_last",
        "_late",
        "_loop",
        "_place",
        "_reader",
        "_streams",
        "_timer",
        "_told",
        "_writing",
        "over",
    )

    def __init__(self, reader: Reader, context: Context, streams: Streams, place: Place) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._context = context
        self._streams = streams
        self._place = place
        self.over: asyncio.Future[RunFinished] = self._loop.create_future()
        self._entries: deque[bytes] = deque()  # taken and not written yet, a handful at most
        self._writing: Coroutine[Any, Any, None] | None = None
        self._told = False  # that the server goes away
        self._last = self._loop.time()  # when the last message was written
        self._hanging = -1.0, 0.0  # the last message before the write that hangs, and since when that is known
        self._late = 0  # for how many times ``idle`` a write has hung
        self._timer = self._loop.call_later(min(streams.heartbeat, streams.idle), self._look)

    def go_on(self) -> None:
        """Writes what there is, as far as gRPC takes it. Called with every append, and when a write is over; never raises."""
        while self._writing is None and not self.over.done():
            try:
                wire = self._following()
            except AgentsvcError as fallen:
                self._break(fallen)
                return
            if wire is None:
                return
            self._begin(wire)

    def stop(self) -> None:
        """No more is written. A write that is under way is gRPC's own to end."""
        self._timer.cancel()
        self.over.cancel()

    def _following(self) -> bytes | None:
        """What is to be written next; None: nothing for now, or for ever."""
        entries, reader, draining = self._entries, self._reader, self._streams.draining
        if entries:
            return entries.popleft()
        before = reader.cursor
        taken = reader.take()
        if not taken and (end := reader.end) is not None:
            self.over.set_result(end)
            return None
        if draining is not None and not self._told and before:
            self._told = True
            entries.extend(taken)
            return self._beside(draining, before)
        if len(taken) > 1:
            entries.extend(taken[1:])
        return taken[0] if taken else None

    def _beside(self, event: Event, sequence: int) -> bytes:
        """An event that is no part of the journal."""
        return encode_event(sequence, self._reader.elapsed_us(), 0, event)

    def _begin(self, wire: bytes) -> None:
        if is_plain_in_a_stream(len(wire)):
            self._context.disable_next_message_compression()
        self._writing = self._context.write(wire)
        self._step()

    def _step(self) -> None:
        """Goes on with the write that is under way, up to where it waits: what a task would do, a turn of the loop earlier."""
        assert self._writing is not None  # noqa: S101 - who calls it has begun one
        try:
            waits_for = self._writing.send(None)
        except StopIteration:
            self._writing = None
            self._last = self._loop.time()
            if self._late:
                self._break(_too_slow(self._streams.idle))
        # Whatever it is: gRPC's own, mostly, since the caller has gone. It is the handler's to hear of, not the run's.
        except BaseException as broken:
            self._writing = None
            self._break(broken if isinstance(broken, Exception) else grpc.aio.InternalError(repr(broken)))
        else:
            if waits_for is None:  # a bare yield, which asks for the next turn
                self._loop.call_soon(self._stepped, None)
            else:
                waits_for.add_done_callback(self._stepped)

    def _stepped(self, _: object) -> None:
        self._step()
        self.go_on()

    def _break(self, broken: Exception) -> None:
        """``over``, badly. Without its traceback: that would hold on to us, and we to the call, until the collector comes."""
        if not self.over.done():
            self.over.set_exception(broken.with_traceback(None))

    def _look(self) -> None:
        """Now and then: is there a silence to be broken, does a write hang?"""
        now, heartbeat = self._loop.time(), self._streams.heartbeat
        rest = self._last + heartbeat - now
        if self._writing is not None:
            # A write that is under way means that the window is shut: the caller's proxies see no silence of ours.
            self._watch_write(now)
        elif rest <= 0 and not self.over.done():
            self._begin(self._beside(Heartbeat(), self._reader.cursor))
        self._timer = self._loop.call_later(min(rest if rest > 0 else heartbeat, self._streams.idle), self._look)

    def _watch_write(self, now: float) -> None:
        """Two looks that find a write, and no message written in between, have seen the same write."""
        steps: tuple[Callable[[], None], ...] = (self._place.release, self._reader.close)
        last, since = self._hanging
        if last != self._last:
            self._hanging = self._last, now
        elif now - since >= self._streams.idle * (self._late + 1):
            self._late += 1
            for step in steps[self._late - 1 : self._late]:
                step()


def _too_slow(idle: float) -> AgentsvcError:
    return AgentsvcError(
        Reason.SLOW_CONSUMER,
        f"The client took nothing for {idle:g} s. Subscribe again from the last sequence received.",
    )
