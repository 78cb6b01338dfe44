"""The journal against a model of it: numbering, fan-out, resume, caps, retention (promises 1 and 4)."""

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import Event, RunFinished, RunState, TextDelta
from agentsvc.domain.messages import Usage
from agentsvc.engine.journal import Journal, JournalConfig, Library, Reader
from tests.engine.fakes import decode, encode, entries

END = RunFinished(RunState.COMPLETED, None, "", None, Usage(), None, True, 0)
_BESIDE = 41  # what an entry costs beside its bytes


def small(sequence: int, elapsed_us: int, step: int, event: Event) -> bytes:
    """An encoding of known size: the text's characters, or 10 for anything else."""
    return (event.text if isinstance(event, TextDelta) else "x" * 10).encode()


def filled(journal: Journal, count: int) -> Journal:
    for number in range(count):
        journal.append(TextDelta(f"delta {number}"), 1)
    return journal


def refusal(reading: Callable[[], object]) -> AgentsvcError:
    with pytest.raises(AgentsvcError) as raised:
        reading()
    return raised.value


async def test_entries_carry_sequence_step_and_growing_time() -> None:
    journal = Library(JournalConfig(), encode).open()
    filled(journal, 3)
    journal.append(END, 1)

    got = await entries(journal.reader())

    assert [(sequence, step, event) for sequence, _, step, event in got] == [
        (1, 1, TextDelta("delta 0")),
        (2, 1, TextDelta("delta 1")),
        (3, 1, TextDelta("delta 2")),
        (4, 1, END),
    ]
    assert [elapsed for _, elapsed, *_ in got] == sorted(elapsed for _, elapsed, *_ in got)


async def test_a_reader_waits_for_the_next_event_and_only_then() -> None:
    journal = Library(JournalConfig(), encode).open()
    reader = journal.reader()
    assert reader.take() == []
    waiting = asyncio.ensure_future(reader.wait())
    await asyncio.sleep(0)
    assert not waiting.done()

    journal.append(TextDelta("now"), 1)
    await waiting

    assert [decode(wire)[-1] for wire in reader.take()] == [TextDelta("now")]
    assert reader.end is None


async def test_a_reader_that_gives_up_waiting_harms_nobody() -> None:
    journal = Library(JournalConfig(), encode).open()
    quitter, patient = asyncio.ensure_future(journal.reader().wait()), asyncio.ensure_future(journal.reader().wait())
    await asyncio.sleep(0)
    quitter.cancel()
    await asyncio.sleep(0)

    journal.append(TextDelta("now"), 1)
    await patient


async def test_readers_that_left_a_silent_run_do_not_pile_up() -> None:
    journal = Library(JournalConfig(), encode).open()
    patient = [asyncio.ensure_future(journal.reader().wait()) for _ in range(3)]
    for _ in range(1000):
        quitter = asyncio.ensure_future(journal.reader().wait())
        await asyncio.sleep(0)
        quitter.cancel()
        await asyncio.wait([quitter])

    assert len(journal._following) == len(patient)
    journal.append(TextDelta("now"), 1)
    await asyncio.gather(*patient)  # who stayed is not forgotten


@given(st.randoms(use_true_random=False), st.integers(1, 60))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_five_readers_joining_at_random_get_the_same_bytes(chance: random.Random, count: int) -> None:
    async def scene() -> None:
        journal = Library(JournalConfig(), encode).open()
        got: list[list[bytes]] = [[] for _ in range(5)]

        async def read(into: list[bytes]) -> None:
            for _ in range(chance.randrange(count + 1)):
                await asyncio.sleep(0)
            reader = journal.reader()
            while reader.end is None:
                await reader.wait()
                into += reader.take()

        readers = [asyncio.ensure_future(read(into)) for into in got]
        for number in range(count):
            journal.append(TextDelta(str(number)), 1)
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        journal.append(END, 1)
        await asyncio.gather(*readers)

        assert len(got[0]) == count + 1
        assert all(other == got[0] for other in got)

    asyncio.run(scene())


