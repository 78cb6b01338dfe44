"""What is said: parts, tool calls, messages, and what it cost to say it. Values, immutable."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from agentsvc.domain.quick import quick


class Role(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class FinishReason(StrEnum):
    """Why the model stopped, normalised over all vendors. TOOL_CALLS whenever a client tool call is present."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    PAUSE = "pause"
    ERROR = "error"


class MessageStatus(StrEnum):
    """PARTIAL: the run ended before the message did (cancel, error, budget)."""

    COMPLETE = "complete"
    PARTIAL = "partial"


@quick
@dataclass(frozen=True, slots=True)
class Text:
    """A text part."""

    text: str


@quick
@dataclass(frozen=True, slots=True)
class Media:
    """An image or a file, as bytes or as a URI (exactly one of them). ``media_type`` as in RFC 6838."""

    kind: str  # "image" | "file"
    media_type: str
    data: bytes = b""
    uri: str = ""


Part = Text | Media


@quick
@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model asked for. ``arguments_json`` is a complete JSON object as text."""

    tool_call_id: str
    name: str
    arguments_json: str


@quick
@dataclass(frozen=True, slots=True)
class ProviderState:
    """What a vendor wants back unchanged (thinking signatures, server-tool blocks): opaque, never shown to callers.

    ``vendor`` names the dialect that wrote it; any other one drops it. ``payload`` is JSON-shaped.
    """

    vendor: str
    payload: Any


@quick
@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. ``message_id`` is empty until a session stores it."""

    role: Role
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    status: MessageStatus = MessageStatus.COMPLETE
    message_id: str = ""
    run_id: str = ""
    create_time: datetime | None = None
    provider_state: ProviderState | None = None
    is_error: bool = False  # role TOOL: the result tells of a failure

    @property
    def text(self) -> str:
        """All text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


@quick
@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counts them; ``estimated`` when it did not say and we counted ourselves."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.estimated or other.estimated,
        )

    @property
    def total_tokens(self) -> int:
        """What a token budget counts."""
        return self.input_tokens + self.output_tokens


NO_USAGE: Final = Usage()
"""Nothing was spent, or nothing is known."""


@quick
@dataclass(frozen=True, slots=True)
class Cost:
    """Money in millionths of ``currency_code``."""

    micros: int
    currency_code: str = "USD"
    estimated: bool = False


@quick
@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the model sees it. ``parameters`` is a JSON Schema object."""

    name: str
    description: str
    parameters: dict[str, Any] = field(default_factory=dict)
