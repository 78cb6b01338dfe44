"""The write-behind: runs and their messages are accepted at once, kept in memory and committed in batches.

One task writes. What arrives within ``batch_window`` of an end shares its transaction (a commit costs far more than
its rows), and nobody waits for company when there is none: no other run is open, and the last commit was of one run
alone. Beginnings alone wait ``start_window``, and a run that ends before has only one row to be written. Rows are
made when they are written (entries.py), so the caller pays for none of it. Ends are settled in the order of their
acceptance, and each once: every statement may run again, so a commit whose answer got lost is simply repeated. While
the database is away entries pile up to ``backlog_bytes``; a row that the database refuses is found by halving its
batch and dropped alone.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import accumulate, islice, takewhile

from agentsvc.domain import ports
from agentsvc.domain.agents import Session
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.messages import Message, Part, Text
from agentsvc.domain.quick import replace
from agentsvc.domain.runs import Run
from agentsvc.storage.database import Database, StorageConfig, require_tenant
from agentsvc.storage.entries import Entry, Writer
from agentsvc.storage.failures import cause_of, unavailable

_log = logging.getLogger(__name__)

_MAX_ENTRIES, _MAX_BYTES = 500, 4 << 20  # of a batch: it must fit well into _COMMIT_TIMEOUT, or it never lands
_ROW_BYTES = 512  # what a row weighs beside its document
_COMMIT_TIMEOUT = 10.0
_FIRST_DELAY, _MAX_DELAY = 0.05, 1.0
_ATTEMPTS = 3  # for a single entry: two processes may reach for the same position of a session


class BatchingLedger(ports.Ledger):
    """``backlog_bytes`` wait; ``dropped`` and ``refused`` entries were lost (too much backlog; refused by the database)."""

    def __init__(self, database: Database, config: StorageConfig, owner: str) -> None:
        self.backlog_bytes = 0
        self.batches = 0
        self.dropped = 0
        self.refused = 0
        self._database = database
        self._config = config
        self._beginnings: dict[tuple[str, str], tuple[Run, Session | None]] = {}  # that no commit has taken up yet
        self._queue: deque[Entry] = deque()  # everything accepted and not settled
        self._open = 0  # runs that began and have not ended: who may soon share a commit
        self._together = 0  # ends in the last commit: where answers are short, those who share it began a moment ago
        self._accepted = 0
        self._settled = 0
        self._arrived = asyncio.Event()
        self._progress = asyncio.Event()  # set and replaced with every batch
        self._closing = False
        self._writer: asyncio.Task[None] | None = None
        self._hurry: asyncio.TimerHandle | None = None  # beginnings must not wait for ever for somebody's end
        self._write_rows = Writer(database, owner)

    def start(self) -> None:
        """Begins to write."""
        self._writer = asyncio.create_task(self._write(), name="storage-ledger")

    def started(self, tenant_id: str, run: Run, session: Session | None) -> None:
        """A run began: its row is written with the next commit as it is now, unless it has ended by then.

        Only remembered here, since a first token may be waiting behind it.
        """
        require_tenant(tenant_id)
        self._open += 1
        if self._closing:
            self._drop()
            return
        self._beginnings[tenant_id, run.run_id] = run, session
        if self._hurry is None:
            self._hurry = asyncio.get_running_loop().call_later(self._config.start_window, self._hurried)

    def ended(self, tenant_id: str, run: Run, messages: Sequence[Message]) -> Future[None]:
        """Its final row and its turn's messages in one transaction. Done after the commit, however long that takes.

        Messages of a session that has been deleted meanwhile are not written. The future fails, and the write is lost,
        with STORAGE_UNAVAILABLE when the backlog is full or the ledger was closed first, and with ALREADY_EXISTS or
        INTERNAL when the database refuses the row.
        """
        require_tenant(tenant_id)
        now = datetime.now(UTC)
        run = run if run.end_time else replace(run, end_time=now)
        turn = messages if run.session_id else ()  # a run that is not stored in a session has none
        landed: Future[None] = asyncio.get_running_loop().create_future()
        landed.add_done_callback(_retrieve)
        self._open = max(0, self._open - 1)
        beginning = self._beginnings.pop((tenant_id, run.run_id), None)
        if beginning is not None and beginning[1] is not None:
            # A session has more turns to come: it must not be lost with its first one, should that be refused.
            self._accept(_beginning(tenant_id, *beginning, now))
        if self._accept(Entry(tenant_id, run, None, turn, _size(run, turn), now, landed)):
            self._arrived.set()
        else:
            landed.set_exception(unavailable())
        return landed

    async def barrier(self) -> None:
        """Returns when everything accepted until now is settled.

        Raises:
            AgentsvcError: STORAGE_UNAVAILABLE after ``timeout``.
        """
        self._take_up()
        target, late = self._accepted, set(self._beginnings)
        if self._settled >= target and not late:
            return
        self._arrived.set()
        try:
            async with asyncio.timeout(self._config.timeout):
                while self._settled < target or late:
                    await self._progress.wait()
                    if late:  # there was no room for them
                        self._take_up()
                        self._arrived.set()
                        late &= self._beginnings.keys()
                        target = self._accepted
        except TimeoutError:
            raise unavailable() from None

    async def close(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - how long the flush may take
        """Accepts nothing more, writes what is left, gives up after ``timeout`` seconds."""
        self._closing = True
        self._arrived.set()
        if self._writer is None:
            return
        await asyncio.wait({self._writer}, timeout=timeout)
        self._writer.cancel()
        await asyncio.wait({self._writer})
        if left := len(self._queue) + len(self._beginnings):
            _log.error("%d accepted writes are lost: the database was away when the service ended", left)
        self.dropped += len(self._beginnings)
        self._beginnings.clear()
        while self._queue:
            self.dropped += 1
            self._settle_first(unavailable())

    # --- the writer -------------------------------------------------------------------------------------------------
    def _hurried(self) -> None:
        self._hurry = None
        self._arrived.set()

    def _take_up(self) -> None:
        """Beginnings become entries, as far as there is room. The others wait, or come with their ends."""
        now = datetime.now(UTC)
        for key, (run, session) in tuple(self._beginnings.items()):
            entry = _beginning(key[0], run, session, now)
            if not self._has_room(entry):
                break
            del self._beginnings[key]
            self._enqueue(entry)

    def _has_room(self, entry: Entry) -> bool:
        # One that is larger than the whole backlog is taken when nothing else waits: it would never find room.
        return not self._queue or self.backlog_bytes + entry.size <= self._config.backlog_bytes

    def _accept(self, entry: Entry) -> bool:
        if self._closing or not self._has_room(entry):
            self._drop()
            return False
        self._enqueue(entry)
        return True

    def _drop(self) -> None:
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:  # at 1, 2, 4, 8, ...: an outage must not fill the log as well
            _log.error("the ledger is full or closed: %d writes dropped so far", self.dropped)

    def _enqueue(self, entry: Entry) -> None:
        self._queue.append(entry)
        self.backlog_bytes += entry.size
        self._accepted += 1

    async def _write(self) -> None:
        while True:
            await self._arrived.wait()
            if not self._closing:
                await asyncio.sleep(self._config.batch_window if self._open or self._together > 1 else 0)
            self._arrived.clear()
            self._take_up()
            if self._queue:
                batch = self._batch()
                await self._settle(batch)
                self._together = sum(entry.landed is not None for entry in batch)
            # Beginnings that no timer is for: it went off during the commit, or there was no room, or nothing comes after them.
            if self._queue or (self._beginnings and (self._hurry is None or self._closing)):
                self._arrived.set()
            elif self._closing:
                return

    def _batch(self) -> Sequence[Entry]:
        sizes = accumulate(entry.size for entry in islice(self._queue, _MAX_ENTRIES))
        count = sum(1 for _ in takewhile(lambda size: size <= _MAX_BYTES, sizes))
        return list(islice(self._queue, max(count, 1)))

    async def _settle(self, batch: Sequence[Entry]) -> None:
        """Brings the first entries of the queue to an end, committed or refused."""
        refusal = await self._try(batch)
        if refusal is not None and len(batch) > 1:
            middle = len(batch) // 2
            await self._settle(batch[:middle])
            await self._settle(batch[middle:])
            return
        if refusal is not None:
            self.refused += 1
            _log.error("run %s is refused and dropped (%s)", batch[0].run.run_id, cause_of(refusal))
        for _ in batch:
            self._settle_first(refusal)
        self._progress.set()
        self._progress = asyncio.Event()

    async def _try(self, batch: Sequence[Entry]) -> AgentsvcError | None:
        """None after the commit, waiting out any outage; else why the batch cannot be committed as it is."""
        delay, attempts = _FIRST_DELAY, 0
        while True:
            try:
                await self._commit(batch)
            except AgentsvcError as error:
                if error.reason is Reason.STORAGE_UNAVAILABLE:
                    if delay == _FIRST_DELAY:
                        _log.warning("a commit fails and is repeated until it succeeds (%s)", cause_of(error))
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _MAX_DELAY)
                    continue
                attempts += 1
                if len(batch) > 1 or attempts == _ATTEMPTS:
                    return error
            except Exception as error:  # the edge: one task writes for all runs, and a bug in one row must not end it
                refusal = AgentsvcError(Reason.INTERNAL, "The run could not be written; the log has the details.")
                refusal.__cause__ = error
                return refusal
            else:
                return None

    async def _commit(self, batch: Sequence[Entry]) -> None:
        await self._database.work(self._write_rows, batch, _COMMIT_TIMEOUT)
        self.batches += 1

    def _settle_first(self, refusal: AgentsvcError | None) -> None:
        entry = self._queue.popleft()
        self.backlog_bytes -= entry.size
        self._settled += 1
        if entry.landed is None or entry.landed.done():  # done: its waiter has left
            return
        if refusal is None:
            entry.landed.set_result(None)
        else:
            entry.landed.set_exception(refusal)


def _retrieve(landed: Future[None]) -> None:
    """A failure is logged where it happens; that nobody waited for it is no second one."""
    if not landed.cancelled():
        landed.exception()


def _beginning(tenant_id: str, run: Run, session: Session | None, now: datetime) -> Entry:
    return Entry(tenant_id, run, session, (), _size(run, ()), now)


def _size(run: Run, messages: Sequence[Message]) -> int:
    """About what an entry weighs, counted without making its rows."""
    said = sum(_ROW_BYTES + sum(_weight(part) for part in message.parts) for message in messages)
    calls = sum(len(call.arguments_json) for message in messages for call in message.tool_calls)
    return _ROW_BYTES + len(run.text) + len(run.partial_text) + said + calls


def _weight(part: Part) -> int:
    return len(part.text) if isinstance(part, Text) else len(part.data)
