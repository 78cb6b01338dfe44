"""What an answer costs: a table of prices per provider and model, and the tokens that were counted.

Money is integer. Prices are micros (millionths of the currency's unit) per million tokens, so a token costs whole
millionths of a micro: sums are exact, and rounded up to whole micros once, at the end. What costs anything is never 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agentsvc.domain.errors import invalid_field
from agentsvc.domain.messages import Cost, Usage

EXACT = 1_000_000  # millionths of a micro in a micro

_DATE = re.compile(r"[-@](?:20\d\d-[01]\d-[0-3]\d|20\d\d[01]\d[0-3]\d)$")  # -2025-08-07, -20250929
# Two names of one vendor's prices: what is said of the second holds for the first, unless the first says it itself.
_NAMESAKES: Mapping[str, str] = {"claude": "anthropic", "openai-responses": "openai", "qwen-native": "qwen"}
# Who counts cached tokens beside the input and not in it, and reasoning beside the output. All others count them in.
_CACHE_BESIDE = frozenset({"anthropic", "claude"})
_REASONING_BESIDE = frozenset({"xai"})


@dataclass(frozen=True, slots=True)
class Price:
    """Micros per million tokens. Reasoning is output. None: cached tokens cost what input costs.

    ``above``: prices of requests whose prompt has more tokens than so many, rising.
    """

    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None
    above: tuple[tuple[int, Price], ...] = ()

    @property
    def reading(self) -> int:
        """Of a prompt's token that the vendor has in its cache."""
        return self.input if self.cached_input is None else self.cached_input

    @property
    def writing(self) -> int:
        """Of a prompt's token that the vendor puts into its cache."""
        return self.input if self.cache_write is None else self.cache_write

    def at(self, prompt_tokens: int) -> Price:
        """The price of a request with a prompt of so many tokens."""
        return next((price for tokens, price in reversed(self.above) if prompt_tokens > tokens), self)


@dataclass(frozen=True, slots=True)
class Tariff:
    """The price of one model, and how its provider counts."""

    price: Price
    provider: str

    def exact(self, usage: Usage) -> int:
        """What one request cost, in millionths of a micro. The prompt's size decides on the price, so one at a time."""
        cached, written = usage.cached_input_tokens, usage.cache_write_tokens
        prompt = usage.input_tokens + (cached + written if self.provider in _CACHE_BESIDE else 0)
        output = usage.output_tokens + (usage.reasoning_tokens if self.provider in _REASONING_BESIDE else 0)
        price = self.price.at(prompt)
        plain = max(0, prompt - cached - written)
        return plain * price.input + cached * price.reading + written * price.writing + output * price.output


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices by provider and model, all in one currency (ISO 4217). A model may be a pattern ``name*``."""

    models: Mapping[str, Mapping[str, Price]] = field(default_factory=dict)
    currency: str = "USD"
    _found: dict[tuple[str, str], Tariff | None] = field(default_factory=dict, init=False, compare=False, repr=False)

    def tariff(self, provider: str, model: str) -> Tariff | None:
        """What the model costs by its name, else by its name without a date, else by the longest pattern; None: unknown."""
        key, found = (provider, model), self._found
        if key not in found:
            if len(found) >= _REMEMBERED:  # tenants name models
                found.clear()
            found[key] = self._look_up(provider, model)
        return found[key]

    def _look_up(self, provider: str, model: str) -> Tariff | None:
        for name in (provider, _NAMESAKES.get(provider, "")):
            if price := _find(self.models.get(name, {}), model):
                return Tariff(price, provider)
        return None

    def cost(self, requests: Iterable[tuple[str, str, Usage]]) -> Cost | None:
        """What requests cost together: provider, model and usage of each. None when a price is unknown: never a wrong 0."""
        exact, estimated = 0, False
        for provider, model, usage in requests:
            if (tariff := self.tariff(provider, model)) is None:
                return None
            exact += tariff.exact(usage)
            estimated |= usage.estimated
        return Cost(-(-exact // EXACT), self.currency, estimated)

    def limited(self, provider: str, model: str, currency: str = "") -> Tariff:
        """The tariff that a run with a limit on its cost is held to. ``currency``: the limit's; empty: the table's.

        Raises:
            AgentsvcError: INVALID_FIELD; nobody could keep such a limit.
        """
        if currency not in {"", self.currency}:
            raise invalid_field(
                "options.budget.cost.currency_code", f"prices are in {self.currency}; write that or leave it empty"
            )
        if tariff := self.tariff(provider, model):
            return tariff
        raise invalid_field(
            "options.budget.cost", f"no price is known for {provider}/{model}; set it in AGENTSVC_PRICES"
        )

    def merged(self, other: PriceTable) -> PriceTable:
        """``other`` laid over this table: its entries replace those of the same name and add to the rest.

        Amounts of two currencies cannot be added up, so of a table in another one only what is free stays.
        """
        kept = {
            provider: {
                model: price for model, price in models.items() if other.currency == self.currency or price == FREE
            }
            for provider, models in self.models.items()
        }
        names = dict.fromkeys((*kept, *other.models))
        return PriceTable(
            {name: {**kept.get(name, {}), **other.models.get(name, {})} for name in names}, other.currency
        )


FREE = Price(0, 0)
_REMEMBERED = 10_000


def _find(models: Mapping[str, Price], model: str) -> Price | None:
    if price := models.get(model) or models.get(_DATE.sub("", model)):
        return price
    patterns = [name for name in models if name.endswith("*") and model.startswith(name[:-1])]
    return models[max(patterns, key=len)] if patterns else None
