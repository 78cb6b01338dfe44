"""Through the running service: another model, key or address goes on where one fails, and the books are right afterwards."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from agentsvc import v1
from agentsvc.domain.messages import Usage
from agentsvc.engine.complexity import AutoConfig
from agentsvc.engine.price_list import BUILT_IN
from agentsvc.engine.prices import EXACT
from agentsvc.engine.tools import Tool, tool
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.script import (
    Call,
    ErrorFrame,
    Finish,
    Malformed,
    Pause,
    Refuse,
    Reset,
    Say,
    Script,
    Stall,
    Step,
    Truncate,
    Turn,
)
from agentsvc.providers.status import REGION
from agentsvc.providers.way import RoutingConfig
from tests.e2e.house import HASTY, PATIENCE, Answer, House, collect, open_house, read_until
from tests.providers.ways import DOWN
from tests.scripted import scripted
from tests.transport.rpc import refused
from tests.upstream import Call as Asked
from tests.upstream import Connection, Handler, Request, Upstream, reply, stream, until

MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-sonnet-4-5"}  # the default ones, asked for by both fakes
DIRECTIONS = [("openai", "anthropic"), ("anthropic", "openai")]
PATIENT_FOR = 0.3  # seconds, for a first token and between two
IMPATIENT = replace(HASTY, first_token_timeout=PATIENT_FOR, idle_timeout=PATIENT_FOR)
LATE = 0.5  # seconds; the promise is 0.05, on a machine that is not shared
TICK = 0.005  # by which an event loop's timer may be early
AT_ONCE = 1.0  # seconds; the promise is 0.1
TWENTY = "one two three four five six seven eight nine ten once more up to twenty and then was cut off "
REJECTED, ACCEPTED = TWENTY.strip(), "The second answer."
SILENT = stream([], finish="stall")
GOOD = scripted((Say(ACCEPTED),))


@dataclass
class Routed(House):
    """A house with an agent that has a fallback."""

    agent_id: str = ""


def playing(players: Mapping[str, Script | Handler]) -> Handler:
    """Vendors that tell by the model what to do."""
    handlers = {model: player if callable(player) else scripted(player) for model, player in players.items()}

    async def handler(call: Asked) -> None:
        await handlers[call.request.json["model"]](call)

    return handler


@asynccontextmanager
async def routed(
    first: Script | Handler,
    second: Script | Handler,
    *,
    order: tuple[str, str] = ("openai", "anthropic"),
    agent: Mapping[str, Any] | None = None,
    **changes: Any,
) -> AsyncIterator[Routed]:
    """Two vendors, and an agent of the first whose fallback is the second."""
    handler = playing({MODELS[order[0]]: first, MODELS[order[1]]: second})
    async with open_house(handler, **{"pool": IMPATIENT, **changes}) as house:
        fields = {"fallbacks": [v1.Fallback(provider=order[1])], **(agent or {})}
        yield Routed(**vars(house), agent_id=await house.agent(order[0], **fields))


@asynccontextmanager
async def several(
    *handlers: Handler | None, keys: int = 1, **changes: Any
) -> AsyncIterator[tuple[House, list[Upstream]]]:
    """One vendor at several addresses (None: nobody listens), each asked with every key. Nothing of them stays open."""
    async with AsyncExitStack() as opened:
        vendors = [await opened.enter_async_context(Upstream(handler)) for handler in handlers if handler]
        found = iter(vendors)
        urls = [next(found).url if handler else DOWN for handler in handlers]
        ways = tuple(
            Endpoint(f"{url}/v1", f"key-{key}", {REGION: f"place-{number}"})
            for number, url in enumerate(urls)
            for key in range(keys)
        )
        async with open_house(endpoints={"openai": ways}, **changes) as house:
            yield house, vendors
        async with asyncio.timeout(PATIENCE):
            await until(lambda: not any(vendor.open for vendor in vendors))


def counting() -> tuple[Tool, list[str]]:
    """A tool, and what it was called with."""
    calls: list[str] = []

    async def count(text: str = "") -> str:
        calls.append(text)
        return "counted"

    return tool(count), calls


def asked(house: House) -> list[str]:
    """The models that were asked, in order."""
    return [request.json["model"] for request in house.upstream.requests]


def connection_of(upstream: Upstream, request: Request) -> Connection:
    (found,) = [each for each in upstream.connections if any(one is request for one in each.requests)]
    return found


def rejected(answer: Answer) -> list[v1.ChatEvent]:
    """The events that the only attempt_changed takes back."""
    (change,) = [event for event in answer.events if event.HasField("attempt_changed")]
    after = change.attempt_changed.discard_after_sequence
    return [event for event in answer.events if after < event.sequence < change.sequence]


def texts(events: list[v1.ChatEvent]) -> str:
    return "".join(event.text_delta.text for event in events if event.HasField("text_delta"))


async def assert_only_the_second_counts(house: House, answer: Answer) -> None:
    """The answer, its record, its session and its replay have the second answer and nothing of the first."""
    kept = [event for event in answer.events if event not in rejected(answer)]
    assert texts(kept) == answer.one("generation_completed").text == ACCEPTED
    run = await house.run(answer.run_id)
    assert (run.state, run.text, run.partial_text) == (v1.RUN_STATE_COMPLETED, ACCEPTED, "")
    assert (run.usage, run.cost) == (answer.finished.usage, answer.finished.cost)
    *_, last = await house.messages(answer.session_id)
    assert [part.text for part in last.parts] == [ACCEPTED]
    assert last.status == v1.MESSAGE_STATUS_COMPLETE
    assert (await collect(house.subscribe(answer.run_id))).events == answer.events


def counted(usage: v1.Usage) -> Usage:
    return Usage(**{field.name: value for field, value in usage.ListFields()})


def price(provider: str, usage: Usage) -> int:
    """Millionths of a micro."""
    tariff = BUILT_IN.tariff(provider, MODELS[provider])
    assert tariff is not None
    return tariff.exact(usage)


@pytest.mark.parametrize("silence", [Stall(), Pause(30, pings=600)], ids=["silent", "only-pings"])
@pytest.mark.parametrize("order", DIRECTIONS, ids="-to-".join)
async def test_a_stalled_vendor_costs_its_patience_and_nothing_more(order: tuple[str, str], silence: Step) -> None:
    own = 0.1
    async with routed((silence,), (Say(ACCEPTED, delay=own),), order=order) as house:
        timed = v1.ChatOptions(streaming=v1.StreamingOptions(emit_timings=True))
        answer = await house.ask(house.agent_id, options=timed)
        changed = answer.one("attempt_changed")
        assert getattr(changed, "from") == f"{order[0]}/{MODELS[order[0]]}"
        assert changed.to == f"{order[1]}/{MODELS[order[1]]}"
        assert (changed.reason, changed.discard_after_sequence) == ("FIRST_TOKEN_TIMEOUT", 1)
        first = next(event for event in answer.events if event.HasField("text_delta"))
        assert -TICK <= first.elapsed_us / 1e6 - PATIENT_FOR - own <= LATE
        explained = sum(stage.duration_us for stage in answer.one("timings").stages if stage.critical)
        assert abs(explained - first.elapsed_us) < LATE / 10 * 1e6
        assert answer.finished.framework_overhead_us < PATIENT_FOR * 1e6  # the stall is not ours
        stalled = connection_of(house.upstream, house.upstream.requests[0])
        assert stalled.closed_at - house.upstream.requests[1].at < AT_ONCE
        await assert_only_the_second_counts(house, answer)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Reset(), "STREAM_TRUNCATED"),
        (Truncate(), "STREAM_TRUNCATED"),
        (Malformed(), "MALFORMED_STREAM"),
        (ErrorFrame("server_error"), "PROVIDER_SERVER_ERROR"),
        (Stall(), "IDLE_TIMEOUT"),
    ],
    ids=["reset", "cut", "malformed", "error", "stall"],
)
@pytest.mark.parametrize("order", DIRECTIONS, ids="-to-".join)
async def test_a_vendor_that_dies_after_20_tokens_leaves_one_boundary_and_its_bill(
    order: tuple[str, str], fault: Step, reason: str
) -> None:
    dying = (Say(REJECTED, delay=0.002), Pause(0.03), fault)
    async with routed(dying, (Say(ACCEPTED),), order=order) as house:
        answer = await house.ask(house.agent_id)
        assert answer.one("attempt_changed").reason == reason
        assert answer.one("attempt_changed").discard_after_sequence == 1
        assert texts(rejected(answer)).startswith(REJECTED)
        await assert_only_the_second_counts(house, answer)

        both, second = counted(answer.finished.usage), counted(answer.one("step_completed").usage)
        # Anthropic counts from its first event on: where it ends the answer itself, its own word stands.
        its_own_word = order[0] == "anthropic" and isinstance(fault, ErrorFrame)
        assert both.estimated is not its_own_word
        assert not second.estimated
        first = Usage(both.input_tokens - second.input_tokens, both.output_tokens - second.output_tokens)
        assert first.input_tokens > 0
        assert first.output_tokens in ({1} if its_own_word else {20, 21})  # of a torn frame something may be left
        cost = answer.finished.cost
        assert cost.micros == -(-(price(order[0], first) + price(order[1], second)) // EXACT)
        assert (cost.currency_code, cost.estimated) == ("USD", not its_own_word)


SHAPES = {
    "streamed": v1.StreamingOptions(),
    "held-back": v1.StreamingOptions(text_buffer_size=64),
    "buffered": v1.StreamingOptions(mode=v1.STREAMING_MODE_BUFFERED),
    "buffered-in-pieces": v1.StreamingOptions(mode=v1.STREAMING_MODE_BUFFERED, text_buffer_size=4),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", DIRECTIONS, ids="-to-".join)
async def test_a_conversation_with_tools_is_gone_on_with_in_its_middle(order: tuple[str, str], shape: str) -> None:
    count, calls = counting()
    first = (Call("count", {"text": "sheep"}), Turn(), Say("Half an answer", delay=0.002), Pause(0.02), Reset())
    second = (Say("Not asked for that."), Turn(), Say(ACCEPTED))
    async with routed(first, second, order=order, tools=[count], agent={"tools": ["count"]}) as house:
        answer = await house.ask(house.agent_id, options=v1.ChatOptions(streaming=SHAPES[shape]))
        assert calls == ["sheep"]
        assert asked(house) == [MODELS[name] for name in (order[0], order[0], order[1])]
        (change,) = [event for event in answer.events if event.HasField("attempt_changed")]
        step, _ = [event for event in answer.events if event.HasField("step_completed")]
        assert change.step == 2
        assert change.attempt_changed.discard_after_sequence == step.sequence
        await assert_only_the_second_counts(house, answer)
        roles = [message.role for message in await house.messages(answer.session_id)]
        assert roles == [
            v1.MESSAGE_ROLE_USER,
            v1.MESSAGE_ROLE_ASSISTANT,
            v1.MESSAGE_ROLE_TOOL,
            v1.MESSAGE_ROLE_ASSISTANT,
        ]
        again = await house.ask(house.agent_id, session_id=answer.session_id)
        assert again.finished.state == v1.RUN_STATE_COMPLETED


async def test_a_tool_call_that_broke_off_is_not_made() -> None:
    count, calls = counting()
    first = (Say("Let me count."), Call("count", '{"text": "wo', fragment=3, id="same"), Pause(0.02), Truncate())
    second = (Call("count", {"text": "sheep"}, id="same"), Turn(), Say(ACCEPTED))
    async with routed(first, second, tools=[count], agent={"tools": ["count"]}) as house:
        answer = await house.ask(house.agent_id)
        assert calls == ["sheep"]
        assert asked(house) == [MODELS[name] for name in ("openai", "anthropic", "anthropic")]  # it stays there
        begun, made = answer.all("tool_call_started")
        assert answer.one("tool_call_requested").tool_call_id == made.tool_call_id != begun.tool_call_id
        await assert_only_the_second_counts(house, answer)


async def test_a_unary_chat_gets_the_second_answer() -> None:
    async with routed((Say(REJECTED), Reset()), (Say(ACCEPTED),)) as house:
        request = v1.ChatRequest(agent_id=house.agent_id, message="What do you know?")
        response = await house.agents.Chat(request, metadata=house.acme.caller)
        assert response.text == response.run.text == ACCEPTED
        assert response.run.usage.estimated
        assert asked(house) == list(MODELS.values())


REFUSALS = {
    "PROVIDER_AUTH": Refuse(401),
    "PROVIDER_NOT_FOUND": Refuse(404),
    "PROVIDER_QUOTA": Refuse(429, "insufficient_quota"),
    "PROVIDER_RATE_LIMIT": Refuse(429),
    "PROVIDER_SERVER_ERROR": Refuse(500),
    "PROVIDER_OVERLOADED": Refuse(503),
    "CONTEXT_LENGTH": Refuse(400, "context_length_exceeded"),
}


@pytest.mark.parametrize("reason", REFUSALS)
async def test_what_another_vendor_may_not_suffer_from_is_gone_on_from(reason: str) -> None:
    async with routed((REFUSALS[reason],), (Say(ACCEPTED),)) as house:
        answer = await house.ask(house.agent_id)
        assert answer.one("attempt_changed").reason == reason
        assert rejected(answer) == []
        await assert_only_the_second_counts(house, answer)
        assert answer.finished.cost.micros == -(
            -price("anthropic", counted(answer.one("step_completed").usage)) // EXACT
        )


@pytest.mark.parametrize(
    ("told", "reason"),
    [(Refuse(400, "content_filter"), "CONTENT_FILTER"), (Refuse(400), "PROVIDER_INVALID_REQUEST")],
    ids=["content-filter", "invalid-request"],
)
async def test_what_is_the_callers_to_mend_is_asked_of_nobody_else(told: Step, reason: str) -> None:
    async with routed((told,), (Say(ACCEPTED),)) as house:
        answer = await house.ask(house.agent_id)
        assert (answer.finished.state, answer.finished.error.reason) == (v1.RUN_STATE_FAILED, reason)
        assert not answer.all("attempt_changed")
        assert asked(house) == [MODELS["openai"]]


async def test_an_answer_that_the_vendors_filter_ended_is_an_answer() -> None:
    async with routed((Say(ACCEPTED), Finish("content_filter")), (Say("Never."),)) as house:
        answer = await house.ask(house.agent_id)
        assert answer.one("generation_completed").finish_reason == v1.FINISH_REASON_CONTENT_FILTER
        assert asked(house) == [MODELS["openai"]]


async def test_when_all_fail_the_last_error_is_told_once() -> None:
    async with routed(
        (Say(REJECTED, delay=0.002), Pause(0.02), Reset()), (Say("Half"), ErrorFrame("overloaded_error"))
    ) as house:
        answer = await house.ask(house.agent_id)
        error = answer.finished.error
        assert (answer.finished.state, error.reason, error.provider) == (
            v1.RUN_STATE_FAILED, "PROVIDER_OVERLOADED", "anthropic",
        )  # fmt: skip
        assert len(answer.all("attempt_changed")) == 1
        assert answer.finished.partial_text == (await house.run(answer.run_id)).partial_text == "Half"
        request = v1.ChatRequest(agent_id=house.agent_id, message="What do you know?")
        refused_with = await refused(house.agents.Chat(request, metadata=house.acme.caller))
        assert refused_with.reason == "PROVIDER_OVERLOADED"


async def test_the_calls_fallbacks_take_the_place_of_the_agents() -> None:
    third = "gpt-4o"
    players: dict[str, Script] = {
        MODELS["openai"]: (Refuse(503),),
        MODELS["anthropic"]: (Refuse(529),),
        third: (Say(ACCEPTED),),
    }
    async with open_house(playing(players)) as house:
        agent = await house.agent(fallbacks=[v1.Fallback(provider="anthropic")])
        own = v1.Fallback(provider="openai", model=third)
        answer = await house.ask(agent, options=v1.ChatOptions(fallbacks=[own]))
        assert asked(house) == [MODELS["openai"], third]
        await assert_only_the_second_counts(house, answer)
        both = [v1.Fallback(provider="anthropic"), own]
        answer = await house.ask(agent, options=v1.ChatOptions(fallbacks=both))
        assert asked(house)[2:] == [MODELS["openai"], MODELS["anthropic"], third]
        assert [change.reason for change in answer.all("attempt_changed")] == ["PROVIDER_OVERLOADED"] * 2
        assert [change.discard_after_sequence for change in answer.all("attempt_changed")] == [1, 2]
        failed = await house.ask(agent)
        assert (failed.finished.error.reason, failed.finished.error.provider) == ("PROVIDER_OVERLOADED", "anthropic")


async def test_a_fallback_without_a_key_is_passed_over_in_an_agent_and_refused_in_a_call() -> None:
    keyless = v1.Fallback(provider="groq", model="llama-3.3-70b-versatile")
    both = {"fallbacks": [keyless, v1.Fallback(provider="anthropic")]}
    async with routed((Refuse(503),), (Say(ACCEPTED),), agent=both) as house:
        answer = await house.ask(house.agent_id)
        await assert_only_the_second_counts(house, answer)
        call = house.stream(house.agent_id, options=v1.ChatOptions(fallbacks=[keyless]))
        assert (await refused(call)).reason == "PROVIDER_NOT_CONFIGURED"


@pytest.mark.parametrize("order", DIRECTIONS, ids="-to-".join)
async def test_an_agent_changes_its_vendor_and_its_callers_notice_nothing(order: tuple[str, str]) -> None:
    count, calls = counting()
    script = (Say("Let me count."), Call("count", {"text": "sheep"}, fragment=4), Turn(), Say(ACCEPTED))
    async with open_house(tools=[count]) as house:
        agent = await house.agent(order[0], tools=["count"])
        before = await house.ask(agent, *script)
        change = v1.Agent(agent_id=agent, llm_config=v1.LlmConfig(provider=order[1]))
        update = v1.UpdateAgentRequest(agent=change, update_mask=FieldMask(paths=["llm_config.provider"]))
        await house.admin.UpdateAgent(update, metadata=house.acme.admin)
        after = await house.ask(agent, *script, session_id=before.session_id)
        assert asked(house) == [MODELS[name] for name in (order[0], order[0], order[1], order[1])]
        assert outline(after) == outline(before)
        assert calls == ["sheep", "sheep"]


def outline(answer: Answer) -> list[Any]:
    """The kinds of events in order, deltas of one kind as one; the texts; which counts were given."""
    kinds = [event.WhichOneof("kind") for event in answer.events]
    usage, completed = answer.finished.usage, answer.one("generation_completed")
    return [
        [kind for kind, before in zip(kinds, [None, *kinds], strict=False) if kind != before],
        answer.text,
        (completed.text, completed.finish_reason, completed.total_steps),
        [json.loads(call.arguments_json) for call in answer.all("tool_call_requested")],
        [field.name for field, _ in usage.ListFields()],
        answer.finished.cost.currency_code,
    ]


@pytest.mark.parametrize("stop", ["hang up", "CancelRun"])
async def test_a_run_cancelled_at_its_fallback_leaves_no_connection(stop: str) -> None:
    async with routed((Say(REJECTED), Stall()), (Stall(),)) as house:
        call = house.stream(house.agent_id)
        (started, *_) = await read_until(call, "attempt_changed")
        second = await house.upstream.arrived(2)
        first = connection_of(house.upstream, house.upstream.requests[0])
        waiting = connection_of(house.upstream, second)
        stopped = time.monotonic()
        if stop == "hang up":
            call.cancel()
        else:
            assert (await house.cancel(started.run_started.run_id)).state == v1.RUN_STATE_CANCELLED
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(first.closed.wait(), waiting.closed.wait())
        assert waiting.closed_at - stopped < AT_ONCE
        assert first.closed_at - second.at < AT_ONCE
        run = await house.ended(started.run_started.run_id)
        assert (run.state, run.partial_text) == (v1.RUN_STATE_CANCELLED, "")
        assert run.usage.output_tokens > 0  # the first one's


async def test_a_key_that_has_had_enough_gives_way_to_the_other() -> None:
    async def handler(call: Asked) -> None:
        enough = call.request.headers["authorization"] == "Bearer key-0"
        await (reply(429, b"{}", {"Retry-After": "60"}) if enough else GOOD)(call)

    async with several(handler, keys=2) as (house, (vendor,)):
        agent = await house.agent()
        for _ in range(3):
            answer = await house.ask(agent)
            assert answer.text == ACCEPTED
            assert not answer.all("attempt_changed")
        keys = [request.headers["authorization"].removeprefix("Bearer ") for request in vendor.requests]
        assert keys == ["key-0", "key-1", "key-1", "key-1"]


async def providers(house: House) -> Mapping[str, v1.Provider]:
    """ListProviders, by name."""
    stub: Any = v1.ProviderServiceStub(house.channel)
    listed = await stub.ListProviders(v1.ListProvidersRequest(), metadata=house.acme.admin)
    return {provider.provider: provider for provider in listed.providers}


async def test_an_address_out_of_reach_gives_way_and_is_not_asked_for_long() -> None:
    async with several(None, GOOD, routing=RoutingConfig(failures=2, open_for=60)) as (house, (vendor,)):
        agent = await house.agent()
        for number in range(1, 4):
            assert (await house.ask(agent)).text == ACCEPTED
            openai = (await providers(house))["openai"]
            states = [(each.region, each.breaker_state) for each in openai.endpoints]
            down = v1.BREAKER_STATE_OPEN if number >= 2 else v1.BREAKER_STATE_CLOSED
            assert states == [("place-0", down), ("place-1", v1.BREAKER_STATE_CLOSED)]
            assert openai.breaker_state == v1.BREAKER_STATE_CLOSED
        assert openai.ttft.samples == len(vendor.requests) == 3


async def test_behind_an_open_breaker_the_fallback_is_asked_at_once_and_the_vendor_is_found_when_it_is_back() -> None:
    primary = [reply(503), reply(503), scripted((Say("Back again."),))]

    async def first(call: Asked) -> None:
        await (primary.pop(0) if len(primary) > 1 else primary[0])(call)

    async with routed(first, (Say(ACCEPTED),), routing=RoutingConfig(failures=2, open_for=1.0)) as house:
        reasons = [(await house.ask(house.agent_id)).one("attempt_changed").reason for _ in range(3)]
        assert reasons == ["PROVIDER_OVERLOADED", "PROVIDER_OVERLOADED", "PROVIDER_UNREACHABLE"]
        assert asked(house).count(MODELS["openai"]) == 2
        assert (await providers(house))["openai"].breaker_state == v1.BREAKER_STATE_OPEN
        async with asyncio.timeout(PATIENCE):
            while (await providers(house))["openai"].breaker_state == v1.BREAKER_STATE_OPEN:  # noqa: ASYNC110 - by the clock
                await asyncio.sleep(0.02)
        assert (await house.ask(house.agent_id)).text == "Back again."
        assert (await providers(house))["openai"].breaker_state == v1.BREAKER_STATE_CLOSED


async def test_a_hedge_answers_for_the_silent_address_whose_connection_is_closed() -> None:
    async with several(SILENT, GOOD, routing=RoutingConfig(hedge_after=0.1)) as (house, (silent, _)):
        agent = await house.agent()
        call = house.stream(agent, options=v1.ChatOptions(streaming=v1.StreamingOptions(emit_metadata=True)))
        events = await read_until(call, "text_delta")
        answered = time.monotonic()
        loser = connection_of(silent, silent.requests[0])
        async with asyncio.timeout(PATIENCE):
            await loser.closed.wait()
        assert loser.closed_at - answered < AT_ONCE
        answer = await collect(call)
        assert texts(events) + answer.text == ACCEPTED
        assert answer.finished.state == v1.RUN_STATE_COMPLETED
        (note,) = [event.annotation for event in events if event.annotation.key == "hedge"]
        assert "place-0 was overtaken by place-1" in note.value


async def test_a_run_cancelled_in_a_hedge_leaves_no_connection() -> None:
    async with several(SILENT, SILENT, routing=RoutingConfig(hedge_after=0.05)) as (house, vendors):
        call = house.stream(await house.agent())
        asked = [await vendor.arrived() for vendor in vendors]
        both = [connection_of(vendor, request) for vendor, request in zip(vendors, asked, strict=True)]
        stopped = time.monotonic()
        call.cancel()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(connection.closed.wait() for connection in both))
        assert max(connection.closed_at for connection in both) - stopped < AT_ONCE


async def test_auto_asks_the_model_that_fits_and_says_why() -> None:
    auto = AutoConfig(simple="openai/gpt-5-mini", hard="anthropic/claude-sonnet-4-5")
    async with routed((Say(REJECTED), Reset()), (Say(ACCEPTED),), auto=auto) as house:
        options = v1.ChatOptions(model="auto", streaming=v1.StreamingOptions(emit_metadata=True))
        hard = await house.ask(house.agent_id, message="Prove it step by step. " * 100, options=options)
        assert asked(house) == [MODELS["anthropic"]]
        assert hard.one("annotation").key == "model_choice"
        assert hard.one("annotation").value == "hard: 2,300 characters, asks for thought"
        assert (hard.one("run_started").provider, hard.one("run_started").model) == ("anthropic", MODELS["anthropic"])
        simple = await house.ask(house.agent_id, message="Hello", options=options)
        assert asked(house)[1:] == [MODELS["openai"], MODELS["anthropic"]]
        assert simple.one("annotation").value == "simple: 5 characters"
        assert simple.one("attempt_changed").discard_after_sequence == 2  # run_started and the annotation stay
        await assert_only_the_second_counts(house, simple)
        quiet = await house.ask(house.agent_id, message="Hello", options=v1.ChatOptions(model="auto"))
        assert not quiet.all("annotation")
        assert quiet.one("attempt_changed").discard_after_sequence == 1


def costing(micros: int) -> v1.ChatOptions:
    return v1.ChatOptions(budget=v1.Budget(cost=v1.Cost(micros=micros, currency_code="USD")))


async def test_a_limit_on_the_cost_ends_the_run() -> None:
    async with routed((Say(TWENTY * 50, delay=0.001),), (Say(ACCEPTED),)) as house:
        answer = await house.ask(house.agent_id, options=costing(200))
        finished, run = answer.finished, await house.run(answer.run_id)
        assert (finished.state, finished.budget_kind) == (v1.RUN_STATE_BUDGET_EXCEEDED, v1.BUDGET_KIND_COST)
        assert (run.state, run.budget_kind, run.cost) == (finished.state, finished.budget_kind, finished.cost)
        assert answer.text == finished.partial_text
        assert 300 < len(answer.text) < 600  # 2 micros a token, 4 characters a token
        assert 150 <= finished.cost.micros <= 300
        assert not answer.all("attempt_changed")


async def test_what_the_failed_one_cost_counts_for_the_limit() -> None:
    dying = (Say(TWENTY * 4, delay=0.001), Pause(0.02), Reset())
    async with routed(dying, (Say(ACCEPTED),)) as house:
        answer = await house.ask(house.agent_id, options=costing(190))
        assert answer.finished.budget_kind == v1.BUDGET_KIND_COST, answer.finished
        assert answer.finished.cost.micros >= 100
        assert asked(house) == list(MODELS.values())


async def test_a_hundred_chats_in_a_row_use_one_connection() -> None:
    async with several(GOOD) as (house, (vendor,)):
        agent = await house.agent()
        for _ in range(100):
            assert (await house.ask(agent)).text == ACCEPTED
        assert len(vendor.requests) == 100
        assert len(vendor.connections) == 1


@pytest.mark.parametrize(
    ("idle", "pace", "number", "at_once"),
    [(0.1, 0.01, 200, 10), pytest.param(5.0, 0.2, 1000, 100, marks=[pytest.mark.slow, pytest.mark.timeout(180)])],
    ids=["200-around-100-ms", "1000-around-5-s"],
)
async def test_a_vendor_that_closes_idle_connections_costs_no_answer(
    idle: float, pace: float, number: int, at_once: int
) -> None:
    rng = random.Random(number)
    # The same for all who talk: out of step they would share few connections, which never rest for long.
    pauses = [idle + rng.uniform(-0.05, 0.05) for _ in range(number // at_once)]
    async with several(scripted((Say(ACCEPTED, delay=pace),))) as (house, (vendor,)):
        vendor.idle_close = idle
        agent = await house.agent()

        async def talk() -> None:
            for pause in pauses:
                assert (await house.ask(agent)).text == ACCEPTED
                await asyncio.sleep(pause)

        await asyncio.gather(*(talk() for _ in range(at_once)))
        assert 2 * at_once < len(vendor.connections) < number  # it did close them, and not all


async def test_a_vendors_own_options_are_not_handed_on() -> None:
    async with routed((Refuse(503),), (Say(ACCEPTED),)) as house:
        options = v1.ChatOptions(temperature=0.5)
        options.provider_options.update({"reasoning_effort": "low"})
        await house.ask(house.agent_id, options=options)
        first, second = (request.json for request in house.upstream.requests)
        assert first["reasoning_effort"] == "low"
        assert "reasoning_effort" not in second
        assert second["temperature"] == first["temperature"] == 0.5


async def test_text_that_is_held_back_when_its_vendor_fails_is_never_said() -> None:
    async with routed((Say(REJECTED, delay=0.002), Pause(0.03), Reset()), (Say(ACCEPTED),)) as house:
        shape = v1.StreamingOptions(text_buffer_size=10_000)
        answer = await house.ask(house.agent_id, options=v1.ChatOptions(streaming=shape))
        assert texts(rejected(answer)) == ""
        assert texts(list(answer.events)) == ACCEPTED
