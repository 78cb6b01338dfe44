"""The operators' door, asked over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc  # type: ignore[import-untyped]  # no stubs
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from agentsvc.domain.errors import Code
from agentsvc.telemetry.metrics import Metrics
from agentsvc.transport.admin import Admin, AdminConfig
from agentsvc.transport.readiness import Readiness
from tests.transport.house import open_house

ANYWHERE = AdminConfig("127.0.0.1:0")


class Door:
    def __init__(self, config: AdminConfig) -> None:
        self.metrics = Metrics()
        self.readiness = Readiness()
        self.admin = Admin(config, self.metrics, self.readiness)

    async def get(self, path: str, **headers: str) -> tuple[int, str, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.admin.port}{path}", headers=headers) as response,
        ):
            return response.status, await response.text(), response.headers


@asynccontextmanager
async def opened(config: AdminConfig = ANYWHERE) -> AsyncIterator[Door]:
    door = Door(config)
    await door.admin.start()
    try:
        yield door
    finally:
        await door.admin.stop()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with opened() as opened_door:
        yield opened_door


async def test_readiness_comes_with_its_reason_and_liveness_does_not_care(door: Door) -> None:
    assert (await door.get("/readyz"))[:2] == (200, "ready\n")
    await door.readiness.lost("database", "the database cannot be reached")
    assert (await door.get("/readyz"))[:2] == (503, "not ready: the database cannot be reached\n")
    assert (await door.get("/healthz"))[:2] == (200, "alive\n")


async def test_metrics_are_what_prometheus_reads(door: Door) -> None:
    door.metrics.rpc_ended("agentsvc.v1.AgentService/Chat", Code.OK, 0.3)
    status, text, headers = await door.get("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert "rpc_server_call_duration_seconds" in {family.name for family in plain_text(text)}


async def test_metrics_are_open_metrics_for_those_who_ask(door: Door) -> None:
    _, text, headers = await door.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "process_resident_memory_bytes" in {family.name for family in open_metrics(text)}  # type: ignore[no-untyped-call]


async def test_a_reading_that_fails_is_the_scrapers_error_and_nobody_elses(door: Door) -> None:
    door.metrics.gauge("agentsvc_broken", "Broken.", lambda: 1 // 0)
    assert (await door.get("/metrics"))[0] == 500
    assert (await door.get("/healthz"))[0] == 200


async def test_others_have_the_event_loop_between_two_families(door: Door) -> None:
    turns, going = 0, True

    async def others() -> None:
        nonlocal turns
        while going:
            turns += 1
            await asyncio.sleep(0)

    def read() -> float:
        taken.append(turns)
        return turns

    taken: list[int] = []
    for number in range(20):
        door.metrics.gauge(f"agentsvc_turns_{number}", "Turns.", read)
    task = asyncio.create_task(others())
    await door.get("/metrics")
    going = False
    await task
    assert len(set(taken)) == 20


async def test_there_is_nothing_else(door: Door) -> None:
    assert (await door.get("/"))[0] == 404
    assert (await door.get("/debug"))[0] == 404


async def test_a_port_in_use_names_the_setting(door: Door) -> None:
    twin = Admin(AdminConfig(f"127.0.0.1:{door.admin.port}"), door.metrics, door.readiness)
    with pytest.raises(OSError, match=r"is another process using it\?\): set AGENTSVC_ADMIN_ADDRESS to a free"):
        await twin.start()


async def test_stopping_twice_is_stopping_once() -> None:
    async with opened() as door:
        await door.admin.stop()


class TestChannelz:
    async def test_it_shows_the_servers_of_this_process_and_not_itself(self) -> None:
        async with open_house() as house, opened(AdminConfig("127.0.0.1:0", channelz="127.0.0.1:0")) as door:
            await house.ask()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{door.admin.channelz_port}") as channel:
                stub = channelz_pb2_grpc.ChannelzStub(channel)
                servers = (await stub.GetServers(channelz_pb2.GetServersRequest(start_server_id=0))).server
                ports = []
                for server in servers:
                    request = channelz_pb2.GetServerSocketsRequest(server_id=server.ref.server_id)
                    for ref in (await stub.GetServerSockets(request)).socket_ref:
                        found = await stub.GetSocket(channelz_pb2.GetSocketRequest(socket_id=ref.socket_id))
                        ports.append(found.socket.local.tcpip_address.port)
        assert house.server.port in ports
        assert door.admin.channelz_port not in ports

    async def test_it_is_off_unless_asked_for(self, door: Door) -> None:
        assert door.admin.channelz_port == 0

    async def test_a_port_in_use_names_its_setting(self, door: Door) -> None:
        taken = Admin(AdminConfig("127.0.0.1:0", channelz="127.0.0.1:0"), door.metrics, door.readiness)
        await taken.start()
        twin = Admin(AdminConfig("127.0.0.1:0", channelz=f"127.0.0.1:{taken.channelz_port}"), Metrics(), Readiness())
        try:
            with pytest.raises(OSError, match="set AGENTSVC_CHANNELZ_ADDRESS to a free host:port, or to off"):
                await twin.start()
        finally:
            await twin.stop()
            await taken.stop()


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "example.com:1"])
def test_beyond_loopback_must_be_asked_for(address: str) -> None:
    with pytest.raises(ValueError, match="open to others"):
        AdminConfig(address)
    with pytest.raises(ValueError, match="open to others"):
        AdminConfig(channelz=address)
    assert AdminConfig(address, exposed=True).exposed
