"""Agents, ready to run: read once, bound to their model and tools once, kept until they change."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

from agentsvc.domain.agents import (
    Agent,
    AgentStatus,
    Budget,
    GenerationOptions,
    LLMConfig,
    MemoryOptions,
    ModelRef,
    StreamingMode,
    StreamingOptions,
)
from agentsvc.domain.errors import AgentsvcError, Reason, invalid_field
from agentsvc.domain.ports import AgentStore, Filter, Models, Page, PageRequest
from agentsvc.domain.quick import quick
from agentsvc.domain.runs import NO_OPTIONS, Principal, RunOptions
from agentsvc.engine.ids import new_id
from agentsvc.engine.routing import Candidate
from agentsvc.engine.tools import Toolset

_KEPT = 10_000
_log = logging.getLogger(__name__)


@quick
@dataclass(frozen=True, slots=True)
class Layers:
    """A call's options laid over its agent's, and those over the service's."""

    streaming: StreamingOptions
    mode: StreamingMode
    memory: MemoryOptions
    budget: Budget
    generation: GenerationOptions

    @classmethod
    def of(cls, options: RunOptions, agent: Agent) -> Self:
        """Three layers seen from above."""
        streaming = options.streaming.over(agent.streaming).over(_DEFAULT_STREAMING)
        return cls(
            streaming,
            streaming.mode or StreamingMode.STREAM,
            options.memory.over(agent.memory),
            options.budget.over(agent.budget),
            options.generation.over(agent.llm_config.parameters),
        )


_DEFAULT_STREAMING = StreamingOptions(StreamingMode.STREAM, 0, 0.0, False, False, False)


@quick
@dataclass(frozen=True, slots=True)
class Prepared:
    """An agent with its models chosen and its tools at hand. ``layers`` are those of a call without options."""

    agent: Agent
    first: Candidate
    tools: Toolset
    fallbacks: tuple[Candidate, ...]
    layers: Layers

    def layers_of(self, options: RunOptions) -> Layers:
        """Those of a call."""
        return self.layers if options is NO_OPTIONS else Layers.of(options, self.agent)


