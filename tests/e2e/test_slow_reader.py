"""A reader that does not read costs a bounded amount of memory, delays nobody, and is told what it missed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc

from agentsvc import v1
from agentsvc.domain.runs import TokenRole
from agentsvc.providers.script import Flood, Pause, Say
from agentsvc.storage import Storage, StorageConfig
from tests.e2e.house import CONTINUE, NARROW, bearer, collect, question, read_until
from tests.e2e.process import serving
from tests.scripted import scripted
from tests.upstream import Upstream

MEGABYTE = 1_000_000
WIDE = (("grpc.max_receive_message_length", -1),)


async def test_fifty_megabytes_past_a_reader_that_stopped(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/agentsvc.sqlite3"
    async with await Storage.open(StorageConfig(url)) as storage:
        admin = bearer((await storage.tokens.create("acme", TokenRole.ADMIN)).text)
    async with Upstream(scripted()) as upstream:
        vendor = {"OPENAI_BASE_URL": f"{upstream.url}/v1", "OPENAI_API_KEY": "key"}
        async with (
            serving(AGENTSVC_DATABASE_URL=url, **vendor) as process,
            grpc.aio.insecure_channel(f"127.0.0.1:{process.port}", options=NARROW) as narrow,
            grpc.aio.insecure_channel(f"127.0.0.1:{process.port}", options=WIDE) as wide,
        ):
            agent = v1.Agent(agent_id="talker", llm_config=v1.LlmConfig(provider="openai"))
            await v1.AgentAdminServiceStub(wide).CreateAgent(v1.CreateAgentRequest(agent=agent), metadata=admin)
            agents = v1.AgentServiceStub(wide)
            await collect(agents.StreamChat(question("talker", Flood(5000, "x" * 1000)), metadata=admin))
            import time
            process.forget_peak()
            before = process.resident()
            t=time.monotonic()
            flood = question("talker", Say("Once. "), Pause(0.5), Flood(50_000, "0123456789" * 100, batch=50, delay=0.002), options=CONTINUE)
            stalled = v1.AgentServiceStub(narrow).StreamChat(flood, metadata=admin)
            head = await read_until(stalled, "text_delta")
            run_id = head[0].run_started.run_id
            patient = await collect(agents.SubscribeRun(v1.SubscribeRunRequest(run_id=run_id), metadata=admin))
            print(time.monotonic()-t, "s", len(patient.events), patient.status, patient.end)
            print("peak", process.resident("VmHWM")-before, "now", process.resident()-before, "base", before)
            print(patient.finished, max(e.ByteSize() for e in patient.events))
            rest = await collect(stalled)
            print(rest.status, rest.end, len(rest.events))
