"""Five times more callers than places: the service does all it can, nothing it need not, and says so to the rest.

Capacity is set by ``max_runs`` alone: a run takes as long as its vendor does, and the service is far from busy. The
callers are what people deploy: gRPC channels with a retry policy, which know nothing of agentsvc.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no stubs

from agentsvc import v1
from agentsvc.domain.runs import TokenRole
from agentsvc.providers.script import Pause, Say
from agentsvc.storage import Storage, StorageConfig
from tests.e2e.house import Metadata, bearer, question
from tests.e2e.process import Running, serving
from tests.scripted import scripted
from tests.transport.rpc import refusal
from tests.upstream import Call, Upstream

PLACES, RUN, CROWD = 20, 0.5, 100  # runs at once, seconds that one takes, callers
CALM = 8  # callers before and after
CALM_AGAIN = 10.0  # seconds
TALK = (Say("Let me think."), Pause(RUN), Say("Done."))
RETRY = {
    "methodConfig": [
        {
            "name": [{"service": "agentsvc.v1.AgentService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"],
            },
        }
    ]
}
OPTIONS = (("grpc.service_config", json.dumps(RETRY)), ("grpc.use_local_subchannel_pool", 1))


@dataclass
class Crowd:
    """Callers that ask again and again, and what became of it. Moments are ``time.monotonic``."""

    metadata: Metadata
    answered: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)  # seconds to run_started
    refused: Counter[str] = field(default_factory=Counter)

    async def ask(self, agents: Any, until: float) -> None:
        while (asked := time.monotonic()) < until:
            call = agents.StreamChat(question("talker", *TALK), metadata=self.metadata)
            try:
                async for response in call:
                    if response.event.HasField("run_started"):
                        self.waits.append(time.monotonic() - asked)
            except grpc.aio.AioRpcError as error:
                # Its channel has given up after five attempts; the caller asks again, as callers do.
                self.refused[refusal(error).reason] += 1
            else:
                self.answered.append(time.monotonic())

    async def ask_together(self, channels: list[grpc.aio.Channel], callers: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        stubs = [v1.AgentServiceStub(channel) for channel in channels]
        await asyncio.gather(*(self.ask(stubs[n % len(stubs)], until) for n in range(callers)))


async def watch(process: Running, failures: list[str]) -> None:
    """Health by name, on a connection of its own, all the time."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{process.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            for name in ("", "readiness", "liveness"):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
                if answer.status != health_pb2.HealthCheckResponse.SERVING:
                    failures.append(name)
            await asyncio.sleep(0.1)  # a prober's pace


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def typical(waits: list[float]) -> float:
    return sorted(waits)[len(waits) // 2]


async def overload(directory: Path, seconds: float) -> None:
    url = f"sqlite:///{directory}/agentsvc.sqlite3"
    async with await Storage.open(StorageConfig(url)) as storage:
        metadata = bearer((await storage.tokens.create("acme", TokenRole.ADMIN)).text)
    asked: list[float] = []
    plays = scripted()

    async def vendor(call: Call) -> None:
        asked.append(time.monotonic())
        await plays(call)

    async with (
        Upstream(vendor, remembers=False) as upstream,
        serving(
            AGENTSVC_DATABASE_URL=url,
            AGENTSVC_LIMITS__MAX_RUNS=str(PLACES),
            AGENTSVC_LIMITS__QUEUE=str(PLACES // 2),
            AGENTSVC_LOG__LEVEL="warning",
            OPENAI_BASE_URL=f"{upstream.url}/v1",
            OPENAI_API_KEY="key",
        ) as process,
    ):
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{process.port}", options=OPTIONS) for _ in range(8)]
        agent = v1.Agent(agent_id="talker", llm_config=v1.LlmConfig(provider="openai"))
        await v1.AgentAdminServiceStub(channels[0]).CreateAgent(v1.CreateAgentRequest(agent=agent), metadata=metadata)

        before = Crowd(metadata)
        await before.ask_together(channels, CALM, 4 * RUN)
        assert not before.refused

        unwell: list[str] = []
        watching = asyncio.create_task(watch(process, unwell))
        asked.clear()
        crowd, began, used = Crowd(metadata), time.monotonic(), cpu_seconds(process.pid)
        await crowd.ask_together(channels, CROWD, seconds)
        busy = (cpu_seconds(process.pid) - used) / (time.monotonic() - began)

        # Goodput while the crowd was there, against what the places can carry at best.
        settled, end = began + 2 * RUN, began + seconds
        goodput = sum(settled <= moment < end for moment in crowd.answered) / (end - settled)
        assert goodput >= 0.9 * PLACES / RUN
        assert len(asked) <= 1.1 * len(crowd.answered)
        assert set(crowd.refused) <= {"OVERLOADED"}
        assert busy < 0.6  # promised is 0.3 on a machine of its own
        assert not watching.done()
        watching.cancel()
        assert not unwell

        calm = time.monotonic()
        while True:
            after = Crowd(metadata)
            await after.ask_together(channels, CALM, 2 * RUN)
            if not after.refused and typical(after.waits) < 2 * typical(before.waits) + 0.05:
                break
            assert time.monotonic() - calm < CALM_AGAIN
        for channel in channels:
            await channel.close()


async def test_five_times_too_many_callers(tmp_path: Path) -> None:
    await overload(tmp_path, 4.0)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_five_times_too_many_callers_for_half_a_minute(tmp_path: Path) -> None:
    await overload(tmp_path, 30.0)
