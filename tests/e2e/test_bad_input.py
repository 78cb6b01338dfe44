"""Bad input: one typed error that names the field or the setting and what to do; nothing is written, the server lives on."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import grpc
import pytest
import pytest_asyncio

from agentsvc import v1
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.script import Say
from tests.e2e.house import House, bearer, collect, open_house, question
from tests.transport.rpc import METHODS, Refusal, invoke, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOWHERE = Endpoint("http://127.0.0.1:9", "key")  # the discard port: nobody listens
TABLES = ("runs", "sessions", "messages", "agents")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house() -> AsyncIterator[House]:
    async with open_house() as opened:
        await opened.agent(agent_id="demo")
        await opened.agent("anthropic", agent_id="claude-demo")
        yield opened


def rows(house: House) -> dict[str, int]:
    with closing(sqlite3.connect(house.database)) as database:
        return {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}


async def check(house: House, call: Any, code: str, reason: str, *words: str) -> Refusal:
    """Refused before headers with that reason; the message has the words; nothing was written; the next call works."""
    before = rows(house)
    refusal = await refused(call)
    assert (refusal.code, refusal.reason) == (code, reason), refusal.message
    for word in words:
        assert word in refusal.message
    assert refusal.request_id
    assert len(refusal.message.encode()) + len(refusal.trailers["grpc-status-details-bin"]) < 4096
    assert rows(house) == before
    page = await house.agents.ListRuns(v1.ListRunsRequest(page_size=1), metadata=house.acme.caller)
    assert len(page.runs) <= 1
    return refusal


def stream(house: House, request: v1.StreamChatRequest, metadata: Any = None) -> Any:
    return house.agents.StreamChat(request, metadata=house.acme.caller if metadata is None else metadata)


def options(**fields: Any) -> v1.StreamChatRequest:
    return question("demo", options=v1.ChatOptions(**fields))


INVALID = {
    "no-agent": (v1.StreamChatRequest(message="hi"), "agent_id"),
    "no-message": (v1.StreamChatRequest(agent_id="demo"), "message"),
    "long-agent-id": (question("a" * 129), "agent_id"),
    "five-megabytes": (question("demo", message="x" * 5_000_000), "message"),
    "just-over-one-mebibyte": (question("demo", message="x" * ((1 << 20) + 1)), "message"),
    "empty-part": (question("demo", parts=[v1.ContentPart()]), "parts[0]"),
    "part-over-one-mebibyte": (question("demo", parts=[v1.ContentPart(text="x" * (1 << 21))]), "parts[0].text"),
    "image-from-http": (
        question("demo", parts=[v1.ContentPart(image=v1.Media(uri="http://a.example/x.png", media_type="image/png"))]),
        "parts[0].image.uri",
    ),
    "image-that-is-none": (
        question("demo", parts=[v1.ContentPart(image=v1.Media(data=b"x", media_type="text/plain"))]),
        "parts[0].image",
    ),
    "history-of-nobody": (question("demo", history=[v1.Message()]), "history[0].role"),
    "history-tool-without-call": (question("demo", history=[v1.Message(role=v1.MESSAGE_ROLE_TOOL)]), "history"),
    "label-key": (question("demo", labels={"bad key": "x"}), 'labels["bad key"]'),
    "label-value": (question("demo", labels={"k": "x" * 257}), 'labels["k"]'),
    "temperature": (options(temperature=2.5), "options.temperature"),
    "temperature-nan": (options(temperature=float("nan")), "options.temperature"),
    "top-p": (options(top_p=-0.1), "options.top_p"),
    "max-output-tokens": (options(max_output_tokens=0), "options.max_output_tokens"),
    "stop": (options(stop=[""]), "options.stop[0]"),
    "seventeen-stops": (options(stop=["x"] * 17), "options.stop"),
    "max-steps": (options(max_steps=0), "options.max_steps"),
    "max-steps-101": (options(max_steps=101), "options.max_steps"),
    "tool-choice": (options(tool_choice=v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_TOOL)), "options.tool_choice"),
    "enum": (options(on_disconnect=77), "options.on_disconnect"),
    "continue-for": (options(on_disconnect=v1.ON_DISCONNECT_CONTINUE_FOR), "options"),
    "continue-for-alone": (options(continue_for={"seconds": 5}), "options"),
    "buffer-size": (options(streaming={"text_buffer_size": 70_000}), "options.streaming.text_buffer_size"),
    "delta-delay": (options(streaming={"text_delta_delay": {"seconds": 11}}), "options.streaming.text_delta_delay"),
    "last-messages": (options(memory={"last_messages": 1001}), "options.memory.last_messages"),
    "budget-tokens": (options(budget={"tokens": 0}), "options.budget.tokens"),
    "budget-time": (options(budget={"wall_clock": {"seconds": 0}}), "options.budget.wall_clock"),
    "budget-tool-calls": (options(budget={"tool_calls": 0}), "options.budget.tool_calls"),
    "unknown-provider": (options(provider="nobody"), "options.provider"),
    "our-field": (options(provider_options={"messages": []}), "options.provider_options.messages"),
    "fallback-unknown": (options(fallbacks=[v1.Fallback(provider="nobody")]), "options.fallbacks[0].provider"),
    "not-built-client-tools": (options(client_tools=[v1.ClientTool(name="mine")]), "options.client_tools"),
    "cost-currency": (
        options(budget={"cost": {"micros": 5, "currency_code": "XXX"}}),
        "options.budget.cost.currency_code",
    ),
    "not-built-top-k": (options(memory={"top_k": 3}), "options.memory.top_k"),
}


@pytest.mark.parametrize("case", INVALID)
async def test_a_field_that_breaks_a_rule_is_named(house: House, case: str) -> None:
    request, field = INVALID[case]
    refusal = await check(house, stream(house, request), "INVALID_ARGUMENT", "INVALID_FIELD", field)
    assert any(name.startswith(field) or not name for name in refusal.fields)  # no name: a rule over several fields
    same = v1.ChatRequest.FromString(request.SerializeToString())
    unary = await refused(house.agents.Chat(same, metadata=house.acme.caller))
    assert (unary.message, unary.fields) == (refusal.message, refusal.fields)


async def test_what_does_not_exist_is_named(house: House) -> None:
    await check(house, stream(house, question("nobody")), "NOT_FOUND", "AGENT_NOT_FOUND", "'nobody'")
    unknown = question("demo", session_id="gone")
    await check(house, stream(house, unknown), "NOT_FOUND", "SESSION_NOT_FOUND", "'gone'", "session_id")
    agents, metadata = house.agents, house.acme.caller
    for call in (
        agents.GetRun(v1.GetRunRequest(run_id="gone"), metadata=metadata),
        agents.CancelRun(v1.CancelRunRequest(run_id="gone"), metadata=metadata),
        agents.SubscribeRun(v1.SubscribeRunRequest(run_id="gone"), metadata=metadata),
    ):
        await check(house, call, "NOT_FOUND", "RUN_NOT_FOUND", "'gone'")


async def test_another_agents_or_users_session_is_no_session(house: House) -> None:
    answer = await house.ask("demo", Say("Hello"), user_id="ann")
    mine = answer.session_id
    for other in (question("claude-demo", session_id=mine, user_id="ann"), question("demo", session_id=mine)):
        await check(house, stream(house, other), "NOT_FOUND", "SESSION_NOT_FOUND", mine)


KNOWN = "agentsvc_0123456789abcdef_" + "A" * 43
TOKENS: dict[str, Any] = {
    "none": (),
    "empty": (("authorization", ""),),
    "no-scheme": (("authorization", KNOWN),),
    "basic": (("authorization", "Basic dXNlcjpwYXNz"),),
    "unknown": bearer(KNOWN),
    "nonsense": bearer("hello"),
    "two-words": bearer("one two"),
    "huge": bearer("x" * 5000),
    "twice": bearer(KNOWN) * 2,
    "none-but-a-request-id": (("x-request-id", "a" * 200),),
}


@pytest.mark.parametrize("case", TOKENS)
async def test_a_call_without_a_good_token_says_what_to_send(house: House, case: str) -> None:
    call = stream(house, question("demo"), TOKENS[case])
    refusal = await check(house, call, "UNAUTHENTICATED", "UNAUTHENTICATED", "oken")
    assert KNOWN not in refusal.message


async def test_a_good_token_said_twice_is_ambiguous(house: House) -> None:
    twice = house.acme.caller * 2
    await check(house, stream(house, question("demo"), twice), "UNAUTHENTICATED", "UNAUTHENTICATED", "2 authorization")


@pytest.mark.parametrize(
    "odd",
    [
        (("x-request-id", "a" * 4000),),
        (("x-request-id", "two words"),),
        (("x-request-id", "one"), ("x-request-id", "two")),
        (("something-bin", b"\x00\xff\x80"),),
        (("x-request-id-bin", b"\xff" * 64),),
        (("traceparent", "00-not-a-trace"),),
        (("grpc-accept-encoding", "gzip"), ("te", "trailers")),
    ],
)
async def test_odd_metadata_is_survived(house: House, odd: Any) -> None:
    call = house.agents.StreamChat(question("demo", Say("Fine.")), metadata=(*house.acme.caller, *odd))
    answer = (await collect(call)).check()
    assert answer.text == "Fine."
    assert len(answer.trailers["x-request-id"]) <= 128


async def test_a_callers_token_does_not_write_agents(house: House) -> None:
    create = v1.CreateAgentRequest(agent=v1.Agent(llm_config=v1.LlmConfig(provider="openai")))
    call = house.admin.CreateAgent(create, metadata=house.acme.caller)
    await check(house, call, "PERMISSION_DENIED", "PERMISSION_DENIED", "admin")


AGENTS = {
    "unknown-provider": (v1.Agent(llm_config=v1.LlmConfig(provider="nobody")), "agent.llm_config.provider", "openai"),
    "no-provider": (v1.Agent(llm_config=v1.LlmConfig()), "llm_config.provider", "ListProviders"),
    "unknown-tool": (v1.Agent(llm_config=v1.LlmConfig(provider="openai"), tools=["rm"]), "agent.tools", "AGENTSVC_TOOLS"),
    "private-address": (
        v1.Agent(llm_config=v1.LlmConfig(provider="openai", base_url="https://127.0.0.1/v1")), "agent.llm_config.base_url", "public",
    ),
    "plain-http": (
        v1.Agent(llm_config=v1.LlmConfig(provider="openai", base_url="http://a.example/v1")), "agent.llm_config.base_url", "https",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", AGENTS)
async def test_an_agent_that_could_never_run_is_refused(house: House, case: str) -> None:
    agent, field, advice = AGENTS[case]
    call = house.admin.CreateAgent(v1.CreateAgentRequest(agent=agent), metadata=house.acme.admin)
    await check(house, call, "INVALID_ARGUMENT", "INVALID_FIELD", field, advice)


async def test_a_missing_key_names_its_variable() -> None:
    async with open_house(endpoints={}) as house:
        for provider, variable in (("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY")):
            agent = await house.agent(provider)
            call = house.stream(agent)
            await check(house, call, "FAILED_PRECONDITION", "PROVIDER_NOT_CONFIGURED", variable, "set")


async def test_a_provider_out_of_reach_names_its_address_and_setting() -> None:
    async with open_house(endpoints={"openai": NOWHERE}) as house:
        agent = await house.agent()
        answer = (await collect(house.stream(agent))).check()
        assert answer.status is grpc.StatusCode.UNAVAILABLE
        assert answer.finished.error.reason == "PROVIDER_UNREACHABLE"
        assert answer.finished.error.retryable
        assert "127.0.0.1:9" in answer.finished.error.message
        assert "OPENAI_BASE_URL" in answer.finished.error.message


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_random_bytes_are_no_request(house: House, method: Any) -> None:
    rng = random.Random(method.name)
    for size in (1, 3, 17, 300):
        call = invoke(house.channel, method, b"\xff" + rng.randbytes(size), house.acme.admin)
        refusal = await refused(call)
        assert refusal.reason in {"INVALID_FIELD", "NOT_IMPLEMENTED"}
        assert refusal.code in {"INVALID_ARGUMENT", "UNIMPLEMENTED"}


async def test_an_unknown_method_is_unimplemented(house: House) -> None:
    method: Any = house.channel.unary_unary("/agentsvc.v1.AgentService/Guess")
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await method(b"", metadata=house.acme.caller)
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert (await house.ask("demo", Say("Alive."))).text == "Alive."
