"""The dialect ``dashscope``: Qwen's own API, an event of four lines for every piece.

    id:1
    event:result
    :HTTP_STATUS/200
    data:{"output":{"choices":[{"message":{"content":"Hi","role":"assistant"},"finish_reason":"null"}]},"usage":{...}}

The finish reason is the text ``null`` until the end; nothing else marks the end. Usage grows from event to event. An error
is an event with a code and no output, its HTTP status in the comment.

Pieces are increments, for we ask for that. The older form, with ``output.text`` in the place of choices, comes from whoever
was not asked, and there every event may repeat the whole text: what begins with all that was said before is that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from agentsvc.domain.errors import Error
from agentsvc.domain.messages import FinishReason, Usage
from agentsvc.domain.ports import ModelRequest
from agentsvc.providers.answer import Answer, BodyDecoder, StreamDecoder, count
from agentsvc.providers.calls import CallAssembly, CallPiece
from agentsvc.providers.dashscope_request import generation_body, is_multimodal
from agentsvc.providers.dialect import Decoder, Endpoint, HttpRequest
from agentsvc.providers.errors import MalformedStreamError, Vendor
from agentsvc.providers.sse import LINE_LIMIT, EventStream

NAME = "dashscope"
_TEXT = "/services/aigc/text-generation/generation"
_IMAGES = "/services/aigc/multimodal-generation/generation"
# At the beginning of a line, where no text of the model's can stand: there are no line ends in JSON's strings.
_ERROR_COMMENTS = (b":HTTP_STATUS/4", b":HTTP_STATUS/5")
_ERROR_STATUS = re.compile(rb"(?:^|[\r\n]):HTTP_STATUS/([45][0-9]{2})")


class MessagePiece(msgspec.Struct, gc=False):
    """What an event adds. ``content`` is text, or a list of parts where images may be."""

    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallPiece] | None = None


class Choice(msgspec.Struct, gc=False):
    """The answer; there is one."""

    message: MessagePiece | None = None
    finish_reason: str | None = None


class Output(msgspec.Struct, gc=False):
    """Choices, or text and finish reason in the older form."""

    choices: list[Choice] | None = None
    text: str | None = None
    finish_reason: str | None = None


class Counts(msgspec.Struct, gc=False):
    """How many tokens so far. Input includes what was cached, output what was thought."""

    input_tokens: Any = None
    output_tokens: Any = None
    prompt_tokens_details: Any = None
    output_tokens_details: Any = None


class GenerationChunk(msgspec.Struct, gc=False):
    """A stream's JSON, and the whole answer's."""

    output: Output | None = None
    usage: Counts | None = None
    code: Any = None
    message: Any = None


class GenerationStream(EventStream):
    """The events of one response. ``status`` is the HTTP status in the comment of an error, 0 as long as there is none."""

    __slots__ = ("status",)

    def __init__(self, *, limit: int) -> None:
        super().__init__(limit=limit)
        self.status = 0

    def _lines(self, block: bytes) -> list[bytes]:
        # Looked for as plain bytes first: the pattern alone would cost more than decoding does.
        if any(comment in block for comment in _ERROR_COMMENTS) and (found := _ERROR_STATUS.search(block)):
            self.status = int(found[1])
        return super()._lines(block)


@dataclass(frozen=True, slots=True)
class DashScope:
    """A ``Dialect``: generation, and multimodal generation for requests with images."""

    vendor: Vendor
    name: str = NAME

    def encode(self, request: ModelRequest, endpoint: Endpoint) -> HttpRequest:
        """The request, its stable part (history) first."""
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "X-DashScope-SSE": "enable"}
        if endpoint.api_key:
            headers["Authorization"] = f"Bearer {endpoint.api_key}"
        multimodal = is_multimodal(request)
        body = msgspec.json.encode(generation_body(request, multimodal=multimodal))
        return HttpRequest(endpoint.base_url.rstrip("/") + (_IMAGES if multimodal else _TEXT), headers, body)

    def decoder(self, limit: int = LINE_LIMIT) -> Decoder:
        """For a stream, of whose events none is larger than ``limit`` bytes."""
        events = GenerationStream(limit=limit)
        return StreamDecoder(GenerationAnswer(self.vendor, events), events)

    def body_decoder(self) -> Decoder:
        """For a whole answer."""
        return BodyDecoder(GenerationAnswer(self.vendor))

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> Error:
        """The meaning of an HTTP status that is not 200."""
        return self.vendor.refusal(status, headers, body)


class GenerationAnswer(Answer[GenerationChunk]):
    """One answer, event by event."""

    chunks = msgspec.json.Decoder(GenerationChunk)

    def __init__(self, vendor: Vendor, events: GenerationStream | None = None) -> None:
        super().__init__(vendor)
        self._events = events
        self._calls = CallAssembly()
        self._finish_reason = ""
        self._counts = Counts()
        self._text = ""  # the whole text so far, in the older form

    def add(self, chunks: Sequence[GenerationChunk]) -> None:
        """What a read brought."""
        for chunk in chunks:
            if chunk.usage is not None:
                self._counts = chunk.usage
            if chunk.code:
                status = self._events.status if self._events else 0
                self.fail(
                    self.vendor.complaint({"code": chunk.code, "message": chunk.message, "status_code": status or None})
                )
                return
            output = chunk.output
            if output is None:
                continue
            for choice in output.choices or ():
                if choice.message is not None:
                    self._say(choice.message)
                self._stop(choice.finish_reason)
            if output.text:
                self._repeat(output.text)
            self._stop(output.finish_reason)

    def whole(self, value: Any) -> None:
        """A complete answer."""
        chunk = msgspec.convert(value, GenerationChunk)
        if chunk.output is None and not chunk.code:
            raise MalformedStreamError("it holds no output")
        self.add([chunk])

    def finish(self) -> None:
        """The stream is over."""
        if self._finish_reason:
            self.conclude(_FINISH_REASONS.get(self._finish_reason, FinishReason.STOP), self._calls)
        else:
            self.truncated()

    def usage(self) -> Usage | None:
        """What the vendor has counted so far."""
        counts = self._counts
        cached, thought = counts.prompt_tokens_details, counts.output_tokens_details
        usage = Usage(
            input_tokens=count(counts.input_tokens),
            output_tokens=count(counts.output_tokens),
            cached_input_tokens=count(cached.get("cached_tokens")) if isinstance(cached, dict) else 0,
            reasoning_tokens=count(thought.get("reasoning_tokens")) if isinstance(thought, dict) else 0,
        )
        return usage if usage.total_tokens else None

    def _say(self, message: MessagePiece) -> None:
        if message.reasoning_content:
            self.out.reasoning(message.reasoning_content)
        content = message.content
        if isinstance(content, str):
            if content:
                self.out.text(content)
        else:
            for part in content or ():
                if isinstance(part, dict) and isinstance(text := part.get("text"), str) and text:
                    self.out.text(text)
        if message.tool_calls:
            self._calls.add(message.tool_calls, self.out)

    def _stop(self, reason: str | None) -> None:
        if reason and reason != "null":
            self._finish_reason = reason

    def _repeat(self, text: str) -> None:
        if text.startswith(self._text):
            fresh = text[len(self._text) :]
            self._text = text
        else:
            fresh = text
            self._text += text
        if fresh:
            self.out.text(fresh)


_FINISH_REASONS: Mapping[str, FinishReason] = {
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "sensitive": FinishReason.CONTENT_FILTER,
}
