"""The dialect ``anthropic``: the Messages API, blocks within a message.

    message_start (content_block_start content_block_delta* content_block_stop)* message_delta message_stop

Blocks are text, thinking, the client's tool calls, and tools that the vendor runs itself with their results. The vendor
wants a turn back as it was, signatures and encrypted results included, once it thought or ran tools: the answer then
ends with the turn's blocks as provider state. Kinds of block that are not known here travel the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from agentsvc.domain.errors import Error
from agentsvc.domain.events import Annotation
from agentsvc.domain.messages import FinishReason, ProviderState, Usage
from agentsvc.domain.ports import ModelRequest
from agentsvc.providers.answer import Answer, BodyDecoder, StreamDecoder, count
from agentsvc.providers.anthropic_request import betas, messages_body
from agentsvc.providers.calls import CallAssembly, CallPiece, FunctionPiece
from agentsvc.providers.dialect import Decoder, Endpoint, HttpRequest
from agentsvc.providers.errors import MalformedStreamError, Vendor
from agentsvc.providers.sse import LINE_LIMIT, EventStream

NAME = "anthropic"
VERSION = "2023-06-01"


class BlockDelta(msgspec.Struct, gc=False):
    """What an event adds to its block, or to the message: one field is set."""

    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: dict[str, Any] | None = None
    stop_reason: str | None = None


class MessageStart(msgspec.Struct, gc=False):
    """The head of a message; its content comes in blocks."""

    usage: dict[str, Any] | None = None


class MessageEvent(msgspec.Struct, gc=False):
    """A stream's JSON, of any type."""

    type: str = ""
    index: int = 0
    delta: BlockDelta | None = None
    content_block: dict[str, Any] | None = None
    message: MessageStart | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


class _WholeMessage(msgspec.Struct):
    content: list[dict[str, Any]]
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Anthropic:
    """A ``Dialect``: the Messages API as one vendor serves it."""

    vendor: Vendor
    name: str = NAME

    def encode(self, request: ModelRequest, endpoint: Endpoint) -> HttpRequest:
        """The request, its stable part (tools, instructions, history) first."""
        headers = {"Content-Type": "application/json", "anthropic-version": VERSION}
        if endpoint.api_key:
            headers["x-api-key"] = endpoint.api_key
        if wanted := betas(request):
            headers["anthropic-beta"] = ",".join(wanted)
        body = msgspec.json.encode(messages_body(request, vendor=self.name))
        return HttpRequest(endpoint.base_url.rstrip("/") + "/v1/messages", headers, body)

    def decoder(self, limit: int = LINE_LIMIT) -> Decoder:
        """For a stream, of whose events none is larger than ``limit`` bytes."""
        events = EventStream(record=b"event: content_block_delta\ndata: ", limit=limit)
        return StreamDecoder(MessageAnswer(self.vendor, self.name), events)

    def body_decoder(self) -> Decoder:
        """For a whole answer."""
        return BodyDecoder(MessageAnswer(self.vendor, self.name))

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> Error:
        """The meaning of an HTTP status that is not 200."""
        return self.vendor.refusal(status, headers, body)


class _Block:
    """A block of the turn in the making: its head as it came, and what was added to the field that grows."""

    __slots__ = ("citations", "field", "head", "pieces", "signature")

    def __init__(self, head: dict[str, Any]) -> None:
        self.head = head
        self.field = _GROWING.get(head.get("type", ""), "input")
        self.pieces: list[str] = []
        self.signature: list[str] = []
        self.citations: list[dict[str, Any]] = []

    def complete(self) -> dict[str, Any]:
        """The block as it goes back."""
        block = {name: value for name, value in self.head.items() if value is not None}
        grown = "".join(self.pieces)
        if self.field != "input":
            block[self.field] = str(block.get(self.field, "")) + grown
        elif grown.strip():
            block["input"] = _json_object(grown)
        if self.signature:
            block["signature"] = "".join(self.signature)
        if self.citations:
            block["citations"] = [*block.get("citations", ()), *self.citations]
        return block


