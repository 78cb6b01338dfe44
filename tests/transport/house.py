"""A small house around the real door and the real engine: stores on shelves, a model that follows a script."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc

from agentsvc import v1
from agentsvc.domain.agents import Agent, LLMConfig, Session
from agentsvc.domain.errors import AgentsvcError, Error, Reason, invalid_field
from agentsvc.domain.events import ModelEvent, ModelFailed, ModelFinished, TextDelta
from agentsvc.domain.messages import FinishReason, Message, Usage
from agentsvc.domain.ports import Filter, ModelRequest, Page, PageRequest
from agentsvc.domain.providers import Capabilities
from agentsvc.domain.runs import Principal, Run, TokenRole
from agentsvc.domain.timeline import Stage, Timeline
from agentsvc.engine.admission import Admission, LimitsConfig
from agentsvc.engine.catalog import Catalog
from agentsvc.engine.journal import JournalConfig, Library
from agentsvc.engine.runs import Runs, RunsConfig
from agentsvc.engine.sessions import Sessions
from agentsvc.engine.tools import Toolset
from agentsvc.transport.codec import encode_event
from agentsvc.transport.server import Server, ServerConfig

CALLER, ADMIN, STRANGER, STRANGE_ADMIN = "caller-token", "admin-token", "stranger-token", "strange-admin-token"
PRINCIPALS = {
    CALLER: Principal("acme", "t1", TokenRole.CALLER),
    ADMIN: Principal("acme", "t2", TokenRole.ADMIN),
    STRANGER: Principal("other", "t3", TokenRole.CALLER),
    STRANGE_ADMIN: Principal("other", "t4", TokenRole.ADMIN),
}
FINISHED = ModelFinished(FinishReason.STOP, Usage(7, 2))

Script = Callable[[ModelRequest], AsyncGenerator[Sequence[ModelEvent], None]]


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def hello(request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent], None]:
    yield [TextDelta("Hello")]
    await asyncio.sleep(0)
    yield [TextDelta(" world"), FINISHED]


async def failing(request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent], None]:
    """Says half a word and fails."""
    yield [TextDelta("Hel")]
    yield [ModelFailed(Error(Reason.PROVIDER_OVERLOADED, "openai is overloaded", "openai", True, 2.5))]


class Gated:
    """A model that says one word and then waits until it is let go."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def __call__(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent], None]:
        yield [TextDelta("Hello")]
        await self.gate.wait()
        yield [TextDelta(" world"), FINISHED]


class Model:
    """Plays its script; counts how often it was asked and how often it was left before the end."""

    provider = "mock"
    default_model = "mock-demo"
    capabilities = Capabilities()

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[ModelRequest] = []
        self.left = asyncio.Event()

    async def stream(self, request: ModelRequest, timeline: Timeline) -> AsyncGenerator[Sequence[ModelEvent], None]:
        self.requests.append(request)
        whole = False
        try:
            async for batch in self.script(request):
                timeline.reached(Stage.FIRST_TOKEN)
                yield batch
            whole = True
        finally:
            if not whole:
                self.left.set()


class Models:
    def __init__(self, model: Model) -> None:
        self.model = model

    def bind(self, config: LLMConfig) -> tuple[Model, str]:
        if config.provider == "keyless":
            raise AgentsvcError(Reason.PROVIDER_NOT_CONFIGURED, "set KEYLESS_API_KEY", provider="keyless")
        if config.provider != "mock":
            raise invalid_field("llm_config.provider", "known: mock")
        return self.model, config.model or "mock-1"


class Authenticator:
    def __init__(self) -> None:
        self.asked = 0
        self.known: dict[str, Principal] = {}

    def recall(self, token: str) -> Principal | None:
        if token == "forgotten":
            raise ZeroDivisionError("the secret inside")
        return self.known.get(token)

    async def authenticate(self, token: str) -> Principal:
        self.asked += 1
        if token == "broken":
            raise ZeroDivisionError("the secret inside")
        if (principal := PRINCIPALS.get(token)) is None:
            raise AgentsvcError(Reason.UNAUTHENTICATED, "unknown, expired or revoked token")
        self.known[token] = principal
        return principal


def paged(items: Sequence[Any], page: PageRequest) -> Page[Any]:
    if page.token and not page.token.isdecimal():
        raise invalid_field("page_token", "was not made by this service")
    start = int(page.token or 0)
    end = start + page.size
    return Page(tuple(items[start:end]), str(end) if end < len(items) else "")


@dataclass
class Shelves:
    """All stores and the ledger, in memory. Times tick by a second, so that order is visible."""

    agents: dict[tuple[str, str], Agent] = field(default_factory=dict)
    sessions: dict[tuple[str, str], Session] = field(default_factory=dict)
    runs: dict[tuple[str, str], Run] = field(default_factory=dict)
    messages: dict[tuple[str, str], list[Message]] = field(default_factory=dict)
    where: Filter = Filter()

    def __post_init__(self) -> None:
        self._ticks = itertools.count()

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(self._ticks))

    def of(self, shelf: dict[tuple[str, str], Any], tenant: str) -> list[Any]:
        return [item for (owner, _), item in reversed(shelf.items()) if owner == tenant]


