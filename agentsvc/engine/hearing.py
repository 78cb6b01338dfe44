"""One answer of a model while it is heard: what a read brought becomes the run's events.

No generator of its own, since every layer of generators costs each token of each stream: the loop hands over what came
and passes on what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentsvc.domain.errors import ProviderError
from agentsvc.domain.events import Annotation, Event, ModelEvent, ModelFailed, ModelFinished, TextDelta
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.timeline import AnswerTiming, Timeline
from agentsvc.engine.budget import Meter
from agentsvc.engine.routing import Candidate
from agentsvc.engine.transcript import Answer, Transcript


class Hearing:
    """``events`` for each read, then ``check``; ``close`` on every path. The transcript grows along, the timeline learns when
    the answer came.
    """

    __slots__ = (
        "_answer",
        "_asked",
        "_candidate",
        "_characters",
        "_chunks",
        "_failure",
        "_first",
        "_meter",
        "_streamed",
        "_timeline",
        "_transcript",
        "_with_notes",
    )

    def __init__(
        self,
        candidate: Candidate,
        request: ModelRequest,
        step: int,
        transcript: Transcript,
        meter: Meter,
        timeline: Timeline,
        *,
        with_notes: bool | None,
    ) -> None:
        self._answer: Answer = transcript.begin_step(step, request, candidate.model.provider)
        self._candidate = candidate
        self._transcript = transcript
        self._meter = meter
        self._timeline = timeline
        self._with_notes = with_notes
        self._streamed = request.stream
        self._asked = timeline.clock()
        self._first = self._chunks = self._characters = 0
        self._failure: ProviderError | None = None

    def events(self, batch: Sequence[ModelEvent]) -> Sequence[Event]:
        """What callers see of a read."""
        if not self._chunks and self._streamed:
            self._first = self._timeline.clock()
        self._chunks += 1
        if len(batch) == 1 and type(text := batch[0]) is TextDelta:  # nearly always
            self._answer.said(text)
            self._characters = len(text.text)
            return batch  # type: ignore[return-value]  # of one event that callers see
        self._characters = 0
        return [heard for event in batch if (heard := self._heard(event)) is not None]

    def check(self) -> None:
        """After the events of a read have been passed on.

        Raises:
            ProviderError: the vendor failed.
            BudgetExceeded: the budget is spent.
        """
        if self._failure is not None:
            raise self._failure
        self._meter.spend(self._characters)

    def close(self) -> None:
        """It is over, however it went."""
        model, failure = self._candidate.model.provider, self._failure.error.reason if self._failure else ""
        now, name = self._timeline.clock(), self._candidate.name
        self._timeline.answers.append(AnswerTiming(model, name, self._asked, self._first, now, self._chunks, failure))

    def _heard(self, event: ModelEvent) -> Event | None:
        match event:
            case TextDelta():
                self._answer.said(event)
                self._characters += len(event.text)
                return event
            case ModelFinished():
                try:
                    self._answer.finished(event)
                except ProviderError as failure:
                    self._failure = failure
                return None
            case ModelFailed():
                self._answer.failed(event)
                self._failure = ProviderError.of(event.error)
                return None
            case Annotation():
                return event if self._with_notes else None
            case _:
                heard, characters = self._transcript.heard(event)
                self._characters += characters
                return heard