@given(st.integers(0, 30), st.data())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_resume_at_every_cursor_gives_exactly_the_rest(count: int, data: st.DataObject) -> None:
    journal = filled(Library(JournalConfig(), encode).open(), count)
    whole = journal.reader().take()

    for cursor in range(count + 1):
        assert journal.reader(cursor).take() == whole[cursor:]
    beyond = data.draw(st.integers(count + 1, 2**64 - 1))
    assert refusal(lambda: journal.reader(beyond)).error.metadata["state"] == "RUNNING"

    journal.append(END, 1)
    for cursor in (count, count + 1, beyond):
        (only,) = journal.reader(cursor).take()
        assert decode(only)[0] == count + 1
        assert decode(only)[-1] == END


async def test_a_reader_off_the_cap_is_told_and_delays_nobody() -> None:
    library = Library(JournalConfig(run_bytes=1000), small)
    journal = library.open()
    slow, quick = journal.reader(), journal.reader()
    slow.take()
    taken = 0
    for _ in range(100):
        journal.append(TextDelta("x" * 9), 1)
        taken += len(quick.take())

    assert taken == 100
    told = refusal(slow.take)
    assert told.reason is Reason.SLOW_CONSUMER
    gone = refusal(lambda: journal.reader(slow.cursor))
    assert gone.reason is Reason.CURSOR_OUT_OF_RANGE
    assert gone.error.metadata == {
        "oldest_sequence": str(journal.oldest),
        "last_sequence": "100",
        "state": "RUNNING",
    }
    assert len(journal.reader(journal.oldest - 1).take()) == 100 - journal.oldest + 1
    assert journal.size <= 1000


async def test_run_finished_is_kept_whatever_its_size() -> None:
    library = Library(JournalConfig(run_bytes=5), small)
    journal = filled(library.open(), 3)
    journal.append(END, 1)

    assert [len(wire) for wire in journal.reader(3).take()] == [10]
    assert library.used == 10 + _BESIDE


async def test_an_event_that_cannot_be_encoded_leaves_no_gap() -> None:
    def picky(sequence: int, elapsed_us: int, step: int, event: Event) -> bytes:
        if event == TextDelta("bad"):
            raise ValueError
        return encode(sequence, elapsed_us, step, event)

    journal = Library(JournalConfig(), picky).open()
    journal.append(TextDelta("good"), 1)
    with pytest.raises(ValueError):
        journal.append(TextDelta("bad"), 1)
    journal.append(END, 1)

    assert [sequence for sequence, *_ in await entries(journal.reader())] == [1, 2]


async def test_over_the_process_cap_ended_runs_give_way_first_and_keep_their_end() -> None:
    library = Library(JournalConfig(process_bytes=1500), small)
    ended, live = library.open(), library.open()
    for _ in range(15):
        ended.append(TextDelta("x" * 9), 1)
    ended.append(END, 1)
    reader = live.reader()

    for _ in range(15):
        live.append(TextDelta("x" * 9), 1)

    assert library.used <= 1500
    assert len(reader.take()) == 15
    assert ended.reader(ended.last).take() == [b"x" * 10]
    assert refusal(lambda: ended.reader(0)).error.metadata["oldest_sequence"] == str(ended.last)


async def test_over_the_process_cap_the_largest_live_run_gives_way() -> None:
    library = Library(JournalConfig(process_bytes=2000), small)
    large, little = library.open(), library.open()
    little.append(TextDelta("x" * 9), 1)
    for _ in range(60):
        large.append(TextDelta("x" * 9), 1)

    assert library.used <= 2000
    assert len(little.reader().take()) == 1
    assert large.oldest > 1


