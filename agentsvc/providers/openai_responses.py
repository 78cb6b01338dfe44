"""The dialect ``openai-responses``: the Responses API, typed events around a list of items.

    response.created response.in_progress (response.output_item.added ... response.output_item.done)*
    (response.completed | response.incomplete | response.failed)

Items are messages, reasoning, calls of the client's functions, and tools that the vendor runs itself. Text, summaries of
reasoning and arguments come as deltas; an item that is done is complete. Only the last event has the usage. A call is
answered by its ``call_id``, which is not the id of its item.

What was reasoned comes encrypted, since nothing is kept at the vendor, and is wanted back with the items that followed: the
answer then ends with its items as provider state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agentsvc.domain.errors import Error
from agentsvc.domain.events import Annotation
from agentsvc.domain.messages import FinishReason, ProviderState, Usage
from agentsvc.domain.ports import ModelRequest
from agentsvc.providers.answer import Answer, BodyDecoder, StreamDecoder, count
from agentsvc.providers.calls import CallAssembly, CallPiece, FunctionPiece
from agentsvc.providers.dialect import Decoder, Endpoint, HttpRequest
from agentsvc.providers.errors import MalformedStreamError, Vendor
from agentsvc.providers.openai_responses_request import responses_body
from agentsvc.providers.sse import LINE_LIMIT, EventStream

NAME = "openai-responses"


class ResponseHead(msgspec.Struct, gc=False):
    """A response without its items, which came on their own."""

    status: str | None = None
    usage: dict[str, Any] | None = None
    error: Any = None
    incomplete_details: dict[str, Any] | None = None


class ResponseEvent(msgspec.Struct, gc=False):
    """A stream's JSON, of any type."""

    type: str = ""
    delta: str | dict[str, Any] | None = None
    output_index: int | None = None
    item: dict[str, Any] | None = None
    annotation: Any = None
    response: ResponseHead | None = None
    error: Any = None
    code: Any = None
    message: Any = None


class _WholeResponse(ResponseHead):
    output: list[dict[str, Any]] = msgspec.field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OpenAIResponses:
    """A ``Dialect``: the Responses API as one vendor serves it. ``headers``: ``Endpoint.extra`` name -> header."""

    vendor: Vendor
    key_header: str = "Authorization"
    key_prefix: str = "Bearer "
    headers: Mapping[str, str] = field(default_factory=dict)
    name: str = NAME

    def encode(self, request: ModelRequest, endpoint: Endpoint) -> HttpRequest:
        """The request, its stable part (tools, instructions, history) first."""
        headers = {"Content-Type": "application/json"}
        if endpoint.api_key:
            headers[self.key_header] = self.key_prefix + endpoint.api_key
        for setting, header in self.headers.items():
            if value := endpoint.extra.get(setting):
                headers[header] = value
        body = msgspec.json.encode(responses_body(request, vendor=self.name))
        return HttpRequest(endpoint.base_url.rstrip("/") + "/responses", headers, body)

    def decoder(self, limit: int = LINE_LIMIT) -> Decoder:
        """For a stream, of whose events none is larger than ``limit`` bytes."""
        events = EventStream(record=b"event: response.output_text.delta\ndata: ", limit=limit)
        return StreamDecoder(ResponseAnswer(self.vendor, self.name), events)

    def body_decoder(self) -> Decoder:
        """For a whole answer."""
        return BodyDecoder(ResponseAnswer(self.vendor, self.name))

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> Error:
        """The meaning of an HTTP status that is not 200."""
        return self.vendor.refusal(status, headers, body)


