"""A real service on a real port, its vendors played by a scripted upstream: the house that the acceptance tests live in.

    async with open_house(tools=[look_up]) as house:
        agent = await house.agent("anthropic", tools=["look_up"])
        answer = await house.ask(agent, Say("Hello"))
        assert answer.text == "Hello"

What the vendor does is said call by call (steps of ``agentsvc.providers.script``) or by the upstream's own handler.
When the house closes nothing may be left: no task, and no connection to a vendor.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc

from agentsvc import v1
from agentsvc.domain.runs import TokenRole
from agentsvc.engine.tools import Tool
from agentsvc.providers import script
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.pool import PoolConfig, RetryPolicy
from agentsvc.service import Service
from agentsvc.settings import Settings
from agentsvc.storage import StorageConfig
from agentsvc.transport.server import ServerConfig
from tests.scripted import scripted
from tests.transport.rpc import Refusal, refusal
from tests.upstream import Handler, Upstream, until

Metadata = tuple[tuple[str, str | bytes], ...]

PATIENCE = 10.0  # seconds for what takes milliseconds: the machine may be busy
HASTY = PoolConfig(retry=RetryPolicy(max_retries=0))  # what a vendor says once is what a caller hears
CONTINUE = v1.ChatOptions(on_disconnect=v1.ON_DISCONNECT_CONTINUE)
ENDS_OK = {v1.RUN_STATE_COMPLETED, v1.RUN_STATE_BUDGET_EXCEEDED}
# A window that shuts as soon as the reader pauses, instead of one that grows to megabytes by itself.
NARROW = (
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 16 << 10),
    ("grpc.http2.max_frame_size", 16 << 10),
)


@dataclass(frozen=True)
class Tenant:
    """An organisation, and the metadata of its callers and of its admins."""

    name: str
    caller: Metadata
    admin: Metadata


@dataclass
class Answer:
    """What one stream brought, and how it ended."""

    events: list[v1.ChatEvent] = field(default_factory=list)
    status: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    end: Refusal | None = None  # of a status that is not OK
    trailers: dict[str, Any] = field(default_factory=dict)

    def all(self, kind: str) -> list[Any]:
        """The events of one kind, as that kind."""
        return [getattr(event, kind) for event in self.events if event.WhichOneof("kind") == kind]

    def one(self, kind: str) -> Any:
        """The only event of its kind."""
        (found,) = self.all(kind)
        return found

    @property
    def run_id(self) -> str:
        return str(self.one("run_started").run_id)

    @property
    def session_id(self) -> str:
        return str(self.one("run_started").session_id)

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.all("text_delta"))

    @property
    def finished(self) -> v1.RunFinished:
        found: v1.RunFinished = self.one("run_finished")
        return found

    def check(self, after: int = 0) -> Answer:
        """Promises 1 and 2: gapless from ``after`` on, one run_finished, last, and a status that agrees with it."""
        numbered = [event.sequence for event in self.events if not event.HasField("heartbeat")]
        assert numbered == list(range(after + 1, after + 1 + len(numbered)))
        finished = self.finished
        assert self.events[-1].HasField("run_finished")
        if finished.state in ENDS_OK:
            assert self.status is grpc.StatusCode.OK
            assert not finished.HasField("error")
        else:
            assert self.end is not None
            assert self.status.value[0] == int(finished.error.code)
            assert self.end.reason == finished.error.reason
        return self


async def collect(call: Any) -> Answer:
    """All that a streaming call brings until it ends by itself."""
    answer = Answer()
    try:
        while (response := await call.read()) is not grpc.aio.EOF:
            answer.events.append(response.event)
    except grpc.aio.AioRpcError as failed:
        answer.end = refusal(failed)
    answer.status = await call.code()
    answer.trailers = dict(await call.trailing_metadata() or ())
    return answer


async def read_until(call: Any, kind: str) -> list[v1.ChatEvent]:
    """The events up to the first of ``kind``; the call goes on."""
    events: list[v1.ChatEvent] = []
    while not events or events[-1].WhichOneof("kind") != kind:
        response = await call.read()
        assert response is not grpc.aio.EOF, f"the stream ended without {kind}: {await call.details()}"
        events.append(response.event)
    return events


@dataclass
class House:
    """A running service, its upstream, and callers of two organisations."""

    service: Service
    upstream: Upstream
    channel: grpc.aio.Channel
    acme: Tenant
    other: Tenant
    database: Path

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.service.port}"

    @property
    def token(self) -> str:
        """Of a caller of acme's."""
        return str(self.acme.caller[0][1]).removeprefix("Bearer ")

    @property
    def agents(self) -> Any:
        return v1.AgentServiceStub(self.channel)

    @property
    def admin(self) -> Any:
        return v1.AgentAdminServiceStub(self.channel)

    @property
    def sessions(self) -> Any:
        return v1.SessionServiceStub(self.channel)

    async def agent(self, provider: str = "openai", *, tenant: Tenant | None = None, **fields: Any) -> str:
        """A new agent; its id."""
        agent = v1.Agent(llm_config=v1.LlmConfig(provider=provider), **fields)
        metadata = (tenant or self.acme).admin
        created = await self.admin.CreateAgent(v1.CreateAgentRequest(agent=agent), metadata=metadata)
        return str(created.agent.agent_id)

    def stream(
        self, agent_id: str, *steps: script.Step, tenant: Tenant | None = None, stub: Any = None, **fields: Any
    ) -> Any:
        """A StreamChat call to whose vendor ``steps`` are the script; without any, the model says what to do."""
        request = question(agent_id, *steps, **fields)
        return (stub or self.agents).StreamChat(request, metadata=(tenant or self.acme).caller)

    async def ask(self, agent_id: str, *steps: script.Step, **fields: Any) -> Answer:
        """The whole answer, checked for order, end and status."""
        return (await collect(self.stream(agent_id, *steps, **fields))).check()

    def subscribe(self, run_id: str, after: int = 0, *, stub: Any = None) -> Any:
        request = v1.SubscribeRunRequest(run_id=run_id, after_sequence=after)
        return (stub or self.agents).SubscribeRun(request, metadata=self.acme.caller)

    async def run(self, run_id: str) -> v1.Run:
        """GetRun."""
        response = await self.agents.GetRun(v1.GetRunRequest(run_id=run_id), metadata=self.acme.caller)
        found: v1.Run = response.run
        return found

    async def cancel(self, run_id: str) -> v1.Run:
        """CancelRun."""
        response = await self.agents.CancelRun(v1.CancelRunRequest(run_id=run_id), metadata=self.acme.caller)
        found: v1.Run = response.run
        return found

    async def ended(self, run_id: str) -> v1.Run:
        """GetRun, once the run has ended. Asked again and again: a subscriber would be a reader, and keep it alive."""
        while True:
            run = await self.run(run_id)
            if run.state > v1.RUN_STATE_WAITING_INPUT:
                return run
            await asyncio.sleep(0.01)

    async def messages(self, session_id: str) -> Sequence[v1.Message]:
        """ListMessages."""
        request = v1.ListMessagesRequest(session_id=session_id)
        response = await self.sessions.ListMessages(request, metadata=self.acme.caller)
        found: Sequence[v1.Message] = response.messages
        return found


