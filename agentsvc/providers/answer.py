"""The part of a decoder that every dialect shares: frames in, the end of an answer told exactly once.

A dialect writes an ``Answer``: what each typed chunk means. ``StreamDecoder`` and ``BodyDecoder`` bring it the chunks, of
a stream or of one JSON body.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from agentsvc.domain.errors import Error, Reason
from agentsvc.domain.events import ModelEvent, ModelFailed, ModelFinished, TextDelta
from agentsvc.domain.messages import FinishReason, ProviderState, Usage
from agentsvc.providers.calls import CallAssembly
from agentsvc.providers.deltas import Deltas
from agentsvc.providers.errors import MalformedStreamError, Vendor
from agentsvc.providers.sse import MIB

Chunk = TypeVar("Chunk")

_MANY = 1 << 53  # beyond this no count is meant, and no float exact
BODY_LIMIT = 32 * MIB  # of a whole answer in one JSON body; images and server-tool results make them large
# Whole pairs and other escapes are matched first and stay, so that the u after an escaped backslash is not taken for one.
_SURROGATES = re.compile(
    rb"(\\[^u]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)


class Answer(ABC, Generic[Chunk]):
    """One answer of a model, being understood."""

    chunks: ClassVar[msgspec.json.Decoder[Any]]  # of ``Chunk``, the typed view of a stream's JSON
    terminal: ClassVar[bytes] = b""  # the data of an event that is no JSON and ends the stream, as [DONE]

    def __init__(self, vendor: Vendor) -> None:
        self.vendor = vendor
        self.out = Deltas()
        self.ended = False

    @abstractmethod
    def add(self, chunks: Sequence[Chunk]) -> None:
        """What a read brought. The hot path: one call per read.

        Raises:
            MalformedStreamError: the JSON is sound, but what it says is not.
        """

    def plain(self, lines: bytes) -> tuple[str, int] | None:  # noqa: ARG002 - of those who know a shorter way
        """The text of JSON lines that hold text and nothing else, and how many they are.

        A shorter way through most reads of most answers; None from a dialect that has none. May raise what decoding
        raises: they hold more.
        """
        return None

    @abstractmethod
    def whole(self, value: Any) -> None:
        """A complete answer as decoded JSON, not streamed.

        Raises:
            MalformedStreamError, msgspec.ValidationError: it is not an answer.
        """

    @abstractmethod
    def finish(self) -> None:
        """There will be no more: ends the answer, well or as STREAM_TRUNCATED.

        Raises:
            MalformedStreamError: what came does not make an answer.
        """

    @abstractmethod
    def usage(self) -> Usage | None:
        """What the vendor has reported so far."""

    def end(self, event: ModelEvent) -> None:
        """Tells the last event. What comes later is swallowed."""
        if not self.ended:
            self.ended = True
            self.out.event(event)

    def fail(self, error: Error) -> None:
        """Ends the answer in an error."""
        self.end(ModelFailed(error, self.usage()))

    def malformed(self, detail: str) -> None:
        """Ends the answer because it cannot be read."""
        self.fail(self.vendor.error(Reason.MALFORMED_STREAM, detail=detail))

    def conclude(self, reason: FinishReason, calls: CallAssembly, state: ProviderState | None = None) -> None:
        """Ends the answer well: TOOL_CALLS whenever it holds a call, for half of the vendors say "stop" then.

        Raises:
            MalformedStreamError: a call is not sound.
        """
        try:
            calls.finish(self.out)
        except MalformedStreamError:
            if reason is not FinishReason.LENGTH:
                raise
            # Nobody's mistake, and no use in trying again as it was.
            detail = "the output limit cut a tool call off; raise max_output_tokens"
            self.fail(replace(self.vendor.error(Reason.MALFORMED_STREAM, detail=detail), retryable=False))
        else:
            self.end(ModelFinished(FinishReason.TOOL_CALLS if calls else reason, self.usage(), state))

    def truncated(self) -> None:
        """Ends the answer because its end never came."""
        self.fail(self.vendor.error(Reason.STREAM_TRUNCATED))

    def body(self, body: bytes) -> None:
        """A complete answer, or an error, as one JSON text."""
        try:
            value = msgspec.json.decode(mended(body))
            if isinstance(value, dict) and value.get("error"):
                self.fail(self.vendor.complaint(value))
            else:
                self.whole(value)
            if not self.ended:
                self.finish()
        except MalformedStreamError as problem:
            self.malformed(str(problem))
        except (ValueError, RecursionError):
            self.malformed("it is not the JSON of an answer")


class Framing(Protocol):
    """Where a stream's events begin and end: ``sse.EventStream``, ``ndjson.JSONLines``."""

    broken: str

    @property
    def stray(self) -> bytes:
        """What was no event, for the end to look at."""
        ...

    def block(self, chunk: bytes) -> bytes:
        """The whole events that the chunk completes."""
        ...

    def lines(self, block: bytes) -> bytes | None:
        """A block as JSON lines, where that is easily said; ``usual`` tells whether it was true."""
        ...

    def usual(self, block: bytes, events: int) -> bool:
        """Whether so many events are all that a block holds."""
        ...

    def tail(self, block: bytes, events: int) -> int:
        """Where so many events at the end of a block begin, about: between two events in any case."""
        ...

    def payloads(self, block: bytes) -> list[bytes]:
        """The JSON of every event in a block."""
        ...

    def close(self) -> list[bytes]:
        """The JSON of the event that was pending when the connection ended."""
        ...


