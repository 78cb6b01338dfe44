"""The dialect ``openai-chat``: chat completions, which most vendors speak with an accent.

    POST {base_url}/chat/completions        data: {"choices":[{"index":0,"delta":{...},"finish_reason":null}],...}

What an accent may change in a request is an ``Accent``. Answers need none: every place where a vendor is known to put
reasoning, usage or an error is looked at, whoever speaks. Success means that a finish reason came; ``[DONE]`` is only the
moment to say so, since usage may follow the finish reason and some vendors never send ``[DONE]``. Of several choices
only the first counts.

A refusal (``delta.refusal``) is what the user gets to read, so it is text, with the annotation ``refusal`` before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from agentsvc.domain.errors import Error, Reason
from agentsvc.domain.events import Annotation
from agentsvc.domain.messages import FinishReason, Usage
from agentsvc.domain.ports import ModelRequest
from agentsvc.providers.answer import Answer, BodyDecoder, StreamDecoder, count
from agentsvc.providers.calls import CallAssembly, CallPiece
from agentsvc.providers.dialect import Decoder, Endpoint, HttpRequest
from agentsvc.providers.errors import Vendor, is_complaint
from agentsvc.providers.openai_request import Accent, chat_body
from agentsvc.providers.sse import LINE_LIMIT, EventStream
from agentsvc.providers.thoughts import Returns, Thoughts


class Delta(msgspec.Struct, gc=False):
    """What a choice adds. ``content`` is text, or Mistral's list of typed parts."""

    content: str | list[Any] | None = None
    tool_calls: list[CallPiece] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: Any = None
    refusal: str | None = None


class Choice(msgspec.Struct, gc=False):
    """One of the ``n`` answers. A whole body has ``message`` where a stream has ``delta``."""

    index: int | None = 0
    delta: Delta | None = None
    finish_reason: str | None = None
    usage: Any = None  # Moonshot


class ChatChunk(msgspec.Struct, gc=False):
    """A stream's JSON; what is not named here is skipped unread. Those after ``x_groq`` belong to errors without an
    ``error`` object.
    """

    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None
    x_groq: Any = None
    type: Any = None
    code: Any = None
    message: Any = None
    detail: Any = None
    error_code: Any = None
    error_msg: Any = None
    base_resp: Any = None  # MiniMax


# The same for a chunk that is text and nothing else: whatever could mean more must be absent or null, and the decoder
# checks it in C. So most reads cost no look at each field.
class _PlainDelta(msgspec.Struct, gc=False):
    content: str
    tool_calls: None = None
    reasoning_content: None = None
    reasoning: None = None
    reasoning_details: None = None
    refusal: None = None


class _PlainChoice(msgspec.Struct, gc=False):
    delta: _PlainDelta
    index: Literal[0] = 0
    finish_reason: None = None
    usage: None = None


class _PlainChunk(msgspec.Struct, gc=False):
    choices: tuple[_PlainChoice]
    usage: None = None
    error: None = None
    x_groq: None = None
    base_resp: None = None


_plain = msgspec.json.Decoder(_PlainChunk).decode_lines


class _WholeChoice(msgspec.Struct):
    message: Delta
    index: int | None = 0
    finish_reason: str | None = None


class _WholeAnswer(msgspec.Struct):
    choices: list[_WholeChoice]
    usage: Any = None


@dataclass(frozen=True, slots=True)
class OpenAIChat:
    """A ``Dialect``: chat completions as one vendor speaks them."""

    vendor: Vendor
    accent: Accent = Accent()
    name: str = "openai-chat"

    def encode(self, request: ModelRequest, endpoint: Endpoint) -> HttpRequest:
        """The request, its stable part (tools, instructions, history) first."""
        headers = {"Content-Type": "application/json"}
        if endpoint.api_key:
            headers[self.accent.key_header] = self.accent.key_prefix + endpoint.api_key
        for setting, header in self.accent.headers.items():
            if value := endpoint.extra.get(setting):
                headers[header] = value
        body = chat_body(request, self.accent, self.vendor)
        return HttpRequest(self.accent.address(endpoint, request.model), headers, msgspec.json.encode(body))

    def decoder(self, limit: int = LINE_LIMIT) -> Decoder:
        """For a stream, of whose events none is larger than ``limit`` bytes."""
        return StreamDecoder(ChatAnswer(self.vendor, self.accent.returns), EventStream(record=b"data: ", limit=limit))

    def body_decoder(self) -> Decoder:
        """For a whole answer."""
        return BodyDecoder(ChatAnswer(self.vendor, self.accent.returns))

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> Error:
        """The meaning of an HTTP status that is not 200."""
        return self.vendor.refusal(status, headers, body)


