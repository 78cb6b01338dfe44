import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agentsvc.domain.agents import Session
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.messages import Message, Role, Text
from agentsvc.domain.ports import Filter, PageRequest
from agentsvc.domain.runs import Run
from agentsvc.storage import Storage
from tests.storage.databases import Opening

ONLY_SQLITE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


def said(*texts: str) -> list[Message]:
    return [Message(Role.USER, (Text(text),)) for text in texts]


@contextmanager
def out_of_reach(url: str) -> Iterator[sqlite3.Connection]:
    """A real outage, as SQLite has them: somebody else holds the write lock."""
    lock = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    yield lock
    lock.close()


async def texts(storage: Storage, session_id: str) -> list[str]:
    return [message.text for message in await storage.sessions.history("acme", session_id, 10_000)]


async def has_a_next_turn(storage: Storage, session_id: str) -> None:
    """The session is there, and empty: its first turn was lost, and it goes on."""
    await storage.ledger.ended("acme", Run("next", "demo", session_id), said("the next turn"))
    assert await texts(storage, session_id) == ["the next turn"]


async def test_what_arrives_together_is_committed_together(storage: Storage) -> None:
    before = storage.ledger.batches
    landed = []
    for number in range(100):
        session = Session(f"s{number}", "demo")
        storage.ledger.started("acme", Run(f"r{number}", "demo", f"s{number}"), session)
        landed.append(storage.ledger.ended("acme", Run(f"r{number}", "demo", f"s{number}"), said("hi")))
    await asyncio.gather(*landed)
    assert storage.ledger.batches - before == 1
    assert len((await storage.runs.list("acme", PageRequest(1000), Filter())).items) == 100
    assert await texts(storage, "s99") == ["hi"]


async def test_a_session_is_read_in_the_order_in_which_it_was_spoken(storage: Storage) -> None:
    storage.ledger.started("acme", Run("r", "demo", "s"), Session("s", "demo"))
    for number in range(700):  # more than one batch
        storage.ledger.ended("acme", Run(f"r{number}", "demo", "s"), said(f"{number}a", f"{number}b"))
        if number % 200 == 0:
            await storage.ledger.barrier()
    assert await texts(storage, "s") == [f"{number}{half}" for number in range(700) for half in "ab"]


async def test_long_messages_are_committed_in_portions(storage: Storage) -> None:
    await storage.sessions.create("acme", Session("s", "demo"))
    before = storage.ledger.batches
    for number in range(12):
        storage.ledger.ended("acme", Run(f"r{number}", "demo", "s"), said(f"{number}" + "x" * 1_000_000))
    found = await texts(storage, "s")
    assert [len(text) for text in found] == [1_000_001] * 10 + [1_000_002] * 2
    assert storage.ledger.batches - before == 3


async def test_two_processes_may_write_to_one_session(opened: Opening) -> None:
    async with opened() as one, opened() as two:
        await one.sessions.create("acme", Session("s", "demo"))
        landed = [
            storage.ledger.ended("acme", Run(f"{name}{number}", "demo", "s"), said(f"{name}{number}"))
            for number in range(50)
            for name, storage in (("one", one), ("two", two))
        ]
        await asyncio.gather(*landed)
        found = await texts(one, "s")
        assert sorted(found) == sorted(f"{name}{number}" for number in range(50) for name in ("one", "two"))
        for name in ("one", "two"):
            assert [t for t in found if t.startswith(name)] == [f"{name}{number}" for number in range(50)]


async def test_reads_see_what_was_accepted(storage: Storage) -> None:
    """Without an await between the write and the read."""
    storage.ledger.started("acme", Run("r1", "demo", "s1", request_id="q"), Session("s1", "demo"))
    assert await storage.runs.get("acme", "r1") is not None
    storage.ledger.started("acme", Run("r2", "demo", "s2", request_id="q2"), Session("s2", "demo"))
    assert await storage.sessions.get("acme", "s2") is not None
    storage.ledger.started("acme", Run("r3", "demo", "s1", request_id="q3"), None)
    assert await storage.runs.by_request_id("acme", "q3") is not None
    storage.ledger.ended("acme", Run("r3", "demo", "s1"), said("hi"))
    assert await texts(storage, "s1") == ["hi"]


async def test_a_waiter_that_leaves_does_not_withdraw_the_write(storage: Storage) -> None:
    landed = storage.ledger.ended("acme", Run("r1", "demo", text="kept"), ())
    landed.cancel()
    run = await storage.runs.get("acme", "r1")
    assert run is not None
    assert run.text == "kept"


