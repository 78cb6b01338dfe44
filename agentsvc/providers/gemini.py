"""The dialect ``gemini``: generateContent, a few large chunks of typed parts.

    POST {base_url}/v1beta/models/{model}:streamGenerateContent?alt=sse
    data: {"candidates":[{"content":{"parts":[...],"role":"model"},"finishReason":"STOP"}],"usageMetadata":{...}}

Nothing marks the end of a stream: success is a finish reason and then the end of the connection, since an error may come
after the finish reason, as bare JSON between the events. Without ``alt=sse`` the stream is one JSON array, which some
gateways answer with all the same; it is read as a body.

Calls come whole and mostly without an id; they get ours. Signatures go back on the very part that they came on: the
answer then ends with its parts as provider state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from agentsvc.domain.errors import Error, Reason
from agentsvc.domain.events import Annotation
from agentsvc.domain.messages import FinishReason, ProviderState, Usage
from agentsvc.domain.ports import ModelRequest
from agentsvc.providers.answer import Answer, BodyDecoder, StreamDecoder, count
from agentsvc.providers.calls import CallAssembly, CallPiece, FunctionPiece
from agentsvc.providers.dialect import Decoder, Endpoint, HttpRequest
from agentsvc.providers.encoding import model_path
from agentsvc.providers.errors import MalformedStreamError, Vendor
from agentsvc.providers.gemini_request import contents_body
from agentsvc.providers.sse import LINE_LIMIT, EventStream

NAME = "gemini"
VERSION = "v1beta"


class FunctionCall(msgspec.Struct, gc=False, omit_defaults=True):
    """A call, whole. ``args`` is left out where there are none."""

    id: str | None = None
    name: str | None = None
    args: dict[str, Any] | None = None


class Part(msgspec.Struct, gc=False, omit_defaults=True, rename="camel"):
    """One part of a turn: text, a thought, a call, or what a tool of the vendor's made. The signature may be on any."""

    text: str | None = None
    thought: bool | None = None
    function_call: FunctionCall | None = None
    thought_signature: str | None = None
    executable_code: Any = None
    code_execution_result: Any = None
    inline_data: Any = None
    file_data: Any = None
    tool_call: Any = None
    tool_response: Any = None


class Content(msgspec.Struct, gc=False):
    """The parts that a chunk adds."""

    parts: list[Part] | None = None


class Candidate(msgspec.Struct, gc=False, rename="camel"):
    """One of the answers; only the first counts. ``finish_reason`` is a number where a client asked for numbers."""

    index: int | None = 0
    content: Content | None = None
    finish_reason: str | int | None = None
    grounding_metadata: dict[str, Any] | None = None


class PromptFeedback(msgspec.Struct, gc=False, rename="camel"):
    """Why there is no answer."""

    block_reason: str | None = None


class Counts(msgspec.Struct, gc=False, rename="camel"):
    """How many tokens so far; candidates without thoughts, the prompt with what was cached."""

    prompt_token_count: Any = None
    candidates_token_count: Any = None
    thoughts_token_count: Any = None
    cached_content_token_count: Any = None


class ContentChunk(msgspec.Struct, gc=False, rename="camel"):
    """A stream's JSON, and the whole answer's."""

    candidates: list[Candidate] | None = None
    usage_metadata: Counts | None = None
    prompt_feedback: PromptFeedback | None = None
    error: Any = None


@dataclass(frozen=True, slots=True)
class Gemini:
    """A ``Dialect``: generateContent as one vendor serves it. ``Endpoint.extra["api_version"]`` replaces ``v1beta``."""

    vendor: Vendor
    name: str = NAME

    def encode(self, request: ModelRequest, endpoint: Endpoint) -> HttpRequest:
        """The request, its stable part (tools, instructions, history) first.

        A model with a slash in its name is the path of a resource, as ``tunedModels/x``.
        """
        headers = {"Content-Type": "application/json"}
        if endpoint.api_key:
            headers["x-goog-api-key"] = endpoint.api_key
        model = model_path(request.model)
        resource = model if "/" in model else f"models/{model}"
        method = "streamGenerateContent?alt=sse" if request.stream else "generateContent"
        version = endpoint.extra.get("api_version") or VERSION
        url = f"{endpoint.base_url.rstrip('/')}/{version}/{resource}:{method}"
        return HttpRequest(url, headers, msgspec.json.encode(contents_body(request, vendor=self.name)))

    def decoder(self, limit: int = LINE_LIMIT) -> Decoder:
        """For a stream, of whose events none is larger than ``limit`` bytes."""
        return StreamDecoder(ContentAnswer(self.vendor, self.name), EventStream(limit=limit))

    def body_decoder(self) -> Decoder:
        """For a whole answer, or a stream as one JSON array."""
        return BodyDecoder(ContentAnswer(self.vendor, self.name))

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> Error:
        """The meaning of an HTTP status that is not 200."""
        return self.vendor.refusal(status, headers, body)