_LAST_EVENTS = 3  # finish reason, usage, the terminal: what ends most streams
_LAST_BYTES = 16  # in which the terminal stands, line ends included


class StreamDecoder(Generic[Chunk]):
    """A ``Decoder`` for a stream of JSON texts."""

    __slots__ = ("_answer", "_decode", "_events", "_has_plain", "_terminal")

    def __init__(self, answer: Answer[Chunk], events: Framing) -> None:
        self._answer = answer
        self._events = events
        self._decode = answer.chunks.decode
        self._terminal = answer.terminal
        self._has_plain = type(answer).plain is not Answer.plain

    def feed(self, chunk: bytes) -> Sequence[ModelEvent]:
        """What this chunk completes."""
        answer, events = self._answer, self._events
        if answer.ended:
            return ()
        if block := events.block(chunk):
            if self._has_plain and not events.broken:
                text, block = self._split(block)
                if text is not None:
                    if not block:
                        return [text]
                    answer.out.text(text.text, text.pieces)
            if block:
                self._add(events.payloads(block))
        if events.broken:
            answer.malformed(events.broken)
        return answer.out.take()

    def _split(self, block: bytes) -> tuple[TextDelta | None, bytes]:
        """The text of ``block``, and what is left of it: in one C call, if it is text and nothing else. The events that end
        an answer stand behind its last text, often in the same read.
        """
        cut = self._events.tail(block, _LAST_EVENTS) if block.find(self._terminal, -_LAST_BYTES) >= 0 else len(block)
        lines = self._events.lines(head := block[:cut])
        if lines is None:
            return None, block
        try:
            plain = self._answer.plain(lines)
        except (ValueError, RecursionError):
            return None, block
        if plain is None or not self._events.usual(head, plain[1]):
            return None, block
        return TextDelta(*plain) if plain[0] else None, block[cut:]

    def close(self) -> Sequence[ModelEvent]:
        """The connection ended: the rest, and how it ended."""
        answer = self._answer
        if answer.ended:
            return ()
        # A half event at the end is no malformed one: the answer was cut off there.
        self._add([payload for payload in self._events.close() if payload == self._terminal or is_json(payload)])
        stray = self._events.stray
        ended: bool = answer.ended  # by what was pending
        if not ended and is_json(stray):
            answer.body(stray)
        elif not ended and stray.lstrip().startswith(b"<"):
            answer.malformed("it is a page of HTML; check the base URL")
        self._finish()
        return answer.out.take()

    def _add(self, payloads: list[bytes]) -> None:
        done = bool(self._terminal) and payloads[-1:] == [self._terminal]
        if done:
            payloads.pop()
        decode = self._decode
        try:
            chunks = [decode(payload) for payload in payloads]
        except (ValueError, RecursionError):
            self._add_singly(payloads)
        else:
            self._understand(chunks)
        if done:
            self._finish()

    def _add_singly(self, payloads: list[bytes]) -> None:
        """One of the payloads is not what it should be: those before it count."""
        for payload in payloads:
            if self._answer.ended:
                return
            if payload == self._terminal:
                self._finish()
                continue
            try:
                chunk = self._decode(mended(payload))
            except (ValueError, RecursionError):
                self._answer.malformed("one of its events is not the JSON it should be")
            else:
                self._understand([chunk])

    def _understand(self, chunks: list[Chunk]) -> None:
        try:
            self._answer.add(chunks)
        except MalformedStreamError as problem:
            self._answer.malformed(str(problem))

    def _finish(self) -> None:
        if self._answer.ended:
            return
        try:
            self._answer.finish()
        except MalformedStreamError as problem:
            self._answer.malformed(str(problem))


class BodyDecoder(Generic[Chunk]):
    """A ``Decoder`` for a whole answer in one JSON body."""

    __slots__ = ("_answer", "_body", "_limit")

    def __init__(self, answer: Answer[Chunk], limit: int = BODY_LIMIT) -> None:
        self._answer = answer
        self._body = bytearray()
        self._limit = limit

    def feed(self, chunk: bytes) -> Sequence[ModelEvent]:
        """Collects; nothing is told before the end, save that there is too much."""
        if not self._answer.ended:
            self._body += chunk
            if len(self._body) > self._limit:
                self._body.clear()
                self._answer.malformed(f"its body is larger than {self._limit} bytes")
        return self._answer.out.take()

    def close(self) -> Sequence[ModelEvent]:
        """The whole answer."""
        if not self._answer.ended:
            if self._body.strip():
                self._answer.body(bytes(self._body))
            else:
                self._answer.truncated()
        return self._answer.out.take()


def is_json(payload: bytes) -> bool:
    """Whether this is one complete JSON value, rather than half of one or none."""
    try:
        msgspec.json.decode(mended(payload), type=msgspec.Raw)
    except (ValueError, RecursionError):
        return False
    return bool(payload)


def mended(payload: bytes) -> bytes:
    """``payload`` without halves of surrogate pairs. Writers that cut JavaScript strings escape them one by one; they
    are no characters, msgspec refuses them, and UTF-8 cannot hold them.
    """
    if b"\\ud" not in payload.lower():
        return payload
    return _SURROGATES.sub(lambda escape: escape[1] or b"\\ufffd", payload)


def count(value: Any) -> int:
    """A vendor's number of tokens: null, text and other surprises count as none."""
    return int(value) if isinstance(value, int | float) and 0 < value < _MANY else 0
