"""Which model answers a run, and which one goes on when it fails.

A run keeps to one model while that works. When it fails of something that another vendor may not suffer from, the next
one is asked the same; what the failed one said is discarded (attempt_changed tells from where on) and paid for.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentsvc.domain.errors import Error, Reason
from agentsvc.domain.ports import ChatModel
from agentsvc.domain.quick import quick

# The caller's to mend: the next vendor would say the same, or must not be made to say otherwise.
_FINAL = frozenset({Reason.INVALID_FIELD, Reason.PROVIDER_INVALID_REQUEST, Reason.CONTENT_FILTER})


@quick
@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may answer: who is asked, and for which of its models."""

    model: ChatModel
    name: str

    @property
    def label(self) -> str:
        """``provider/model``."""
        return f"{self.model.provider}/{self.name}"


class Route:
    """The candidates of one run, in order. One that failed is not asked again."""

    __slots__ = ("_left", "current")

    def __init__(self, first: Candidate, others: tuple[Candidate, ...] = ()) -> None:
        self.current = first
        self._left = list(others)

    def gone_on(self, failure: Error) -> bool:
        """Moves to the next candidate, if there is one and ``failure`` is one that it may be spared."""
        if failure.reason in _FINAL or not self._left:
            return False
        self.current = self._left.pop(0)
        return True
