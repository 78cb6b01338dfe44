"""What the engine stands on in its tests: a model that follows a script, rows in memory, a house with all its rooms.

A script is a list of moves, one list per answer of the model:

    [TextDelta("Hel"), (TextDelta("lo"), done())]      two reads, the second with two events
    [gate, ...]                                        waits for the asyncio.Event ``gate``
    [None, ...]                                        waits for one turn of the event loop
    [..., FOREVER]                                     waits until it is closed
    [..., OSError("boom")]                             raises

The last script serves every further request.
"""

import asyncio
import pickle
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from agentsvc.domain.agents import Agent, LLMConfig, Session
from agentsvc.domain.errors import AgentsvcError, Error, Reason
from agentsvc.domain.events import (
    Event,
    ModelEvent,
    ModelFailed,
    ModelFinished,
    RunFinished,
    RunState,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallStarted,
)
from agentsvc.domain.messages import FinishReason, Message, Text, ToolCall, Usage
from agentsvc.domain.ports import Filter, ModelRequest, Page, PageRequest
from agentsvc.domain.providers import Capabilities
from agentsvc.domain.runs import OnDisconnect, Principal, Run, RunOptions, RunRequest, TokenRole
from agentsvc.domain.timeline import Timeline
from agentsvc.engine.catalog import Catalog
from agentsvc.engine.journal import Journal, JournalConfig, Library, Reader
from agentsvc.engine.live import Live
from agentsvc.engine.runs import Runs, RunsConfig
from agentsvc.engine.sessions import Sessions
from agentsvc.engine.tools import Tool, Toolset


class Forever:
    """A vendor that says nothing more."""


FOREVER = Forever()
Move = ModelEvent | Sequence[ModelEvent] | asyncio.Event | Forever | BaseException | None
Script = Sequence[Move] | Callable[[ModelRequest], Sequence[Move]]

USAGE = Usage(input_tokens=10, output_tokens=5)
ALICE = Principal("tenant-a", "token-a", TokenRole.CALLER)
MALLORY = Principal("tenant-m", "token-m", TokenRole.CALLER)
CONTINUE = RunOptions(on_disconnect=OnDisconnect.CONTINUE)


def done(reason: FinishReason = FinishReason.STOP, usage: Usage | None = USAGE, **extra: Any) -> ModelFinished:
    return ModelFinished(reason, usage, **extra)


def failed(reason: Reason = Reason.PROVIDER_OVERLOADED, usage: Usage | None = None) -> ModelFailed:
    return ModelFailed(Error(reason, "the fake vendor failed", retryable=reason.retryable), usage)


def call(name: str, arguments: str = "{}", call_id: str = "call_0") -> tuple[ModelEvent, ...]:
    """A tool call, its arguments in two fragments."""
    half = len(arguments) // 2
    return (
        ToolCallStarted(call_id, name),
        ToolCallArgumentsDelta(call_id, arguments[:half]),
        ToolCallArgumentsDelta(call_id, arguments[half:]),
    )


def says(*pieces: str) -> list[Move]:
    """An answer of text alone, one read per piece."""
    return [*(TextDelta(piece) for piece in pieces), done()]


def calls(*asked: tuple[ModelEvent, ...], usage: Usage | None = USAGE) -> list[Move]:
    """An answer of tool calls alone."""
    return [*asked, done(FinishReason.TOOL_CALLS, usage)]


class FakeModel:
    """A ChatModel that follows its scripts. ``open`` counts streams that are neither finished nor closed."""

    def __init__(self, *scripts: Script, provider: str = "fake") -> None:
        self.provider = provider
        self.default_model = "fake-1"
        self.capabilities = Capabilities(images=True, files=True, response_schema=True)
        self.scripts = scripts
        self.requests: list[ModelRequest] = []
        self.open = 0
        self.waits = asyncio.Event()  # set while a stream waits at a gate

    async def stream(self, request: ModelRequest, timeline: Timeline) -> AsyncGenerator[Sequence[ModelEvent], None]:
        script = self.scripts[min(len(self.requests), len(self.scripts) - 1)]
        self.requests.append(request)
        self.open += 1
        try:
            for move in script(request) if callable(script) else script:
                match move:
                    case asyncio.Event() | Forever():
                        self.waits.set()
                        await (asyncio.Event() if isinstance(move, Forever) else move).wait()
                        self.waits.clear()
                    case BaseException():
                        raise move
                    case None:
                        await asyncio.sleep(0)
                    case Sequence():
                        yield move
                    case _:
                        yield (move,)
        finally:
            self.open -= 1