class ContentAnswer(Answer[ContentChunk]):
    """One answer, chunk by chunk."""

    chunks = msgspec.json.Decoder(ContentChunk)

    def __init__(self, vendor: Vendor, dialect: str) -> None:
        super().__init__(vendor)
        self._dialect = dialect
        self._calls = CallAssembly()
        self._called = 0
        self._finish_reason: str | int = ""
        self._counts = Counts()
        self._turn: list[dict[str, Any]] = []  # what goes back, but for the text that is still growing
        self._growing: list[str] = []
        self._stateful = False
        self._cited: set[str] = set()

    def add(self, chunks: Sequence[ContentChunk]) -> None:
        """What a read brought."""
        for chunk in chunks:
            if chunk.usage_metadata is not None:
                self._counts = chunk.usage_metadata
            if chunk.error:
                self.fail(self.vendor.complaint({"error": chunk.error}))
                return
            for candidate in chunk.candidates or ():
                if candidate.index:
                    continue
                if candidate.content is not None and candidate.content.parts:
                    for part in candidate.content.parts:
                        self._say(part)
                if candidate.finish_reason:
                    self._finish_reason = candidate.finish_reason
                if candidate.grounding_metadata:
                    self._cite(candidate.grounding_metadata.get("groundingChunks"))
            if chunk.prompt_feedback is not None and (blocked := chunk.prompt_feedback.block_reason):
                error = self.vendor.error(Reason.CONTENT_FILTER)
                self.fail(replace(error, metadata={"provider_code": blocked} if blocked in _BLOCKED else {}))
                return

    def whole(self, value: Any) -> None:
        """A complete answer, or the array that a stream is without ``alt=sse``."""
        chunks = msgspec.convert(value if isinstance(value, list) else [value], list[ContentChunk])
        if not any(chunk.candidates or chunk.prompt_feedback or chunk.error for chunk in chunks):
            raise MalformedStreamError("it holds no answer")
        self.add(chunks)

    def finish(self) -> None:
        """The stream is over."""
        raw = self._finish_reason
        name = _NUMBERED.get(raw, "OTHER") if isinstance(raw, int) else raw
        if not name or name == "FINISH_REASON_UNSPECIFIED":
            self.truncated()
        elif name in _FAILURES:
            self.fail(self.vendor.halted(name))
        else:
            reason = FinishReason.CONTENT_FILTER if name in _FILTERED else FinishReason.STOP
            self.conclude(FinishReason.LENGTH if name == "MAX_TOKENS" else reason, self._calls, self._state())

    def usage(self) -> Usage | None:
        """Input includes what was cached, output what was thought. None before the vendor has counted anything."""
        counts = self._counts
        thoughts = count(counts.thoughts_token_count)
        usage = Usage(
            input_tokens=count(counts.prompt_token_count),
            output_tokens=count(counts.candidates_token_count) + thoughts,
            cached_input_tokens=count(counts.cached_content_token_count),
            reasoning_tokens=thoughts,
        )
        return usage if usage.total_tokens else None

    def _say(self, part: Part) -> None:
        text = part.text
        if text:
            if part.thought:
                self.out.reasoning(text)
            else:
                self.out.text(text)
                if part.thought_signature is None:
                    self._growing.append(text)
                    return
        if part.function_call is not None:
            self._call(part.function_call)
        elif part.thought_signature is None:
            if text is not None:
                return  # a thought, or nothing
            if part.executable_code is not None:
                self.out.event(Annotation("server_tool", "code_execution"))
        if kept := msgspec.to_builtins(part):
            self._stateful = self._stateful or kept.keys() != {"functionCall"} or "id" in kept["functionCall"]
            self._settle()
            self._turn.append(kept)

    def _call(self, call: FunctionCall) -> None:
        if not call.name:
            raise MalformedStreamError("a tool call has no name")
        call_id = call.id or f"call_{self._called}"
        self._called += 1
        self._calls.add((CallPiece(None, call_id, FunctionPiece(call.name, call.args or {})),), self.out)

    def _cite(self, sources: Any) -> None:
        for source in sources if isinstance(sources, list) else ():
            match source:
                case {"web": {"uri": str() as uri}} if uri not in self._cited:
                    self._cited.add(uri)
                    self.out.event(Annotation("citation", uri))
                case _:
                    pass

    def _settle(self) -> None:
        """The text so far becomes a part."""
        if self._growing:
            self._turn.append({"text": "".join(self._growing)})
            self._growing.clear()

    def _state(self) -> ProviderState | None:
        if not self._stateful:
            return None
        self._settle()
        return ProviderState(self._dialect, self._turn)


_FILTERED = frozenset(
    (
        *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"),
        *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
    )
)
_FAILURES = frozenset(
    (
        *("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE"),
        *("MISSING_THOUGHT_SIGNATURE", "LANGUAGE", "OTHER", "NO_IMAGE", "IMAGE_OTHER"),
    )
)
_BLOCKED = frozenset(("SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY", "MODEL_ARMOR", "JAILBREAK"))
# google.ai.generativelanguage.v1beta.Candidate.FinishReason
_NUMBERED: Mapping[int, str] = {
    0: "",
    1: "STOP",
    2: "MAX_TOKENS",
    3: "SAFETY",
    4: "RECITATION",
    6: "LANGUAGE",
    7: "BLOCKLIST",
    8: "PROHIBITED_CONTENT",
    9: "SPII",
    10: "MALFORMED_FUNCTION_CALL",
    11: "IMAGE_SAFETY",
    12: "UNEXPECTED_TOOL_CALL",
}
