"""What operators see of the real service, and that looking never hurts it."""

from __future__ import annotations

import asyncio
import io
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no stubs
from prometheus_client.parser import text_string_to_metric_families

from agentsvc import v1
from agentsvc.engine.runs import DrainConfig
from agentsvc.engine.tools import tool
from agentsvc.providers.script import Call, ErrorFrame, Pause, Say, Turn
from agentsvc.service import Service
from agentsvc.settings import Settings
from agentsvc.storage import StorageConfig, migrate
from agentsvc.telemetry.log import LogConfig, logging_to
from agentsvc.transport.admin import AdminConfig
from agentsvc.transport.server import ServerConfig
from tests.e2e.house import House, collect, open_house, read_until
from tests.storage.databases import running_postgres
from tests.storage.test_outage import paused
from tests.transport.rpc import refused

ANYWHERE = AdminConfig("127.0.0.1:0")
PATIENCE = 30.0  # seconds for what takes two or three


@tool(idempotent=True)
async def look_up() -> str:
    """Finds it."""
    return "found"


async def get(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, await response.text()


async def scrape(port: int) -> dict[str, float]:
    """Every sample, by its name and labels."""
    status, text = await get(port, "/metrics")
    assert status == 200
    return {
        sample.name + "".join(f",{k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@asynccontextmanager
async def watched_house(**settings: Any) -> AsyncIterator[House]:
    async with open_house(tools=[look_up], admin=ANYWHERE, **settings) as house:
        yield house


async def test_a_run_is_in_the_metrics_with_its_stages_its_model_calls_and_its_tokens() -> None:
    async with watched_house() as house:
        agent = await house.agent(tools=["look_up"])
        answer = await house.ask(agent, Say("Let me look."), Call("look_up"), Turn(), Pause(0.05), Say("Found it."))
        failed = await house.ask(agent, Say("Half a"), ErrorFrame())
        found = await scrape(house.service.admin_port)
    assert failed.finished.state == v1.RUN_STATE_FAILED
    asked = ",gen_ai_provider_name=openai,gen_ai_request_model=gpt-5-mini"
    assert found["agentsvc_runs_total,provider=openai,reason=,state=completed"] == 1
    assert found[f"agentsvc_runs_total,provider=openai,reason={failed.finished.error.reason},state=failed"] == 1
    assert found["agentsvc_ttft_seconds_count"] == 2
    assert found["agentsvc_overhead_seconds_count"] == 2
    assert found["agentsvc_stage_seconds_count,stage=first_token"] == 2
    duration = "gen_ai_client_operation_duration_seconds"
    reason = failed.finished.error.reason
    assert found[f"{duration}_count,error_type=,gen_ai_operation_name=chat{asked}"] == 2
    assert found[f"{duration}_count,error_type={reason},gen_ai_operation_name=chat{asked}"] == 1
    assert found[f"gen_ai_client_time_to_first_chunk_seconds_count,gen_ai_operation_name=chat{asked}"] == 3
    tokens = f"gen_ai_client_token_usage_sum,gen_ai_operation_name=invoke_agent{asked},gen_ai_token_type="
    usage = (answer.finished.usage, failed.finished.usage)
    assert found[tokens + "input"] == sum(u.input_tokens for u in usage)
    assert found[tokens + "output"] == sum(u.output_tokens for u in usage)
    assert found["agentsvc_provider_requests_total,provider=openai"] == 3
    assert not [name for name in found if "acme" in name or agent in name or answer.run_id in name]


async def test_what_goes_on_now_is_read_now() -> None:
    async with watched_house() as house:
        port = house.service.admin_port
        call = house.stream(await house.agent(), Say("Hello "), Pause(3600), Say("there."))
        await read_until(call, "text_delta")
        during = await scrape(port)
        call.cancel()
        async with asyncio.timeout(PATIENCE):
            while (after := await scrape(port))["agentsvc_runs_live"]:
                pass
    gauges = ("agentsvc_runs_live", "agentsvc_readers", "agentsvc_provider_in_flight,provider=openai")
    assert [during[gauge] for gauge in gauges] == [1, 1, 1]
    assert [after[gauge] for gauge in gauges] == [0, 0, 0]
    assert during["agentsvc_provider_connections,provider=openai"] >= 1
    assert during["agentsvc_journal_bytes"] > 0
    assert during["agentsvc_event_loop_lag_seconds"] >= 0


async def test_every_rpc_counts_by_how_it_ended() -> None:
    async with watched_house() as house:
        agent = await house.agent()
        await house.ask(agent, Say("Hello."))
        await refused(house.agents.GetRun(v1.GetRunRequest(run_id="no"), metadata=house.acme.caller))
        await refused(house.agents.GetRun(v1.GetRunRequest(run_id="no")))  # no token
        nowhere: Any = house.channel.unary_unary("/agentsvc.v1.AgentService/Nowhere")
        await refused(nowhere(b""))
        gone = house.stream(agent, Say("Hello "), Pause(3600))
        await read_until(gone, "text_delta")
        gone.cancel()
        late = v1.StreamChatRequest(agent_id=agent, message="hi")
        late.options.provider_options.update({"script": [{"do": "pause", "seconds": 3600}]})
        await collect(house.agents.StreamChat(late, metadata=house.acme.caller, timeout=0.3))

        def count(method: str, code: int) -> str:
            return f"rpc_server_call_duration_seconds_count,rpc_grpc_status_code={code},rpc_method={method}"

        service = "agentsvc.v1.AgentService"
        expected = {
            count(f"{service}/StreamChat", 0): 1.0,
            count(f"{service}/StreamChat", 1): 1.0,
            count(f"{service}/StreamChat", 4): 1.0,
            count(f"{service}/GetRun", 5): 1.0,
            count(f"{service}/GetRun", 16): 1.0,
            count("other", 16): 1.0,
            count("agentsvc.v1.AgentAdminService/CreateAgent", 0): 1.0,
        }
        async with asyncio.timeout(PATIENCE):
            while True:
                found = await scrape(house.service.admin_port)
                counted = {name: value for name, value in found.items() if name.startswith("rpc_") and "_count" in name}
                if sum(counted.values()) >= sum(expected.values()):
                    break
    assert counted == expected


async def test_observing_that_fails_never_hurts_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics raise, and the log takes no line any more."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("agentsvc.telemetry.series.Distribution.observe", broken)
    monkeypatch.setattr("agentsvc.telemetry.log._BACKLOG", 0)
    with logging_to(io.StringIO(), LogConfig()):
        async with watched_house() as house:
            agent = await house.agent()
            for _ in range(3):
                answer = await house.ask(agent, Say("Hello there."))
                assert (answer.text, answer.status) == ("Hello there.", grpc.StatusCode.OK)
            found = await scrape(house.service.admin_port)
    assert found["agentsvc_observations_failed_total"] >= 6  # of each run, and of its RPC
    assert found["agentsvc_log_lines_dropped_total"] >= 3
    assert found["agentsvc_runs_total,provider=openai,reason=,state=completed"] == 3  # what came before the failure


async def test_two_services_on_one_machine_do_not_meet() -> None:
    async with watched_house() as one, watched_house() as other:
        assert one.service.admin_port != other.service.admin_port
    async with open_house() as house:
        assert house.service.admin_port == 0


async def test_a_port_for_operators_that_is_taken_ends_the_start_and_leaves_nothing_open() -> None:
    async with watched_house() as house:
        taken = AdminConfig(f"127.0.0.1:{house.service.admin_port}")
        before = asyncio.all_tasks()
        with pytest.raises(OSError, match="set AGENTSVC_ADMIN_ADDRESS to a free host:port, or to off"):
            async with open_house(admin=taken):
                pass
        assert asyncio.all_tasks() <= before


async def test_a_port_that_nobody_asked_for_gives_way_to_any_free_one() -> None:
    async with watched_house() as house:
        usual = AdminConfig(f"127.0.0.1:{house.service.admin_port}", insists=False)
        async with open_house(admin=usual) as second:
            assert second.service.admin_port not in {0, house.service.admin_port}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Any]:
    with running_postgres() as server:
        asyncio.run(migrate(server.get_uri()))
        yield server


async def test_readiness_follows_the_database_and_health_stays_fast_while_it_hangs(postgres: Any) -> None:
    settings = Settings(
        server=ServerConfig("127.0.0.1:0"),
        admin=ANYWHERE,
        storage=StorageConfig(postgres.get_uri(), timeout=0.5),
        shutdown_grace=0.0,
    )
    async with (
        Service(settings) as service,
        grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)

        async def serving(name: str) -> bool:
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        async def until_ready(expected: bool) -> None:
            wanted = health_pb2.HealthCheckResponse.SERVING if expected else health_pb2.HealthCheckResponse.NOT_SERVING
            watching = health.Watch(health_pb2.HealthCheckRequest(service="readiness"), timeout=PATIENCE)
            async for told in watching:
                if told.status == wanted:
                    break
            watching.cancel()

        await until_ready(expected=True)
        with paused(postgres):
            await until_ready(expected=False)
            assert await get(service.admin_port, "/readyz") == (503, "not ready: the database cannot be reached\n")
            assert await get(service.admin_port, "/healthz") == (200, "alive\n")
            assert not await serving("")
            assert not await serving("agentsvc.v1.AgentService")
            took = []
            for _ in range(50):
                asked = time.perf_counter()
                assert await serving("liveness")
                took.append(time.perf_counter() - asked)
            assert statistics.median(took) < 0.05
        await until_ready(expected=True)
        assert await get(service.admin_port, "/readyz") == (200, "ready\n")


async def test_a_service_on_its_way_out_says_so_to_the_end() -> None:
    async with watched_house(shutdown_grace=60.0, drain=DrainConfig(settle=0.0)) as house:
        port = house.service.admin_port
        call = house.stream(await house.agent(), Say("Hello "), Pause(3600))
        await read_until(call, "text_delta")
        leaving = asyncio.create_task(house.service.__aexit__(None, None, None))
        async with asyncio.timeout(PATIENCE):
            while (answer := await get(port, "/readyz"))[0] == 200:
                pass
        assert answer == (503, "not ready: the service is shutting down\n")
        assert (await get(port, "/healthz"))[0] == 200
        assert (await scrape(port))["agentsvc_runs_live"] == 1
        call.cancel()
        await leaving