async def test_the_last_entry_of_a_dropped_run_is_served_and_costs_nothing_for_long() -> None:
    library = Library(JournalConfig(), encode)

    for after in (0, 6, 7, 8, 2**64 - 1):
        if after == 0:
            assert refusal(lambda: library.last_entry(7, END).reader(0)).error.metadata["oldest_sequence"] == "7"
            continue
        ((sequence, *_, event),) = await entries(library.last_entry(7, END).reader(after))
        assert (sequence, event) == (7, END)
    assert library.used == 0


class Caps(RuleBasedStateMachine):
    """Any interleaving of appends, ends and drops over several journals with tight caps: the books are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.library = Library(JournalConfig(run_bytes=600, process_bytes=1500), small)
        self.journals: list[Journal] = []
        self.dropped: list[Journal] = []
        self.readers: list[Reader] = []
        self.texts: dict[int, list[bytes]] = {}

    @rule()
    def open(self) -> None:
        journal = self.library.open()
        self.journals.append(journal)
        self.texts[id(journal)] = []

    @precondition(lambda self: self.journals)
    @rule(data=st.data(), sizes=st.lists(st.integers(0, 300), max_size=12))
    def append(self, data: st.DataObject, sizes: list[int]) -> None:
        journal = data.draw(st.sampled_from(self.journals))
        for size in sizes if journal.end is None else ():
            text = str(size % 10) * size
            journal.append(TextDelta(text), 1)
            self.texts[id(journal)].append(text.encode())

    @precondition(lambda self: self.journals)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        journal = data.draw(st.sampled_from(self.journals))
        if journal.end is None:
            journal.append(END, 1)
            self.texts[id(journal)].append(b"x" * 10)

    @precondition(lambda self: self.journals)
    @rule(data=st.data())
    def subscribe(self, data: st.DataObject) -> None:
        journal = data.draw(st.sampled_from(self.journals))
        self.readers.append(journal.reader(journal.oldest - 1))

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        before = reader.cursor
        if before < reader.journal.oldest - 1:
            assert refusal(reader.take).reason is Reason.SLOW_CONSUMER
            self.readers.remove(reader)
        else:
            assert reader.take() == self.texts[id(reader.journal)][before:]
            assert reader.cursor == reader.journal.last

    @precondition(lambda self: any(journal.end for journal in self.journals))
    @rule()
    def drop(self) -> None:
        journal = next(journal for journal in self.journals if journal.end)
        self.journals.remove(journal)
        self.dropped.append(journal)
        self.library.drop(journal)

    @invariant()
    def books_are_exact(self) -> None:
        for journal in self.journals:
            kept = self.texts[id(journal)][journal.oldest - 1 :]
            assert journal.last == len(self.texts[id(journal)])
            assert journal.size == sum(len(wire) + _BESIDE for wire in kept)
            assert journal.size <= 600 or len(kept) == 1
        assert self.library.used == sum(journal.size for journal in self.journals)
        assert all(journal.size == 0 for journal in self.dropped)
        assert self.library.used <= 1500 or all(journal.last <= journal.oldest for journal in self.journals)

    def teardown(self) -> None:
        for journal in self.journals:
            self.library.drop(journal)
        assert self.library.used == 0


CapsTest = Caps.TestCase
CapsTest.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)


async def test_a_run_walks_beside_its_reader_one_entry_ahead_at_most() -> None:
    journal = Library(JournalConfig(), encode).open()
    reader = journal.reader()
    journal.joined()
    journal.append(TextDelta("taken"), 1)
    reader.take()
    journal.append(TextDelta("one ahead"), 1)
    assert not journal.ahead
    journal.append(TextDelta("two ahead"), 1)
    assert journal.ahead
    stepping = asyncio.ensure_future(journal.keep_step())
    await asyncio.sleep(0)
    assert not stepping.done()
    reader.take()
    await stepping
    journal.append(TextDelta("again"), 1)
    journal.append(TextDelta("ahead"), 1)
    stepping = asyncio.ensure_future(journal.keep_step())
    await asyncio.sleep(0)
    journal.left()  # nobody is left to wait for
    await stepping
