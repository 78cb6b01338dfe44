from __future__ import annotations

import asyncio
import ipaddress
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no stubs
from grpc_reflection.v1alpha import reflection_pb2  # type: ignore[import-untyped]  # no stubs

from agentsvc import v1
from agentsvc.domain.errors import AgentsvcError, Error, Reason
from agentsvc.domain.events import ModelFailed
from agentsvc.transport.server import Server, ServerConfig, Tls
from tests.transport.house import ADMIN, CALLER, House, bearer, open_house
from tests.transport.rpc import METHODS, SERVICES, invoke, refused

NAMES = ["", "liveness", "readiness", *(service.full_name for service in SERVICES)]
ANYWHERE = "127.0.0.1:0"


async def health(house: House, name: str) -> str:
    stub = health_pb2_grpc.HealthStub(house.channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(service=name))
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


@pytest.mark.parametrize("name", NAMES)
async def test_health_needs_no_token_and_knows_every_service(house: House, name: str) -> None:
    assert await health(house, name) == "SERVING"


async def test_a_server_that_is_not_ready_is_still_alive(house: House) -> None:
    await house.server.set_ready(ready=False)
    assert {name: await health(house, name) for name in NAMES} == {
        name: "SERVING" if name == "liveness" else "NOT_SERVING" for name in NAMES
    }
    await house.server.set_ready(ready=True)
    assert await health(house, "readiness") == "SERVING"


async def reflect(channel: grpc.aio.Channel, version: str, **asked: Any) -> Any:
    """One question to the reflection service, as grpcurl (v1) and older tools (v1alpha) put it."""
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(timeout=10)
    await call.write(reflection_pb2.ServerReflectionRequest(**asked))
    response = await call.read()
    await call.done_writing()
    return response


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_services_under_both_names_and_needs_no_token(house: House, version: str) -> None:
    response = await reflect(house.channel, version, list_services="*")
    listed = {service.name for service in response.list_services_response.service}
    assert listed >= {service.full_name for service in SERVICES} | {"grpc.health.v1.Health"}


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize("symbol", [service.full_name for service in SERVICES])
async def test_reflection_gives_every_file_that_a_service_needs(house: House, version: str, symbol: str) -> None:
    response = await reflect(house.channel, version, file_containing_symbol=symbol)
    files = [FileDescriptorProto.FromString(raw) for raw in response.file_descriptor_response.file_descriptor_proto]
    names = {file.name for file in files}
    assert all(dependency in names for file in files for dependency in file.dependency)
    assert "buf/validate/validate.proto" in names


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_can_be_turned_off(version: str) -> None:
    async with open_house(config=ServerConfig(address=ANYWHERE, reflection=False)) as house:
        with pytest.raises(grpc.aio.AioRpcError) as off:
            await reflect(house.channel, version, list_services="*")
        assert off.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_burst_of_streams_is_accepted_whole(house: House) -> None:
    answers = await asyncio.gather(*(house.ask() for _ in range(300)))
    assert all(events[-1].HasField("run_finished") for events in answers)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("raw", [b"\xff" * 64, b"\x0a\x05ab"], ids=["noise", "cut off"])
async def test_bytes_that_are_no_request_get_a_typed_error(house: House, method: Any, raw: bytes) -> None:
    found = await refused(invoke(house.channel, method, raw, bearer(ADMIN)))
    assert found.reason in {"INVALID_FIELD", "NOT_IMPLEMENTED"}
    assert "Traceback" not in found.message


async def test_a_request_above_the_limit_of_a_field_gets_a_typed_error_up_to_32_mib(house: House) -> None:
    question = v1.StreamChatRequest(agent_id="demo", message="x" * (31 << 20))
    found = await refused(house.agents.StreamChat(question, metadata=bearer(CALLER)))
    assert (found.reason, found.fields) == ("INVALID_FIELD", ("message",))


def retrying(house: House) -> grpc.aio.Channel:
    """A client as meshes and service configs make them: it repeats calls, after 60 s unless the service says when."""
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "60s",
        "maxBackoff": "60s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED"],
    }
    config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
    return grpc.aio.insecure_channel(house.target, options=[("grpc.service_config", config)])


class Sulking:
    """Something that fails a few times before it does its work."""

    def __init__(self, work: Any, *errors: AgentsvcError) -> None:
        self.work = work
        self.errors = list(errors)
        self.asked = 0

    async def __call__(self, *arguments: Any) -> Any:
        self.asked += 1
        if self.errors:
            raise self.errors.pop()
        return await self.work(*arguments)


