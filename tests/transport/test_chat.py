from __future__ import annotations

import asyncio
from typing import Any

from agentsvc import v1
from tests.transport.house import CALLER, Gated, House, bearer, failing, open_house
from tests.transport.rpc import refused


def chat(house: House) -> Any:
    """Chat as a client that sees headers when they come: grpc.aio's own unary call shows them with the response."""
    method: Any = house.channel.unary_stream(
        "/agentsvc.v1.AgentService/Chat", response_deserializer=v1.ChatResponse.FromString
    )
    return method(v1.ChatRequest(agent_id="demo", message="hi").SerializeToString(), metadata=bearer(CALLER))


async def test_chat_returns_the_run_and_its_text(house: House) -> None:
    call = house.agents.Chat(v1.ChatRequest(agent_id="demo", message="hi"), metadata=bearer(CALLER))
    response = await call
    assert response.text == response.run.text == "Hello world"
    assert response.run.state == v1.RUN_STATE_COMPLETED
    assert (await call.initial_metadata())["agentsvc-run-id"] == response.run.run_id
    assert dict(await call.trailing_metadata())["agentsvc-output-tokens"] == "2"
    assert not response.timings


async def test_chat_sends_its_headers_once_the_run_is_admitted() -> None:
    async with open_house(script := Gated()) as house:
        call = chat(house)
        assert (await call.initial_metadata())["agentsvc-run-id"]
        assert not call.done()
        script.gate.set()
        assert (await call.read()).text == "Hello world"


async def test_a_chat_that_is_given_up_cancels_its_run() -> None:
    async with open_house(Gated()) as house:
        call = chat(house)
        await call.initial_metadata()
        call.cancel()
        await asyncio.wait_for(house.model.left.wait(), 5)


async def test_a_chat_that_fails_is_a_status_and_getrun_has_the_rest() -> None:
    async with open_house(failing) as house:
        call = house.agents.Chat(v1.ChatRequest(agent_id="demo", message="hi"), metadata=bearer(CALLER))
        failed = await refused(call)
        assert (failed.code, failed.reason) == ("UNAVAILABLE", "PROVIDER_OVERLOADED")
        request = v1.GetRunRequest(run_id=failed.trailers["agentsvc-run-id"])
        assert (await house.agents.GetRun(request, metadata=bearer(CALLER))).run.partial_text == "Hel"


async def test_timings_come_with_the_answer_when_asked_for(house: House) -> None:
    question = v1.ChatRequest(agent_id="demo", message="hi")
    question.options.streaming.emit_timings = True
    response = await house.agents.Chat(question, metadata=bearer(CALLER))
    assert response.timings[0].stage == "auth"
    assert response.timings[-1].stage == "first_token"
