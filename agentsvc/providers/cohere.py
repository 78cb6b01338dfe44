"""The dialect ``cohere-v2``: the chat API, typed events around one message.

    message-start (content-start content-delta* content-end)* tool-plan-delta* (tool-call-start tool-call-delta*
    tool-call-end)* message-end [DONE]

``message-end`` holds the finish reason and the usage, and is the end; some streams say ``[DONE]`` after it. The plan that
the model writes before it calls tools is no reasoning of the answer's: it is told as the annotation ``tool_plan`` and
goes back with the turn, as does the thinking before calls.
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
from agentsvc.providers.calls import CallAssembly, CallPiece, FunctionPiece
from agentsvc.providers.cohere_request import chat_body
from agentsvc.providers.dialect import Decoder, Endpoint, HttpRequest
from agentsvc.providers.errors import Vendor
from agentsvc.providers.sse import LINE_LIMIT, EventStream

NAME = "cohere-v2"


class ContentPiece(msgspec.Struct, gc=False):
    """A piece of text or of thinking."""

    text: str | None = None
    thinking: str | None = None


class ToolCallPiece(msgspec.Struct, gc=False):
    """The head of a call, or more of its arguments."""

    id: str | None = None
    function: FunctionPiece | None = None


class MessagePiece(msgspec.Struct, gc=False):
    """What an event adds to the message; the lists are those of ``message-start``, empty."""

    content: ContentPiece | list[ContentPiece] | None = None
    tool_plan: str | None = None
    tool_calls: ToolCallPiece | list[ToolCallPiece] | None = None
    citations: Any = None


class Delta(msgspec.Struct, gc=False):
    """What an event brings."""

    message: MessagePiece | None = None
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


class ChatEvent(msgspec.Struct, gc=False):
    """A stream's JSON. Those after ``delta`` belong to errors, which are not events of a type."""

    type: str = ""
    index: int | None = None
    delta: Delta | None = None
    error: Any = None
    message: Any = None
    error_type: Any = None
    status_code: Any = None


class _WholeMessage(msgspec.Struct):
    content: list[ContentPiece] | None = None
    tool_plan: str | None = None
    tool_calls: list[ToolCallPiece] | None = None
    citations: Any = None


class _WholeAnswer(msgspec.Struct):
    message: _WholeMessage
    finish_reason: str = ""
    usage: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Cohere:
    """A ``Dialect``: the chat API, version 2."""

    vendor: Vendor
    name: str = NAME

    def encode(self, request: ModelRequest, endpoint: Endpoint) -> HttpRequest:
        """The request, its stable part (tools, instructions, history) first."""
        headers = {"Content-Type": "application/json"}
        if endpoint.api_key:
            headers["Authorization"] = f"Bearer {endpoint.api_key}"
        body = msgspec.json.encode(chat_body(request, vendor=self.name))
        return HttpRequest(endpoint.base_url.rstrip("/") + "/v2/chat", headers, body)

    def decoder(self, limit: int = LINE_LIMIT) -> Decoder:
        """For a stream, of whose events none is larger than ``limit`` bytes."""
        events = EventStream(record=b"event: content-delta\ndata: ", limit=limit)
        return StreamDecoder(ChatAnswer(self.vendor, self.name), events)

    def body_decoder(self) -> Decoder:
        """For a whole answer."""
        return BodyDecoder(ChatAnswer(self.vendor, self.name))

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> Error:
        """The meaning of an HTTP status that is not 200."""
        return self.vendor.refusal(status, headers, body)


