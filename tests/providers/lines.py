"""A dialect of one word a line, to test the client without any vendor's.

``text WORDS`` is a delta, ``note WORDS`` an annotation, ``usage N``, ``end`` the end, ``error REASON`` an error in the
stream; anything else (``ping``) says nothing. In a body, the same lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentsvc.domain.errors import Error, Reason
from agentsvc.domain.events import Annotation, ModelEvent, ModelFailed, ModelFinished, TextDelta
from agentsvc.domain.messages import FinishReason, Message, Role, Text, Usage
from agentsvc.domain.ports import ModelRequest
from agentsvc.providers.dialect import Decoder, Endpoint, HttpRequest, Provider
from agentsvc.providers.sse import LINE_LIMIT


class LinesDecoder:
    def __init__(self, *, at_once: bool = False) -> None:
        self._at_once = at_once
        self._held = b""
        self._usage: Usage | None = None
        self._ended = False

    def feed(self, chunk: bytes) -> Sequence[ModelEvent]:
        self._held += chunk
        if self._at_once:
            return []
        *lines, self._held = self._held.split(b"\n")
        return self._read(lines)

    def close(self) -> Sequence[ModelEvent]:
        events = self._read(self._held.split(b"\n")) if self._at_once else []
        return [*events, *self._end(ModelFailed(Error(Reason.STREAM_TRUNCATED, "cut", retryable=True), self._usage))]

    def _read(self, lines: list[bytes]) -> list[ModelEvent]:
        events: list[ModelEvent] = []
        texts: list[str] = []
        for line in lines:
            word, _, rest = line.decode().partition(" ")
            if word == "text" and not self._ended:
                texts.append(rest)
                continue
            if texts:
                events.append(TextDelta("".join(texts)))
                texts = []
            match word:
                case "note":
                    events.append(Annotation("note", rest))
                case "usage":
                    self._usage = Usage(int(rest), int(rest))
                case "end":
                    events += self._end(ModelFinished(FinishReason.STOP, self._usage))
                case "error":
                    events += self._end(ModelFailed(Error(Reason(rest), "told", retryable=True), self._usage))
        return [*events, TextDelta("".join(texts))] if texts else events

    def _end(self, event: ModelEvent) -> list[ModelEvent]:
        told, self._ended = self._ended, True
        return [] if told else [event]


class Lines:
    name = "lines"

    def encode(self, request: ModelRequest, endpoint: Endpoint) -> HttpRequest:
        headers = {"Content-Type": "text/plain", "Authorization": f"Bearer {endpoint.api_key}"}
        return HttpRequest(f"{endpoint.base_url}/ask", headers, request.messages[-1].text.encode())

    def decoder(self, limit: int = LINE_LIMIT) -> Decoder:
        return LinesDecoder()

    def body_decoder(self) -> Decoder:
        return LinesDecoder(at_once=True)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> Error:
        reason = {401: Reason.PROVIDER_AUTH, 429: Reason.PROVIDER_RATE_LIMIT}.get(status, Reason.PROVIDER_SERVER_ERROR)
        hint = headers.get("retry-after")
        return Error(reason, f"status {status}, {len(body)} bytes", "", reason.retryable, float(hint) if hint else None)


LINES = Provider(
    name="lines", dialect=Lines(), key_env=("LINES_API_KEY",), base_url_env=("LINES_BASE_URL",), default_model="small"
)


def ask(text: str = "hello", *, stream: bool = True) -> ModelRequest:
    return ModelRequest("small", (Message(Role.USER, (Text(text),)),), stream=stream)
