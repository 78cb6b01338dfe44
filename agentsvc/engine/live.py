"""A run that lives in this process: a task that owns its journal. Every door is only a reader of it.

The task asks the loop for events and appends them; whoever wants it to stop says why (``stop``), and the task ends in
order: what was said is kept, the session is freed, the record is written, run_finished is appended. There is one way
to the end, and every path takes it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from time import monotonic

from agentsvc.domain.agents import Session
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import (
    Annotation,
    GenerationCompleted,
    ReasoningDelta,
    RunStarted,
    RunState,
    TextDelta,
    Timings,
    ToolCallStarted,
)
from agentsvc.domain.messages import Cost
from agentsvc.domain.ports import Ledger
from agentsvc.domain.quick import replace
from agentsvc.domain.runs import OnDisconnect, Run, RunRequest
from agentsvc.domain.timeline import Stage, Timeline
from agentsvc.engine import record
from agentsvc.engine.budget import BudgetExceeded
from agentsvc.engine.endings import COMPLETED, DEADLINE, DISCONNECTED, WALL_CLOCK, Ending
from agentsvc.engine.journal import Journal, Reader
from agentsvc.engine.loop import Plan, converse
from agentsvc.engine.sessions import Conversation
from agentsvc.engine.transcript import Transcript

_log = logging.getLogger(__name__)
_DEADLINE_SLACK = 0.05  # seconds
_TIMINGS_BEHIND = 0.001  # seconds that the timings follow the first delta, unless something else follows it sooner
_ANSWERS = (TextDelta, ReasoningDelta, ToolCallStarted)  # what a caller sees first of an answer
_COMMIT_WAIT = 1.0  # seconds run_finished waits for the commit before it says persisted = false


class Live:
    """One run, from its admission until its journal is dropped.

    ``prepare`` assembles the plan when the run has its session's turn. ``on_settled`` is told once, when the run's
    slot and session are free again; ``on_ended`` once, after run_finished. ``lag_since`` a perf_counter_ns reading is how
    long the event loop has kept things waiting, in microseconds. ``notes`` follow
    run_started.
    """

    __slots__ = (
        "_cause",
        "_commit",
        "_commit_timer",
        "_leave_timer",
        "_ledger",
        "_limit",
        "_limit_timer",
        "_new_session",
        "_notes",
        "_plan",
        "_prepare",
        "_readers",
        "_request",
        "_run",
        "_running",
        "_settled",
        "_task",
        "_timings_timer",
        "_transcript",
        "conversation",
        "journal",
        "lag_since",
        "on_ended",
        "on_settled",
        "run_id",
        "started",
        "tenant_id",
        "timeline",
    )

    def __init__(
        self,
        tenant_id: str,
        run: Run,
        request: RunRequest,
        started: RunStarted,
        journal: Journal,
        timeline: Timeline,
        conversation: Conversation,
        ledger: Ledger,
        prepare: Callable[[], Plan],
        notes: tuple[Annotation, ...] = (),
    ) -> None:
        self.tenant_id = tenant_id
        self.run_id = run.run_id
        self.journal = journal
        self.timeline = timeline
        self.conversation = conversation
        self.on_settled: Callable[[Live], None] = _nothing
        self.on_ended: Callable[[Live], None] = _nothing
        self.lag_since: Callable[[int], int] = _no_lag
        self.started = started
        self._run = run
        self._request = request
        self._notes = notes
        self._ledger = ledger
        self._prepare = prepare
        self._plan: Plan | None = None
        self._transcript = Transcript()
        self._readers = 0
        self._cause: Ending | None = None
        self._settled = False
        self._commit: asyncio.Future[None] | None = None
        self._commit_timer: asyncio.TimerHandle | None = None
        self._leave_timer: asyncio.TimerHandle | None = None
        self._limit_timer: asyncio.TimerHandle | None = None
        self._timings_timer: asyncio.TimerHandle | None = None  # while they are owed
        self._limit = math.inf, WALL_CLOCK
        self._new_session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._running = False

    def begin(self, wall_clock: float, new_session: Session | None) -> None:
        """Starts the task. The nearest of deadline (under CANCEL) and ``wall_clock`` seconds will end it.

        ``new_session`` is stored with the run's row.
        """
        loop = asyncio.get_running_loop()
        self._new_session = new_session
        self._limit = loop.time() + wall_clock, WALL_CLOCK
        deadline = self._request.deadline
        if deadline is not None and deadline < self._limit[0] and self._in_step:
            self._limit = deadline, DEADLINE
            if deadline <= monotonic():  # the loop's own time may be a millisecond old
                self.stop(DEADLINE)  # over before it began: nobody is asked
        self._task = loop.create_task(self._drive(), name=self.run_id)
        # Right behind the task's first step: then the provider's request is on its way, and nothing that is done for the
        # beginning (encoding and writing the first event, the row, a timer) has delayed it.
        loop.call_soon(self._begun)

    @property
    def _in_step(self) -> bool:
        """Whether the run is its readers' alone. Under CONTINUE it neither stalls nor slows, whoever reads."""
        return self._request.options.on_disconnect is OnDisconnect.CANCEL

    @property
    def state(self) -> RunState:
        """Where the run is now."""
        return self._run.state

    def stop(self, ending: Ending) -> None:
        """Ends the run with ``ending``, unless it is over already. Idempotent; the first cause counts."""
        if self._settled or self._cause is not None:
            return
        self._cause = ending
        if self._running and self._task is not None:
            self._task.cancel()

    def reader(self, after: int = 0, *, follows: bool = True) -> Reader:
        """A reader of this run's events after ``after``. ``follows`` False: it is only there, and takes nothing.

        Raises:
            AgentsvcError: CURSOR_OUT_OF_RANGE.
        """
        reader = self.journal.reader(after)
        reader.on_close(self._follower_left if follows else self._left)
        if follows:
            self.journal.joined()
        self._readers += 1
        if self._leave_timer is not None:
            self._leave_timer.cancel()
            self._leave_timer = None
        return reader

    async def ended(self) -> Run:
        """The run's record, once it is over."""
        await self.journal.until(lambda: self.journal.end is not None)
        return self._run

    def record(self) -> Run:
        """The run as it is now."""
        if self._settled:
            return self._run
        return record.so_far(self._run, self._transcript, self.journal.last)

    def _follower_left(self, detached: bool) -> None:
        self.journal.left()
        self._left(detached)

    def _left(self, detached: bool) -> None:
        """A reader closed. Being detached by us never counts as leaving."""
        self._readers -= 1
        if self._readers or detached or self._settled:
            return
        options, deadline = self._request.options, self._request.deadline
        if options.on_disconnect is OnDisconnect.CANCEL:
            # At the deadline the door loses its caller a moment before or after our own timer: one cause, one end.
            late = deadline is not None and asyncio.get_running_loop().time() >= deadline - _DEADLINE_SLACK
            self.stop(DEADLINE if late else DISCONNECTED)
        elif options.on_disconnect is OnDisconnect.CONTINUE_FOR:
            loop = asyncio.get_running_loop()
            self._leave_timer = loop.call_later(options.continue_for, self.stop, DISCONNECTED)

    async def _drive(self) -> None:
        """The task: converse, settle, finish."""
        self._running = True
        try:
            ending = self._cause or await self._converse()
        except BudgetExceeded as limit:
            ending = Ending(RunState.BUDGET_EXCEEDED, budget_kind=limit.kind)
        except AgentsvcError as error:
            ending = Ending(RunState.FAILED, record.final(error.error, self._transcript))
        except BaseException as bug:  # the outermost edge of a run: whatever it is, it ends in order and is logged once
            cancelled = isinstance(bug, asyncio.CancelledError) and asyncio.current_task().cancelling()  # type: ignore[union-attr] # we are in one
            if cancelled and self._cause is None:
                raise  # the loop is being torn down: nobody is left to tell
            ending = self._bug()
        self._announce()
        self._tell_timings()
        # Whatever a cancelled library made of it on its way out: the one who stopped the run said why.
        self._settle(self._cause or ending)
        self._finish_after_commit()

    def _begun(self) -> None:
        # A task that is over before its first step was cancelled with all others: the loop is being torn down.
        if self._running:
            self._announce()

    def _announce(self) -> None:
        """run_started, once and first; with it the run's row and its limit in time."""
        if self.journal.last:
            return
        self.journal.append(self.started, 0)
        for note in self._notes:
            self.journal.append(note, 0)
        self._ledger.started(self.tenant_id, self._run, self._new_session)
        when, ending = self._limit
        self._limit_timer = asyncio.get_running_loop().call_at(when, self.stop, ending)

    def _bug(self) -> Ending:
        if self._cause is None:
            _log.exception("run %s failed by a bug", self.run_id)
        return Ending.failed(Reason.INTERNAL, f"A bug of the service ended the run; quote run {self.run_id}.")

    async def _converse(self) -> Ending:
        if self.conversation.run_id != self.run_id:
            await self._turn()
        if self._run.state is not RunState.RUNNING:
            self._run = replace(self._run, state=RunState.RUNNING)
        self._plan = plan = self._prepare()
        self.timeline.reached(Stage.PROMPT)
        journal, transcript = self.journal, self._transcript
        append = journal.append
        in_step = self._in_step
        held_back, show_timings = bool(plan.streaming.text_buffer_size), plan.streaming.emit_timings
        first = held_back or show_timings
        events = converse(plan, transcript, self.timeline, self._position)
        try:
            async for event in events:
                if self._cause is not None:
                    return self._cause  # a library below us swallowed the cancellation
                if not journal.last:
                    self._announce()
                if self._timings_timer is not None:
                    self._tell_timings()
                if type(event) is GenerationCompleted:
                    # The session is free and its history readable before anybody learns that the answer is final.
                    self._settle(COMPLETED)
                answers = first and isinstance(event, _ANSWERS)
                if answers:
                    first = False
                    if held_back:
                        self.timeline.held_back()
                append(event, transcript.step)
                if answers and show_timings:
                    # Behind the delta and not in its way: it may be waiting until gRPC is done with run_started.
                    self._timings_timer = asyncio.get_running_loop().call_later(_TIMINGS_BEHIND, self._tell_timings)
                if in_step and journal.ahead and not self._settled:
                    waiting = self.timeline.clock()
                    await journal.keep_step()
                    self.timeline.waited(waiting)
        finally:  # aclosing, without its two coroutines
            await events.aclose()
        return COMPLETED

    def _tell_timings(self) -> None:
        """The timings, if they are owed: a moment after the first delta, and before whatever follows it."""
        timer, self._timings_timer = self._timings_timer, None
        if timer is not None:
            timer.cancel()
            self.journal.append(Timings(self.timeline.timings()), self._transcript.step)

    def _position(self) -> int:
        """The last sequence given out. run_started and its notes come before everything, whenever they leave."""
        return self.journal.last or 1 + len(self._notes)

    async def _turn(self) -> None:
        """Waits in the session's queue; that time is nobody's overhead."""
        waiting = self.timeline.clock()
        try:
            await self.conversation.turn(self.run_id)
        finally:
            self.timeline.waited(waiting)

    def _settle(self, ending: Ending) -> None:
        """Everything but the last event: the record is final, the turn passes on, the ledger has accepted the rows."""
        if self._settled:
            return
        self._settled = True
        for timer in (self._limit_timer, self._leave_timer):
            if timer is not None:
                timer.cancel()
        transcript = self._transcript
        transcript.close()
        self._run = record.settled(
            self._run,
            ending,
            transcript,
            self._cost(),
            # generation_completed is yet to be appended where there is one
            last_sequence=self.journal.last + (2 if ending.state is RunState.COMPLETED else 1),
            overhead_us=self.timeline.overhead_us(),
        )
        # Without a plan it never had its turn: nothing was asked.
        kept = self._request.store and self._plan is not None
        messages = record.turn(self._run, self._request, transcript.messages) if kept else ()
        self._commit = self._ledger.ended(self.tenant_id, self._run, messages)
        self.conversation.release(self.run_id, messages)
        self.on_settled(self)

    def _cost(self) -> Cost | None:
        """What the vendors will charge; None where nobody knows the price or nothing was asked."""
        if (plan := self._plan) is None or not self._transcript.requests:
            return None
        return plan.prices.cost(self._transcript.requests)

    def _finish_after_commit(self) -> None:
        """The last event, when the rows are committed or a second has passed."""
        commit = self._commit
        if commit is None or commit.done():
            self._finish()
            return
        self._commit_timer = asyncio.get_running_loop().call_later(_COMMIT_WAIT, self._finish)
        commit.add_done_callback(self._finish)

    def _finish(self, _: object = None) -> None:
        """The last event. Whatever comes later, commit or timer, comes in vain."""
        commit, timer = self._commit, self._commit_timer
        if self.journal.end is not None:
            return
        if timer is not None:
            timer.cancel()
        persisted = commit is not None and commit.done() and not commit.cancelled() and commit.exception() is None
        lag = self.lag_since(self.timeline.started_ns)
        last = record.finished(self._run, persisted=persisted, event_loop_lag_us=lag)
        self.journal.append(last, self._transcript.step)
        self.on_ended(self)
        self._let_go()

    def _let_go(self) -> None:
        """Only the journal and the record are asked for from now on: a run that is kept for its readers is small."""
        self._plan = self._task = self._commit = self._new_session = None
        self._commit_timer = self._limit_timer = self._leave_timer = None
        self.on_settled = self.on_ended = _nothing
        self._transcript, self._request, self._prepare, self.timeline = _NOTHING_SAID, _NOT_ASKED, _over, _NO_TIME


_NOTHING_SAID = Transcript()
_NOT_ASKED = RunRequest("", ())
_NO_TIME = Timeline(0)


def _over() -> Plan:
    raise AssertionError("a run is planned once")


def _nothing(_: Live) -> None:
    """Nobody wants to know."""


def _no_lag(_: int) -> int:
    """Nobody measures."""
    return 0
