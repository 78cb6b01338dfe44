"""A reader that does not read costs a bounded amount of memory, delays nobody, and is told what it missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc

from agentsvc import v1
from agentsvc.domain.runs import TokenRole
from agentsvc.engine.journal import JournalConfig
from agentsvc.providers.script import Flood, Pause, Say
from agentsvc.storage import Storage, StorageConfig
from tests.e2e.house import CONTINUE, NARROW, bearer, collect, question, read_until
from tests.e2e.process import Running, serving
from tests.scripted import scripted
from tests.upstream import Upstream

TOKENS, TOKEN = 50_000, "0123456789" * 100
SIZE = TOKENS * len(TOKEN)  # 50 MB
CAP = JournalConfig().run_bytes
# Some 20 MB/s: a hundred thousand times a vendor's pace, and what this process can produce and read at once.
FLOOD = (Say("Once. "), Pause(0.3), Flood(TOKENS, TOKEN, batch=50, delay=0.002))
WIDE = (("grpc.max_receive_message_length", -1),)


async def talker(url: str) -> Any:
    """A database with one agent in it; the metadata of its caller."""
    async with await Storage.open(StorageConfig(url)) as storage:
        return bearer((await storage.tokens.create("acme", TokenRole.ADMIN)).text)


async def read_patiently(call: Any, process: Running) -> tuple[list[v1.ChatEvent], int]:
    """All events, and how much the process had grown when nine tenths of the text were there."""
    before, growth, seen = process.resident(), 0, 0
    events: list[v1.ChatEvent] = []
    async for response in call:
        events.append(response.event)
        seen += len(response.event.text_delta.text)
        if not growth and seen > SIZE * 9 // 10:
            growth = process.resident() - before
    return events, growth


async def test_fifty_megabytes_pass_a_reader_that_stopped(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/agentsvc.sqlite3"
    metadata = await talker(url)
    async with Upstream(scripted()) as upstream:
        vendor = {"OPENAI_BASE_URL": f"{upstream.url}/v1", "OPENAI_API_KEY": "key"}
        async with (
            serving(AGENTSVC_DATABASE_URL=url, **vendor) as process,
            grpc.aio.insecure_channel(f"127.0.0.1:{process.port}", options=NARROW) as narrow,
            grpc.aio.insecure_channel(f"127.0.0.1:{process.port}", options=WIDE) as wide,
        ):
            agent = v1.Agent(agent_id="talker", llm_config=v1.LlmConfig(provider="openai"))
            await v1.AgentAdminServiceStub(wide).CreateAgent(v1.CreateAgentRequest(agent=agent), metadata=metadata)
            agents = v1.AgentServiceStub(wide)

            stalled = v1.AgentServiceStub(narrow).StreamChat(
                question("talker", *FLOOD, options=CONTINUE), metadata=metadata
            )
            head = await read_until(stalled, "text_delta")
            run_id = head[0].run_started.run_id

            def subscribe(after: int) -> Any:
                request = v1.SubscribeRunRequest(run_id=run_id, after_sequence=after)
                return agents.SubscribeRun(request, metadata=metadata)

            # Another reader is not disturbed, and beside the text itself the process keeps the journal at its cap.
            events, growth = await read_patiently(subscribe(0), process)
            assert [event.sequence for event in events] == list(range(1, len(events) + 1))
            text = "".join(event.text_delta.text for event in events)
            assert len(text) == SIZE + len("Once. ")
            assert events[-1].run_finished.state == v1.RUN_STATE_COMPLETED
            assert growth < SIZE + 2 * CAP

            # The one that stopped is told so, and where it can go on.
            rest = await collect(stalled)
            assert rest.end is not None
            assert (rest.end.code, rest.end.reason) == ("RESOURCE_EXHAUSTED", "SLOW_CONSUMER")
            received = [*head, *rest.events]
            assert received == events[: len(received)]
            missed = await collect(subscribe(len(received)))
            assert missed.end is not None
            assert (missed.end.code, missed.end.reason) == ("OUT_OF_RANGE", "CURSOR_OUT_OF_RANGE")
            oldest = int(missed.end.metadata["oldest_sequence"])
            assert len(received) < oldest
            assert missed.end.metadata["state"] == "COMPLETED"
            kept = await collect(subscribe(oldest - 1))
            assert kept.events == events[oldest - 1 :]

            run = (await agents.GetRun(v1.GetRunRequest(run_id=run_id), metadata=metadata)).run
            assert run.text == text
        assert len(upstream.requests) == 1
