"""Admission: limits hold, nobody is overtaken or starved, every place comes back, and refusals say whose limit and when."""

from __future__ import annotations

import asyncio
import itertools
import random
import timeit
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsvc.domain.agents import Agent
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import TextDelta
from agentsvc.domain.runs import OnSessionBusy, Principal, RunOptions, TokenRole
from agentsvc.engine.admission import LONGEST, SHORTEST, Admission, LimitsConfig, Place
from tests.engine.fakes import ALICE, FOREVER, House, Move, failed, read, refusal, says

NO_LIMIT = 10_000
HANGS: list[Move] = [TextDelta("Hel"), FOREVER]
OPEN = LimitsConfig(NO_LIMIT, NO_LIMIT, NO_LIMIT, NO_LIMIT, NO_LIMIT, NO_LIMIT, queue=0, queue_wait=30.0)


def who(tenant: str, token: str = "1") -> Principal:
    return Principal(tenant, f"{tenant}.{token}", TokenRole.CALLER)


def fill(admission: Admission, principal: Principal, count: int) -> list[Place]:
    places = [admission.take_run(principal) for _ in range(count)]
    assert None not in places
    return [place for place in places if place]


async def lined_up(*waits: Coroutine[Any, Any, Place]) -> list[asyncio.Task[Place]]:
    """Tasks that wait in the queue, in this order."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.sleep(0)
    return tasks


async def settled() -> None:
    """What has been granted or refused has reached whoever waited for it."""
    for _ in range(3):
        await asyncio.sleep(0)


def let_in(tasks: list[asyncio.Task[Place]]) -> list[int]:
    return [number for number, task in enumerate(tasks) if task.done() and not task.exception()]


@pytest.mark.parametrize(
    ("limit", "reason", "subject"),
    [
        ("max_runs", Reason.OVERLOADED, None),
        ("max_runs_per_tenant", Reason.LIMIT_EXCEEDED, "tenant:acme"),
        ("max_runs_per_token", Reason.LIMIT_EXCEEDED, "token:acme.1"),
    ],
)
async def test_a_run_too_many_is_told_whose_limit_it_is(limit: str, reason: Reason, subject: str | None) -> None:
    admission = Admission(replace(OPEN, **{limit: 2}))
    fill(admission, who("acme"), 2)
    assert admission.take_run(who("acme")) is None
    refused = (await refusal(admission.wait_for_run(who("acme")))).error
    assert refused.reason is reason
    assert f"{limit} = 2" in refused.message
    assert refused.metadata.get("subject") == subject
    assert refused.retryable
    assert refused.retry_after is not None


@pytest.mark.parametrize("limit", ["max_readers", "max_readers_per_tenant", "max_readers_per_token"])
def test_readers_have_limits_of_their_own_and_never_wait(limit: str) -> None:
    admission = Admission(replace(OPEN, **{limit: 1}))
    fill(admission, who("acme"), 5)
    with admission.take_reader(who("acme")):
        with pytest.raises(AgentsvcError, match=f"{limit} = 1"):
            admission.take_reader(who("acme"))
        assert admission.readers == 1
    assert admission.readers == 0


def test_what_one_tenant_or_token_holds_does_not_count_for_another() -> None:
    admission = Admission(replace(OPEN, max_runs_per_tenant=3, max_runs_per_token=2))
    fill(admission, who("acme", "1"), 2)
    fill(admission, who("acme", "2"), 1)
    fill(admission, who("other", "1"), 2)
    assert admission.take_run(who("acme", "2")) is None
    assert admission.take_run(who("other", "1")) is None
    assert admission.take_run(who("other", "2"))


async def test_a_place_that_comes_free_goes_to_who_waited_longest() -> None:
    admission = Admission(replace(OPEN, max_runs=1, queue=9))
    (first,) = fill(admission, who("acme"), 1)
    tasks = await lined_up(*(admission.wait_for_run(who("acme")) for _ in range(2)))
    first.release()
    assert admission.take_run(who("acme")) is None  # a newcomer does not overtake
    await settled()
    assert let_in(tasks) == [0]
    tasks[0].result().release()
    await settled()
    assert let_in(tasks) == [0, 1]


async def test_the_queue_goes_round_the_tenants() -> None:
    admission = Admission(replace(OPEN, max_runs=1, queue=99))
    (place,) = fill(admission, who("noisy"), 1)
    callers = [who("noisy")] * 5 + [who("quiet")] * 2 + [who("calm")]
    tasks = await lined_up(*(admission.wait_for_run(caller) for caller in callers))
    order: list[int] = []
    for _ in callers:
        place.release()
        await settled()
        (number,) = set(let_in(tasks)) - set(order)
        order.append(number)
        place = tasks[number].result()
    assert [callers[number].tenant_id for number in order][:4] == ["noisy", "quiet", "calm", "noisy"]
    assert [number for number in order if number < 5] == [0, 1, 2, 3, 4]


async def test_a_tenant_at_its_own_limit_holds_nobody_else_up() -> None:
    admission = Admission(replace(OPEN, max_runs=4, max_runs_per_tenant=2, queue=99))
    fill(admission, who("noisy"), 2)
    waiting = await lined_up(*(admission.wait_for_run(who("noisy")) for _ in range(20)))
    fill(admission, who("quiet"), 2)  # at once
    assert not let_in(waiting)
    for task in waiting:
        task.cancel()
    await settled()
    assert admission.waiting == 0


async def test_a_full_queue_is_shared_fairly() -> None:
    admission = Admission(replace(OPEN, max_runs=1, queue=4))
    fill(admission, who("noisy"), 1)
    noisy = await lined_up(*(admission.wait_for_run(who("noisy")) for _ in range(4)))
    assert (await refusal(admission.wait_for_run(who("noisy")))).reason is Reason.OVERLOADED
    quiet = await lined_up(*(admission.wait_for_run(who("quiet")) for _ in range(3)))
    await settled()
    # Two each: the noisy one's latest gave way, the quiet one's third found none who had more than a fair share.
    assert [task.done() for task in noisy] == [False, False, True, True]
    assert [task.done() for task in quiet] == [False, False, True]
    assert isinstance(noisy[3].exception(), AgentsvcError)
    assert isinstance(quiet[2].exception(), AgentsvcError)
    for task in (*noisy[:2], *quiet[:2]):
        task.cancel()
    await settled()


async def test_waiting_has_an_end() -> None:
    admission = Admission(replace(OPEN, max_runs=1, queue=9, queue_wait=0.01))
    fill(admission, who("acme"), 1)
    assert (await refusal(admission.wait_for_run(who("acme")))).reason is Reason.OVERLOADED
    assert admission.waiting == 0


async def test_who_leaves_in_the_moment_of_being_let_in_gives_the_place_back() -> None:
    admission = Admission(replace(OPEN, max_runs=1, queue=9))
    (place,) = fill(admission, who("acme"), 1)
    leaving, staying = await lined_up(*(admission.wait_for_run(who("acme")) for _ in range(2)))
    place.release()
    leaving.cancel()
    await settled()
    assert leaving.cancelled()
    assert let_in([staying]) == [0]
    staying.result().release()
    assert admission.runs == 0


async def test_closing_sends_everybody_away() -> None:
    admission = Admission(replace(OPEN, max_runs=1, queue=9))
    fill(admission, who("acme"), 1)
    tasks = await lined_up(*(admission.wait_for_run(who(tenant)) for tenant in ("a", "b", "b")))
    admission.close(lambda: AgentsvcError(Reason.DRAINING, "gone"))
    tasks[0].cancel()
    for task in tasks[1:]:
        assert (await refusal(task)).reason is Reason.DRAINING
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert admission.waiting == 0


# --- when to come back ----------------------------------------------------------------------------------------------
async def times_told(admission: Admission, count: int) -> list[float]:
    errors = [(await refusal(admission.wait_for_run(who("acme")))).error for _ in range(count)]
    return [error.retry_after or 0.0 for error in errors]


async def test_a_crowd_comes_back_at_the_pace_at_which_it_can_be_served() -> None:
    admission = Admission(replace(OPEN, max_runs=10))
    for _ in range(50):
        admission.ran(2.0)
    fill(admission, who("acme"), 10)
    told = await times_told(admission, 100)
    # Ten places, two seconds each: five calls a second, the hundredth after twenty seconds, none earlier than at 0.8.
    per_second = Counter(int(time) for time in told)
    assert max(per_second.values()) <= 5 / 0.8 * 2
    assert 16.0 <= max(told) <= 20.5
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("seconds", [1e-6, 3600.0])
async def test_the_time_told_is_never_absurd(seconds: float) -> None:
    admission = Admission(replace(OPEN, max_runs=1))
    admission.ran(seconds)
    fill(admission, who("acme"), 1)
    told = await times_told(admission, 50)
    assert all(SHORTEST <= time <= LONGEST for time in told)
    assert len(set(told)) == len(told)


async def test_what_refusals_remember_is_bounded() -> None:
    admission = Admission(replace(OPEN, max_runs_per_tenant=1))
    admission.ran(1e-9)
    for number in range(3000):
        fill(admission, who(str(number)), 1)
        await refusal(admission.wait_for_run(who(str(number))))
    assert len(admission._promised) <= 1024 + 1


# --- every path gives back what it took -----------------------------------------------------------------------------
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["take", "wait", "release", "cancel", "turn"]), st.integers(0, 5)), max_size=60
    ),
    limits=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.integers(0, 4)),
)
@settings(deadline=None, max_examples=150)
def test_whatever_happens_limits_hold_nobody_waits_in_vain_and_all_places_come_back(
    steps: list[tuple[str, int]], limits: tuple[int, int, int, int]
) -> None:
    asyncio.run(play(steps, *limits))


async def play(steps: list[tuple[str, int]], most: int, per_tenant: int, per_token: int, queue: int) -> None:
    config = replace(
        OPEN, max_runs=most, max_runs_per_tenant=per_tenant, max_runs_per_token=per_token, queue=queue, queue_wait=99.0
    )
    admission = Admission(config)
    callers = [who(tenant, token) for tenant, token in itertools.product("abc", "12")]
    held: list[Place] = []
    waiting: list[asyncio.Task[Place]] = []
    for step, number in steps:
        match step:
            case "take":
                if place := admission.take_run(callers[number]):
                    held.append(place)
            case "wait":
                waiting.append(asyncio.create_task(queued(admission, callers[number])))
            case "release" if held:
                place = held.pop(number % len(held))
                place.release()
                place.release()
            case "cancel" if waiting:
                waiting[number % len(waiting)].cancel()
            case _:
                await settled()
        done = [task for task in waiting if task.done()]
        waiting = [task for task in waiting if not task.done()]
        held += [task.result() for task in done if not task.cancelled() and task.exception() is None]
        check(admission, config, held, waiting)
    for task in waiting:
        task.cancel()
    for place in held:
        place.release()
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, Place | AgentsvcError | asyncio.CancelledError)
        if isinstance(outcome, Place):
            outcome.release()
    assert (admission.runs, admission.waiting) == (0, 0)
    assert (admission._queue, admission._runs.tenants, admission._runs.tokens) == ({}, {}, {})


async def queued(admission: Admission, caller: Principal) -> Place:
    return admission.take_run(caller) or await admission.wait_for_run(caller)


def check(admission: Admission, config: LimitsConfig, held: list[Place], waiting: list[asyncio.Task[Place]]) -> None:
    """The limits hold; what is counted is held, or on its way to somebody who waits; who waits could not be let in."""
    assert len(held) <= admission.runs <= min(config.max_runs, len(held) + len(waiting))
    assert all(count <= config.max_runs_per_tenant for count in admission._runs.tenants.values())
    assert all(count <= config.max_runs_per_token for count in admission._runs.tokens.values())
    assert admission.waiting == sum(map(len, admission._queue.values())) <= config.queue
    for line in admission._queue.values():
        assert line
        for principal in line.values():
            assert admission.take_run(principal) is None


# --- in the engine --------------------------------------------------------------------------------------------------
async def test_a_run_holds_its_place_until_it_has_answered_and_readers_do_not_matter() -> None:
    house = House(HANGS)
    live = await house.start()
    reader = live.reader()
    assert house.runs.admission.runs == 1
    reader.close()  # under CANCEL its leaving ends the run
    await live.ended()
    assert house.runs.admission.runs == 0


async def test_every_refusal_and_failure_gives_its_place_back() -> None:
    house = House([failed(Reason.PROVIDER_OVERLOADED)], says("well"))
    await read(await house.start())
    await refusal(house.start(session_id="session_of_nobody"))
    await refusal(house.start(principal=Principal("nobody", "t", TokenRole.CALLER)))
    await read(await house.start())
    assert house.runs.admission.runs == 0


async def test_one_request_id_is_one_run_and_one_place() -> None:
    house = House(HANGS)
    live = await house.start(request_id="once")
    assert await house.start(request_id="once") is live
    assert house.runs.admission.runs == 1
    house.runs.interrupt()
    await live.ended()


async def test_the_queue_of_a_session_is_bounded() -> None:
    house = House(HANGS)
    first = await house.start()
    session = first.conversation.session.session_id
    queue = RunOptions(on_session_busy=OnSessionBusy.QUEUE)
    most = house.runs.admission.config.queue_per_session
    waiting = [await house.start(session_id=session, options=queue) for _ in range(most)]
    refused = await refusal(house.start(session_id=session, options=queue))
    assert refused.reason is Reason.SESSION_BUSY
    assert f"{most} runs wait" in refused.error.message
    assert house.runs.admission.runs == 1 + most
    house.runs.interrupt()
    for live in (first, *waiting):
        await live.ended()
    assert house.runs.admission.runs == 0


async def test_closed_doors_refuse_and_let_finish() -> None:
    house = House(HANGS, says("lo"))
    live = await house.start()
    house.runs.close_doors()
    refused = (await refusal(house.start())).error
    assert (refused.reason, refused.retryable) == (Reason.DRAINING, True)
    assert refused.retry_after
    assert not live.state.ended
    assert house.runs.interrupt() == 1
    await house.runs.all_ended()
    assert (await house.runs.get(ALICE, live.run_id)).error.reason is Reason.RUN_INTERRUPTED  # type: ignore[union-attr]


async def test_a_run_that_was_on_its_way_in_when_the_doors_closed_is_refused_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house, asked, answer = House(says("Hello")), asyncio.Event(), asyncio.Event()
    get = house.agent_store.get

    async def slowly(tenant_id: str, agent_id: str) -> Agent | None:
        asked.set()
        await answer.wait()
        return await get(tenant_id, agent_id)

    monkeypatch.setattr(house.agent_store, "get", slowly)
    starting = asyncio.create_task(house.start())
    await asked.wait()
    house.runs.close_doors()
    await house.runs.all_ended()
    answer.set()
    assert (await refusal(starting)).reason is Reason.DRAINING
    assert house.runs.admission.runs == 0
    assert not house.model.requests


def test_below_the_limits_admission_costs_next_to_nothing() -> None:
    admission, caller = Admission(LimitsConfig()), who("acme")
    fill(admission, caller, 10)

    def pass_through() -> None:
        place = admission.take_run(caller)
        assert place is not None
        place.release()

    best = min(timeit.repeat(pass_through, number=1000, repeat=20)) / 1000
    assert best < 20e-6  # ten times the promise of 2 us


def test_a_place_comes_back_once_however_often_it_is_given_back() -> None:
    admission = Admission(OPEN)
    places = fill(admission, who("acme"), 3)
    random.Random(1).shuffle(places)
    for place in places * 3:
        place.release()
    assert admission.runs == 0
