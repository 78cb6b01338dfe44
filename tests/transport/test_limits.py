"""Limits and drain at the door: refused before headers with all that a retrying client needs, told before being left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no stubs
from grpc_status import rpc_status  # type: ignore[import-untyped]  # no stubs

from agentsvc import v1
from agentsvc.domain.events import ModelEvent, TextDelta
from agentsvc.domain.ports import ModelRequest
from agentsvc.engine.admission import LONGEST, SHORTEST, LimitsConfig
from agentsvc.transport.server import ServerConfig
from tests.e2e.house import NARROW, collect
from tests.transport.house import ADMIN, CALLER, FINISHED, STRANGER, Gated, House, bearer, open_house
from tests.transport.rpc import refused
from tests.upstream import until

PATIENCE = 20.0  # seconds for what takes milliseconds: the machine may be busy
LOCAL = ServerConfig(address="127.0.0.1:0")
HI = v1.StreamChatRequest(agent_id="demo", message="hi")


def limits(**changes: Any) -> LimitsConfig:
    """Few places, and nobody waits for one unless that is the point."""
    return LimitsConfig(**{"queue": 0, **changes})


async def detail(call: Any, kind: type[Message]) -> Any:
    """What the status of a refused call says in ``kind``; None when it does not."""
    error = grpc.aio.AioRpcError(await call.code(), None, await call.trailing_metadata(), await call.details())
    found = kind()
    return found if any(packed.Unpack(found) for packed in rpc_status.from_call(error).details) else None


@asynccontextmanager
async def talking(house: House, token: str = CALLER, **fields: Any) -> AsyncIterator[Any]:
    """A StreamChat call that has brought its first word."""
    call = house.agents.StreamChat(
        v1.StreamChatRequest(agent_id="demo", message="hi", **fields), metadata=bearer(token)
    )
    try:
        while not (await call.read()).event.HasField("text_delta"):
            pass
        yield call
    finally:
        call.cancel()


@pytest.mark.parametrize("method", ["StreamChat", "Chat"])
@pytest.mark.parametrize(
    ("limit", "reason", "subject"),
    [
        ("max_runs", "OVERLOADED", None),
        ("max_runs_per_tenant", "LIMIT_EXCEEDED", "tenant:acme"),
        ("max_runs_per_token", "LIMIT_EXCEEDED", "token:t1"),
        ("max_readers", "OVERLOADED", None),
        ("max_readers_per_tenant", "LIMIT_EXCEEDED", "tenant:acme"),
        ("max_readers_per_token", "LIMIT_EXCEEDED", "token:t1"),
    ],
)
async def test_a_call_too_many_is_refused_before_headers_with_whose_limit_it_is_and_when_to_come_back(
    method: str, limit: str, reason: str, subject: str | None
) -> None:
    async with open_house(Gated(), limits=limits(**{limit: 1})) as house, talking(house):
        request: Any = HI if method == "StreamChat" else v1.ChatRequest(agent_id="demo", message="hi")
        call = getattr(house.agents, method)(request, metadata=bearer(CALLER))
        told = await refused(call)
        assert (told.code, told.reason) == ("RESOURCE_EXHAUSTED", reason)
        assert "agentsvc-run-id" not in dict(await call.initial_metadata())
        retry = (await detail(call, error_details_pb2.RetryInfo)).retry_delay
        seconds = retry.seconds + retry.nanos / 1e9
        assert SHORTEST <= seconds <= LONGEST
        assert int(told.trailers["grpc-retry-pushback-ms"]) == pytest.approx(seconds * 1000, abs=1)
        quota = await detail(call, error_details_pb2.QuotaFailure)
        if subject is None:
            assert quota is None
        else:
            (violation,) = quota.violations
            assert violation.subject == subject
            assert f"{limit} = 1" in violation.description
        assert len(house.model.requests) == 1
        assert len(house.shelves.runs) == 1


async def test_a_reader_of_any_kind_counts_and_a_closed_one_counts_no_more() -> None:
    async with open_house(gated := Gated(), limits=limits(max_readers=2)) as house:
        async with talking(house, options={"on_disconnect": v1.ON_DISCONNECT_CONTINUE}):
            (run_id,) = (run_id for _, run_id in house.shelves.runs)
            subscribe = v1.SubscribeRunRequest(run_id=run_id)
            second = house.agents.SubscribeRun(subscribe, metadata=bearer(ADMIN))
            await second.read()
            told = await refused(house.agents.SubscribeRun(subscribe, metadata=bearer(ADMIN)))
            assert told.reason == "OVERLOADED"
            second.cancel()
            await asyncio.wait_for(until(lambda: house.runs.admission.readers == 1), PATIENCE)
        await asyncio.wait_for(until(lambda: house.runs.admission.readers == 0), PATIENCE)
        assert house.runs.admission.runs == 1  # runs count to their end, readers or not
        gated.gate.set()
        await asyncio.wait_for(until(lambda: house.runs.admission.runs == 0), PATIENCE)


async def test_health_and_records_are_never_refused() -> None:
    async with open_house(Gated(), limits=limits(max_runs=1, max_readers=1)) as house, talking(house):
        health = health_pb2_grpc.HealthStub(house.channel)
        for name in ("", "liveness", "readiness", "agentsvc.v1.AgentService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        ((_, run_id),) = house.shelves.runs
        assert (
            await house.agents.GetRun(v1.GetRunRequest(run_id=run_id), metadata=bearer(CALLER))
        ).run.run_id == run_id


async def test_a_call_that_waits_its_turn_is_answered_as_if_nothing_had_been() -> None:
    async with open_house(gated := Gated(), limits=limits(max_runs=1, queue=1, queue_wait=60.0)) as house:
        async with talking(house):
            second = asyncio.create_task(house.ask())
            await asyncio.wait_for(until(lambda: house.runs.admission.waiting == 1), PATIENCE)
            assert len(house.model.requests) == 1
            gated.gate.set()
        events = await asyncio.wait_for(second, PATIENCE)
        assert events[0].HasField("run_started")
        assert events[-1].run_finished.state == v1.RUN_STATE_COMPLETED


async def test_who_hangs_up_in_the_queue_leaves_it() -> None:
    async with open_house(Gated(), limits=limits(max_runs=1, queue=1, queue_wait=60.0)) as house, talking(house):
        call = house.agents.StreamChat(HI, metadata=bearer(CALLER))
        await asyncio.wait_for(until(lambda: house.runs.admission.waiting == 1), PATIENCE)
        call.cancel()
        await asyncio.wait_for(until(lambda: house.runs.admission.waiting == 0), PATIENCE)
        assert len(house.shelves.runs) == 1


async def test_a_tenant_at_its_limit_does_not_keep_another_out() -> None:
    async with open_house(gated := Gated(), limits=limits(max_runs_per_tenant=1, queue=9, queue_wait=60.0)) as house:
        agent = v1.Agent(agent_id="demo", llm_config=v1.LlmConfig(provider="mock"))
        await house.admin.CreateAgent(v1.CreateAgentRequest(agent=agent), metadata=bearer("strange-admin-token"))
        async with talking(house):
            waiting = [asyncio.create_task(house.ask()) for _ in range(3)]
            await asyncio.wait_for(until(lambda: house.runs.admission.waiting == 3), PATIENCE)
            async with talking(house, STRANGER):
                assert house.runs.admission.waiting == 3
            gated.gate.set()
        for answer in await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE):
            assert answer[-1].run_finished.state == v1.RUN_STATE_COMPLETED


class Torrent:
    """A model that says far more than fits into a client's window, and then waits."""

    SIZE = 1 << 20

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def __call__(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent], None]:
        yield [TextDelta("first")]
        for _ in range(4):
            yield [TextDelta("x" * (self.SIZE // 4))]
        await self.gate.wait()
        yield [TextDelta("last"), FINISHED]


class TestIdleReader:
    """A client that takes nothing of what is waiting for it."""

    @asynccontextmanager
    async def stalled(
        self, idle: float, policy: v1.OnDisconnect.ValueType
    ) -> AsyncIterator[tuple[House, Torrent, Any]]:
        async with (
            open_house(torrent := Torrent(), limits=limits(idle_reader=idle)) as house,
            grpc.aio.insecure_channel(house.target, options=NARROW) as narrow,
        ):
            options = v1.ChatOptions(on_disconnect=policy)
            request = v1.StreamChatRequest(agent_id="demo", message="hi", options=options)
            call: Any = v1.AgentServiceStub(narrow).StreamChat(request, metadata=bearer(CALLER))
            assert (await call.read()).event.HasField("run_started")
            yield house, torrent, call

    async def test_it_holds_no_place_after_a_while_and_can_come_back(self) -> None:
        async with self.stalled(0.5, v1.ON_DISCONNECT_CONTINUE) as (house, torrent, call):
            assert house.runs.admission.readers == 1
            await asyncio.wait_for(until(lambda: house.runs.admission.readers == 0), PATIENCE)
            torrent.gate.set()
            taken = await collect(call)
            assert taken.end
            assert (taken.end.code, taken.end.reason) == ("RESOURCE_EXHAUSTED", "SLOW_CONSUMER")
            cursor = taken.events[-1].sequence
            resume = v1.SubscribeRunRequest(run_id=next(iter(house.shelves.runs))[1], after_sequence=cursor)
            missed = (await collect(house.agents.SubscribeRun(resume, metadata=bearer(CALLER)))).check(cursor)
            assert [event.sequence for event in taken.events] == list(range(2, cursor + 1))
            assert missed.finished.state == v1.RUN_STATE_COMPLETED

    async def test_one_that_never_reads_again_has_left(self) -> None:
        async with self.stalled(0.2, v1.ON_DISCONNECT_CANCEL) as (house, _, _):
            await asyncio.wait_for(house.model.left.wait(), PATIENCE)
            await asyncio.wait_for(until(lambda: house.runs.admission.runs == 0), PATIENCE)

    async def test_silence_of_the_run_is_not_the_readers_fault(self) -> None:
        """However long nothing is said, and with heartbeats in between: nothing was waiting to be taken."""
        config = ServerConfig(address="127.0.0.1:0", heartbeat=0.1)
        async with open_house(gated := Gated(), config, limits=limits(idle_reader=0.05)) as house:
            async with talking(house) as call:
                for _ in range(5):
                    assert (await call.read()).event.HasField("heartbeat")
                assert house.runs.admission.readers == 1
                gated.gate.set()
                while (response := await call.read()) is not grpc.aio.EOF:
                    last = response.event
            assert last.run_finished.state == v1.RUN_STATE_COMPLETED


class TestDrain:
    """What a caller sees of a server that goes away."""

    async def test_new_runs_are_refused_with_when_to_call_another_replica_and_what_runs_can_be_read(self) -> None:
        full = limits(max_runs=2, queue=5, queue_wait=60.0)
        async with open_house(gated := Gated(), limits=full) as house, talking(house) as first, talking(house):
            waiting = house.agents.StreamChat(HI, metadata=bearer(CALLER))
            await asyncio.wait_for(until(lambda: house.runs.admission.waiting == 1), PATIENCE)
            house.runs.close_doors()
            for call in (waiting, house.agents.StreamChat(HI, metadata=bearer(CALLER))):
                told = await refused(call)
                assert (told.code, told.reason) == ("UNAVAILABLE", "DRAINING")
                assert await detail(call, error_details_pb2.RetryInfo)
                assert int(told.trailers["grpc-retry-pushback-ms"]) > 0
            resume = v1.SubscribeRunRequest(run_id=next(iter(house.shelves.runs))[1], after_sequence=1)
            second = house.agents.SubscribeRun(resume, metadata=bearer(CALLER))
            gated.gate.set()
            for call in (first, second):
                assert (await collect(call)).finished.state == v1.RUN_STATE_COMPLETED

    async def test_readers_that_are_left_hear_draining_then_the_end_of_their_run(self) -> None:
        async with open_house(Gated()) as house, talking(house) as call:
            house.runs.close_doors()
            house.server.announce_drain(1.5)
            house.runs.interrupt()
            told = await collect(call)
            assert [event.WhichOneof("kind") for event in told.events] == ["draining", "run_finished"]
            draining, finished = told.events
            assert draining.draining.retry_after.ToMilliseconds() == 1500
            assert draining.sequence == finished.sequence - 1  # it repeats the last one
            assert finished.run_finished.state == v1.RUN_STATE_INTERRUPTED
            assert finished.run_finished.error.reason == "RUN_INTERRUPTED"
            assert finished.run_finished.partial_text == "Hello"
            assert told.status is grpc.StatusCode.UNAVAILABLE

    async def test_draining_is_told_once_and_also_to_those_who_come_later(self) -> None:
        async with open_house(gated := Gated()) as house, talking(house) as first:
            house.server.announce_drain(1.0)
            assert (await first.read()).event.HasField("draining")
            resume = v1.SubscribeRunRequest(run_id=next(iter(house.shelves.runs))[1], after_sequence=1)
            second = house.agents.SubscribeRun(resume, metadata=bearer(CALLER))
            assert (await second.read()).event.HasField("draining")
            house.server.announce_drain(1.0)
            gated.gate.set()
            for call in (first, second):
                told = await collect(call)
                assert not told.all("draining")
                assert told.finished.state == v1.RUN_STATE_COMPLETED

    async def test_who_watches_health_does_not_hold_the_end_up(self) -> None:
        async with open_house() as house:
            watch = health_pb2_grpc.HealthStub(house.channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            await asyncio.wait_for(house.server.stop(3600.0), PATIENCE)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING

    async def test_a_shutdown_is_recorded_as_none_of_the_callers_doing(self) -> None:
        async with open_house(Gated()) as house, talking(house) as cancelled, talking(house) as interrupted:
            (_, user), (_, ours) = house.shelves.runs
            await house.agents.CancelRun(v1.CancelRunRequest(run_id=user), metadata=bearer(CALLER))
            house.runs.interrupt()
            for call in (cancelled, interrupted):
                await collect(call)
            states = {run_id: run.state.name for (_, run_id), run in house.shelves.runs.items()}
            assert states == {user: "CANCELLED", ours: "INTERRUPTED"}
