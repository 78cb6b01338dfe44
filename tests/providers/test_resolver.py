"""What a tenant's base URL may reach: the public internet and nothing else, whatever the name says."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import ModelFailed
from agentsvc.domain.timeline import Timeline
from agentsvc.providers.bound import BoundModel
from agentsvc.providers.client import ProviderClient
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.pool import PoolConfig
from agentsvc.providers.resolver import ForbiddenAddressError, Resolver, check_public_url, is_public
from tests.providers.lines import LINES, ask
from tests.upstream import Upstream, reply, stream


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "93.184.216.34",
        "2606:4700:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
    ],
)
def test_hosts_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.0.9",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.3.4",
        "192.168.1.1",
        "100.64.0.1",  # carrier-grade NAT
        "100.100.100.200",  # Alibaba's metadata service, in the same range
        "169.254.169.254",  # the metadata service of most clouds
        "168.63.129.16",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%2",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:a00:1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:7f00:1::",  # Teredo
    ],
)
def test_everything_else_is_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "https://llm.example.com",
        "https://llm.example.com:8443/v1",
        "https://8.8.8.8/v1",
        "https://[2606:4700::1111]/v1",
    ],
)
def test_a_public_https_url_passes(url: str) -> None:
    check_public_url(url, "llm_config.base_url")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "llm.example.com",
        "http://llm.example.com",
        "ftp://llm.example.com",
        "file:///etc/passwd",
        "https://",
        "https:///v1",
        "https://llm.example.com:99999",
        "https://key@llm.example.com",
        "https://user:key@llm.example.com",
        "https://llm.example.com/v1?key=1",
        "https://llm.example.com/v1#here",
        "https://127.0.0.1",
        "https://127.0.0.1:443/v1",
        "https://１２７.0.0.1",  # full-width digits, which become ASCII on the way
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[fe80::1%25eth0]/",
        "https://169.254.169.254/latest",
        "https://localhost",
        "https://localhost.",
        "https://metadata.google.internal",
        "https://printer.local",
        "https://api.localhost",
    ],
)
def test_what_can_be_refused_without_asking_dns_is_refused_by_name(url: str) -> None:
    with pytest.raises(AgentsvcError) as refused:
        check_public_url(url, "llm_config.base_url")
    assert refused.value.reason is Reason.INVALID_FIELD
    assert refused.value.error.violations[0].field == "llm_config.base_url"


class Names(AbstractResolver):
    """A name service of the test's own; every lookup may answer differently."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        addresses = self._answers.pop(0)
        return [ResolveResult(hostname=host, host=a, port=port, family=family, proto=0, flags=0) for a in addresses]

    async def close(self) -> None:
        pass


async def test_every_address_of_a_name_is_judged_each_time_it_is_looked_up() -> None:
    names = Names(["8.8.8.8", "1.1.1.1"], ["8.8.8.8", "10.0.0.1"], ["::ffff:127.0.0.1"])
    resolver = Resolver(timeout=1, public_only=True, inner=names)
    assert [found["host"] for found in await resolver.resolve("llm.example.com", 443)] == ["8.8.8.8", "1.1.1.1"]
    for _ in range(2):
        with pytest.raises(ForbiddenAddressError, match=r"^llm\.example\.com does not lead to a public address$"):
            await resolver.resolve("llm.example.com", 443)


async def test_a_name_that_moves_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next new connection goes where the name leads by then, and no connection lives beyond its age."""
    monkeypatch.setattr(aiohttp, "ThreadedResolver", lambda: Names(["127.0.0.1"], ["127.0.0.2"]))
    told = stream([b"text hello\n", b"end\n"])
    async with Upstream(told) as old, Upstream(told, host="127.0.0.2", port=old.port) as new:
        async with ProviderClient(PoolConfig(dns_ttl=0, max_age=0.0)) as client:
            model = BoundModel(LINES, Endpoint(f"http://llm.example.com:{old.port}"), client, setting="LINES_BASE_URL")
            for _ in range(2):
                async for _ in model.stream(ask(), Timeline()):
                    pass
        assert len(old.requests) == len(new.requests) == 1


async def test_an_operators_name_may_lead_anywhere() -> None:
    resolver = Resolver(timeout=1, inner=Names(["10.0.0.1"]))
    assert [found["host"] for found in await resolver.resolve("gateway", 443)] == ["10.0.0.1"]


async def test_a_name_service_that_does_not_answer_is_not_waited_for() -> None:
    class Silent(Names):
        async def resolve(self, *_: object, **__: object) -> list[ResolveResult]:
            await asyncio.Event().wait()
            return []

    with pytest.raises(OSError, match="took longer than"):
        await Resolver(timeout=0.05, inner=Silent()).resolve("llm.example.com")


@pytest.mark.parametrize("number", ["2130706433", "0x7f.1", "127.1", "017700000001"])
async def test_other_spellings_of_a_private_address_are_not_connected_to(number: str) -> None:
    async with Upstream(reply(200)) as upstream, ProviderClient(public_only=True) as client:
        model = BoundModel(LINES, Endpoint(f"http://{number}:{upstream.port}"), client, setting="llm_config.base_url")
        ((failed,),) = [events async for events in model.stream(ask(), Timeline())]
        assert isinstance(failed, ModelFailed)
        assert failed.error.reason is Reason.PROVIDER_UNREACHABLE
        assert not upstream.connections


async def test_a_private_address_behind_a_name_is_not_connected_to_and_not_told() -> None:
    async with Upstream(reply(200)) as upstream, ProviderClient(public_only=True) as client:
        url = f"http://localhost:{upstream.port}"
        model = BoundModel(LINES, Endpoint(url), client, setting="llm_config.base_url")
        ((failed,),) = [events async for events in model.stream(ask(), Timeline())]
        assert isinstance(failed, ModelFailed)
        assert failed.error.reason is Reason.PROVIDER_UNREACHABLE
        assert not failed.error.retryable
        assert "localhost does not lead to a public address" in failed.error.message
        assert "llm_config.base_url" in failed.error.message
        assert "127.0.0.1" not in failed.error.message
        assert not upstream.connections