async def test_a_row_the_database_refuses_blocks_no_other(storage: Storage) -> None:
    await storage.sessions.create("acme", Session("s", "demo"))
    await storage.ledger.ended("acme", Run("first", "demo", request_id="taken"), ())
    landed = []
    for number in range(20):
        request_id = "taken" if number in {3, 4, 17} else f"free{number}"
        landed.append(
            storage.ledger.ended("acme", Run(f"r{number}", "demo", "s", request_id=request_id), said(str(number)))
        )
    results = await asyncio.gather(*landed, return_exceptions=True)
    refused = {number for number, result in enumerate(results) if result is not None}
    assert refused == {3, 4, 17}
    reasons = [result.reason for result in results if isinstance(result, AgentsvcError)]
    assert reasons == [Reason.ALREADY_EXISTS] * 3
    assert storage.ledger.refused == 3
    assert await texts(storage, "s") == [str(number) for number in range(20) if number not in refused]


async def test_a_bug_in_one_row_does_not_silence_the_ledger(storage: Storage) -> None:
    broken = storage.ledger.ended("acme", Run("bad", "demo", user_id=5), ())  # type: ignore[arg-type]  # the bug
    fine = storage.ledger.ended("acme", Run("good", "demo"), ())
    with pytest.raises(AgentsvcError) as refusal:
        await broken
    assert refusal.value.reason is Reason.INTERNAL
    await fine
    assert await storage.runs.get("acme", "good") is not None


async def test_a_refusal_nobody_waits_for_makes_no_noise(storage: Storage) -> None:
    """A future that fails unseen would be reported by the loop; here the log has it already."""
    noise: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: noise.append(context))
    await storage.ledger.ended("acme", Run("first", "demo", request_id="taken"), ())
    storage.ledger.ended("acme", Run("second", "demo", request_id="taken"), ())
    await storage.ledger.barrier()
    assert storage.ledger.refused == 1
    assert noise == []


@ONLY_SQLITE
async def test_an_outage_delays_writes_and_loses_none(opened: Opening, url: str) -> None:
    async with opened(timeout=0.05) as storage:
        await storage.sessions.create("acme", Session("s", "demo"))
        with out_of_reach(url):
            landed = [storage.ledger.ended("acme", Run(f"r{n}", "demo", "s"), said(str(n))) for n in range(20)]
            with pytest.raises(AgentsvcError) as refusal:
                await storage.runs.get("acme", "r0")  # cannot be read yet, and says so in time
            assert refusal.value.reason is Reason.STORAGE_UNAVAILABLE
            assert refusal.value.error.retryable
            assert not any(future.done() for future in landed)
        await asyncio.gather(*landed)
        assert await texts(storage, "s") == [str(n) for n in range(20)]
        assert storage.ledger.backlog_bytes == 0


@ONLY_SQLITE
async def test_the_backlog_of_an_outage_is_bounded(opened: Opening, url: str) -> None:
    async with opened(timeout=0.05, backlog_bytes=20_000) as storage:
        with out_of_reach(url):
            landed = [storage.ledger.ended("acme", Run(f"r{n}", "demo", text="x" * 2000), ()) for n in range(20)]
            storage.ledger.started("acme", Run("late", "demo", text="x" * 2000), None)  # it costs nothing to wait
            lost = [future for future in landed if future.done()]
            assert 0 < len(lost) < 20
            for future in lost:
                with pytest.raises(AgentsvcError) as refusal:
                    await future
                assert refusal.value.reason is Reason.STORAGE_UNAVAILABLE
            assert storage.ledger.backlog_bytes <= 20_000
            assert storage.ledger.dropped == len(lost)
        kept = [future for future in landed if future not in lost]
        await asyncio.gather(*kept)
        assert len((await storage.runs.list("acme", PageRequest(), Filter())).items) == len(kept) + 1


async def test_a_beginning_is_written_by_itself_and_comes_with_its_end_where_that_is_sooner(opened: Opening) -> None:
    async with opened(start_window=0.02) as storage:
        run = Run("r1", "demo", "s")
        storage.ledger.started("acme", run, Session("s", "demo"))
        assert await storage.ledger.ended("acme", run, said("once")) is None
        assert (storage.ledger.batches, await texts(storage, "s")) == (1, ["once"])
        storage.ledger.started("acme", Run("r2", "demo"), None)
        await asyncio.wait_for(storage.ledger._progress.wait(), 5)
        assert await storage.runs.get("acme", "r2") is not None
    async with opened() as storage:
        storage.ledger.started("acme", Run("r3", "demo"), None)  # and the service goes away at once
    async with opened() as again:
        assert await again.runs.get("acme", "r3") is not None


