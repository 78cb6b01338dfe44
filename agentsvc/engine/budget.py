"""Hard limits of one run. They trip inside the run: it ends at the next delta with what it has, and says which limit."""

from __future__ import annotations

from agentsvc.domain.agents import Budget
from agentsvc.domain.events import BudgetKind
from agentsvc.domain.messages import Usage


class BudgetExceeded(Exception):  # noqa: N818 - not an error: the run ends in order, with status OK
    """The run reached a limit it was given."""

    def __init__(self, kind: BudgetKind) -> None:
        super().__init__(kind)
        self.kind = kind


class Meter:
    """Counts what a run spends against its budget.

    Inside an answer the provider has not reported yet, so output is estimated from characters (4 a token); at the end
    of a step the provider's own count takes the estimate's place.
    """

    __slots__ = ("_budget", "_characters_left", "_tool_calls", "usage")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._tool_calls = 0
        self._characters_left: float = float("inf")
        self.usage = Usage()

    def begin_step(self, prompt_tokens: int) -> None:
        """A request of about ``prompt_tokens`` is about to leave."""
        if self._budget.tokens is not None:
            left = self._budget.tokens - self.usage.total_tokens - prompt_tokens
            if left <= 0:
                raise BudgetExceeded(BudgetKind.TOKENS)
            self._characters_left = left * 4

    def spend(self, characters: int) -> None:
        """So many characters of output came."""
        self._characters_left -= characters
        if self._characters_left < 0:
            raise BudgetExceeded(BudgetKind.TOKENS)

    def end_step(self, usage: Usage) -> None:
        """The step's final count."""
        self.usage += usage

    def tool_calls(self, count: int) -> None:
        """So many tools are about to start: all of them or none, and none whose result no model could be asked about."""
        if self._budget.tokens is not None and self.usage.total_tokens >= self._budget.tokens:
            raise BudgetExceeded(BudgetKind.TOKENS)
        self._tool_calls += count
        if self._budget.tool_calls is not None and self._tool_calls > self._budget.tool_calls:
            raise BudgetExceeded(BudgetKind.TOOL_CALLS)
