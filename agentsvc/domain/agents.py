"""An agent at rest: what an operator configures, and the options a call may lay over it.

``None`` in an option means "not said": a call's options win over the agent's, the agent's over the defaults here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from agentsvc.domain.quick import quick


class StreamingMode(StrEnum):
    """STREAM: every delta at once. BUFFERED: the whole answer first, then cut into chunks."""

    STREAM = "stream"
    BUFFERED = "buffered"


class AgentStatus(StrEnum):
    """A DISABLED agent is kept but refuses new runs."""

    ACTIVE = "active"
    DISABLED = "disabled"


class _Overlay:
    """Options in layers: what the upper layer leaves unsaid (None) shows through from the lower one."""

    __slots__ = ()

    def over(self, lower: Self) -> Self:
        """This layer laid over ``lower``."""
        if self is lower:
            return lower
        names: tuple[str, ...] = self.__slots__
        said = [getattr(self, name) for name in names]
        return type(self)(
            *[getattr(lower, name) if mine is None else mine for name, mine in zip(names, said, strict=True)]
        )


@quick
@dataclass(frozen=True, slots=True)
class StreamingOptions(_Overlay):
    """``text_buffer_size`` in characters (0 = off), ``text_delta_delay`` in seconds between text deltas."""

    mode: StreamingMode | None = None
    text_buffer_size: int | None = None
    text_delta_delay: float | None = None
    emit_metadata: bool | None = None
    emit_memory_updates: bool | None = None
    emit_timings: bool | None = None


@quick
@dataclass(frozen=True, slots=True)
class MemoryOptions(_Overlay):
    """``last_messages``: how much history goes into the prompt; ``max_wait`` in seconds."""

    last_messages: int | None = None
    top_k: int | None = None
    max_wait: float | None = None
    off: bool | None = None


@quick
@dataclass(frozen=True, slots=True)
class Budget(_Overlay):
    """Hard limits of one run: ``tokens`` (input and output), ``cost_micros`` (USD), ``wall_clock`` in seconds, ``tool_calls``."""

    tokens: int | None = None
    cost_micros: int | None = None
    wall_clock: float | None = None
    tool_calls: int | None = None
    cost_currency: str | None = None


@quick
@dataclass(frozen=True, slots=True)
class GenerationOptions(_Overlay):
    """Sampling parameters, in the words of the contract."""

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    provider_options: Mapping[str, Any] | None = None


@quick
@dataclass(frozen=True, slots=True)
class ModelRef:
    """A provider and one of its models, as in ``fallbacks``."""

    provider: str
    model: str = ""


@quick
@dataclass(frozen=True, slots=True)
class LLMConfig:
    """Which model answers. ``api_key`` is the agent's own and clear text only in memory; with it comes its own ``base_url``."""

    provider: str
    model: str = ""
    base_url: str = ""
    api_key: str = field(default="", repr=False)
    parameters: GenerationOptions = GenerationOptions()


@quick
@dataclass(frozen=True, slots=True)
class Agent:
    """A configured agent of one tenant. ``etag`` changes with every update."""

    agent_id: str
    llm_config: LLMConfig
    display_name: str = ""
    instructions: str = ""
    tools: tuple[str, ...] = ()
    streaming: StreamingOptions = StreamingOptions()
    memory: MemoryOptions = MemoryOptions()
    budget: Budget = Budget()
    fallbacks: tuple[ModelRef, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    status: AgentStatus = AgentStatus.ACTIVE
    etag: str = ""
    create_time: datetime | None = None
    update_time: datetime | None = None


@quick
@dataclass(frozen=True, slots=True)
class Session:
    """A conversation of one agent with one user inside one tenant."""

    session_id: str
    agent_id: str
    user_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    create_time: datetime | None = None
    update_time: datetime | None = None
