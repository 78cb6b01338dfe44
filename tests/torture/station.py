"""A service in a process of its own, started as people start it, and a vendor in this one.

async with open_station(tmp_path) as station:
    agent = await station.agent(tools=["look"])
    call = station.stream(agent, Say("Once upon"), Stall())
    before = await station.inside()
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc

from agentsvc import v1
from agentsvc.providers import script
from tests.e2e.house import Answer, bearer, collect, question
from tests.e2e.process import Running, environment
from tests.scripted import scripted
from tests.torture import inside
from tests.upstream import Call, Connection, Handler, Upstream, until

TOKEN = "told-by-the-test"
PATIENCE = 20.0  # seconds for what takes milliseconds: the machine may be busy
AT_ONCE = 1.0  # seconds; the promise is 0.1, on a machine that is not shared
TOOLS = {tool.spec.name: f"{inside.__name__}:{tool.function.__name__}" for tool in inside.TOOLS}


@dataclass(frozen=True)
class Inside:
    """What the service's process held at a moment.

    ``sockets`` are those that do not lead to the vendor, where some are kept on purpose. ``runs`` have not ended, ``kept``
    counts the ended ones as well, which can still be read for a while. ``native`` (of malloc) and ``resident`` are bytes.
    """

    tasks: int
    sockets: int
    threads: int
    runs: int
    kept: int
    native: int
    resident: int

    def at_rest(self, before: Inside) -> bool:
        """Whether it holds no more tasks, sockets and runs than it did before."""
        return self.tasks <= before.tasks and self.sockets <= before.sockets and self.runs <= before.runs


@dataclass
class Station:
    """The running service, its vendor, and a channel to it."""

    process: Running
    upstream: Upstream
    channel: grpc.aio.Channel
    log_file: Path
    looker: str = ""

    metadata = bearer(TOKEN)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.process.port}"

    @property
    def agents(self) -> Any:
        return v1.AgentServiceStub(self.channel)

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    async def agent(self, provider: str = "openai", **fields: Any) -> str:
        """A new agent; its id."""
        agent = v1.Agent(llm_config=v1.LlmConfig(provider=provider), **fields)
        admin = v1.AgentAdminServiceStub(self.channel)
        created = await admin.CreateAgent(v1.CreateAgentRequest(agent=agent), metadata=self.metadata)
        return str(created.agent.agent_id)

    def stream(
        self, agent: str, *steps: script.Step, stub: Any = None, timeout: float | None = None, **fields: Any
    ) -> Any:
        """A StreamChat call to whose vendor ``steps`` are the script."""
        request = question(agent, *steps, **fields)
        return (stub or self.agents).StreamChat(request, metadata=self.metadata, timeout=timeout)

    async def ask(self, agent: str, *steps: script.Step, **fields: Any) -> Answer:
        """The whole answer, checked for order, end and status."""
        return (await collect(self.stream(agent, *steps, **fields))).check()

    def subscribe(self, run_id: str, after: int = 0, *, stub: Any = None, timeout: float | None = None) -> Any:
        request = v1.SubscribeRunRequest(run_id=run_id, after_sequence=after)
        return (stub or self.agents).SubscribeRun(request, metadata=self.metadata, timeout=timeout)

    async def ended(self, run_id: str) -> v1.Run:
        """GetRun, once the run has ended. Asked again and again: a subscriber would be a reader, and keep it alive."""
        while True:
            response = await self.agents.GetRun(v1.GetRunRequest(run_id=run_id), metadata=self.metadata)
            found: v1.Run = response.run
            if found.state > v1.RUN_STATE_WAITING_INPUT:
                return found
            await asyncio.sleep(0.01)

    async def inside(self) -> Inside:
        """What the process holds, this question included."""
        self.looker = self.looker or await self.agent("mock", tools=["look_inside"])
        answer = await self.ask(self.looker, script.Call("look_inside"), store=False)
        (result,) = answer.all("tool_result")
        told = Inside(**json.loads(result.content[0].text))
        return replace(told, sockets=told.sockets - len(self.upstream.open))

    async def back_to(self, before: Inside, native: float = math.inf, after: str = "") -> Inside:
        """What the process holds once it holds no more tasks, sockets and runs than ``before``, and less than ``native``
        bytes more of malloc's, which gRPC gives back a while after a connection's end. Fails if it never does."""
        give_up = time.monotonic() + PATIENCE
        while not (now := await self.inside()).at_rest(before) or now.native - before.native >= native:
            assert time.monotonic() < give_up, f"left behind {after}: {before} has become {now}"
            await asyncio.sleep(0.02)  # each look is a run of its own
        return now

    async def forgotten(self, before: Inside) -> None:
        """Returns when the process keeps no more runs than ``before``, not even for those who could still read them."""
        await self.back_to(before)
        give_up = time.monotonic() + PATIENCE
        while (await self.inside()).kept > before.kept:
            assert time.monotonic() < give_up, "ended runs are kept"
            await asyncio.sleep(0.1)

    def answering(self) -> list[Connection]:
        """The connections on which the vendor is answering a request."""
        return [c for c in self.upstream.open if c._task is not None and not c._task.done()]


async def soon(condition: Callable[[], object], what: str) -> float:
    """Seconds until ``condition`` holds."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE):
            await until(condition)
    except TimeoutError:
        raise AssertionError(f"never: {what}") from None
    return time.monotonic() - began


def vendor() -> Handler:
    """Plays scripts; on ``/held`` it only sees who hangs up when."""
    plays = scripted()

    async def answer(call: Call) -> None:
        await (call.gone() if call.request.path == "/held" else plays(call))

    return answer


@asynccontextmanager
async def open_station(directory: Path, **settings: str) -> AsyncIterator[Station]:
    """``agentsvc serve --dev`` in ``directory``; at the end it must go cleanly."""
    async with Upstream(vendor(), remembers=False) as upstream:
        told = {
            "AGENTSVC_GRPC_ADDRESS": "127.0.0.1:0",
            "AGENTSVC_ADMIN_ADDRESS": "127.0.0.1:0",
            "AGENTSVC_DEV_TOKEN": TOKEN,
            "AGENTSVC_TOOLS": ",".join(TOOLS.values()),
            "AGENTSVC_SHUTDOWN_GRACE": "0",
            "AGENTSVC_POOL__RETRY__MAX_RETRIES": "0",
            "AGENTSVC_POOL__WARM": "0",  # sockets are counted
            "OPENAI_BASE_URL": f"{upstream.url}/v1",
            "OPENAI_API_KEY": "key",
            **settings,
        }
        async with (
            serving(directory, **told) as (process, log),
            grpc.aio.insecure_channel(f"127.0.0.1:{process.port}", options=OWN) as channel,
        ):
            yield Station(process, upstream, channel, log)


OWN = (("grpc.use_local_subchannel_pool", 1),)  # else channels with equal options share one connection


@asynccontextmanager
async def serving(directory: Path, **settings: str) -> AsyncIterator[tuple[Running, Path]]:
    """The process and its log."""
    log = directory / "log"
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agentsvc.main", "serve", "--dev",
            cwd=directory, env=environment(**settings), stdout=asyncio.subprocess.PIPE, stderr=sink,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        port = re.search(rb"gRPC on .*:(\d+)", await process.stdout.readline())
        assert port, log.read_text()
        yield Running(process.pid, int(port[1])), log
        process.terminate()
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0, log.read_text()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
