"""SIGTERM, as a deploy sends it: a real process with streams of many lengths, each of which must come to one honest end."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no stubs

from agentsvc import v1
from agentsvc.client import AgentClient, AgentError
from agentsvc.domain.events import RunState
from agentsvc.domain.ports import Filter, PageRequest
from agentsvc.domain.runs import Run, TokenRole
from agentsvc.drain import FAREWELL
from agentsvc.providers.script import Pause, Say
from agentsvc.storage import Storage, StorageConfig
from tests.e2e.house import CONTINUE, Metadata, bearer, collect, question, read_until
from tests.e2e.process import environment
from tests.scripted import scripted
from tests.transport.rpc import refusal
from tests.upstream import Upstream

SLACK = 3.0  # seconds for an interpreter to end on a machine that others use as well
AT_ONCE = 1.0  # seconds; the promise is 0.1
ENDLESS = (Say("word"), Pause(3600.0))


@dataclass
class Deployed:
    """A service with one agent, and the process it is."""

    process: asyncio.subprocess.Process
    url: str
    token: str
    target: str
    channel: grpc.aio.Channel

    @property
    def metadata(self) -> Metadata:
        return bearer(self.token)

    @property
    def agents(self) -> Any:
        return v1.AgentServiceStub(self.channel)

    def stream(self, *steps: Any) -> Any:
        return self.agents.StreamChat(question("talker", *steps, options=CONTINUE), metadata=self.metadata)

    def terminate(self) -> float:
        self.process.send_signal(signal.SIGTERM)
        return time.monotonic()

    async def stored(self) -> dict[str, Run]:
        """All runs as the database has them once the process is gone."""
        async with await Storage.open(StorageConfig(self.url)) as storage:
            page = await storage.runs.list("acme", PageRequest(1000), Filter())
        return {run.run_id: run for run in page.items}


@asynccontextmanager
async def deployed(directory: Path, *, grace: float, settle: float) -> AsyncIterator[Deployed]:
    """At the end of the block the process must be gone, with exit code 0."""
    url = f"sqlite:///{directory}/agentsvc.sqlite3"
    async with await Storage.open(StorageConfig(url)) as storage:
        token = (await storage.tokens.create("acme", TokenRole.ADMIN)).text
    async with Upstream(scripted(), remembers=False) as upstream:
        settings = {
            "AGENTSVC_GRPC_ADDRESS": "127.0.0.1:0",
            "AGENTSVC_ADMIN_ADDRESS": "off",
            "AGENTSVC_DATABASE_URL": url,
            "AGENTSVC_SHUTDOWN_GRACE": str(grace),
            "AGENTSVC_DRAIN__SETTLE": str(settle),
            "OPENAI_BASE_URL": f"{upstream.url}/v1",
            "OPENAI_API_KEY": "key",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agentsvc.main", "serve", env=environment(**settings), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout
            port = re.search(rb"gRPC on .*:(\d+)", await process.stdout.readline())
            assert port
            target = f"127.0.0.1:{int(port[1])}"
            async with grpc.aio.insecure_channel(target) as channel:
                agent = v1.Agent(agent_id="talker", llm_config=v1.LlmConfig(provider="openai"))
                request = v1.CreateAgentRequest(agent=agent)
                await v1.AgentAdminServiceStub(channel).CreateAgent(request, metadata=bearer(token))
                yield Deployed(process, url, token, target, channel)
            assert process.returncode == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def gone(service: Deployed, since: float) -> float:
    """Seconds from ``since`` until the process has ended."""
    assert await service.process.wait() == 0
    return time.monotonic() - since


@dataclass
class Follower:
    """Reads one run, changing to a new SubscribeRun again and again until it hears that the server goes away."""

    service: Deployed
    seconds: float
    pace: float
    rng: random.Random
    run_id: str = ""
    sequences: list[int] = field(default_factory=list)
    end: v1.RunFinished | None = None
    warned: bool = False
    hops: int = 0
    turned_away: str = ""

    async def follow(self, started: asyncio.Event) -> None:
        words = max(2, round(self.seconds / self.pace))
        call = self.service.stream(Say("word " * words, delay=self.seconds / words))
        while self.end is None and not self.turned_away:
            try:
                await self._read(call, started)
            except grpc.aio.AioRpcError as error:
                self._broke_off(error)
            call.cancel()
            self.hops += 1
            resume = v1.SubscribeRunRequest(run_id=self.run_id, after_sequence=self.sequences[-1])
            call = self.service.agents.SubscribeRun(resume, metadata=self.service.metadata)
        call.cancel()

    def _broke_off(self, error: grpc.aio.AioRpcError) -> None:
        """With the status of an ended run, or because the port is closed or closing."""
        cut = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert self.end or (error.code() in cut and not refusal(error).reason), refusal(error)
        self.turned_away = "" if self.end else error.details() or "?"

    async def _read(self, call: Any, started: asyncio.Event) -> None:
        """Up to the end, or for a few events."""
        for taken in itertools.count(1):
            response = await call.read()
            if response is grpc.aio.EOF:
                return
            event = response.event
            if event.HasField("draining"):
                assert event.sequence == self.sequences[-1]
                self.warned = True
            elif not event.HasField("heartbeat"):
                self.sequences.append(event.sequence)
            if event.HasField("run_started"):
                self.run_id = event.run_started.run_id
                started.set()
            elif event.HasField("run_finished"):
                assert self.end is None
                self.end = event.run_finished
            elif taken > self.rng.randint(2, 12) and not self.warned:
                return


async def not_serving(service: Deployed) -> float:
    """When readiness was off, as a watcher hears it."""
    watch = health_pb2_grpc.HealthStub(service.channel).Watch(health_pb2.HealthCheckRequest(service="readiness"))
    while (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING:
        pass
    return time.monotonic()


async def knock(service: Deployed) -> Counter[str]:
    """How new runs are answered until nobody listens any more."""
    answers: Counter[str] = Counter()
    while service.process.returncode is None:
        call = service.stream(*ENDLESS)
        answer = await collect(call)
        answers[answer.end.reason or answer.end.message if answer.end else "let in"] += 1
        await asyncio.sleep(0.05)  # a caller's pace, not a wait for anything
    return answers


async def deploy(
    directory: Path, *, streams: int, shortest: float, longest: float, pace: float, grace: float, settle: float
) -> None:
    rng = random.Random(7)
    async with deployed(directory, grace=grace, settle=settle) as service:
        lengths = [rng.uniform(shortest, longest) for _ in range(streams)]
        followers = [Follower(service, seconds, pace, rng) for seconds in lengths]
        starts = [asyncio.Event() for _ in followers]
        reading = [
            asyncio.create_task(follower.follow(started)) for follower, started in zip(followers, starts, strict=True)
        ]
        for started in starts:
            await started.wait()
        unready = asyncio.create_task(not_serving(service))
        await asyncio.sleep(0)
        asked = service.terminate()
        knocking = asyncio.create_task(knock(service))
        assert await unready - asked < AT_ONCE
        took = await gone(service, asked)
        assert took < grace + SLACK
        await asyncio.gather(*reading)

        answers = await knocking
        assert answers["DRAINING"] > 0
        assert answers["let in"] == 0

        stored = await service.stored()
        assert {follower.run_id for follower in followers} == set(stored)
        for follower in followers:
            run = stored[follower.run_id]
            assert run.end_time
            assert follower.sequences == list(range(1, len(follower.sequences) + 1))
            if follower.end is None:  # it was between two streams when the port closed
                continue
            assert run.last_sequence == follower.sequences[-1]
            assert run.state.value == v1.RunState.Name(follower.end.state).removeprefix("RUN_STATE_").lower()
            assert follower.end.persisted
        states = Counter(run.state for run in stored.values())
        assert set(states) == {RunState.COMPLETED, RunState.INTERRUPTED}
        # Whoever could end in time did, and nobody else was let wait for.
        in_time = sum(follower.seconds < grace - FAREWELL - SLACK for follower in followers)
        assert states[RunState.COMPLETED] >= in_time
        heard = [follower for follower in followers if follower.end]
        assert len(heard) > streams * 0.9
        assert all(f.warned for f in heard if f.end and f.end.state == v1.RUN_STATE_INTERRUPTED)
        assert sum(follower.hops for follower in followers) > streams


async def test_a_deploy_under_load_ends_every_stream_honestly(tmp_path: Path) -> None:
    await deploy(tmp_path, streams=60, shortest=0.2, longest=6.0, pace=0.25, grace=3.0, settle=0.5)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_deploy_under_500_streams_of_a_second_to_a_minute(tmp_path: Path) -> None:
    await deploy(tmp_path, streams=500, shortest=1.0, longest=60.0, pace=1.0, grace=20.0, settle=5.0)


async def test_an_idle_server_stays_until_load_balancers_have_noticed(tmp_path: Path) -> None:
    async with deployed(tmp_path, grace=20.0, settle=0.7) as service:
        asked = service.terminate()
        answers = await knock(service)
        assert 0.7 <= await gone(service, asked) < 0.7 + SLACK
        assert answers["DRAINING"] > 3


async def test_when_the_last_run_has_ended_nothing_is_waited_for(tmp_path: Path) -> None:
    async with deployed(tmp_path, grace=30.0, settle=0.0) as service:
        call = service.stream(Say("one two three", delay=0.2))
        await read_until(call, "text_delta")
        asked = service.terminate()
        answer = await collect(call)
        assert answer.finished.state == v1.RUN_STATE_COMPLETED
        assert await gone(service, asked) < SLACK


async def test_a_second_sigterm_ends_it_at_once_and_loses_nothing(tmp_path: Path) -> None:
    async with deployed(tmp_path, grace=60.0, settle=30.0) as service:
        calls = [service.stream(*ENDLESS) for _ in range(5)]
        for call in calls:
            await read_until(call, "text_delta")
        unready = asyncio.create_task(not_serving(service))
        await asyncio.sleep(0)
        service.terminate()
        await unready
        again = service.terminate()
        answers = await asyncio.gather(*map(collect, calls))
        assert await gone(service, again) < SLACK
        for answer in answers:
            assert [event.WhichOneof("kind") for event in answer.events] == ["draining", "run_finished"]
            assert answer.finished.state == v1.RUN_STATE_INTERRUPTED
            assert answer.finished.partial_text == "word"
            assert answer.status is grpc.StatusCode.UNAVAILABLE
        stored = await service.stored()
        assert [run.state for run in stored.values()] == [RunState.INTERRUPTED] * 5
        assert {run.partial_text for run in stored.values()} == {"word"}


async def test_our_own_client_gets_the_end_of_an_interrupted_run_and_no_second_run(tmp_path: Path) -> None:
    async with (
        deployed(tmp_path, grace=FAREWELL + 0.2, settle=0.0) as service,
        AgentClient(service.target, service.token) as client,
    ):
        async with client.stream_chat(question("talker", *ENDLESS)) as stream:
            async for event in stream:
                if event.HasField("text_delta"):
                    break
            asked = service.terminate()
            with pytest.raises(AgentError) as ended:
                _ = [event async for event in stream]
        assert ended.value.reason == "RUN_INTERRUPTED"
        assert stream.finished
        assert stream.finished.partial_text == "word"
        await gone(service, asked)
        assert len(await service.stored()) == 1
