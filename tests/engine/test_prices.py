"""What an answer costs: exact, never a wrong 0, and by the prices the operator says."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.messages import Cost, Usage
from agentsvc.engine.price_file import PriceFileError, parse
from agentsvc.engine.price_list import BUILT_IN
from agentsvc.engine.prices import EXACT, FREE, Price, PriceTable
from agentsvc.providers.registry import PROVIDERS

PAGE = Path(__file__).parents[2] / "docs" / "routing.md"
PRICE = Price(input=2_000_000, output=8_000_000, cached_input=500_000, cache_write=2_500_000)
TABLE = PriceTable(
    {
        "openai": {
            "gpt": PRICE,
            "gpt-2024-05-13": Price(1, 1),
            "gpt-*": Price(2, 2),
            "gpt-small-*": Price(3, 3),
        }
    }
)
RATES = st.sampled_from(["input", "output", "cached_input", "above", "9", "-9"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(RATES, inner), max_leaves=8)


def paid(table: PriceTable, provider: str, model: str, *requests: Usage) -> Cost | None:
    """What these requests of one model cost together."""
    return table.cost([(provider, model, usage) for usage in requests])


def cost(provider: str, usage: Usage, price: Price = PRICE) -> int:
    found = paid(PriceTable({provider: {"m": price}}), provider, "m", usage)
    assert found is not None
    return found.micros


class TestCost:
    def test_each_kind_of_token_has_its_price(self):
        usage = Usage(input_tokens=1000, output_tokens=100, cached_input_tokens=600, cache_write_tokens=200)
        assert cost("openai", usage) == 200 * 2 + 600 * 0.5 + 200 * 2.5 + 100 * 8

    def test_reasoning_is_output_that_is_counted_already(self):
        assert cost("openai", Usage(0, 100, reasoning_tokens=90)) == 800

    def test_without_prices_of_their_own_cached_tokens_are_input(self):
        usage = Usage(1000, 0, cached_input_tokens=600, cache_write_tokens=200)
        assert cost("openai", usage, Price(2_000_000, 0)) == 2000

    @pytest.mark.parametrize("provider", ["anthropic", "claude"])
    def test_who_counts_cached_tokens_beside_the_input_is_known(self, provider: str):
        usage = Usage(input_tokens=11, output_tokens=100, cached_input_tokens=1031, cache_write_tokens=20)
        assert cost(provider, usage) == 22 + 516 + 50 + 800  # 1031 / 2, rounded up

    @pytest.mark.parametrize(
        ("model", "usage", "ticks"),
        [
            ("grok-code-fast-1", Usage(466, 68, cached_input_tokens=192, reasoning_tokens=266), 5_596_400),
            ("grok-code-fast-1", Usage(496, 77, cached_input_tokens=448, reasoning_tokens=121), 3_155_600),
            ("grok-3-mini", Usage(12, 1, cached_input_tokens=11, reasoning_tokens=290), 1_466_250),
        ],
    )
    def test_the_sum_is_the_one_xai_says_it_charges(self, model: str, usage: Usage, ticks: int):
        """Recorded: ``cost_in_usd_ticks``, ten thousand to the micro. It counts reasoning beside the output."""
        tariff = BUILT_IN.tariff("xai", model)
        assert tariff is not None
        assert tariff.exact(usage) == ticks * EXACT // 10_000

    def test_a_long_prompt_has_prices_of_its_own(self):
        price = Price(1_000_000, 0, above=((100, Price(3_000_000, 0)), (1000, Price(5_000_000, 0))))
        assert [cost("openai", Usage(n), price) for n in (100, 101, 1000, 1001)] == [100, 303, 3000, 5005]

    def test_a_long_prompt_is_one_request_and_not_a_sum_of_several(self):
        table = PriceTable({"p": {"m": Price(1_000_000, 0, above=((100, Price(9_000_000, 0)),))}})
        assert paid(table, "p", "m", Usage(60), Usage(60)) == Cost(120)

    def test_what_costs_anything_is_never_nothing(self):
        assert cost("openai", Usage(1), Price(1, 0)) == 1

    def test_requests_are_rounded_together_and_not_one_by_one(self):
        table = PriceTable({"p": {"m": Price(300_000, 0)}})
        assert paid(table, "p", "m", *[Usage(1)] * 10) == Cost(3)

    def test_an_estimate_stays_one(self):
        assert paid(TABLE, "openai", "gpt", Usage(1), Usage(1, estimated=True)) == Cost(4, estimated=True)

    def test_what_nobody_priced_has_no_cost(self):
        assert paid(TABLE, "openai", "other", Usage(1)) is None
        assert paid(TABLE, "elsewhere", "gpt", Usage(1)) is None

    @given(
        st.builds(Usage, *[st.integers(0, 10**9)] * 5),
        st.builds(Usage, *[st.integers(0, 10**9)] * 5),
        st.sampled_from(["openai", "anthropic", "xai"]),
    )
    def test_more_requests_never_cost_less(self, first: Usage, second: Usage, provider: str):
        table = PriceTable({provider: {"m": PRICE}})
        one, both = paid(table, provider, "m", first), paid(table, provider, "m", first, second)
        assert one is not None
        assert both is not None
        assert 0 <= one.micros <= both.micros


class TestNames:
    @pytest.mark.parametrize(
        ("model", "price"),
        [
            ("gpt", PRICE),
            ("gpt-2025-08-07", PRICE),
            ("gpt-20250929", PRICE),
            ("gpt@20250929", PRICE),
            ("gpt-2024-05-13", Price(1, 1)),
            ("gpt-0613", Price(2, 2)),
            ("gpt-small-3", Price(3, 3)),
            ("gpt-", Price(2, 2)),
            ("GPT", None),
            ("my-gpt", None),
            ("", None),
        ],
    )
    def test_exactly_then_without_the_date_then_by_the_longest_pattern(self, model: str, price: Price | None):
        tariff = TABLE.tariff("openai", model)
        assert (tariff and tariff.price) == price

    def test_two_names_of_a_vendor_have_its_prices_unless_they_say_otherwise(self):
        table = PriceTable({"anthropic": {"a": PRICE, "b": PRICE}, "claude": {"b": FREE}})
        a, b = table.tariff("claude", "a"), table.tariff("claude", "b")
        assert (a and a.price, b and b.price) == (PRICE, FREE)
        assert table.tariff("anthropic", "b") != b

    @given(st.text(), st.text())
    def test_no_name_is_too_strange(self, provider: str, model: str):
        BUILT_IN.tariff(provider, model)
        BUILT_IN.tariff("mock", model)
        BUILT_IN.tariff("openai", model)


class TestMerged:
    def test_entries_replace_and_add(self):
        merged = TABLE.merged(PriceTable({"openai": {"gpt": FREE}, "ollama": {"*": FREE}}))
        assert merged.models["openai"] == {**TABLE.models["openai"], "gpt": FREE}
        assert merged.models["ollama"] == {"*": FREE}
        assert TABLE.models["openai"]["gpt"] == PRICE

    def test_two_currencies_are_never_added_up(self):
        table = PriceTable({"openai": {"gpt": PRICE}, "mock": {"*": FREE}})
        merged = table.merged(PriceTable({"qwen": {"qwen-plus": PRICE}}, "CNY"))
        assert paid(merged, "qwen-native", "qwen-plus", Usage(1)) == Cost(2, "CNY")
        assert paid(merged, "openai", "gpt", Usage(1)) is None
        assert paid(merged, "mock", "mock-demo", Usage(1)) == Cost(0, "CNY")


class TestLimited:
    def test_a_limit_that_can_be_kept_has_a_tariff(self):
        assert TABLE.limited("openai", "gpt") == TABLE.limited("openai", "gpt", "USD") == TABLE.tariff("openai", "gpt")

    @pytest.mark.parametrize(
        ("model", "currency", "told"),
        [
            ("other", "", "options.budget.cost: no price is known for openai/other; set it in AGENTSVC_PRICES"),
            ("gpt", "EUR", "options.budget.cost.currency_code: prices are in USD; write that or leave it empty"),
        ],
    )
    def test_one_that_nobody_could_keep_is_refused(self, model: str, currency: str, told: str):
        with pytest.raises(AgentsvcError) as raised:
            TABLE.limited("openai", model, currency)
        assert raised.value.reason is Reason.INVALID_FIELD
        assert raised.value.error.message == told


class TestBuiltIn:
    def test_every_provider_in_it_exists(self):
        assert BUILT_IN.models.keys() <= PROVIDERS.keys()

    def test_the_mock_is_free(self):
        assert paid(BUILT_IN, "mock", "mock-demo", Usage(10, 10)) == Cost(0)

    @pytest.mark.parametrize("provider", ["ollama", "openai-compatible", "azure", "openrouter", "perplexity"])
    def test_what_the_operator_alone_can_know_is_unknown(self, provider: str):
        assert paid(BUILT_IN, provider, PROVIDERS[provider].default_model or "m", Usage(10, 10)) is None

    @pytest.mark.parametrize(
        ("provider", "model"), [(p, m) for p, models in BUILT_IN.models.items() for m in models if p != "mock"]
    )
    def test_prices_are_in_an_order_that_makes_sense(self, provider: str, model: str):
        """A slip of the comma shows: no list of 2025 is outside these bounds."""
        price = BUILT_IN.models[provider][model]
        assert 30_000 <= price.input <= price.output <= 75_000_000
        assert 0 < price.reading <= price.input <= price.writing or model == "claude-3-haiku"
        assert all(price.input < dearer.input and price.output < dearer.output for _, dearer in price.above)

    @pytest.mark.parametrize(
        ("provider", "model", "micros"),
        [
            ("openai", "gpt-5-mini", 2_250_000),
            ("openai-responses", "gpt-5-mini-2025-08-07", 2_250_000),
            ("claude", "claude-sonnet-4-5-20250929", 18_000_000),
            ("anthropic", "claude-sonnet-4-20250514", 18_000_000),
            ("gemini", "gemini-2.5-flash", 2_800_000),
            ("gemini", "gemini-2.5-pro", 17_500_000),
            ("cohere", "command-a-03-2025", 12_500_000),
        ],
    )
    def test_a_million_tokens_each_way_cost_what_the_list_says(self, provider: str, model: str, micros: int):
        assert paid(BUILT_IN, provider, model, Usage(10**6, 10**6)) == Cost(micros)


class TestFile:
    def test_numbers_are_units_per_million_tokens(self):
        text = (
            b'{"currency": "EUR", "prices": {"azure": {"m": {"input": 0.07, "output": 2, "cached_input": 0.000001}}}}'
        )
        assert parse(text) == PriceTable({"azure": {"m": Price(70_000, 2_000_000, 1)}}, "EUR")

    def test_steps_are_sorted(self):
        rates = '{"input": %d, "output": 1}'
        text = f'{{"prices": {{"p": {{"m": {{"input": 1, "output": 1, "above": {{"9": {rates % 3}, "5": {rates % 2}}}}}}}}}}}'
        prices = parse(text.encode()).models["p"]["m"].above
        assert [(tokens, price.input) for tokens, price in prices] == [(5, 2_000_000), (9, 3_000_000)]

    def test_the_example_of_the_page_can_be_used(self):
        (example,) = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
        table = BUILT_IN.merged(parse(example.encode()))
        assert table.models.keys() <= PROVIDERS.keys()
        assert paid(table, "openai", "gpt-5-mini", Usage(10**6, 10**6)) == Cost(2_025_000)
        assert paid(table, "azure", "our-gpt-4o", Usage(10**6)) == Cost(2_500_000)
        assert paid(table, "ollama", "llama3:8b", Usage(10**6)) == Cost(0)

    @pytest.mark.parametrize(
        ("entry", "told"),
        [
            ('{"input": 1}', "missing required field `output`"),
            ('{"input": 1, "output": 1, "cache": 1}', "unknown field `cache`"),
            ('{"input": "cheap", "output": 1}', "`$.input`"),
            ('{"input": -1, "output": 1}', "-1 is no price: write 0 or more"),
            ('{"input": "NaN", "output": 1}', "NaN is no price"),
            ('{"input": 1e999999999, "output": 1}', "is no price"),
            ('{"input": 1e-999999999, "output": 1}', "at most 6 digits after the point"),
            ('{"input": 0.0000001, "output": 1}', "at most 6 digits after the point"),
            ('{"input": 1, "output": 1, "above": {"many": {"input": 1, "output": 1}}}', "$.above"),
            ('{"input": 1, "output": 1, "above": {"0": {"input": 1, "output": 1}}}', "more than 0"),
            ("3", "Expected `object`"),
        ],
    )
    def test_a_wrong_entry_is_named(self, entry: str, told: str):
        with pytest.raises(PriceFileError) as raised:
            parse(b'{"prices": {"openai": {"fine": {"input": 1, "output": 1}, "gpt/5": %s}}}' % entry.encode())
        (problem,) = raised.value.problems
        assert problem.startswith("openai/gpt/5: ")
        assert told in problem

    def test_all_that_is_wrong_is_told_at_once(self):
        with pytest.raises(PriceFileError) as raised:
            parse(b'{"currency": "usd", "prices": {"a": {"m*n": {"input": 1, "output": 1}}, "b": {"": 1}}}')
        assert [problem.split(":")[0] for problem in raised.value.problems] == ["currency 'usd'", "a/m*n", "b/"]

    @given(st.binary() | JSON.map(lambda value: json.dumps({"prices": {"p": {"m": value}}}).encode()))
    def test_nothing_that_a_file_may_hold_is_more_than_a_problem(self, text: bytes):
        with suppress(PriceFileError):
            parse(text)