class MessageAnswer(Answer[MessageEvent]):
    """One answer, event by event."""

    chunks = msgspec.json.Decoder(MessageEvent)

    def __init__(self, vendor: Vendor, dialect: str) -> None:
        super().__init__(vendor)
        self._dialect = dialect
        self._blocks: dict[int, _Block] = {}
        self._calls = CallAssembly()
        self._stop_reason = ""
        self._usage: dict[str, Any] = {}
        self._stateful = False

    def add(self, chunks: Sequence[MessageEvent]) -> None:
        """What a read brought."""
        for event in chunks:
            kind = event.type
            if kind == "content_block_delta":
                if event.delta is not None:
                    self._grow(event.index, event.delta)
            elif event.error:
                self.fail(self.vendor.complaint({"error": event.error}))
                return
            elif kind == "content_block_start":
                self._open(event.index, event.content_block or {})
            elif kind == "content_block_stop":
                self._shut(event.index)
            elif kind == "message_start":
                self._count(event.message.usage if event.message else None)
            elif kind == "message_delta":
                self._count(event.usage)
                if event.delta is not None and event.delta.stop_reason:
                    self._stop_reason = event.delta.stop_reason
            elif kind == "message_stop":
                self._stop_reason = self._stop_reason or "end_turn"
                self.finish()
                return

    def whole(self, value: Any) -> None:
        """A complete message."""
        message = msgspec.convert(value, _WholeMessage)
        for index, block in enumerate(message.content):
            self._open(index, block)
            self._shut(index)
        self._count(message.usage)
        self._stop_reason = message.stop_reason or "end_turn"

    def finish(self) -> None:
        """The message is over."""
        if not self._stop_reason:
            self.truncated()
            return
        reason = _STOP_REASONS.get(self._stop_reason, FinishReason.STOP)
        state = None
        if self._stateful or reason is FinishReason.PAUSE:
            blocks = (block.complete() for block in self._blocks.values())
            # An empty text is refused when it comes back.
            kept = [block for block in blocks if block.get("type") != "text" or block["text"]]
            state = ProviderState(self._dialect, kept)
        self.conclude(reason, self._calls, state)

    def usage(self) -> Usage | None:
        """Input excludes what was cached, as the vendor counts. None before the vendor has counted anything."""
        raw = self._usage
        usage = Usage(
            input_tokens=count(raw.get("input_tokens")),
            output_tokens=count(raw.get("output_tokens")),
            cached_input_tokens=count(raw.get("cache_read_input_tokens")),
            cache_write_tokens=count(raw.get("cache_creation_input_tokens")),
        )
        return usage if usage != Usage() else None

    def _count(self, usage: dict[str, Any] | None) -> None:
        # Told at the start and again at the end, cumulative: the latest of each number is the sum.
        self._usage |= {name: number for name, number in (usage or {}).items() if number is not None}

    def _open(self, index: int, head: dict[str, Any]) -> None:
        block = self._blocks[index] = _Block(head)
        match head:
            case {"type": "text", "text": str() as text} if text:
                self.out.text(text)
            case {"type": "thinking" | "redacted_thinking"}:
                self._stateful = True
                if isinstance(thinking := head.get("thinking"), str) and thinking:
                    self.out.reasoning(thinking)
            case {"type": "tool_use", "name": str() as name}:
                call_id = head.get("id")
                piece = CallPiece(index, call_id if isinstance(call_id, str) else None, FunctionPiece(name))
                self._calls.add((piece,), self.out)
            case {"type": "tool_use"}:
                raise MalformedStreamError("a tool call has no name")
            case {"type": "server_tool_use" | "mcp_tool_use", "name": str() as name}:
                self._stateful = True
                self.out.event(Annotation("server_tool", name))
            case _:
                self._stateful = self._stateful or block.field == "input"

    def _grow(self, index: int, delta: BlockDelta) -> None:
        block = self._blocks.get(index)
        if block is None:
            if delta.partial_json is not None:
                raise MalformedStreamError("arguments came for no tool call")
            block = self._blocks[index] = _Block({"type": "text" if delta.text is not None else "thinking"})
        if delta.text:
            self.out.text(delta.text)
            block.pieces.append(delta.text)
        elif delta.partial_json:
            block.pieces.append(delta.partial_json)
            if block.head.get("type") == "tool_use":
                self._calls.add((CallPiece(index, None, FunctionPiece(None, delta.partial_json)),), self.out)
        elif delta.thinking:
            self._stateful = True
            self.out.reasoning(delta.thinking)
            block.pieces.append(delta.thinking)
        elif delta.signature:
            block.signature.append(delta.signature)
        elif delta.citation:
            block.citations.append(delta.citation)
            if isinstance(url := delta.citation.get("url"), str):
                self.out.event(Annotation("citation", url))

    def _shut(self, index: int) -> None:
        block = self._blocks.get(index)
        if block is None or block.pieces or block.head.get("type") != "tool_use":
            return
        # The head's input is a placeholder where pieces follow, and the arguments where none do.
        arguments = block.head.get("input")
        if isinstance(arguments, dict) and arguments:
            self._calls.add((CallPiece(index, None, FunctionPiece(None, arguments)),), self.out)


def _json_object(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return {}


_GROWING: Mapping[str, str] = {"text": "text", "thinking": "thinking", "redacted_thinking": "data"}
_STOP_REASONS: Mapping[str, FinishReason] = {
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "refusal": FinishReason.CONTENT_FILTER,
    "pause_turn": FinishReason.PAUSE,
}