class ChatAnswer(Answer[ChatEvent]):
    """One answer, event by event."""

    chunks = msgspec.json.Decoder(ChatEvent)
    terminal = b"[DONE]"

    def __init__(self, vendor: Vendor, dialect: str) -> None:
        super().__init__(vendor)
        self._dialect = dialect
        self._calls = CallAssembly()
        self._finish_reason = ""
        self._usage: dict[str, Any] = {}
        self._plan: list[str] = []
        self._thinking: list[str] = []
        self._planned = False

    def add(self, chunks: Sequence[ChatEvent]) -> None:
        """What a read brought."""
        for event in chunks:
            delta = event.delta
            if event.error or event.type == "error" or (event.message and not event.type):
                self.fail(self.vendor.complaint(_flat(event)))
                return
            if delta is None:
                continue
            if delta.message is not None:
                self._say(delta.message, event.index)
            if event.type == "message-end":
                self._usage = delta.usage or {}
                if delta.error:
                    self.fail(self.vendor.complaint({"error": delta.error}))
                    return
                self._finish_reason = delta.finish_reason or "COMPLETE"
                self.finish()
                return

    def whole(self, value: Any) -> None:
        """A complete answer."""
        if isinstance(value, dict) and isinstance(value.get("message"), str):
            self.fail(self.vendor.complaint(value))
            return
        answer = msgspec.convert(value, _WholeAnswer)
        message = answer.message
        self._usage = answer.usage or {}
        self._finish_reason = answer.finish_reason
        self._say(MessagePiece(message.content, message.tool_plan, message.tool_calls, message.citations), None)

    def finish(self) -> None:
        """The message is over."""
        raw = self._finish_reason
        if not raw:
            self.truncated()
        elif raw in _FAILURES:
            self.fail(self.vendor.halted(raw, retryable=raw == "TIMEOUT"))
        else:
            self._tell_plan()
            reason = FinishReason.LENGTH if raw == "MAX_TOKENS" else FinishReason.STOP
            self.conclude(reason, self._calls, self._state())

    def usage(self) -> Usage | None:
        """Tokens as the model saw them, the vendor's template included; as billed where that is all it says."""
        raw = self._usage
        tokens = raw.get("tokens") or raw.get("billed_units")
        tokens = tokens if isinstance(tokens, dict) else {}
        usage = Usage(
            input_tokens=count(tokens.get("input_tokens")),
            output_tokens=count(tokens.get("output_tokens")),
            cached_input_tokens=count(raw.get("cached_tokens")),
        )
        return usage if usage.total_tokens else None

    def _say(self, message: MessagePiece, index: int | None) -> None:
        content = message.content
        if content is not None:
            for piece in content if isinstance(content, list) else (content,):
                if piece.text:
                    self.out.text(piece.text)
                elif piece.thinking:
                    self.out.reasoning(piece.thinking)
                    self._thinking.append(piece.thinking)
        if message.tool_plan:
            self._plan.append(message.tool_plan)
        if message.tool_calls:
            self._tell_plan()
            calls = message.tool_calls if isinstance(message.tool_calls, list) else [message.tool_calls]
            self._calls.add([CallPiece(index, call.id, call.function) for call in calls], self.out)
        if message.citations:
            self._cite(message.citations)

    def _tell_plan(self) -> None:
        """Once it is complete: when the first call begins, or at the end."""
        if self._plan and not self._planned:
            self._planned = True
            self.out.event(Annotation("tool_plan", "".join(self._plan)))

    def _cite(self, citations: Any) -> None:
        for citation in citations if isinstance(citations, list) else (citations,):
            sources = citation.get("sources") if isinstance(citation, dict) else None
            for source in sources if isinstance(sources, list) else ():
                if isinstance(source, dict) and isinstance(source_id := source.get("id"), str):
                    self.out.event(Annotation("citation", source_id))

    def _state(self) -> ProviderState | None:
        if not self._calls or not (self._plan or self._thinking):
            return None
        kept = {"tool_plan": "".join(self._plan), "thinking": "".join(self._thinking)}
        return ProviderState(self._dialect, {name: text for name, text in kept.items() if text})


def _flat(event: ChatEvent) -> dict[str, Any]:
    return {
        "error": event.error,
        "message": event.message,
        "error_type": event.error_type,
        "status_code": event.status_code,
    }


_FAILURES = frozenset(("ERROR", "ERROR_TOXIC", "ERROR_LIMIT", "TIMEOUT"))