async def test_a_session_outlives_a_first_turn_that_is_refused(storage: Storage) -> None:
    storage.ledger.started("acme", Run("r1", "demo", "s"), Session("s", "demo"))
    bad = [Message(Role.USER, (Text("x"),), message_id=b"bad")]  # type: ignore[arg-type]  # a bug
    with pytest.raises(AgentsvcError):
        await storage.ledger.ended("acme", Run("r1", "demo", "s"), bad)
    await has_a_next_turn(storage, "s")


@ONLY_SQLITE
async def test_a_session_outlives_a_first_turn_for_which_there_is_no_room(opened: Opening, url: str) -> None:
    async with opened(timeout=0.05, backlog_bytes=5_000) as storage:
        with out_of_reach(url):
            storage.ledger.ended("acme", Run("r0", "demo", text="x" * 2000), ())
            storage.ledger.started("acme", Run("r1", "demo", "s"), Session("s", "demo"))
            lost = storage.ledger.ended("acme", Run("r1", "demo", "s", text="x" * 2000), said("lost"))
            with pytest.raises(AgentsvcError):
                await lost
        await has_a_next_turn(storage, "s")


@ONLY_SQLITE
async def test_a_beginning_whose_time_comes_during_a_commit_is_written_after_it(opened: Opening, url: str) -> None:
    async with opened(timeout=0.05, start_window=0.01) as storage:
        with out_of_reach(url):
            storage.ledger.ended("acme", Run("r0", "demo"), ())
            await asyncio.sleep(0.1)  # the commit is under way, and fails
            storage.ledger.started("acme", Run("long", "demo"), None)
            await asyncio.sleep(0.1)
            assert storage.ledger._hurry is None
        async with asyncio.timeout(5):
            while storage.ledger._beginnings or storage.ledger.backlog_bytes:
                await storage.ledger._progress.wait()
        rows = sqlite3.connect(url.removeprefix("sqlite:///")).execute("SELECT run_id FROM runs").fetchall()
        assert sorted(rows) == [("long",), ("r0",)]


@ONLY_SQLITE
async def test_beginnings_without_room_are_waited_for_by_readers_and_written_at_the_end(
    opened: Opening, url: str
) -> None:
    async with opened(backlog_bytes=1_200, start_window=60.0) as storage:  # the end waits for no timer
        for number in range(10):
            storage.ledger.started("acme", Run(f"r{number}", "demo"), None)
        assert len((await storage.runs.list("acme", PageRequest(), Filter())).items) == 10
        for number in range(10, 20):
            storage.ledger.started("acme", Run(f"r{number}", "demo"), None)
    rows = sqlite3.connect(url.removeprefix("sqlite:///")).execute("SELECT count(*) FROM runs").fetchall()
    assert rows == [(20,)]


async def test_closing_writes_what_is_left_and_accepts_nothing_more(opened: Opening) -> None:
    async with opened() as storage:
        storage.ledger.ended("acme", Run("r1", "demo"), ())
        await storage.ledger.close()
        with pytest.raises(AgentsvcError) as refusal:
            await storage.ledger.ended("acme", Run("r2", "demo"), ())
        assert refusal.value.reason is Reason.STORAGE_UNAVAILABLE
    async with opened() as again:
        assert await again.runs.get("acme", "r1") is not None
        assert await again.runs.get("acme", "r2") is None


@ONLY_SQLITE
async def test_closing_during_an_outage_gives_up_and_says_so(opened: Opening, url: str) -> None:
    async with opened(timeout=0.05) as storage:
        with out_of_reach(url):
            landed = storage.ledger.ended("acme", Run("r1", "demo"), ())
            await storage.ledger.close(timeout=0.2)
            with pytest.raises(AgentsvcError) as refusal:
                await landed
            assert refusal.value.reason is Reason.STORAGE_UNAVAILABLE
            assert storage.ledger.dropped == 1


async def test_a_repeated_commit_changes_nothing(storage: Storage) -> None:
    """The answer to a commit may get lost after it landed: then the same batch is written again."""
    from agentsvc.storage.entries import Entry

    storage.ledger.started("acme", Run("r1", "demo", "s"), Session("s", "demo"))
    storage.ledger.ended("acme", Run("r1", "demo", "s"), said("once", "only"))
    batch: list[Entry] = list(storage.ledger._queue)
    await storage.ledger.barrier()
    await storage.ledger._commit(batch)
    assert await texts(storage, "s") == ["once", "only"]
    assert len((await storage.runs.list("acme", PageRequest(), Filter())).items) == 1
