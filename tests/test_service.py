"""The composed service, in this process and over a real channel: what only the whole house can promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from agentsvc import administration, v1
from agentsvc.client import AgentClient, AgentError
from agentsvc.domain.agents import Agent, LLMConfig
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.runs import TokenRole
from agentsvc.engine.runs import DrainConfig
from agentsvc.local import AGENT, ORGANISATION, TOOLS, furnish
from agentsvc.service import Service
from agentsvc.settings import Settings
from agentsvc.storage import Storage, StorageConfig
from agentsvc.transport.probe import is_serving
from agentsvc.transport.server import ServerConfig

SOON = 10.0  # seconds; what "within a second" gets on a busy machine


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        server=ServerConfig("127.0.0.1:0"),
        storage=StorageConfig(f"sqlite:///{tmp_path / 'agentsvc.sqlite3'}", poll_interval=0.05),
        shutdown_grace=0.0,
    )


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[Service, AgentClient]]:
    async with (
        Service(settings, tools=TOOLS) as service,
        AgentClient(f"127.0.0.1:{service.port}", await furnish(service)) as client,
    ):
        yield service, client


def script(*steps: dict[str, object]) -> dict[str, object]:
    return {"provider_options": {"script": list(steps)}}


async def echoed(client: AgentClient) -> str:
    return (await client.chat(agent_id=AGENT, message="hello", options={"model": "mock-echo"})).text


async def until_refused(client: AgentClient) -> None:
    async with asyncio.timeout(SOON):
        while True:
            await echoed(client)


async def test_a_question_is_answered_with_a_tool_call_over_a_real_channel(settings: Settings):
    async with running(settings) as (_, client), client.stream_chat(agent_id=AGENT, message="Is it raining?") as stream:
        kinds = [event.WhichOneof("kind") async for event in stream]
    assert kinds[0] == "run_started"
    assert kinds.index("tool_call_requested") < kinds.index("tool_result") < kinds.index("generation_completed")
    assert kinds[-1] == "run_finished"


async def test_what_was_said_outlives_the_process(settings: Settings):
    async with running(settings) as (_, client):
        run = (await client.chat(agent_id=AGENT, message="hello", options={"model": "mock-echo"})).run
    async with running(settings) as (_, client):
        found = await client.get_run(run.run_id)
    assert (found.state, found.text) == (v1.RUN_STATE_COMPLETED, "hello")


async def test_a_run_that_cannot_end_in_time_is_interrupted_and_its_reader_is_told(settings: Settings):
    endless = script({"do": "text", "text": "word "}, {"do": "pause", "seconds": 3600})
    async with running(settings) as (service, client):
        stream = client.stream_chat(agent_id=AGENT, message="go on", options=endless)
        async with stream as events:
            async for event in events:
                if event.HasField("text_delta"):
                    break
            leaving = asyncio.ensure_future(service.__aexit__(None, None, None))
            with pytest.raises(AgentError, match="RUN_INTERRUPTED"):
                _ = [event async for event in events]
            await leaving
    assert stream.finished is not None
    assert stream.finished.state == v1.RUN_STATE_INTERRUPTED
    assert stream.finished.partial_text == "word "


async def test_while_a_run_may_still_end_new_ones_are_refused(settings: Settings):
    endless = script({"do": "text", "text": "word "}, {"do": "pause", "seconds": 3600})
    async with running(replace(settings, shutdown_grace=60.0, drain=DrainConfig(0.0))) as (service, client):
        async with client.stream_chat(agent_id=AGENT, message="go on", options=endless) as stream:
            async for event in stream:
                if event.HasField("text_delta"):
                    break
            leaving = asyncio.ensure_future(service.__aexit__(None, None, None))
            with pytest.raises(AgentError) as refused:
                await until_refused(client)
            assert (refused.value.reason, refused.value.retryable) == ("DRAINING", True)
            assert not leaving.done()
        await leaving  # closing the stream has cancelled its run: nothing is left to wait for


async def test_readiness_goes_when_the_service_does(settings: Settings):
    async with running(settings) as (service, _):
        address = f"127.0.0.1:{service.port}"
        assert await is_serving(address)
        assert await is_serving(address, tls=True)  # as far as a probe without a certificate can tell
    assert not await is_serving(address)
    assert not await is_serving(address, tls=True)


async def test_a_port_in_use_is_told_and_nothing_stays_open(settings: Settings):
    async with running(settings) as (service, _):
        taken = replace(settings, server=ServerConfig(f"127.0.0.1:{service.port}"))
        before = asyncio.all_tasks()
        with pytest.raises(OSError, match="is another process using it"):
            async with Service(taken):
                pass
        assert asyncio.all_tasks() <= before


async def test_a_token_made_elsewhere_works_and_one_revoked_elsewhere_does_not(settings: Settings):
    async with running(settings) as (service, _):
        made = await administration.create_token(settings, ORGANISATION, TokenRole.CALLER, "ci", None)
        async with AgentClient(f"127.0.0.1:{service.port}", made.text) as client:
            assert await echoed(client) == "hello"
            assert await administration.revoke_token(settings, ORGANISATION, made.text)
            with pytest.raises(AgentError) as refused:
                await until_refused(client)
    assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_model_switched_elsewhere_answers_the_next_question(settings: Settings):
    async with running(settings) as (_, client):
        await client.chat(agent_id=AGENT, message="warm the cache")
        await administration.set_model(settings, ORGANISATION, AGENT, "", "mock-echo", TOOLS)
        async with asyncio.timeout(SOON):
            while (await client.chat(agent_id=AGENT, message="hello")).text != "hello":
                pass


async def test_furnishing_twice_keeps_what_the_user_made_of_the_agent(settings: Settings):
    async with running(settings):
        await administration.set_model(settings, ORGANISATION, AGENT, "mock", "mock-echo", TOOLS)
    async with running(settings) as (_, client):
        assert (await client.chat(agent_id=AGENT, message="hello")).text == "hello"


class TestAdministration:
    async def test_an_agent_is_made_under_the_rules_of_the_contract(self, settings: Settings):
        await administration.create_agent(settings, "acme", Agent("echo", LLMConfig("mock", "mock-echo")), ())
        async with await Storage.open(settings.storage) as storage:
            stored = await storage.agents.get("acme", "echo")
        assert stored is not None
        assert stored.llm_config.model == "mock-echo"

    @pytest.mark.parametrize(
        ("agent", "told"),
        [
            (Agent("a", LLMConfig("nobody", "m")), "'nobody' is not a provider"),
            (Agent("a", LLMConfig("mock"), tools=("no_tool",)), "no tool named 'no_tool'"),
        ],
    )
    async def test_an_agent_that_could_never_run_is_refused(self, settings: Settings, agent: Agent, told: str):
        with pytest.raises(AgentsvcError, match=told) as refused:
            await administration.create_agent(settings, "acme", agent, ())
        assert refused.value.reason is Reason.INVALID_FIELD

    async def test_another_provider_takes_neither_address_nor_key_of_the_old_one(self, settings: Settings):
        settings = replace(settings, storage=replace(settings.storage, secret_key="0123456789abcdef"))
        own = LLMConfig("openai", "gpt-5", "https://llm.example.com/v1", "its-own-key")
        await administration.create_agent(settings, "acme", Agent("a", own), ())
        updated = await administration.set_model(settings, "acme", "a", "mock", "mock-echo", ())
        assert updated.llm_config == LLMConfig("mock", "mock-echo")

    async def test_a_foreign_token_is_not_found(self, settings: Settings):
        made = await administration.create_token(settings, "acme", TokenRole.CALLER, "", None)
        assert not await administration.revoke_token(settings, "other", made.record.token_id)
        assert await administration.revoke_token(settings, "acme", made.record.token_id)
