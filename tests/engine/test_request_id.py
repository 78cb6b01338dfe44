"""``request_id``: the same request is one run, however often and however concurrently it is sent."""

import asyncio

from agentsvc.domain.errors import Reason
from agentsvc.domain.events import (
    RunState,
)
from agentsvc.domain.runs import Run
from agentsvc.engine.tools import tool
from tests.engine.fakes import (
    ALICE,
    MALLORY,
    House,
    call,
    calls,
    check_end,
    read,
    refusal,
    says,
)


async def test_the_same_request_id_joins_the_run() -> None:
    started: list[str] = []

    @tool
    async def count() -> str:
        started.append("once")
        return "ok"

    house = House(calls(call("count")), says("done"), tools=[count])
    house.run_store.reading = asyncio.Event()
    both = [asyncio.ensure_future(house.start(request_id="r1", fingerprint="f")) for _ in range(2)]
    await asyncio.sleep(0)
    house.run_store.reading.set()
    one, two = await asyncio.gather(*both)
    await read(one)

    assert one is two
    assert one is await house.start(request_id="r1", fingerprint="f")
    assert started == ["once"]
    assert (await refusal(house.start(request_id="r1", fingerprint="g"))).reason is Reason.REQUEST_ID_REUSED
    assert (await house.start("Hi", MALLORY, request_id="r1", fingerprint="g")) is not one


async def test_a_refused_or_abandoned_first_call_lets_the_next_one_try() -> None:
    house = House()
    refused = await refusal(house.start(request_id="r1", session_id="nope"))
    assert refused.reason is Reason.SESSION_NOT_FOUND

    house.run_store.reading = asyncio.Event()
    first, second = [asyncio.ensure_future(house.start(request_id="r1")) for _ in range(2)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    house.run_store.reading.set()

    check_end(await read(await second), RunState.COMPLETED)
    assert len(house.model.requests) == 1


async def test_a_waiting_caller_that_leaves_does_not_take_the_claim_along() -> None:
    house = House()
    house.run_store.reading = asyncio.Event()
    first, second = [asyncio.ensure_future(house.start(request_id="r1")) for _ in range(2)]
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    house.run_store.reading.set()

    check_end(await read(await first), RunState.COMPLETED)


async def test_a_request_id_the_store_knows_is_not_run_again() -> None:
    house = House()
    house.rows.runs[ALICE.tenant_id, "run_1"] = Run("run_1", "demo", request_id="r1", fingerprint="f")

    known = await refusal(house.start(request_id="r1", fingerprint="f"))
    assert (known.reason, known.error.metadata) == (Reason.RUN_NOT_RESUMABLE, {"run_id": "run_1"})
    assert (await refusal(house.start(request_id="r1", fingerprint="g"))).reason is Reason.REQUEST_ID_REUSED
