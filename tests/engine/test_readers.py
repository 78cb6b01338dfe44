"""Readers: leaving, coming back, joining late, falling behind, and what is left after retention."""

import asyncio
import time

import pytest

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import (
    Event,
    RunStarted,
    RunState,
    TextDelta,
)
from agentsvc.domain.runs import OnDisconnect, Run, RunOptions
from agentsvc.engine.journal import JournalConfig, Reader
from tests.engine.fakes import (
    ALICE,
    CONTINUE,
    FOREVER,
    House,
    check_end,
    decode,
    entries,
    of,
    read,
    read_until,
    refusal,
    says,
    text_of,
)


def rest(reader: Reader) -> list[bytes]:
    """All that is there, a handful at a time."""
    entries: list[bytes] = []
    while handful := reader.take():
        entries += handful
    return entries


async def test_on_disconnect_cancel_waits_for_the_last_reader() -> None:
    house = House([TextDelta("Hel"), FOREVER])
    live = await house.start()
    first, second = live.reader(), live.reader()
    await read_until(first, TextDelta)

    first.close()
    first.close()
    await asyncio.sleep(0)
    assert live.state is RunState.RUNNING
    second.close()

    assert (await live.ended()).state is RunState.CANCELLED
    assert house.model.open == 0


async def test_on_disconnect_continue_goes_on_and_is_saved() -> None:
    gate = asyncio.Event()
    house = House([TextDelta("Hel"), gate, *says("lo")])
    live = await house.start(options=CONTINUE)
    reader = live.reader()
    seen = await read_until(reader, TextDelta)
    assert of(seen, RunStarted)[0].resumable
    reader.close()
    gate.set()

    assert (await live.ended()).text == "Hello"
    assert house.history(live.conversation.session.session_id)[-1].text == "Hello"


async def test_on_disconnect_continue_for_ends_after_its_time() -> None:
    house = House([TextDelta("Hel"), FOREVER])
    live = await house.start(options=RunOptions(on_disconnect=OnDisconnect.CONTINUE_FOR, continue_for=0.03))
    reader = live.reader()
    await read_until(reader, TextDelta)
    began = time.monotonic()
    reader.close()

    assert (await live.ended()).state is RunState.CANCELLED
    assert time.monotonic() - began >= 0.025


async def test_coming_back_in_time_keeps_the_run() -> None:
    gate = asyncio.Event()
    house = House([TextDelta("Hel"), gate, *says("lo")])
    live = await house.start(options=RunOptions(on_disconnect=OnDisconnect.CONTINUE_FOR, continue_for=0.02))
    live.reader().close()
    back = await house.runs.subscribe(ALICE, live.run_id, 0)
    await asyncio.sleep(0.04)  # the timer's time, twice
    gate.set()

    check_end([event for *_, event in await entries(back)], RunState.COMPLETED)


@pytest.mark.parametrize("order", ["detached last", "detached first"])
async def test_being_detached_is_not_leaving(order: str) -> None:
    house = House([TextDelta("Hel"), FOREVER])
    live = await house.start()
    slow, other = live.reader(), live.reader()
    await read_until(other, TextDelta)

    if order == "detached last":
        other.close()
        slow.close(detached=True)
        assert live._cause is None
        live.reader().close()
    else:
        slow.close(detached=True)
        other.close()

    assert (await live.ended()).state is RunState.CANCELLED


async def test_a_300_event_run_cut_at_every_event_is_byte_identical() -> None:
    house = House(says(*(f"token {n} " for n in range(296))))
    live = await house.start(options=CONTINUE)
    uncut = live.reader()
    whole: list[bytes] = []
    cut: list[bytes] = []
    while uncut.end is None:
        await uncut.wait()
        whole += uncut.take()
        # A second caller, who loses the connection after every single event.
        while len(cut) < len(whole):
            resumed = await house.runs.subscribe(ALICE, live.run_id, len(cut))
            cut += resumed.take()[:1]
            resumed.close()

    assert len(whole) == 300
    assert cut == whole
    for cursor in range(300):
        assert rest(await house.runs.subscribe(ALICE, live.run_id, cursor)) == whole[cursor:]
    assert (await house.runs.subscribe(ALICE, live.run_id, 300)).take() == whole[-1:]
    assert len(house.model.requests) == 1


async def test_a_reader_of_a_flooding_run_finds_the_text_in_the_record() -> None:
    house = House(says(*["x" * 1000] * 200), journal=JournalConfig(run_bytes=50_000))
    live = await house.start(options=CONTINUE)
    reader = live.reader()
    await live.ended()

    with pytest.raises(AgentsvcError) as told:
        reader.take()
    assert told.value.reason is Reason.SLOW_CONSUMER
    reader.close(detached=True)
    gone = await refusal(house.runs.subscribe(ALICE, live.run_id, 1))
    assert gone.reason is Reason.CURSOR_OUT_OF_RANGE
    assert int(gone.error.metadata["oldest_sequence"]) == live.journal.oldest
    assert (await house.runs.get(ALICE, live.run_id)).text == "x" * 200_000


async def test_a_reader_that_stalls_at_the_last_text_does_not_hold_up_the_end() -> None:
    house = House(says("a", "b", "c"))
    live = await house.start()
    stalled = live.reader()
    seen: list[Event] = []
    while text_of(seen) != "abc":
        await stalled.wait()
        seen += [decode(wire)[-1] for wire in stalled.take()]

    assert (await asyncio.wait_for(live.ended(), 1)).state is RunState.COMPLETED
    check_end([*seen, *(event for *_, event in await entries(stalled))], RunState.COMPLETED)


async def test_after_retention_nothing_is_left_but_the_end_in_the_store() -> None:
    house = House(journal=JournalConfig(retention=0.0))
    live = await house.start(request_id="r1")
    events = await read(live)
    await house.library.empty.wait()

    assert house.runs.find(ALICE, live.run_id) is None
    assert house.library.used == 0
    assert [*house.library._live, *house.library._ended, *house.runs._live, *house.runs._by_request] == []
    ((sequence, *_, last),) = await entries(await house.runs.subscribe(ALICE, live.run_id, len(events)))
    assert (sequence, last.state) == (len(events), RunState.COMPLETED)  # type: ignore[union-attr] # RunFinished
    assert (await refusal(house.runs.subscribe(ALICE, live.run_id, 1))).reason is Reason.CURSOR_OUT_OF_RANGE
    assert house.library.used == 0
    assert (await refusal(house.start(request_id="r1"))).reason is Reason.RUN_NOT_RESUMABLE


async def test_the_end_of_a_run_that_crashed_follows_whatever_was_seen() -> None:
    house = House()
    house.rows.runs[ALICE.tenant_id, "run_dead"] = Run("run_dead", "demo", state=RunState.INTERRUPTED)

    last = (1 << 64) - 1  # that the wire can carry
    for after in (0, 57, last - 1, last):
        ((sequence, *_, end),) = await entries(await house.runs.subscribe(ALICE, "run_dead", after))
        assert sequence == min(after + 1, last)
        assert end.state is RunState.INTERRUPTED  # type: ignore[union-attr] # RunFinished


async def test_a_run_of_another_process_is_not_resumable_here() -> None:
    house = House()
    house.rows.runs[ALICE.tenant_id, "run_far"] = Run("run_far", "demo", state=RunState.RUNNING)

    assert (await refusal(house.runs.subscribe(ALICE, "run_far", 0))).reason is Reason.RUN_NOT_RESUMABLE