class ResponseAnswer(Answer[ResponseEvent]):
    """One answer, event by event."""

    chunks = msgspec.json.Decoder(ResponseEvent)
    terminal = b"[DONE]"  # not the vendor's, but a gateway's

    def __init__(self, vendor: Vendor, dialect: str) -> None:
        super().__init__(vendor)
        self._dialect = dialect
        self._calls = CallAssembly()
        self._head: ResponseHead | None = None
        self._items: list[dict[str, Any]] = []
        self._spelt: set[int | None] = set()  # calls whose arguments come in pieces
        self._refused = False

    def add(self, chunks: Sequence[ResponseEvent]) -> None:
        """What a read brought."""
        for event in chunks:
            kind, delta = event.type, event.delta
            if kind == "response.output_text.delta":
                if isinstance(delta, str) and delta:
                    self.out.text(delta)
            elif kind in _REASONING:
                if isinstance(delta, str) and delta:
                    self.out.reasoning(delta)
            elif kind == "response.function_call_arguments.delta":
                if isinstance(delta, str):
                    self._spell(event.output_index, delta)
            elif kind == "response.refusal.delta":
                if isinstance(delta, str) and delta:
                    self._refuse(delta)
            elif kind == "response.output_item.added":
                self._open(event.output_index, event.item or {})
            elif kind == "response.output_item.done":
                self._shut(event.output_index, event.item or {})
            elif kind == "response.output_text.annotation.added":
                self._cite(event.annotation)
            elif kind == "error" or event.error:
                flat = {"code": event.code, "message": event.message}
                self.fail(self.vendor.complaint({"error": event.error or flat}))
                return
            elif kind in _ENDS and event.response is not None:
                self._head = event.response
                self.finish()
                return

    def whole(self, value: Any) -> None:
        """A complete response."""
        response = msgspec.convert(value, _WholeResponse)
        if response.status is None:
            raise MalformedStreamError("it holds no response")
        for index, item in enumerate(response.output):
            self._open(index, item)
            self._speak(item)
            self._shut(index, item)
        self._head = response

    def finish(self) -> None:
        """The response is over."""
        head = self._head
        status = head.status if head else None
        if head is None or status not in {"completed", "incomplete", "failed"}:
            self.truncated()
        elif status == "failed":
            self.fail(self.vendor.complaint({"error": head.error}))
        elif status == "incomplete":
            # Such a turn cannot go back as it is: its last item is not whole.
            why = (head.incomplete_details or {}).get("reason")
            filtered = why == "content_filter"
            self.conclude(FinishReason.CONTENT_FILTER if filtered else FinishReason.LENGTH, self._calls)
        else:
            self.conclude(FinishReason.STOP, self._calls, self._state())

    def usage(self) -> Usage | None:
        """Input includes what was cached, output what was reasoned. Told at the end only."""
        raw = (self._head.usage if self._head else None) or {}
        cached, thought = raw.get("input_tokens_details"), raw.get("output_tokens_details")
        usage = Usage(
            input_tokens=count(raw.get("input_tokens")),
            output_tokens=count(raw.get("output_tokens")),
            cached_input_tokens=count(cached.get("cached_tokens")) if isinstance(cached, dict) else 0,
            reasoning_tokens=count(thought.get("reasoning_tokens")) if isinstance(thought, dict) else 0,
        )
        return usage if usage.total_tokens else None

    def _open(self, index: int | None, item: dict[str, Any]) -> None:
        match item:
            case {"type": "function_call"}:
                self._calls.add(
                    (CallPiece(index, _word(item, "call_id"), FunctionPiece(_word(item, "name"))),), self.out
                )
            case {"type": str() as kind} if kind.endswith("_call"):
                self.out.event(Annotation("server_tool", kind.removesuffix("_call")))
            case _:
                pass

    def _spell(self, index: int | None, fragment: str) -> None:
        self._spelt.add(index)
        self._calls.add((CallPiece(index, None, FunctionPiece(None, fragment)),), self.out)

    def _shut(self, index: int | None, item: dict[str, Any]) -> None:
        if item.get("type") == "function_call":
            arguments = None if index in self._spelt else _word(item, "arguments")
            piece = CallPiece(index, _word(item, "call_id"), FunctionPiece(_word(item, "name"), arguments))
            self._calls.add((piece,), self.out)
        if item:
            self._items.append(item)

    def _speak(self, item: dict[str, Any]) -> None:
        """What a whole item says, as its deltas would have."""
        for part in (*_list(item, "summary"), *_list(item, "content")):
            match part:
                case {"type": "output_text", "text": str() as text} if text:
                    self.out.text(text)
                    for annotation in _list(part, "annotations"):
                        self._cite(annotation)
                case {"type": "refusal", "refusal": str() as text} if text:
                    self._refuse(text)
                case {"type": "summary_text" | "reasoning_text", "text": str() as text} if text:
                    self.out.reasoning(text)
                case _:
                    pass

    def _refuse(self, text: str) -> None:
        if not self._refused:
            self._refused = True
            self.out.event(Annotation("refusal", "true"))
        self.out.text(text)

    def _cite(self, annotation: Any) -> None:
        if isinstance(annotation, dict) and isinstance(url := annotation.get("url"), str):
            self.out.event(Annotation("citation", url))

    def _state(self) -> ProviderState | None:
        """The items, when one of them could not be told anew: reasoning, a vendor's tool, a message of a phase."""
        # Reasoning that did not come encrypted would be looked for at the vendor, where nothing is kept.
        kept = [item for item in self._items if item.get("type") != "reasoning" or item.get("encrypted_content")]
        if all(item.get("type") in _PLAIN and not item.get("phase") for item in kept):
            return None
        return ProviderState(self._dialect, kept)


def _word(item: Mapping[str, Any], name: str) -> str | None:
    value = item.get(name)
    return value if isinstance(value, str) else None


def _list(item: Mapping[str, Any], name: str) -> list[Any]:
    value = item.get(name)
    return value if isinstance(value, list) else []


_REASONING = frozenset(("response.reasoning_summary_text.delta", "response.reasoning_text.delta"))
_ENDS = frozenset(("response.completed", "response.incomplete", "response.failed", "response.cancelled"))
_PLAIN = ("message", "function_call")