class ChatAnswer(Answer[ChatChunk]):
    """One answer, chunk by chunk."""

    chunks = msgspec.json.Decoder(ChatChunk)
    terminal = b"[DONE]"

    def __init__(self, vendor: Vendor, returns: Returns = "") -> None:
        super().__init__(vendor)
        self._calls = CallAssembly()
        self._thoughts = Thoughts(returns) if returns else None
        self._finish_reason = ""
        self._usage: Any = None
        self._refused = False

    def add(self, chunks: Sequence[ChatChunk]) -> None:
        """What a read brought."""
        for chunk in chunks:
            if chunk.usage:
                self._usage = chunk.usage
            if chunk.error:
                self.fail(self.vendor.complaint({"error": chunk.error}))
                return
            if chunk.base_resp and is_complaint(told := {"base_resp": chunk.base_resp}):
                self.fail(self.vendor.complaint(told))
                return
            for choice in chunk.choices or ():
                if choice.index:
                    continue
                if choice.delta is not None:
                    self._say(choice.delta)
                if choice.finish_reason:
                    self._finish_reason = choice.finish_reason
                if choice.usage:
                    self._usage = choice.usage
            if isinstance(chunk.x_groq, dict):
                self._usage = chunk.x_groq.get("usage") or self._usage
            if chunk.choices is None and is_complaint(flat := msgspec.structs.asdict(chunk)):
                self.fail(self.vendor.complaint(flat))
                return

    def plain(self, lines: bytes) -> tuple[str, int]:
        """The text of chunks that hold nothing else."""
        chunks = _plain(lines)
        return "".join([chunk.choices[0].delta.content for chunk in chunks]), len(chunks)

    def whole(self, value: Any) -> None:
        """A complete ``chat.completion``."""
        if isinstance(value, dict) and not value.get("choices") and is_complaint(value):
            self.fail(self.vendor.complaint(value))
            return
        answer = msgspec.convert(value, _WholeAnswer)
        choices = [Choice(choice.index, choice.message, choice.finish_reason or "stop") for choice in answer.choices]
        self.add([ChatChunk(choices, answer.usage)])

    def finish(self) -> None:
        """The stream is over."""
        raw = self._finish_reason
        if not raw:
            self.truncated()
        elif reason := _FAILURES.get(raw):
            self.fail(self.vendor.error(reason))
        else:
            state = self._thoughts.state(self.vendor.provider) if self._thoughts else None
            self.conclude(_FINISH_REASONS.get(raw, FinishReason.STOP), self._calls, state)

    def usage(self) -> Usage | None:
        """What the vendor counted; None when it said nothing, or nothing but zeros."""
        return read_usage(self._usage)

    def _say(self, delta: Delta) -> None:
        # Some send their reasoning under both names.
        if reasoning := delta.reasoning_content or delta.reasoning:
            self.out.reasoning(reasoning)
        if self._thoughts is not None:
            self._thoughts.add(reasoning, delta.reasoning_details)
        if content := delta.content:
            if isinstance(content, str):
                self.out.text(content)
            else:
                self._parts(content)
        if delta.tool_calls:
            self._calls.add(delta.tool_calls, self.out)
        if delta.refusal:
            if not self._refused:
                self._refused = True
                self.out.event(Annotation("refusal", "true"))
            self.out.text(delta.refusal)

    def _parts(self, parts: list[Any]) -> None:
        """Mistral: ``{"type":"text","text":...}`` and ``{"type":"thinking","thinking":[{"type":"text",...}]}``."""
        for part in parts:
            match part:
                case {"type": "thinking", "thinking": list() as thoughts}:
                    for thought in thoughts:
                        if isinstance(thought, dict) and isinstance(text := thought.get("text"), str):
                            self.out.reasoning(text)
                case {"type": "thinking", "thinking": str() as text}:
                    self.out.reasoning(text)
                case {"text": str() as text}:
                    self.out.text(text)
                case _:
                    pass


def read_usage(raw: Any) -> Usage | None:
    """Usage as chat completions count it: input includes what was cached, output includes reasoning."""
    if not isinstance(raw, dict):
        return None
    details, reasoning = raw.get("prompt_tokens_details"), raw.get("completion_tokens_details")
    details = details if isinstance(details, dict) else {}
    reasoning = reasoning if isinstance(reasoning, dict) else {}
    usage = Usage(
        input_tokens=count(raw.get("prompt_tokens")),
        output_tokens=count(raw.get("completion_tokens")),
        # In that order: OpenAI, DeepSeek, Moonshot and Together.
        cached_input_tokens=count(
            details.get("cached_tokens") or raw.get("prompt_cache_hit_tokens") or raw.get("cached_tokens")
        ),
        cache_write_tokens=count(details.get("cache_write_tokens")),
        reasoning_tokens=count(reasoning.get("reasoning_tokens")),
    )
    return usage if usage.total_tokens else None


_FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "normal": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "sensitive": FinishReason.CONTENT_FILTER,
}
_FAILURES: Mapping[str, Reason] = {
    "error": Reason.PROVIDER_SERVER_ERROR,
    "network_error": Reason.PROVIDER_SERVER_ERROR,
    "insufficient_system_resource": Reason.PROVIDER_OVERLOADED,
}