class FakeModels:
    def __init__(self, model: FakeModel) -> None:
        self.model = model

    def bind(self, config: LLMConfig) -> tuple[FakeModel, str]:
        return self.model, config.model or "fake-1"


class Rows:
    """All stores in one: what the ledger has accepted is read at once."""

    def __init__(self) -> None:
        self.agents: dict[tuple[str, str], Agent] = {}
        self.sessions: dict[tuple[str, str], Session] = {}
        self.messages: dict[tuple[str, str], list[Message]] = {}
        self.runs: dict[tuple[str, str], Run] = {}
        self.lookups = 0  # how often somebody waited for us


class FakeAgentStore:
    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.reading: asyncio.Event | None = None  # ``get`` waits for it between reading and answering

    async def get(self, tenant_id: str, agent_id: str) -> Agent | None:
        self.rows.lookups += 1
        agent = self.rows.agents.get((tenant_id, agent_id))
        if self.reading is not None:
            await self.reading.wait()
        return agent

    async def list(self, tenant_id: str, page: PageRequest, where: Filter) -> Page[Agent]:
        return Page(tuple(agent for (tenant, _), agent in self.rows.agents.items() if tenant == tenant_id))

    async def create(self, tenant_id: str, agent: Agent) -> Agent:
        self.rows.agents[tenant_id, agent.agent_id] = agent
        return agent

    async def update(self, tenant_id: str, agent: Agent, etag: str) -> Agent | None:
        if (tenant_id, agent.agent_id) not in self.rows.agents:
            return None
        return await self.create(tenant_id, agent)

    async def delete(self, tenant_id: str, agent_id: str, etag: str) -> bool:
        return self.rows.agents.pop((tenant_id, agent_id), None) is not None


class FakeSessionStore:
    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    async def get(self, tenant_id: str, session_id: str) -> Session | None:
        self.rows.lookups += 1
        await asyncio.sleep(0)
        return self.rows.sessions.get((tenant_id, session_id))

    async def list(self, tenant_id: str, page: PageRequest, where: Filter) -> Page[Session]:
        return Page(tuple(session for (tenant, _), session in self.rows.sessions.items() if tenant == tenant_id))

    async def create(self, tenant_id: str, session: Session) -> Session:
        self.rows.sessions[tenant_id, session.session_id] = session
        return session

    async def delete(self, tenant_id: str, session_id: str) -> bool:
        self.rows.messages.pop((tenant_id, session_id), None)
        return self.rows.sessions.pop((tenant_id, session_id), None) is not None

    async def messages(self, tenant_id: str, session_id: str, page: PageRequest) -> Page[Message]:
        return Page(tuple(self.rows.messages.get((tenant_id, session_id), ())))

    async def history(self, tenant_id: str, session_id: str, last: int) -> tuple[Message, ...]:
        await asyncio.sleep(0)
        return tuple(self.rows.messages.get((tenant_id, session_id), ())[-last:])


class FakeRunStore:
    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.reading: asyncio.Event | None = None  # ``by_request_id`` waits for it

    async def get(self, tenant_id: str, run_id: str) -> Run | None:
        return self.rows.runs.get((tenant_id, run_id))

    async def list(self, tenant_id: str, page: PageRequest, where: Filter) -> Page[Run]:
        return Page(tuple(run for (tenant, _), run in self.rows.runs.items() if tenant == tenant_id))

    async def by_request_id(self, tenant_id: str, request_id: str) -> Run | None:
        if self.reading is not None:
            await self.reading.wait()
        found = (run for (tenant, _), run in self.rows.runs.items() if tenant == tenant_id)
        return next((run for run in found if run.request_id == request_id), None)

    async def interrupt_orphans(self) -> int:
        return 0


