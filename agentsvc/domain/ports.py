"""What the engine and the doors ask of the rooms around them. Protocols only; ``main`` hands in the concrete things.

Every store method takes ``tenant_id`` first and returns None (or an empty page) for another tenant's ids, exactly as
for ids that never existed. Store methods raise AgentsvcError STORAGE_UNAVAILABLE when the database cannot be reached.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from agentsvc.domain.agents import Agent, GenerationOptions, LLMConfig, Session
from agentsvc.domain.events import ModelEvent, RunState
from agentsvc.domain.messages import Message, ToolSpec
from agentsvc.domain.providers import Capabilities, ProviderStatus
from agentsvc.domain.quick import quick
from agentsvc.domain.runs import Principal, Run, TokenRole, ToolChoice
from agentsvc.domain.timeline import Timeline

T = TypeVar("T")


# --- models ---------------------------------------------------------------------------------------------------------
@quick
@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What the engine asks of a model, in no vendor's words. ``stream`` False asks for the whole answer in one body."""

    model: str
    messages: tuple[Message, ...]
    instructions: str = ""
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    generation: GenerationOptions = GenerationOptions()
    response_schema: Mapping[str, Any] | None = None
    stream: bool = True


class ChatModel(Protocol):
    """One provider endpoint bound to its key: asks a model, yields its answer while it is produced.

    ``default_model`` is the model to ask for when nobody names one; empty where the provider has none.
    """

    provider: str
    default_model: str
    capabilities: Capabilities

    def stream(self, request: ModelRequest, timeline: Timeline) -> AsyncGenerator[Sequence[ModelEvent], None]:
        """One answer. Each item is what one read brought, adjacent deltas of one kind already joined, never empty.

        The last event of the last item is ModelFinished or ModelFailed; nothing is raised but CancelledError. Closing
        the generator early closes the provider's connection at once. Marks POOL .. FIRST_TOKEN on ``timeline`` for
        the first answer of a run, and ``waited`` for time the provider had the ball.
        """
        ...


class Models(Protocol):
    """All configured providers."""

    def bind(self, config: LLMConfig) -> tuple[ChatModel, str]:
        """The model for an agent's configuration, and the model name to ask for (the provider's default if none).

        Raises:
            AgentsvcError: PROVIDER_NOT_CONFIGURED (names the setting to set), INVALID_FIELD for an unknown provider.
        """
        ...


class ProviderDirectory(Protocol):
    """What operators may know of the providers."""

    def providers(self) -> Sequence[ProviderStatus]:
        """All of them, configured or not, by name, as they are now. Asks no vendor."""
        ...


# --- stores ---------------------------------------------------------------------------------------------------------
@quick
@dataclass(frozen=True, slots=True)
class PageRequest:
    """AIP-158. ``token`` is opaque, empty for the first page; a token the store did not make is INVALID_FIELD page_token."""

    size: int = 50
    token: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page; ``next_token`` is empty on the last one."""

    items: tuple[T, ...]
    next_token: str = ""


@quick
@dataclass(frozen=True, slots=True)
class Filter:
    """What a list is narrowed to; empty means no condition. Time range on create_time: after inclusive, before exclusive."""

    agent_id: str = ""
    session_id: str = ""
    user_id: str = ""
    states: tuple[RunState, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    after: datetime | None = None
    before: datetime | None = None


class AgentStore(Protocol):
    """Agents at rest."""

    async def get(self, tenant_id: str, agent_id: str) -> Agent | None: ...
    async def list(self, tenant_id: str, page: PageRequest, where: Filter) -> Page[Agent]: ...
    async def create(self, tenant_id: str, agent: Agent) -> Agent:
        """Stores it with etag and times set. ALREADY_EXISTS when the id is taken in this tenant."""
        ...

    async def update(self, tenant_id: str, agent: Agent, etag: str) -> Agent | None:
        """Replaces it. ETAG_MISMATCH when ``etag`` is not empty and not the stored one; None when there is no such agent."""
        ...

    async def delete(self, tenant_id: str, agent_id: str, etag: str) -> bool: ...


class SessionStore(Protocol):
    """Sessions and their messages at rest. Reads see everything the ledger has accepted (read your writes)."""

    async def get(self, tenant_id: str, session_id: str) -> Session | None: ...
    async def list(self, tenant_id: str, page: PageRequest, where: Filter) -> Page[Session]: ...
    async def create(self, tenant_id: str, session: Session) -> Session: ...
    async def delete(self, tenant_id: str, session_id: str) -> bool: ...
    async def messages(self, tenant_id: str, session_id: str, page: PageRequest) -> Page[Message]:
        """Oldest first."""
        ...

    async def history(self, tenant_id: str, session_id: str, last: int) -> tuple[Message, ...]:
        """The last ``last`` messages, oldest first, with provider state."""
        ...


class RunStore(Protocol):
    """Runs at rest. Reads see everything the ledger has accepted."""

    async def get(self, tenant_id: str, run_id: str) -> Run | None: ...
    async def list(self, tenant_id: str, page: PageRequest, where: Filter) -> Page[Run]: ...
    async def by_request_id(self, tenant_id: str, request_id: str) -> Run | None: ...
    async def interrupt_orphans(self) -> int:
        """At start-up: runs a dead process left RUNNING become INTERRUPTED (RUN_INTERRUPTED). How many there were."""
        ...


class Ledger(Protocol):
    """Writes that the first token does not wait for: accepted at once, in order, in memory; committed in batches."""

    def started(self, tenant_id: str, run: Run, session: Session | None) -> None:
        """A run began; ``session`` is given when this run created it."""
        ...

    def ended(self, tenant_id: str, run: Run, messages: Sequence[Message]) -> Future[None]:
        """A run ended: its final row and its turn's messages, in one transaction.

        Accepted when this returns (store reads see it from now on); the future is done after the commit. A failing
        commit is retried in the background until it lands; cancelling the future does not withdraw the write.
        """
        ...


@quick
@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A bearer token as stored: never the secret. ``prefix`` is its public id part."""

    token_id: str
    tenant_id: str
    role: TokenRole
    display_name: str = ""
    create_time: datetime | None = None
    expire_time: datetime | None = None
    revoked: bool = False


class Authenticator(Protocol):
    """Bearer token in, principal out."""

    def recall(self, token: str) -> Principal | None:  # noqa: ARG002 - of a memory that is always empty
        """Who calls, where that is known without waiting; None says nothing."""
        return None

    async def authenticate(self, token: str) -> Principal:
        """Raises AgentsvcError UNAUTHENTICATED for an unknown, expired or revoked token. No I/O for a token seen before."""
        ...


class ToolContext(Protocol):
    """What a running tool may know and say."""

    tool_call_id: str
    run_id: str
    user_id: str
    metadata: Mapping[str, Any]

    def progress(self, message: str, fraction: float | None = None) -> None:
        """Tells the caller how far it is; not part of the model's context."""
        ...
