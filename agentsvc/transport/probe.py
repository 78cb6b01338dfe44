"""Whether a running service is ready, asked from outside: what a container's health check runs."""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no stubs

_PATIENCE = 2.0  # seconds


async def is_serving(address: str, *, tls: bool = False) -> bool:
    """Asks grpc.health.v1 on ``address`` (host:port; 0.0.0.0 and :: mean this machine) whether it takes new runs.

    With ``tls`` only that the port listens: a probe has neither the certificate's name nor, under mTLS, one of its own.
    """
    host, _, port = address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - compared, not bound
    if tls:
        return await _listens(host.strip("[]"), int(port))
    async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
        request = health_pb2.HealthCheckRequest()
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=_PATIENCE)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _listens(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True
