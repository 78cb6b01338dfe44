"""An operator's own prices: a JSON file, read into a ``PriceTable``. Pure; who calls has the bytes.

    {"currency": "USD", "prices": {"azure": {"our-gpt": {"input": 0.25, "output": 2, "cached_input": 0.025}}}}

Numbers are as vendors' price lists have them: units of the currency per million tokens.
"""

from __future__ import annotations

import re
from decimal import Decimal

import msgspec

from agentsvc.engine.prices import Price, PriceTable

_DIGITS = 6  # after the point: the last one is a micro
_MOST = 1_000_000_000  # units per million tokens; with it a run's cost still fits into 64 bits


class PriceFileError(ValueError):
    """A file that cannot be used; ``problems`` names each entry that is wrong."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class _Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None


class _Entry(_Rates, frozen=True, forbid_unknown_fields=True):
    above: dict[int, _Rates] = {}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prices: dict[str, dict[str, msgspec.Raw]]  # raw, so that a problem can be told with the entry's name
    currency: str = "USD"


def parse(text: bytes) -> PriceTable:
    """The table that a file says.

    Raises:
        PriceFileError: naming every entry that is wrong.
    """
    try:
        file = msgspec.json.decode(text, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PriceFileError(str(error)) from error
    problems = [] if re.fullmatch("[A-Z]{3}", file.currency) else [f"currency {file.currency!r}: write it as in USD"]
    models: dict[str, dict[str, Price]] = {}
    for provider, entries in file.prices.items():
        models[provider] = {}
        for model, raw in entries.items():
            try:
                models[provider][model] = _price(model, msgspec.json.decode(raw, type=_Entry))
            except (msgspec.MsgspecError, ValueError) as error:
                problems.append(f"{provider}/{model}: {error}")
    if problems:
        raise PriceFileError(*problems)
    return PriceTable(models, file.currency)


def _price(model: str, entry: _Entry) -> Price:
    if not model or "*" in model[:-1]:
        raise ValueError("a model is a name, or the beginning of names with * at its end")
    if any(tokens <= 0 for tokens in entry.above):
        raise ValueError("above: write a number of tokens that is more than 0")
    return _rated(entry, tuple((tokens, _rated(entry.above[tokens])) for tokens in sorted(entry.above)))


def _rated(rates: _Rates, above: tuple[tuple[int, Price], ...] = ()) -> Price:
    read, written = (None if value is None else _micros(value) for value in (rates.cached_input, rates.cache_write))
    return Price(_micros(rates.input), _micros(rates.output), read, written, above)


def _micros(value: Decimal) -> int:
    exponent = value.as_tuple().exponent  # no number where the value is none
    if isinstance(exponent, int) and exponent >= -_DIGITS and 0 <= value <= _MOST:
        return int(value.scaleb(_DIGITS))
    raise ValueError(f"{value} is no price: write 0 or more, with at most {_DIGITS} digits after the point")
