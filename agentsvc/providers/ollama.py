"""The dialect ``ollama``: its own chat API, one JSON object a line.

    {"model":"...","message":{"role":"assistant","content":"Hi"},"done":false}
    {"model":"...","message":{...},"done":true,"done_reason":"stop","prompt_eval_count":11,"eval_count":12}

``done`` is the end and the only sign of success. Calls come whole and without an id, so they get ours; an index that some
versions send is 0 for every call. A model's thinking is not wanted back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from agentsvc.domain.errors import Error
from agentsvc.domain.messages import FinishReason, Usage
from agentsvc.domain.ports import ModelRequest
from agentsvc.providers.answer import Answer, BodyDecoder, StreamDecoder, count
from agentsvc.providers.calls import CallAssembly, CallPiece, FunctionPiece
from agentsvc.providers.dialect import Decoder, Endpoint, HttpRequest
from agentsvc.providers.errors import MalformedStreamError, Vendor
from agentsvc.providers.ndjson import JSONLines
from agentsvc.providers.ollama_request import chat_body
from agentsvc.providers.sse import LINE_LIMIT

NAME = "ollama"


class WholeCall(msgspec.Struct, gc=False):
    """A call; newer versions give it an id."""

    id: str | None = None
    function: FunctionPiece | None = None


class Piece(msgspec.Struct, gc=False):
    """What a line adds to the message."""

    content: str | None = None
    thinking: str | None = None
    tool_calls: list[WholeCall] | None = None


class ChatLine(msgspec.Struct, gc=False):
    """A stream's line, and the whole answer."""

    message: Piece | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    error: Any = None


@dataclass(frozen=True, slots=True)
class Ollama:
    """A ``Dialect``: Ollama's chat API, on this machine without a key or in its cloud with one."""

    vendor: Vendor
    name: str = NAME

    def encode(self, request: ModelRequest, endpoint: Endpoint) -> HttpRequest:
        """The request, its stable part (tools, instructions, history) first."""
        headers = {"Content-Type": "application/json"}
        if endpoint.api_key:
            headers["Authorization"] = f"Bearer {endpoint.api_key}"
        body = msgspec.json.encode(chat_body(request))
        return HttpRequest(endpoint.base_url.rstrip("/") + "/api/chat", headers, body)

    def decoder(self, limit: int = LINE_LIMIT) -> Decoder:
        """For a stream, of whose events none is larger than ``limit`` bytes."""
        return StreamDecoder(ChatAnswer(self.vendor), JSONLines(limit=limit))

    def body_decoder(self) -> Decoder:
        """For a whole answer."""
        return BodyDecoder(ChatAnswer(self.vendor))

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> Error:
        """The meaning of an HTTP status that is not 200."""
        return self.vendor.refusal(status, headers, body)


class ChatAnswer(Answer[ChatLine]):
    """One answer, line by line."""

    chunks = msgspec.json.Decoder(ChatLine)

    def __init__(self, vendor: Vendor) -> None:
        super().__init__(vendor)
        self._calls = CallAssembly()
        self._called = 0
        self._last: ChatLine | None = None

    def add(self, chunks: Sequence[ChatLine]) -> None:
        """What a read brought."""
        for line in chunks:
            if line.message is not None:
                self._say(line.message)
            if line.error:
                self.fail(self.vendor.complaint({"error": line.error}))
                return
            if line.done:
                self._last = line
                self.finish()
                return

    def whole(self, value: Any) -> None:
        """A complete answer."""
        self.add([msgspec.convert(value, ChatLine)])

    def finish(self) -> None:
        """The answer is over."""
        if self._last is None:
            self.truncated()
        else:
            reason = FinishReason.LENGTH if self._last.done_reason == "length" else FinishReason.STOP
            self.conclude(reason, self._calls)

    def usage(self) -> Usage | None:
        """What the last line counts. The input is left out when the model had it in its cache."""
        if self._last is None:
            return None
        usage = Usage(count(self._last.prompt_eval_count), count(self._last.eval_count))
        return usage if usage.total_tokens else None

    def _say(self, piece: Piece) -> None:
        if piece.thinking:
            self.out.reasoning(piece.thinking)
        if piece.content:
            self.out.text(piece.content)
        for call in piece.tool_calls or ():
            function = call.function
            if function is None or not function.name:
                raise MalformedStreamError("a tool call has no name")
            call_id = call.id or f"call_{self._called}"
            self._called += 1
            whole = FunctionPiece(function.name, function.arguments or {})
            self._calls.add((CallPiece(None, call_id, whole),), self.out)
