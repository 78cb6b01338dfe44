"""Whatever breaks, wherever: one run_finished, last, a status that agrees, and a session that goes on."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from agentsvc import v1
from agentsvc.engine.tools import ToolError, tool
from agentsvc.providers.pool import PoolConfig, RetryPolicy
from agentsvc.providers.script import (
    Call,
    ErrorFrame,
    Finish,
    Malformed,
    Pause,
    Raw,
    Reason,
    Refuse,
    Reset,
    Say,
    Script,
    Stall,
    Step,
    Truncate,
    Turn,
)
from tests.e2e.house import NARROW, PATIENCE, Answer, House, collect, open_house, question, read_until

PATIENT_FOR = 0.75  # seconds, with a vendor and with a tool
RUNS = 20  # at a time
SEEDS = [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 30))]
PROVIDER_REASONS = {
    "PROVIDER_AUTH", "PROVIDER_PERMISSION", "PROVIDER_NOT_FOUND", "PROVIDER_INVALID_REQUEST", "PROVIDER_RATE_LIMIT",
    "PROVIDER_OVERLOADED", "PROVIDER_SERVER_ERROR", "PROVIDER_UNREACHABLE", "PROVIDER_QUOTA", "CONTEXT_LENGTH",
    "FIRST_TOKEN_TIMEOUT", "IDLE_TIMEOUT", "STREAM_TRUNCATED", "MALFORMED_STREAM",
}  # fmt: skip


@tool
async def fail() -> str:
    """Fails."""
    raise ZeroDivisionError("secret of the tool")


@tool
async def refuse() -> str:
    """Tells the model what is wrong."""
    raise ToolError("not today")


@tool(timeout=PATIENT_FOR)
async def hang() -> str:
    """Hangs."""
    await asyncio.Event().wait()
    return "never"


@tool(timeout=PATIENT_FOR)
def block() -> str:
    """Hangs in a thread, for longer than anybody waits."""
    import time

    time.sleep(2 * PATIENT_FOR)
    return "late"


@tool
async def work(text: str = "") -> str:
    """Works."""
    return f"worked {text}"


@tool
async def leave() -> str:
    """Cancels its own task."""
    raise asyncio.CancelledError


TOOLS = [fail, refuse, hang, block, work, leave]
NAMES = [made.spec.name for made in TOOLS]


@asynccontextmanager
async def fragile_house(**changes: Any) -> AsyncIterator[House]:
    """A house that loses its patience soon."""
    pool = PoolConfig(
        first_token_timeout=PATIENT_FOR, idle_timeout=PATIENT_FOR, retry=RetryPolicy(max_retries=1, first_delay=0.01)
    )
    async with open_house(tools=TOOLS, pool=pool, **changes) as house:
        yield house


WORDS: Script = (
    Say("some words of text"), Reason("hm, well"), Say("ünï€🙂", chunk=1), Pause(0.01, pings=2), Say("a b", delay=0.005),
)  # fmt: skip
FAULTS: Script = (
    Stall(), Reset(), Truncate(), Malformed(), ErrorFrame(), ErrorFrame("rate_limit_exceeded", 429),
    Raw("data: {\n\n"), Raw("garbage"), Raw('data: {"choices": 7}\n\n'), Finish("length"), Finish(usage=False),
    Pause(2 * PATIENT_FOR, pings=9), Call("work", '{"text": '), Call("work", "[1]"), Call("work", {"wrong": 1}),
)  # fmt: skip


def some_words(rng: random.Random) -> Script:
    """What a model says before anything breaks, or does not."""
    return tuple(rng.choices(WORDS, k=rng.randint(0, 3)))


def some_script(rng: random.Random) -> Script:
    """One to three turns of an answer in which something may go wrong."""
    steps: list[Step] = []
    for _ in range(rng.randint(0, 2)):
        steps += some_words(rng)
        steps += [Call(rng.choice([*NAMES, "unheard_of"]), fragment=2) for _ in range(rng.randint(1, 3))]
        steps.append(Turn())
    if rng.random() < 0.25:
        status = rng.choice([400, 401, 403, 404, 408, 413, 418, 429, 500, 502, 503, 529])
        return (*steps, Refuse(status, headers={"retry-after": rng.choice(["0", "1", "soon"])}))
    steps += some_words(rng)
    if rng.random() < 0.8:
        steps.append(rng.choice(FAULTS))
    return tuple(steps) or (Truncate(),)


async def assert_in_order(house: House, answer: Answer) -> None:
    """What the stream said is what the record says, and a provider's failure has a provider's reason."""
    answer.check()
    finished, run = answer.finished, await house.run(answer.run_id)
    assert run.state == finished.state
    assert run.error == finished.error
    assert run.usage == finished.usage
    assert run.partial_text == finished.partial_text
    assert run.last_sequence == answer.events[-1].sequence
    if finished.state == v1.RUN_STATE_FAILED:
        assert finished.error.reason in PROVIDER_REASONS
        assert "secret" not in finished.error.message
    for result in answer.all("tool_result"):
        assert "secret" not in result.content[0].text
    assert len(answer.all("generation_completed")) == (finished.state == v1.RUN_STATE_COMPLETED)


async def assert_goes_on(house: House, agent: str, session_id: str) -> None:
    answer = await house.ask(agent, Say("Here again."), session_id=session_id)
    assert answer.finished.state == v1.RUN_STATE_COMPLETED, answer.finished.error
    assert answer.text == "Here again."


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_vendors_and_tools_that_break_anywhere(seed: int, provider: str) -> None:
    rng = random.Random(f"{provider}{seed}")
    async with fragile_house() as house:
        agent = await house.agent(provider, tools=NAMES)

        async def one(steps: Script) -> None:
            answer = await house.ask(agent, *steps)
            await assert_in_order(house, answer)
            await assert_goes_on(house, agent, answer.session_id)

        await asyncio.gather(*(one(some_script(rng)) for _ in range(RUNS)))


@pytest.mark.parametrize("seed", SEEDS)
async def test_callers_that_leave_at_any_moment(seed: int) -> None:
    rng = random.Random(seed)
    async with fragile_house() as house:
        agent = await house.agent(tools=NAMES)

        async def one(steps: Script) -> None:
            call = house.stream(agent, *steps)
            (started,) = await read_until(call, "run_started")
            await _leave(call, rng)
            run_id = started.run_started.run_id
            answer = (await collect(house.subscribe(run_id))).check()
            await assert_in_order(house, answer)
            await assert_goes_on(house, agent, answer.session_id)

        await asyncio.gather(*(one(some_script(rng)) for _ in range(RUNS)))


async def _leave(call: Any, rng: random.Random) -> None:
    """After some events, or after some time in which nothing is read."""
    if rng.random() < 0.5:
        await asyncio.sleep(rng.uniform(0, PATIENT_FOR))
    else:
        for _ in range(rng.randint(0, 12)):
            try:
                if await call.read() is grpc.aio.EOF:
                    break
            except grpc.aio.AioRpcError:
                break
    call.cancel()


async def test_a_caller_that_never_half_closes_is_served_all_the_same() -> None:
    async with open_house() as house:
        agent = await house.agent()
        method = house.channel.stream_stream(
            "/agentsvc.v1.AgentService/StreamChat",
            request_serializer=v1.StreamChatRequest.SerializeToString,
            response_deserializer=v1.StreamChatResponse.FromString,
        )
        call = method(metadata=house.acme.caller)
        await call.write(question(agent, Say("Hello")))
        answer = (await collect(call)).check()
        assert answer.text == "Hello"


async def test_a_caller_that_stops_reading_and_leaves_ends_its_run() -> None:
    async with open_house() as house, grpc.aio.insecure_channel(house.target, options=NARROW) as channel:
        agent = await house.agent()
        call = house.stream(agent, Say("x" * 400_000, chunk=4000), Stall(), stub=v1.AgentServiceStub(channel))
        (started,) = await read_until(call, "run_started")
        run_id = started.run_started.run_id
        async with asyncio.timeout(PATIENCE):
            while not (await house.run(run_id)).partial_text:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.01)
        call.cancel()
        run = await house.ended(run_id)
        assert run.state == v1.RUN_STATE_CANCELLED
        assert 0 < len(run.partial_text) <= 400_000


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Somebody else holds the write lock."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def refusing(database: Path) -> Iterator[None]:
    """The database refuses every message and every end of a run, also of one whose beginning it had not heard of."""
    refused = {
        "m": "BEFORE INSERT ON messages",
        "r": "BEFORE UPDATE ON runs",
        "e": "BEFORE INSERT ON runs WHEN NEW.end_time IS NOT NULL",
    }
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        for name, when in refused.items():
            other.execute(f"CREATE TRIGGER refuse_{name} {when} BEGIN SELECT RAISE(ABORT, 'no'); END")
        yield
        for name in refused:
            other.execute(f"DROP TRIGGER refuse_{name}")


@pytest.mark.parametrize("broken", [locked, refusing])
@pytest.mark.parametrize("seed", SEEDS[1:4])
async def test_a_database_that_fails_costs_no_stream_anything(seed: int, broken: Any) -> None:
    rng = random.Random(seed)
    async with fragile_house(storage={"timeout": 0.3}) as house:
        agent = await house.agent(tools=NAMES)
        before = await house.ask(agent, Say("Warm."))
        with broken(house.database):
            scripts = [(Say("Fine."),), *(some_script(rng) for _ in range(8))]
            answers = await asyncio.gather(*(house.ask(agent, *steps) for steps in scripts))
            for answer in answers:
                assert not answer.finished.persisted
            await assert_goes_on(house, agent, before.session_id)
            await assert_goes_on(house, agent, answers[0].session_id)
        for answer in answers:
            await assert_in_order(house, answer)
            await assert_goes_on(house, agent, answer.session_id)
