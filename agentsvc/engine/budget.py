"""Hard limits of one run. They trip inside the run: it ends at the next delta with what it has, and says which limit."""

from __future__ import annotations

from agentsvc.domain.agents import Budget
from agentsvc.domain.events import BudgetKind
from agentsvc.domain.messages import NO_USAGE, Usage
from agentsvc.engine.prices import EXACT, Tariff

_PER_TOKEN = 4  # characters


class BudgetExceeded(Exception):  # noqa: N818 - not an error: the run ends in order, with status OK
    """The run reached a limit it was given."""

    def __init__(self, kind: BudgetKind) -> None:
        super().__init__(kind)
        self.kind = kind


class Meter:
    """Counts what a run spends against its budget.

    Inside an answer the provider has not reported yet, so output is estimated from characters (4 a token); at the end
    of a step the provider's own count takes the estimate's place. An answer that is complete when its count comes is
    kept, whatever it was: the limit then ends the run before the next tool or request.
    """

    __slots__ = ("_budget", "_characters_left", "_kind", "_spent", "_tariff", "_tool_calls", "usage")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._tool_calls = 0
        self._characters_left: float = float("inf")
        self._kind = BudgetKind.TOKENS  # of the limit that the characters left belong to
        self._tariff: Tariff | None = None
        self._spent = 0  # millionths of a micro
        self.usage = NO_USAGE

    def begin_step(self, prompt_tokens: int, tariff: Tariff | None = None) -> None:
        """A request of about ``prompt_tokens`` is about to leave, to a model that costs ``tariff``.

        Raises:
            BudgetExceeded: nothing is left for an answer; or the cost is limited and nobody knows the price.
        """
        self._tariff = tariff
        self._characters_left, self._kind = self._affordable(prompt_tokens), BudgetKind.COST
        if self._budget.tokens is not None:
            left = (self._budget.tokens - self.usage.total_tokens - prompt_tokens) * _PER_TOKEN
            if left < self._characters_left:
                self._characters_left, self._kind = left, BudgetKind.TOKENS
        if self._characters_left <= 0:
            raise BudgetExceeded(self._kind)

    def spend(self, characters: int) -> None:
        """So many characters of output came."""
        self._characters_left -= characters
        if self._characters_left < 0:
            raise BudgetExceeded(self._kind)

    def end_step(self, usage: Usage) -> None:
        """The step's final count."""
        self.usage += usage
        if self._tariff is not None:
            self._spent += self._tariff.exact(usage)

    def tool_calls(self, count: int) -> None:
        """So many tools are about to start: all of them or none, and none whose result no model could be asked about."""
        if self._budget.tokens is not None and self.usage.total_tokens >= self._budget.tokens:
            raise BudgetExceeded(BudgetKind.TOKENS)
        if self._budget.cost_micros is not None and self._spent >= self._budget.cost_micros * EXACT:
            raise BudgetExceeded(BudgetKind.COST)
        self._tool_calls += count
        if self._budget.tool_calls is not None and self._tool_calls > self._budget.tool_calls:
            raise BudgetExceeded(BudgetKind.TOOL_CALLS)

    def _affordable(self, prompt_tokens: int) -> float:
        """How many characters of answer the rest of the money buys after the prompt; infinite without a limit."""
        if self._budget.cost_micros is None:
            return float("inf")
        if self._tariff is None:
            return 0
        price = self._tariff.price.at(prompt_tokens)
        # Once the vendor has shown that it caches this run's prompt, the next one is mostly what it has in its cache.
        caches = self.usage.cached_input_tokens or self.usage.cache_write_tokens
        left = (
            self._budget.cost_micros * EXACT - self._spent - prompt_tokens * (price.reading if caches else price.input)
        )
        if left <= 0:
            return 0
        return left / price.output * _PER_TOKEN if price.output else float("inf")
