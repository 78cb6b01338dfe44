"""The gRPC server: options that were found by running them, services, health, reflection, TLS."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no stubs
from grpc_health.v1.health import aio as health  # type: ignore[import-untyped]  # no stubs
from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped]  # no stubs
from grpc_reflection.v1alpha.reflection import aio as reflection_aio  # type: ignore[import-untyped]  # no stubs

from agentsvc.domain.errors import Code
from agentsvc.domain.ports import Authenticator, ProviderDirectory
from agentsvc.engine.catalog import Catalog
from agentsvc.engine.runs import Runs
from agentsvc.engine.sessions import Sessions
from agentsvc.transport import compression
from agentsvc.transport.address import is_loopback
from agentsvc.transport.agent_admin_service import AgentAdminService
from agentsvc.transport.agent_service import AgentService
from agentsvc.transport.grpc_log import be_calm_about_gone_callers
from agentsvc.transport.interceptors import Gate, RpcEnded, unwatched
from agentsvc.transport.methods import bind
from agentsvc.transport.provider_service import ProviderService
from agentsvc.transport.readiness import Readiness
from agentsvc.transport.scheduling import threads_give_way
from agentsvc.transport.session_service import SessionService
from agentsvc.v1 import (
    agent_admin_service_pb2,
    agent_service_pb2,
    memory_service_pb2,
    provider_service_pb2,
    session_service_pb2,
)

LIVENESS: Final = "liveness"
READINESS: Final = "readiness"
_SHUTDOWN: Final = "shutdown"
_LOOK: Final = 0.01  # seconds between two looks at whether the last reader has left
_TRAILERS: Final = 0.1  # seconds that its status has to follow

_OPTIONS: Final = (
    # A burst of new streams is otherwise refused at random, with CANCELLED (4 to 665 of 3,000).
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    # Far above what validation allows, so that a request that is too big gets a typed error and not gRPC's bare one.
    ("grpc.max_receive_message_length", 32 << 20),
    ("grpc.max_send_message_length", -1),
    compression.OPTION,
)


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. With ``client_ca`` only clients with a certificate of that authority are let in (mTLS)."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Reads the files."""
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        authority = self.client_ca.read_bytes() if self.client_ca else None
        return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Pings in both directions, in seconds.

    A connection that was silent for ``time`` is pinged and, unanswered for ``timeout``, closed: a caller whose machine
    is gone frees its slot within their sum. Callers may ping every ``min_client_interval``; with gRPC's own default of
    300 s a silent stream dies of "too many pings" after the third.
    """

    time: float = 30.0
    timeout: float = 10.0
    min_client_interval: float = 5.0

    def options(self) -> tuple[tuple[str, int], ...]:
        """As the server takes them."""
        return (
            ("grpc.keepalive_time_ms", round(self.time * 1000)),
            ("grpc.keepalive_timeout_ms", round(self.timeout * 1000)),
            # The one that counts: without it an unanswered ping closes the connection after 60 s, whatever the line above.
            ("grpc.http2.ping_timeout_ms", round(self.timeout * 1000)),
            # The key of much copied advice, ...min_recv_ping_interval..., is not read by anybody.
            ("grpc.http2.min_ping_interval_without_data_ms", round(self.min_client_interval * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
        )


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """``address`` is host:port, port 0 for any free one; ``heartbeat`` is in seconds.

    ``plaintext`` must be said to listen beyond loopback without TLS; ``reuse_port`` lets several workers share the port.
    """

    address: str = "127.0.0.1:50051"
    heartbeat: float = 15.0
    reflection: bool = True
    reuse_port: bool = False
    plaintext: bool = False
    tls: Tls | None = field(default=None, repr=False)
    keepalive: Keepalive = Keepalive()

    def __post_init__(self) -> None:
        if self.tls is None and not self.plaintext and not is_loopback(self.address):
            raise ValueError(f"{self.address} is open to others: give it TLS, or allow plaintext expressly")


class Server:
    """Serves the contract on one address. Ready from ``start`` on, unless something speaks against it (``readiness``).

    ``rpc_ended`` is told of every RPC of the contract, refused ones included; health and reflection do not count.
    ``directory`` None: nobody here knows the providers, and ListProviders is NOT_IMPLEMENTED.
    """

    def __init__(
        self,
        config: ServerConfig,
        authenticator: Authenticator,
        runs: Runs,
        catalog: Catalog,
        sessions: Sessions,
        rpc_ended: RpcEnded = unwatched,
        directory: ProviderDirectory | None = None,
    ) -> None:
        self.readiness = Readiness()
        self.readiness.on_change = self._tell_health
        self._config = config
        self._authenticator = authenticator
        self._admission = runs.admission
        self._rpc_ended = rpc_ended
        self._agents = AgentService(runs, config.heartbeat)
        self._services: dict[ServiceDescriptor, object] = {
            agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"]: self._agents,
            agent_admin_service_pb2.DESCRIPTOR.services_by_name["AgentAdminService"]: AgentAdminService(catalog),
            session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]: SessionService(sessions, runs, catalog),
            memory_service_pb2.DESCRIPTOR.services_by_name["MemoryService"]: None,  # not built yet: NOT_IMPLEMENTED
            provider_service_pb2.DESCRIPTOR.services_by_name["ProviderService"]: (
                None if directory is None else ProviderService(directory)
            ),
        }
        self._methods = frozenset(
            f"{service.full_name}/{rpc.name}" for service in self._services for rpc in service.methods
        )
        self._health = health.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listens; from now on ``port`` is the real one.

        Raises:
            OSError: the address cannot be listened on.
        """
        be_calm_about_gone_callers()
        with threads_give_way():
            self._server = await self._started()

    async def _started(self) -> grpc.aio.Server:
        # Without so_reuseport 0 a second process would silently share the port and take half of the calls.
        options = (*_OPTIONS, *self._config.keepalive.options(), ("grpc.so_reuseport", int(self._config.reuse_port)))
        server = grpc.aio.server(interceptors=[Gate(self._authenticator, self._ended)], options=options)
        server.add_generic_rpc_handlers(
            [bind(service, methods, self._ended) for service, methods in self._services.items()]
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._config.reflection:
            self._add_reflection(server)
        self.port = self._listen(server)
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self._tell_health(not self.readiness.reason)
        await server.start()
        return server

    async def set_ready(self, *, ready: bool) -> None:
        """Whether new runs may come, as far as this process itself is concerned; ``readiness`` has the other causes."""
        if ready:
            await self.readiness.regained(_SHUTDOWN)
        else:
            await self.readiness.lost(_SHUTDOWN, "the service is shutting down")

    async def _tell_health(self, ready: bool) -> None:
        """What health tells of readiness, of every service and of the server as a whole (the empty name)."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", READINESS, *(service.full_name for service in self._services)):
            await self._health.set(name, status)

    def announce_drain(self, retry_after: float) -> None:
        """Tells every reader, also those that are yet to come, to subscribe elsewhere after so many seconds."""
        self._agents.streams.drain(retry_after)

    async def stop(self, grace: float = 0.0) -> None:
        """Stops listening at once; readers that go on have ``grace`` seconds. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        await self.set_ready(ready=False)
        stopping = asyncio.create_task(server.stop(grace))
        # Not just gRPC's own wait: whoever watches health never leaves.
        while self._admission.readers and not stopping.done():  # noqa: ASYNC110 - once in a process' life; no event needed
            await asyncio.sleep(_LOOK)
        await server.stop(_TRAILERS)
        await stopping

    def _ended(self, method: str, code: Code, seconds: float) -> None:
        """Names of methods that nobody but the caller knows are not passed on: they would be without number."""
        self._rpc_ended(method if method in self._methods else "other", code, seconds)

    def _listen(self, server: grpc.aio.Server) -> int:
        address, tls = self._config.address, self._config.tls
        try:
            if tls is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, tls.credentials())
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: is another process using it?") from error

    def _add_reflection(self, server: grpc.aio.Server) -> None:
        """v1alpha as grpcio ships it, and the same servicer under v1: the messages are the same on the wire."""
        names = [service.full_name for service in self._services]
        servicer = reflection_aio.ReflectionServicer((*names, "grpc.health.v1.Health", reflection.SERVICE_NAME))
        handler: Any = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
                for name in ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)
            ]
        )
