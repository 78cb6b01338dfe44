"""Cut anywhere, read on: no event is lost, none comes twice, and the vendor is asked once."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
import pytest

from agentsvc import v1
from agentsvc.client import AgentClient
from agentsvc.engine.tools import tool
from agentsvc.providers.script import Call, Pause, Reason, Repeat, Say, Script, Turn
from tests.e2e.house import CONTINUE, NARROW, PATIENCE, House, collect, open_house, question, read_until
from tests.e2e.proxy import open_proxy
from tests.upstream import until

# Deltas of different kinds are never joined, so this run has the same 300 events however busy the machine is.
ALTERNATING: Script = (
    Repeat(74, (Reason("hm "), Say("ah "))),
    Call("look_up", {"word": "tea"}, fragment=2),
    Turn(),
    Repeat(70, (Reason("so "), Say("yes "))),
)


@tool(idempotent=True)
async def look_up(word: str) -> str:
    """The meaning of a word."""
    return f"{word} is a drink"


def raw(house: House, run_id: str, after: int = 0) -> Any:
    """SubscribeRun, its responses left as bytes."""
    request = v1.SubscribeRunRequest(run_id=run_id, after_sequence=after)
    method: Any = house.channel.unary_stream("/agentsvc.v1.AgentService/SubscribeRun")
    return method(request.SerializeToString(), metadata=house.acme.caller)


async def take(call: Any, number: int) -> list[bytes]:
    """That many responses; then the reader hangs up."""
    taken = [await call.read() for _ in range(number)]
    call.cancel()
    return taken


async def all_of(call: Any) -> list[bytes]:
    return [response async for response in call]


async def finished_run(house: House) -> tuple[str, list[bytes]]:
    agent = await house.agent(tools=["look_up"])
    answer = await house.ask(agent, *ALTERNATING, options=CONTINUE)
    whole = await all_of(raw(house, answer.run_id))
    assert [v1.StreamChatResponse.FromString(wire).event for wire in whole] == answer.events
    assert len(whole) >= 300
    return answer.run_id, whole


async def test_a_run_cut_after_every_event_and_resumed_is_byte_identical() -> None:
    async with open_house(tools=[look_up]) as house:
        run_id, whole = await finished_run(house)
        for cut in range(len(whole)):
            head = await take(raw(house, run_id), cut) if cut % 25 == 0 else whole[:cut]
            assert head + await all_of(raw(house, run_id, cut)) == whole
        assert len(house.upstream.requests) == 2  # one per step of the one run


async def test_a_live_run_read_in_pieces_of_one_event_is_the_same_run() -> None:
    async with open_house(tools=[look_up]) as house:
        agent = await house.agent(tools=["look_up"])
        call = house.stream(agent, *ALTERNATING[:-1], Pause(0.05), ALTERNATING[-1], options=CONTINUE)
        (started,) = await read_until(call, "run_started")
        call.cancel()
        pieces: list[bytes] = []
        last = b""
        while not v1.StreamChatResponse.FromString(last).event.HasField("run_finished"):
            (last,) = await take(raw(house, started.run_started.run_id, len(pieces)), 1)
            pieces.append(last)
        assert pieces == await all_of(raw(house, started.run_started.run_id))
        assert len(house.upstream.requests) == 2


async def test_five_subscribers_that_join_at_random_see_one_sequence() -> None:
    rng = random.Random(5)
    async with open_house() as house:
        agent = await house.agent()
        slowly = Repeat(150, (Reason("hm ", delay=0.001), Say("ah ", delay=0.001)))
        call = house.stream(agent, slowly, options=CONTINUE)
        (started,) = await read_until(call, "run_started")
        run_id = started.run_started.run_id

        async def join(moment: int) -> tuple[int, list[bytes]]:
            await take(raw(house, run_id), moment)  # that is when the run has come so far
            after = rng.randint(0, moment)
            return after, await all_of(raw(house, run_id, after))

        joined = await asyncio.gather(*(join(rng.randint(1, 200)) for _ in range(5)))
        answer = await collect(call)
        answer.events.insert(0, started)
        answer.check()
        whole = await all_of(raw(house, run_id))
        assert [v1.StreamChatResponse.FromString(wire).event for wire in whole] == answer.events
        for after, seen in joined:
            assert seen == whole[after:]
        assert len(house.upstream.requests) == 1


async def test_a_reader_that_pauses_while_four_megabytes_arrive_loses_nothing() -> None:
    text = "0123456789" * 400_000
    async with (
        open_house() as house,
        grpc.aio.insecure_channel(house.target, options=NARROW) as channel,
        grpc.aio.insecure_channel(house.target, options=NARROW) as other,
    ):
        agent = await house.agent()
        steps = (Say("Once. "), Say(text, chunk=40_000))
        paused = house.stream(agent, *steps, options=CONTINUE, stub=v1.AgentServiceStub(channel))
        (started,) = await read_until(paused, "run_started")
        run_id = started.run_started.run_id
        cut = house.subscribe(run_id, stub=v1.AgentServiceStub(other))
        head = await read_until(cut, "text_delta")
        run = await house.ended(run_id)
        assert run.text == f"Once. {text}"
        cut.cancel()
        tail = (await collect(house.subscribe(run_id, len(head)))).check(len(head))
        patient = await collect(paused)
        assert [started, *patient.events] == [*head, *tail.events]
        assert "".join(event.text_delta.text for event in (*head, *tail.events)) == run.text
        assert len(house.upstream.requests) == 1


FAST = (
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 100),
)


@pytest.mark.parametrize(
    "allowances",
    [
        pytest.param([1500], id="once"),
        pytest.param([1500, 0, 20, 150], id="again-before-any-event"),
        pytest.param([700, 900, 400, 0, 1200], id="at-odd-places"),
    ],
)
async def test_our_client_reads_on_through_cuts(allowances: list[int]) -> None:
    async with open_house(tools=[look_up]) as house, open_proxy(house.service.port, allowances) as proxy:
        agent = await house.agent(tools=["look_up"])
        async with (
            AgentClient(f"127.0.0.1:{proxy.port}", house.token, options=FAST) as client,
            client.stream_chat(question(agent, *ALTERNATING)) as stream,
        ):
            events = [event async for event in stream]
        whole = (await collect(house.subscribe(stream.run_id))).check()
        assert events == whole.events
        assert proxy.cuts == len(allowances)
        assert len(house.upstream.requests) == 2


async def test_a_stream_that_our_client_leaves_cancels_its_run() -> None:
    async with open_house() as house:
        agent = await house.agent()
        async with (
            AgentClient(house.target, house.token) as client,
            client.stream_chat(question(agent, Say("Well, "), Pause(60))) as stream,
        ):
            async for event in stream:
                if event.HasField("text_delta"):
                    break
        run = await house.ended(stream.run_id)
        assert run.state == v1.RUN_STATE_CANCELLED
        async with asyncio.timeout(PATIENCE):
            await until(
                lambda: all(
                    connection.closed.is_set() for connection in house.upstream.connections if connection.requests
                )
            )