class FakeLedger:
    """Accepts at once. ``commit`` decides what becomes of the future of ``ended``: done, failed, or left to wait."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.commit: Callable[[asyncio.Future[None]], object] = lambda future: future.set_result(None)
        self.sessions_begun: list[str] = []

    def started(self, tenant_id: str, run: Run, session: Session | None) -> None:
        self.rows.runs[tenant_id, run.run_id] = run
        if session is not None:
            self.sessions_begun.append(session.session_id)
            self.rows.sessions[tenant_id, session.session_id] = session

    def ended(self, tenant_id: str, run: Run, messages: Sequence[Message]) -> asyncio.Future[None]:
        self.rows.runs[tenant_id, run.run_id] = run
        self.rows.messages.setdefault((tenant_id, run.session_id), []).extend(messages)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.commit(future)
        return future


Entry = tuple[int, int, int, Event]


def encode(sequence: int, elapsed_us: int, step: int, event: Event) -> bytes:
    return pickle.dumps((sequence, elapsed_us, step, event))


def decode(wire: bytes) -> Entry:
    return cast("Entry", pickle.loads(wire))


class WatchedLibrary(Library):
    """Tells when the retention of all its journals is over."""

    def __init__(self, config: JournalConfig) -> None:
        super().__init__(config, encode)
        self.empty = asyncio.Event()

    def open(self, started_ns: int | None = None) -> Journal:
        self.empty.clear()
        return super().open(started_ns)

    def drop(self, journal: Journal) -> None:
        super().drop(journal)
        if not (self._live or self._ended):
            self.empty.set()


class House:
    """The whole engine with fakes around it, and one agent ``demo`` in the tenants of ALICE and MALLORY."""

    def __init__(
        self,
        *scripts: Script,
        tools: Sequence[Tool] = (),
        agent: Mapping[str, Any] | None = None,
        journal: JournalConfig | None = None,
        config: RunsConfig | None = None,
    ) -> None:
        self.model = FakeModel(*(scripts or (says("Hello"),)))
        self.rows = Rows()
        self.ledger = FakeLedger(self.rows)
        self.agent_store = FakeAgentStore(self.rows)
        self.run_store = FakeRunStore(self.rows)
        self.library = WatchedLibrary(journal or JournalConfig())
        toolset = Toolset.of(tools)
        self.catalog = Catalog(self.agent_store, FakeModels(self.model), toolset)
        self.sessions = Sessions(FakeSessionStore(self.rows))
        self.runs = Runs(config or RunsConfig(), self.catalog, self.sessions, self.library, self.run_store, self.ledger)
        demo = Agent("demo", LLMConfig("fake"), tools=tuple(toolset.tools))
        for principal in (ALICE, MALLORY):
            self.rows.agents[principal.tenant_id, "demo"] = replace(demo, **agent or {})

    async def start(self, text: str = "Hi", principal: Principal = ALICE, **fields: Any) -> Live:
        request = RunRequest("demo", (Text(text),), **fields)
        return await self.runs.start(principal, request, Timeline())

    async def ask(self, text: str = "Hi", **fields: Any) -> list[Event]:
        """A whole run, read to its end."""
        return await read(await self.start(text, **fields))

    def history(self, session_id: str) -> list[Message]:
        """What is stored of a session of ALICE."""
        return self.rows.messages.get((ALICE.tenant_id, session_id), [])


async def entries(reader: Reader) -> list[Entry]:
    """Everything a reader gets until run_finished."""
    got: list[Entry] = []
    while reader.end is None:
        await reader.wait()
        got += map(decode, reader.take())
    reader.close()
    return got


async def read(live: Live, after: int = 0) -> list[Event]:
    return [event for *_, event in await entries(live.reader(after))]


async def read_until(reader: Reader, kind: type[Event]) -> list[Event]:
    """What a reader gets up to the first event of a kind."""
    got: list[Event] = []
    while not any(isinstance(event, kind) for event in got):
        await reader.wait()
        got += [decode(wire)[-1] for wire in reader.take()]
    return got


async def refusal(awaitable: Any) -> AgentsvcError:
    with pytest.raises(AgentsvcError) as raised:
        await awaitable
    return raised.value


def of(events: Sequence[Event], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def check_end(events: Sequence[Event], state: RunState | None = None) -> RunFinished:
    """Exactly one run_finished, last."""
    ends = [event for event in events if isinstance(event, RunFinished)]
    assert len(ends) == 1
    assert events[-1] is ends[0]
    assert state is None or ends[0].state is state, ends[0]
    return ends[0]


def check_history(messages: Sequence[Message]) -> None:
    """What every vendor demands: each tool call is followed by its result, no result without a call."""
    open_calls: dict[str, ToolCall] = {}
    for message in messages:
        if message.tool_call_id:
            del open_calls[message.tool_call_id]
            continue
        assert not open_calls, "a tool call without a result"
        open_calls = {asked.tool_call_id: asked for asked in message.tool_calls}
        assert message.parts or message.tool_calls or message.provider_state, "an empty message"
    assert not open_calls, "a tool call without a result"


def other_tasks() -> set["asyncio.Task[Any]"]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def no_tasks_left() -> bool:
    """Whether all tasks of the engine are over, after the few turns of the loop that cancelled ones need."""
    for _ in range(20):
        if not other_tasks():
            return True
        await asyncio.sleep(0)
    return False