async def test_a_refusal_is_repeated_by_the_channel_when_the_service_says(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = [AgentsvcError(reason, "soon", retry_after=0.01) for reason in (Reason.OVERLOADED, Reason.DRAINING)]
    monkeypatch.setattr(house.authenticator, "authenticate", Sulking(house.authenticator.authenticate, soon[0]))
    monkeypatch.setattr(house.catalog, "prepare", Sulking(house.catalog.prepare, soon[1]))
    async with retrying(house) as channel, asyncio.timeout(20):
        question = v1.StreamChatRequest(agent_id="demo", message="hi")
        call = v1.AgentServiceStub(channel).StreamChat(question, metadata=bearer(CALLER))
        assert [r.event async for r in call][-1].HasField("run_finished")
    assert len(house.model.requests) == 1


async def test_a_channel_does_not_repeat_what_cannot_succeed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = Sulking(house.catalog.delete, AgentsvcError(Reason.ETAG_MISMATCH, "read it again"))
    monkeypatch.setattr(house.catalog, "delete", stale)
    async with retrying(house) as channel, asyncio.timeout(20):
        stub = v1.AgentAdminServiceStub(channel)
        refused_once = stub.DeleteAgent(v1.DeleteAgentRequest(agent_id="demo", etag="old"), metadata=bearer(ADMIN))
        assert (await refused(refused_once)).reason == "ETAG_MISMATCH"
    assert stale.asked == 1


async def test_a_chat_under_way_is_never_repeated(house: House) -> None:
    async def failing(request: Any) -> Any:
        yield [ModelFailed(Error(Reason.PROVIDER_OVERLOADED, "later", "openai", True, 0.01))]

    house.model.script = failing
    async with retrying(house) as channel, asyncio.timeout(20):
        stub = v1.AgentServiceStub(channel)
        call = stub.Chat(v1.ChatRequest(agent_id="demo", message="hi"), metadata=bearer(CALLER))
        assert (await refused(call)).reason == "PROVIDER_OVERLOADED"
    assert len(house.model.requests) == 1


async def test_a_method_that_does_not_exist_is_unimplemented(house: House) -> None:
    nope: Any = house.channel.unary_unary("/agentsvc.v1.AgentService/Nope")
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await nope(b"", metadata=bearer(CALLER))
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_port_in_use_is_said_plainly(house: House) -> None:
    twin = house.server
    second = Server(ServerConfig(address=house.target), twin._authenticator, twin._agents._runs, None, None)  # type: ignore[arg-type]
    with pytest.raises(OSError, match=f"cannot listen on {house.target}"):
        await second.start()


async def test_stopping_twice_is_stopping_once(house: House) -> None:
    await house.server.stop()
    await house.server.stop()


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:1", "[::1]:1", "unix:/tmp/x"])
def test_loopback_may_be_plaintext(address: str) -> None:
    assert ServerConfig(address=address).address == address


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.com:1"])
def test_plaintext_beyond_loopback_must_be_asked_for(address: str) -> None:
    with pytest.raises(ValueError, match="TLS"):
        ServerConfig(address=address)
    assert ServerConfig(address=address, plaintext=True).plaintext


@pytest.fixture
def pem(tmp_path: Path) -> Tls:
    """A certificate for 127.0.0.1 that is its own authority, and so also one for clients."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agentsvc test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    tls = Tls(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "cert.pem")
    tls.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    tls.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return tls


async def listed(house: House, credentials: grpc.ChannelCredentials) -> Any:
    async with grpc.aio.secure_channel(house.target, credentials) as channel:
        stub = v1.AgentServiceStub(channel)
        return await stub.ListRuns(v1.ListRunsRequest(), metadata=bearer(CALLER), timeout=5)


async def test_tls_serves_clients_that_trust_it(pem: Tls) -> None:
    config = ServerConfig(address=ANYWHERE, tls=Tls(pem.certificate, pem.key))
    async with open_house(config=config) as house:
        assert await listed(house, grpc.ssl_channel_credentials(pem.certificate.read_bytes())) is not None


async def test_mtls_lets_in_only_clients_with_a_certificate(pem: Tls) -> None:
    async with open_house(config=ServerConfig(address=ANYWHERE, tls=pem)) as house:
        certificate, key = pem.certificate.read_bytes(), pem.key.read_bytes()
        assert await listed(house, grpc.ssl_channel_credentials(certificate, key, certificate)) is not None
        with pytest.raises(grpc.aio.AioRpcError) as shut:
            await listed(house, grpc.ssl_channel_credentials(certificate))
        assert shut.value.code() is grpc.StatusCode.UNAVAILABLE