class Catalog:
    """Reads and changes agents. A prepared agent is used by any number of runs at once; it holds no state of theirs."""

    def __init__(self, store: AgentStore, models: Models, tools: Toolset) -> None:
        self._store = store
        self._models = models
        self._tools = tools
        self._prepared: OrderedDict[tuple[str, str], Prepared] = OrderedDict()
        self._changes = 0

    def cached(self, tenant_id: str, agent_id: str) -> Prepared | None:
        """The agent if it is at hand: no I/O, no await."""
        return self._prepared.get((tenant_id, agent_id))

    async def prepare(self, tenant_id: str, agent_id: str) -> Prepared:
        """The agent, read if need be.

        Raises:
            AgentsvcError: AGENT_NOT_FOUND; PROVIDER_NOT_CONFIGURED.
        """
        changes = self._changes
        agent = await self._store.get(tenant_id, agent_id)
        if agent is None:
            raise _not_found(agent_id)
        if agent.status is AgentStatus.DISABLED:
            raise AgentsvcError(
                Reason.AGENT_NOT_FOUND, f"Agent {agent_id!r} is disabled: set its status to ACTIVE with UpdateAgent."
            )
        first = Candidate(*self._models.bind(agent.llm_config))
        fallbacks = tuple(self._reachable(agent))
        prepared = Prepared(agent, first, self._tools.pick(agent.tools), fallbacks, Layers.of(NO_OPTIONS, agent))
        if changes == self._changes:  # else what was read may be old already: good for this run, not to be kept
            self._prepared[tenant_id, agent_id] = prepared
        if len(self._prepared) > _KEPT:
            self._prepared.popitem(last=False)
        return prepared

    def _reachable(self, agent: Agent) -> Iterator[Candidate]:
        """The agent's fallbacks, but for those whose provider has no key yet: the agent works without them."""
        for fallback in agent.fallbacks:
            try:
                yield Candidate(*self._models.bind(LLMConfig(fallback.provider, fallback.model)))
            except AgentsvcError as error:
                if error.reason is not Reason.PROVIDER_NOT_CONFIGURED:
                    raise
                _log.warning("agent %s goes without its fallback to %s: %s", agent.agent_id, fallback.provider, error)

    def fallbacks(self, prepared: Prepared, options: RunOptions) -> tuple[Candidate, ...]:
        """The models that go on when the first one fails: the call's, else the agent's.

        Raises:
            AgentsvcError: as ``choose``, naming the call's field.
        """
        return tuple(self._bound(options.fallbacks, "options.")) if options.fallbacks else prepared.fallbacks

    def _bound(self, fallbacks: Iterable[ModelRef], place: str) -> Iterator[Candidate]:
        for position, fallback in enumerate(fallbacks):
            try:
                yield Candidate(*self._models.bind(LLMConfig(fallback.provider, fallback.model)))
            except AgentsvcError as error:
                raise _said_in(f"{place}fallbacks[{position}].", error) from error

    def choose(self, prepared: Prepared, options: RunOptions) -> Candidate:
        """The model of one call: the agent's, unless the call names another provider or model."""
        if options is NO_OPTIONS:
            return prepared.first
        config = prepared.agent.llm_config
        if options.provider and options.provider != config.provider:
            # Another vendor: the agent's own address and key are not for it.
            if config.base_url:
                raise invalid_field(
                    "options.provider", "this agent has an endpoint of its own and cannot be sent to another provider"
                )
            try:
                return Candidate(*self._models.bind(LLMConfig(options.provider, options.model)))
            except AgentsvcError as error:
                raise _said_in("options.", error) from error
        return Candidate(prepared.first.model, options.model or prepared.first.name)

    def forget(self, tenant_id: str = "", agent_id: str = "") -> None:
        """Drops one prepared agent, or all of them: something changed elsewhere."""
        self._changes += 1
        if agent_id:
            self._prepared.pop((tenant_id, agent_id), None)
        else:
            self._prepared.clear()

    async def get(self, principal: Principal, agent_id: str) -> Agent:
        """The agent as stored; AGENT_NOT_FOUND."""
        if agent := await self._store.get(principal.tenant_id, agent_id):
            return agent
        raise _not_found(agent_id)

    async def list(self, principal: Principal, page: PageRequest, where: Filter) -> Page[Agent]:
        """The tenant's agents, newest first."""
        return await self._store.list(principal.tenant_id, page, where)

    async def create(self, principal: Principal, agent: Agent) -> Agent:
        """Stores a new agent; an empty id is made. ALREADY_EXISTS, INVALID_FIELD."""
        self._check(agent)
        agent = agent if agent.agent_id else replace(agent, agent_id=new_id("agent"))
        return await self._store.create(principal.tenant_id, agent)

    async def update(self, principal: Principal, agent: Agent, etag: str) -> Agent:
        """Replaces an agent. Runs that go on keep what they started with; the next one sees the change."""
        self._check(agent)
        updated = await self._store.update(principal.tenant_id, agent, etag)
        self.forget(principal.tenant_id, agent.agent_id)
        if updated is None:
            raise _not_found(agent.agent_id)
        return updated

    async def delete(self, principal: Principal, agent_id: str, etag: str) -> None:
        """Removes an agent for good; its runs keep their id. AGENT_NOT_FOUND, ETAG_MISMATCH."""
        found = await self._store.delete(principal.tenant_id, agent_id, etag)
        self.forget(principal.tenant_id, agent_id)
        if not found:
            raise _not_found(agent_id)

    def _check(self, agent: Agent) -> None:
        """An agent that could never run is refused when it is written, not at its first question."""
        if not agent.llm_config.provider:
            raise invalid_field("agent.llm_config.provider", "name a provider, for example openai")
        self._tools.pick(agent.tools)
        try:
            self._models.bind(agent.llm_config)
        except AgentsvcError as error:
            # Its key may be set later, with a restart; everything else is the caller's to mend now.
            if error.reason is not Reason.PROVIDER_NOT_CONFIGURED:
                raise _said_in("agent.llm_config.", error) from error
        for position, fallback in enumerate(agent.fallbacks):
            try:
                self._models.bind(LLMConfig(fallback.provider, fallback.model))
            except AgentsvcError as error:
                if error.reason is not Reason.PROVIDER_NOT_CONFIGURED:
                    raise _said_in(f"agent.fallbacks[{position}].", error) from error


def _said_in(place: str, error: AgentsvcError) -> AgentsvcError:
    """The error under the names that the caller's request has for the fields of an LLMConfig."""
    match error.error.violations:
        case (violation,):
            return invalid_field(place + violation.field.removeprefix("llm_config."), violation.description)
        case _:
            return error


def _not_found(agent_id: str) -> AgentsvcError:
    return AgentsvcError(Reason.AGENT_NOT_FOUND, f"There is no agent {agent_id!r}.")
