"""Joins what one read brought: adjacent deltas of one kind become one event, so that cost follows reads, not tokens."""

from __future__ import annotations

from agentsvc.domain.events import ModelEvent, ReasoningDelta, TextDelta, ToolCallArgumentsDelta


class Deltas:
    """The events of an answer, taken read by read."""

    __slots__ = ("_call", "_events", "_kind", "_more", "_pieces")

    def __init__(self) -> None:
        self._events: list[ModelEvent] = []
        self._kind: type[ModelEvent] | None = None
        self._call = ""
        self._pieces: list[str] = []
        self._more = 0  # chunks beyond one for each piece

    def text(self, piece: str, chunks: int = 1) -> None:
        """More of the answer's text, which came in so many chunks."""
        if self._kind is not TextDelta:
            self._turn(TextDelta)
        self._pieces.append(piece)
        self._more += chunks - 1

    def reasoning(self, piece: str) -> None:
        """More of the answer's reasoning."""
        if self._kind is not ReasoningDelta:
            self._turn(ReasoningDelta)
        self._pieces.append(piece)

    def arguments(self, tool_call_id: str, fragment: str) -> None:
        """More of a call's arguments."""
        if self._kind is not ToolCallArgumentsDelta or self._call != tool_call_id:
            self._turn(ToolCallArgumentsDelta)
            self._call = tool_call_id
        self._pieces.append(fragment)

    def event(self, event: ModelEvent) -> None:
        """An event that is no delta; it ends the one that was growing."""
        self._turn(None)
        self._events.append(event)

    def take(self) -> list[ModelEvent]:
        """Everything since the last call. The list is the caller's."""
        if self._pieces:
            self._join()
        events = self._events
        if events:
            self._events = []
        return events

    def _turn(self, kind: type[ModelEvent] | None) -> None:
        """Another kind of event begins."""
        if self._pieces:
            self._join()
        self._kind = kind

    def _join(self) -> None:
        text, count = "".join(self._pieces), len(self._pieces) + self._more
        self._pieces.clear()
        self._more = 0
        if self._kind is TextDelta:
            self._events.append(TextDelta(text, count))
        elif self._kind is ReasoningDelta:
            self._events.append(ReasoningDelta(text, count))
        else:
            self._events.append(ToolCallArgumentsDelta(self._call, text, count))
