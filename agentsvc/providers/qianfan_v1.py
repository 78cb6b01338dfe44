"""The dialect ``qianfan-v1``: Baidu's old API, a sentence at a time.

    POST {base_url}/rpc/2.0/ai_custom/v1/wenxinworkshop/chat/{model}?access_token=...
    data: {"sentence_id":0,"is_end":false,"is_truncated":false,"result":"...","finish_reason":"normal","usage":{...}}

The finish reason stands on every event; ``is_end`` is the end. There are functions and no tools: one call, whole, without
an id. What the model thought when it made the call is told as the annotation ``thoughts`` and goes back with it. Errors
come with HTTP 200 and a code of their own.

The key is an access token, or is exchanged for one before the request is encoded (``qianfan_v1_token.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from agentsvc.domain.errors import Error
from agentsvc.domain.events import Annotation
from agentsvc.domain.messages import FinishReason, ProviderState, Usage
from agentsvc.domain.ports import ModelRequest
from agentsvc.providers.answer import Answer, BodyDecoder, StreamDecoder
from agentsvc.providers.calls import CallAssembly, CallPiece, FunctionPiece
from agentsvc.providers.dialect import Decoder, Endpoint, HttpRequest
from agentsvc.providers.errors import QIANFAN_V1, MalformedStreamError, Vendor
from agentsvc.providers.openai_chat import read_usage
from agentsvc.providers.qianfan_v1_request import address, chat_body
from agentsvc.providers.sse import LINE_LIMIT, EventStream

NAME = "qianfan-v1"
_PATH = "/rpc/2.0/ai_custom/v1/wenxinworkshop/chat/"


class FunctionCall(msgspec.Struct, gc=False):
    """A call, whole."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    thoughts: str | None = None


class Sentence(msgspec.Struct, gc=False):
    """A stream's JSON, and the whole answer's. ``need_clear_history``: the answer broke off at what must not be said."""

    result: str | None = None
    is_end: bool = False
    is_truncated: bool = False
    need_clear_history: bool = False
    finish_reason: str | None = None
    function_call: FunctionCall | None = None
    usage: dict[str, Any] | None = None
    error_code: Any = None
    error_msg: Any = None


@dataclass(frozen=True, slots=True)
class QianfanV1:
    """A ``Dialect``: the chat API of wenxinworkshop.

    The access token is ``Endpoint.extra["access_token"]``, else the key. It stands in the URL: do not log that.
    """

    vendor: Vendor
    name: str = NAME

    def encode(self, request: ModelRequest, endpoint: Endpoint) -> HttpRequest:
        """The request, its stable part (functions, instructions, history) first."""
        url = endpoint.base_url.rstrip("/") + _PATH + address(request.model)
        if token := endpoint.extra.get("access_token") or endpoint.api_key:
            url += f"?access_token={quote(token, safe='')}"
        body = msgspec.json.encode(chat_body(request, vendor=self.name))
        return HttpRequest(url, {"Content-Type": "application/json"}, body)

    def decoder(self, limit: int = LINE_LIMIT) -> Decoder:
        """For a stream, of whose events none is larger than ``limit`` bytes."""
        return StreamDecoder(SentenceAnswer(self.vendor.knowing(QIANFAN_V1), self.name), EventStream(limit=limit))

    def body_decoder(self) -> Decoder:
        """For a whole answer, and for most errors."""
        return BodyDecoder(SentenceAnswer(self.vendor.knowing(QIANFAN_V1), self.name))

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> Error:
        """The meaning of an HTTP status that is not 200."""
        return self.vendor.knowing(QIANFAN_V1).refusal(status, headers, body)


class SentenceAnswer(Answer[Sentence]):
    """One answer, sentence by sentence."""

    chunks = msgspec.json.Decoder(Sentence)

    def __init__(self, vendor: Vendor, dialect: str) -> None:
        super().__init__(vendor)
        self._dialect = dialect
        self._calls = CallAssembly()
        self._reason: FinishReason | None = None
        self._usage: dict[str, Any] | None = None
        self._thoughts = ""

    def add(self, chunks: Sequence[Sentence]) -> None:
        """What a read brought."""
        for sentence in chunks:
            if sentence.usage:
                self._usage = sentence.usage
            if sentence.error_code:
                self.fail(self.vendor.complaint({"code": sentence.error_code, "message": sentence.error_msg}))
                return
            if sentence.result:
                self.out.text(sentence.result)
            if sentence.function_call is not None:
                self._call(sentence.function_call)
            if sentence.is_end:
                self._reason = _reason(sentence)
                self.finish()
                return

    def whole(self, value: Any) -> None:
        """A complete answer."""
        sentence = msgspec.convert(value, Sentence)
        if sentence.result is None and sentence.function_call is None and not sentence.error_code:
            raise MalformedStreamError("it holds no result")
        sentence.is_end = True
        self.add([sentence])

    def finish(self) -> None:
        """The answer is over."""
        if self._reason is None:
            self.truncated()
        else:
            state = ProviderState(self._dialect, {"thoughts": self._thoughts}) if self._thoughts else None
            self.conclude(self._reason, self._calls, state)

    def usage(self) -> Usage | None:
        """What the vendor counted; the output is complete in the last event only."""
        return read_usage(self._usage)

    def _call(self, call: FunctionCall) -> None:
        if not call.name:
            raise MalformedStreamError("a tool call has no name")
        if call.thoughts and not self._thoughts:
            self._thoughts = call.thoughts
            self.out.event(Annotation("thoughts", call.thoughts))
        piece = CallPiece(None, "call_0", FunctionPiece(call.name, call.arguments))
        self._calls.add((piece,), self.out)


def _reason(last: Sentence) -> FinishReason:
    if last.need_clear_history or last.finish_reason == "content_filter":
        return FinishReason.CONTENT_FILTER
    return FinishReason.LENGTH if last.is_truncated or last.finish_reason == "length" else FinishReason.STOP