def question(agent_id: str, *steps: script.Step, **fields: Any) -> v1.StreamChatRequest:
    """A request whose vendor is told to play ``steps``."""
    request = v1.StreamChatRequest(**{"agent_id": agent_id, "message": "What do you know?", **fields})
    if steps:
        request.options.provider_options.update({"script": script.write(steps)})
    return request


@asynccontextmanager
async def open_house(
    handler: Handler | None = None,
    *,
    tools: Iterable[Tool] = (),
    database: Path | None = None,
    storage: Mapping[str, Any] | None = None,
    **changes: Any,
) -> AsyncIterator[House]:
    """``changes`` are fields of Settings that shall differ from the house's own, ``storage`` those of StorageConfig."""
    before = asyncio.all_tasks()
    with tempfile.TemporaryDirectory() as directory:
        file = database or Path(directory, "house.sqlite3")
        async with Upstream(handler or scripted()) as upstream:
            settings = settings_for(upstream.url, file, storage or {}, **changes)
            async with (
                Service(settings, tools=tools) as service,
                grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel,
            ):
                acme, other = [await _tenant(service, name) for name in ("acme", "other")]
                yield House(service, upstream, channel, acme, other, file)
            await _soon("connections to a vendor", lambda: not upstream.open)
        ours = {asyncio.current_task()}  # not the one that opened it, when a fixture did
        await _soon("tasks", lambda: asyncio.all_tasks() - before <= ours)


def settings_for(upstream: str, database: Path, storage: Mapping[str, Any], **changes: Any) -> Settings:
    """Both dialects' vendors at ``upstream``."""
    endpoints = {
        "openai": Endpoint(f"{upstream}/v1", "key-of-openai"),
        "anthropic": Endpoint(upstream, "key-of-anthropic"),
    }
    settings = Settings(
        server=ServerConfig("127.0.0.1:0"),
        storage=StorageConfig(f"sqlite:///{database}", **storage),
        pool=HASTY,
        shutdown_grace=0.0,
        endpoints=endpoints,
    )
    return replace(settings, **changes)


async def _tenant(service: Service, name: str) -> Tenant:
    caller, admin = [await service.storage.tokens.create(name, role) for role in (TokenRole.CALLER, TokenRole.ADMIN)]
    return Tenant(name, bearer(caller.text), bearer(admin.text))


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


async def _soon(what: str, condition: Any) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            await until(condition)
    except TimeoutError:
        tasks = ", ".join(sorted(repr(task) for task in asyncio.all_tasks()))
        raise AssertionError(f"the house closed and left {what} behind; tasks: {tasks}") from None
