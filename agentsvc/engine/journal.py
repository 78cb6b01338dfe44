"""The journal of a run: its events, numbered once, encoded once, read by everybody.

A run appends, readers take. There is no queue per reader: a reader is a cursor, told of each append in the moment in
which it happens. So a slow reader costs nothing and delays nobody; when the journal's cap pushes out what it
has not read yet, it is told SLOW_CONSUMER the next time it asks.

A run may also walk beside its reader (``keep_step``): while the reader is busy with one entry, only one more is made,
and what the provider sends meanwhile is read, decoded and sent as one. It costs no latency, since the reader could not
have sent it earlier, and makes a flood cheaper the faster it is.

Only the wire bytes are kept (about 40 bytes beside their length; values would cost 260). Entry ``n`` of the list has
the sequence ``oldest + n``. Not thread-safe: everything happens on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import Event, RunFinished, RunState

Encoder = Callable[[int, int, int, Event], bytes]
"""``(sequence, elapsed_us, step, event) -> wire bytes``; handed in by the door that owns the wire format."""

_HANDFUL = 64  # entries
_ENTRY_BYTES = 41  # a bytes object's header and its place in the list


@dataclass(frozen=True, slots=True)
class JournalConfig:
    """Caps in bytes; ``retention`` in seconds says how long an ended run can still be read."""

    run_bytes: int = 8 << 20
    process_bytes: int = 512 << 20
    retention: float = 300.0


class Library:
    """All journals of a process and the space they share. Over the cap, ended runs give way first, oldest end first."""

    def __init__(self, config: JournalConfig, encode: Encoder) -> None:
        self.config = config
        self.encode = encode
        self.run_bytes, self.process_bytes = config.run_bytes, config.process_bytes
        self.used = 0
        self._ended: dict[Journal, None] = {}  # in order of their end
        self._live: dict[Journal, None] = {}

    def open(self, started_ns: int | None = None) -> Journal:
        """A new, empty journal. ``started_ns`` is the perf_counter reading that ``elapsed_us`` counts from."""
        journal = Journal(self, perf_counter_ns() if started_ns is None else started_ns)
        self._live[journal] = None
        return journal

    def last_entry(self, sequence: int, event: RunFinished) -> Journal:
        """The journal of a run that ended and was dropped: of all its events only the last is still known."""
        # In a library of its own: it belongs to its one reader, takes no part in the caps and needs no retention.
        journal = Library(self.config, self.encode).open()
        journal.oldest, journal.last = sequence, sequence - 1
        journal.append(event, 0)
        return journal

    def drop(self, journal: Journal) -> None:
        """Retention is over: forget it."""
        self._ended.pop(journal, None)
        self._live.pop(journal, None)
        journal.trim(0, keep=0)

    def ended(self, journal: Journal) -> None:
        """The journal got its last entry."""
        self._live.pop(journal, None)
        self._ended[journal] = None

    def make_room(self) -> None:
        """Brings ``used`` below the cap again."""
        while self.used > self.process_bytes and self._ended:
            journal = next(iter(self._ended))
            del self._ended[journal]
            journal.trim(0)
        while self.used > self.process_bytes:
            divisible = (journal for journal in self._live if journal.last > journal.oldest)
            largest = max(divisible, key=lambda journal: journal.size, default=None)
            if largest is None:
                break
            largest.trim(largest.size // 2)


class Journal:
    """One run's events. ``oldest`` is the first sequence still kept, ``last`` the newest; empty when ``last < oldest``."""

    __slots__ = (
        "__weakref__",
        "_entries",
        "_following",
        "_library",
        "_room",
        "_started_ns",
        "end",
        "followers",
        "last",
        "oldest",
        "size",
        "taken",
    )

    def __init__(self, library: Library, started_ns: int) -> None:
        self._library = library
        self._started_ns = started_ns
        self._entries: list[bytes] = []
        self._following: tuple[Callable[[], None], ...] = ()
        self._room: asyncio.Future[None] | None = None
        self.followers = 0  # readers that take what they are given
        self.taken = 0  # how far the first of them is
        self.oldest = 1
        self.last = 0
        self.size = 0
        self.end: RunFinished | None = None

    def append(self, event: Event, step: int) -> int:
        """Numbers, encodes and publishes an event; returns its sequence. Nothing may follow RunFinished."""
        assert self.end is None, "an event after run_finished"  # noqa: S101 - a bug of ours, worth a crash in tests
        library = self._library
        sequence = self.last + 1
        wire = library.encode(sequence, (perf_counter_ns() - self._started_ns) // 1000, step, event)
        self._entries.append(wire)
        self.last = sequence
        size = len(wire) + _ENTRY_BYTES
        self.size += size
        library.used += size
        if type(event) is RunFinished:
            self.end = event
            library.ended(self)
        if self.size > library.run_bytes:
            # An eighth at a time, so that the shift of the list is paid once in thousands of entries.
            self.trim(library.run_bytes * 7 // 8)
        if library.used > library.process_bytes:
            library.make_room()
        for told in self._following:
            told()
        return sequence

    def elapsed_us(self) -> int:
        """Microseconds since the run was admitted."""
        return (perf_counter_ns() - self._started_ns) // 1000

    def reader(self, after: int = 0) -> Reader:
        """A reader of everything after ``after`` (0: from the start).

        Raises:
            AgentsvcError: CURSOR_OUT_OF_RANGE when that is no longer kept, or not yet written.
        """
        if self.end is not None and after >= self.last:
            after = self.last - 1  # at or past the end: only run_finished
        elif not self.oldest - 1 <= after <= self.last:
            raise self.out_of_range(after)
        return Reader(self, after)

    def out_of_range(self, after: int) -> AgentsvcError:
        """CURSOR_OUT_OF_RANGE for a cursor this journal cannot serve."""
        return AgentsvcError(
            Reason.CURSOR_OUT_OF_RANGE,
            f"after_sequence {after} cannot be served: sequences {self.oldest} to {self.last} are kept. "
            "Resume from there, or read the whole text with GetRun.",
            metadata={
                "oldest_sequence": str(self.oldest),
                "last_sequence": str(self.last),
                "state": (self.end.state if self.end else RunState.RUNNING).name,
            },
        )

    def trim(self, target: int, keep: int = 1) -> None:
        """Gives up the oldest entries until at most ``target`` bytes are kept; the last ``keep`` stay in any case."""
        count, freed = 0, 0
        for wire in self._entries[: len(self._entries) - keep]:
            if self.size - freed <= target:
                break
            freed += len(wire) + _ENTRY_BYTES
            count += 1
        del self._entries[:count]
        self.oldest += count
        self.size -= freed
        self._library.used -= freed

    def since(self, after: int) -> list[bytes]:
        """The wire bytes of what comes after ``after``, a handful at most; SLOW_CONSUMER when part of it is gone.

        A handful, since a reader that is stalled in a write must not pin what the journal has long given up.
        """
        if after < self.oldest - 1:
            raise AgentsvcError(
                Reason.SLOW_CONSUMER,
                f"The reader fell behind the journal's cap: it had {after}, kept is {self.oldest} to {self.last}. "
                "Subscribe again from the oldest sequence, or read the whole text with GetRun.",
                metadata={"oldest_sequence": str(self.oldest), "last_sequence": str(self.last)},
            )
        start = after - self.oldest + 1
        return self._entries[start : start + _HANDFUL]

    async def until(self, true: Callable[[], bool]) -> None:
        """Returns when an append has made it ``true``, at once if it is so already."""
        if true():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def told() -> None:
            if true() and not future.done():
                future.set_result(None)

        self.follow(told)
        try:
            await future
        finally:
            self.unfollow(told)

    def follow(self, told: Callable[[], None]) -> None:
        """``told()`` is called with every append from now on. It must not raise."""
        self._following = (*self._following, told)

    def unfollow(self, told: Callable[[], None]) -> None:
        """It no longer is."""
        self._following = tuple(other for other in self._following if other != told)

    @property
    def ahead(self) -> bool:
        """Whether the run has outrun every reader it has: the last two entries have been taken by none."""
        return self.followers > 0 and self.last - self.taken > 1

    async def keep_step(self) -> None:
        """Waits until the first reader has caught up, or none is left."""
        while self.ahead:
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await self._room

    def caught_up(self, cursor: int) -> None:
        """A reader has taken everything up to ``cursor``, as the first of all."""
        self.taken = cursor
        if self._room is not None:
            self._go_on()

    def joined(self) -> None:
        """A reader that takes what it is given has come."""
        self.followers += 1

    def left(self) -> None:
        """Such a reader has gone."""
        self.followers -= 1
        self._go_on()

    def _go_on(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)


class Reader:
    """A cursor into a journal. Each reader gets every event once and in order, whenever it comes."""

    __slots__ = ("_on_close", "_told", "cursor", "journal")

    def __init__(self, journal: Journal, after: int) -> None:
        self.journal = journal
        self.cursor = after
        self._on_close: Callable[[bool], None] | None = None
        self._told: Callable[[], None] | None = None

    def on_close(self, told: Callable[[bool], None]) -> None:
        """``told(detached)`` is called once, when the reader closes."""
        self._on_close = told

    def take(self) -> list[bytes]:
        """What is there after the cursor (a handful at most), as wire bytes; empty when nothing is. Moves past it.

        Raises:
            AgentsvcError: SLOW_CONSUMER when the reader fell off the cap.
        """
        journal = self.journal
        if self.cursor == journal.last:
            return []  # asked after every write, and nearly always so
        entries = journal.since(self.cursor)
        self.cursor += len(entries)
        if self.cursor > journal.taken:
            journal.caught_up(self.cursor)
        return entries

    def elapsed_us(self) -> int:
        """Microseconds since the run was admitted: for what is sent beside the journal's own entries."""
        return self.journal.elapsed_us()

    async def wait(self) -> None:
        """Returns when ``take`` has something, at once if it has it already."""
        await self.journal.until(lambda: self.journal.last > self.cursor)

    def follow(self, told: Callable[[], None]) -> None:
        """``told()`` is called now and with every append, until the reader closes: ``take`` may have something."""
        self._told = told
        self.journal.follow(told)
        told()

    @property
    def end(self) -> RunFinished | None:
        """The run's last event, once this reader has taken it."""
        return self.journal.end if self.cursor == self.journal.last else None

    def close(self, *, detached: bool = False) -> None:
        """The reader is gone. ``detached``: by our doing (cap, drain), which never counts as leaving. Idempotent."""
        if self._told is not None:
            self.journal.unfollow(self._told)
            self._told = None
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close(detached)