class Agents:
    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves

    async def get(self, tenant_id: str, agent_id: str) -> Agent | None:
        return self._shelves.agents.get((tenant_id, agent_id))

    async def list(self, tenant_id: str, page: PageRequest, where: Filter) -> Page[Agent]:
        self._shelves.where = where
        return paged(self._shelves.of(self._shelves.agents, tenant_id), page)

    async def create(self, tenant_id: str, agent: Agent) -> Agent:
        if (tenant_id, agent.agent_id) in self._shelves.agents:
            raise AgentsvcError(Reason.ALREADY_EXISTS, f"There is an agent {agent.agent_id} already.")
        now = self._shelves.now()
        return self._put(tenant_id, replace(agent, etag="e1", create_time=now, update_time=now))

    async def update(self, tenant_id: str, agent: Agent, etag: str) -> Agent | None:
        stored = self._shelves.agents.get((tenant_id, agent.agent_id))
        if stored is None:
            return None
        if etag and etag != stored.etag:
            raise AgentsvcError(Reason.ETAG_MISMATCH, "read it again")
        etag = f"e{int(stored.etag[1:]) + 1}"
        now = self._shelves.now()
        return self._put(tenant_id, replace(agent, etag=etag, create_time=stored.create_time, update_time=now))

    async def delete(self, tenant_id: str, agent_id: str, etag: str) -> bool:
        stored = self._shelves.agents.get((tenant_id, agent_id))
        if stored is not None and etag and etag != stored.etag:
            raise AgentsvcError(Reason.ETAG_MISMATCH, "read it again")
        return self._shelves.agents.pop((tenant_id, agent_id), None) is not None

    def _put(self, tenant_id: str, agent: Agent) -> Agent:
        self._shelves.agents[tenant_id, agent.agent_id] = agent
        return agent


class SessionShelf:
    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves

    async def get(self, tenant_id: str, session_id: str) -> Session | None:
        return self._shelves.sessions.get((tenant_id, session_id))

    async def list(self, tenant_id: str, page: PageRequest, where: Filter) -> Page[Session]:
        self._shelves.where = where
        return paged(self._shelves.of(self._shelves.sessions, tenant_id), page)

    async def create(self, tenant_id: str, session: Session) -> Session:
        now = self._shelves.now()
        session = replace(session, create_time=now, update_time=now)
        self._shelves.sessions[tenant_id, session.session_id] = session
        return session

    async def delete(self, tenant_id: str, session_id: str) -> bool:
        return self._shelves.sessions.pop((tenant_id, session_id), None) is not None

    async def messages(self, tenant_id: str, session_id: str, page: PageRequest) -> Page[Message]:
        return paged(self._shelves.messages.get((tenant_id, session_id), []), page)

    async def history(self, tenant_id: str, session_id: str, last: int) -> tuple[Message, ...]:
        return tuple(self._shelves.messages.get((tenant_id, session_id), [])[-last:])


class RunShelf:
    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves

    async def get(self, tenant_id: str, run_id: str) -> Run | None:
        return self._shelves.runs.get((tenant_id, run_id))

    async def list(self, tenant_id: str, page: PageRequest, where: Filter) -> Page[Run]:
        self._shelves.where = where
        return paged(self._shelves.of(self._shelves.runs, tenant_id), page)

    async def by_request_id(self, tenant_id: str, request_id: str) -> Run | None:
        return next(
            (run for run in self._shelves.of(self._shelves.runs, tenant_id) if run.request_id == request_id), None
        )

    async def interrupt_orphans(self) -> int:
        return 0


class Ledger:
    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves

    def started(self, tenant_id: str, run: Run, session: Session | None) -> None:
        self._shelves.runs[tenant_id, run.run_id] = run
        if session is not None:
            self._shelves.sessions[tenant_id, session.session_id] = session

    def ended(self, tenant_id: str, run: Run, messages: Sequence[Message]) -> asyncio.Future[None]:
        self._shelves.runs[tenant_id, run.run_id] = run
        self._shelves.messages.setdefault((tenant_id, run.session_id), []).extend(messages)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


@dataclass
class House:
    server: Server
    channel: grpc.aio.Channel
    model: Model
    shelves: Shelves
    authenticator: Authenticator
    catalog: Catalog
    runs: Runs

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    @property
    def agents(self) -> Any:
        return v1.AgentServiceStub(self.channel)

    @property
    def admin(self) -> Any:
        return v1.AgentAdminServiceStub(self.channel)

    @property
    def sessions(self) -> Any:
        return v1.SessionServiceStub(self.channel)

    async def ask(self, token: str = CALLER, **fields: Any) -> list[v1.ChatEvent]:
        """All events of one StreamChat call."""
        question = v1.StreamChatRequest(**{"agent_id": "demo", "message": "hi", **fields})
        return [r.event async for r in self.agents.StreamChat(question, metadata=bearer(token))]


@asynccontextmanager
async def open_house(
    script: Script = hello,
    config: ServerConfig | None = None,
    journal: JournalConfig | None = None,
    limits: LimitsConfig | None = None,
) -> AsyncIterator[House]:
    shelves, model, authenticator = Shelves(), Model(script), Authenticator()
    library = Library(journal or JournalConfig(), encode_event)
    catalog = Catalog(Agents(shelves), Models(model), Toolset())
    sessions = Sessions(SessionShelf(shelves))
    admission = Admission(limits or LimitsConfig())
    runs = Runs(RunsConfig(), catalog, sessions, library, RunShelf(shelves), Ledger(shelves), admission)
    server = Server(config or ServerConfig(address="127.0.0.1:0"), authenticator, runs, catalog, sessions)
    await Agents(shelves).create("acme", Agent("demo", LLMConfig("mock")))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield House(server, channel, model, shelves, authenticator, catalog, runs)
    finally:
        await server.stop()
