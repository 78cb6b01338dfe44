"""The client over TLS: the handshake is a stage of its own, distrust is told, leaving does not wait for a good-bye."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agentsvc.domain.errors import Reason
from agentsvc.domain.events import ModelFailed
from agentsvc.domain.timeline import Timeline
from agentsvc.providers.bound import BoundModel
from agentsvc.providers.client import ProviderClient
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.pool import PoolConfig, RetryPolicy
from tests.providers.lines import LINES, ask
from tests.upstream import Upstream, stream, until

HELLO = [b"text hello\n", b"end\n"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "upstream.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + made.public_bytes(pem))
    return file


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def model_for(client: ProviderClient, url: str) -> BoundModel:
    return BoundModel(LINES, Endpoint(url, "secret"), client, setting="LINES_BASE_URL")


async def test_the_handshake_is_a_stage_of_the_first_request_only(certificate: Path, tls: ssl.SSLContext) -> None:
    config = PoolConfig(ca_file=str(certificate))
    async with Upstream(stream(HELLO), tls=tls) as upstream, ProviderClient(config) as client:
        stages = []
        for _ in range(2):
            timeline = Timeline()
            async for _ in model_for(client, upstream.url).stream(ask(), timeline):
                pass
            stages.append({timing.stage: timing.duration_us for timing in timeline.timings()})
        assert list(stages[0]) == ["pool", "connect", "tls", "request", "first_token"]
        assert stages[0]["tls"] > stages[0]["connect"]
        assert list(stages[1]) == ["pool", "request", "first_token"]
        assert len(upstream.connections) == 1


async def test_warming_does_the_handshake_ahead(certificate: Path, tls: ssl.SSLContext) -> None:
    config = PoolConfig(ca_file=str(certificate))
    async with Upstream(stream(HELLO), tls=tls) as upstream, ProviderClient(config) as client:
        assert await client.warm(upstream.url) == 1
        timeline = Timeline()
        async for _ in model_for(client, upstream.url).stream(ask(), timeline):
            pass
        assert "tls" not in {timing.stage for timing in timeline.timings()}


async def test_a_certificate_that_nobody_vouches_for_is_told_and_not_tried_again(tls: ssl.SSLContext) -> None:
    async with Upstream(stream(HELLO), tls=tls) as upstream, ProviderClient() as client:
        batches = [events async for events in model_for(client, upstream.url).stream(ask(), Timeline())]
        (failed,) = batches[-1]
        assert isinstance(failed, ModelFailed)
        assert failed.error.reason is Reason.PROVIDER_UNREACHABLE
        assert f"the certificate of 127.0.0.1:{upstream.port} is not trusted" in failed.error.message
        assert not failed.error.retryable


async def test_a_handshake_that_does_not_end_is_given_up() -> None:
    config = PoolConfig(connect_timeout=0.2, retry=RetryPolicy(max_retries=0))
    async with Upstream(stream(HELLO)) as upstream, ProviderClient(config) as client:
        model = model_for(client, f"https://127.0.0.1:{upstream.port}")
        ((failed,),) = [events async for events in model.stream(ask(), Timeline())]
        assert isinstance(failed, ModelFailed)
        assert failed.error.reason is Reason.PROVIDER_UNREACHABLE
        assert "in time" in failed.error.message
        await asyncio.wait_for(upstream.connections[0].closed.wait(), 5)


async def test_who_leaves_during_the_handshake_closes_the_connection_at_once() -> None:
    async with Upstream(stream(HELLO)) as upstream, ProviderClient() as client:
        asked = asyncio.ensure_future(
            anext(model_for(client, f"https://127.0.0.1:{upstream.port}").stream(ask(), Timeline()))
        )
        await until(lambda: upstream.connections)
        asked.cancel()
        left = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await asyncio.wait_for(upstream.connections[0].closed.wait(), 5)
        assert upstream.connections[0].closed_at - left < 1


async def test_who_leaves_does_not_wait_for_the_vendors_good_bye(certificate: Path, tls: ssl.SSLContext) -> None:
    config = PoolConfig(ca_file=str(certificate))
    async with Upstream(stream(HELLO[:1], finish="stall"), tls=tls) as upstream, ProviderClient(config) as client:
        answers = model_for(client, upstream.url).stream(ask(), Timeline())
        await anext(answers)
        left = time.monotonic()
        await answers.aclose()
        await asyncio.wait_for(upstream.connections[0].closed.wait(), 5)
        assert upstream.connections[0].closed_at - left < 1
        assert client.stats().open_connections == 0
