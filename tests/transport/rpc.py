"""Calls by method name with bytes, and errors taken apart: what a foreign client sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from agentsvc.v1 import (
    agent_admin_service_pb2,
    agent_service_pb2,
    memory_service_pb2,
    provider_service_pb2,
    session_service_pb2,
)

SERVICES = [
    service
    for module in (
        agent_service_pb2,
        agent_admin_service_pb2,
        session_service_pb2,
        memory_service_pb2,
        provider_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
]
METHODS = [method for service in SERVICES for method in service.methods]


@dataclass(frozen=True)
class Refusal:
    """A status taken apart."""

    code: str
    message: str
    reason: str
    fields: tuple[str, ...]
    metadata: dict[str, str]
    request_id: str
    trailers: dict[str, Any]


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    rich = rpc_status.from_call(error)
    info, request, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo(), error_details_pb2.BadRequest()
    for detail in rich.details if rich else ():
        for message in (info, request, bad):
            detail.Unpack(message)
    return Refusal(
        error.code().name,
        error.details() or "",
        info.reason,
        tuple(violation.field for violation in bad.field_violations),
        dict(info.metadata),
        request.request_id,
        dict(error.trailing_metadata() or ()),
    )


async def refused(call: Any) -> Refusal:
    """What a unary or streaming call is refused with; it must not have sent anything before."""
    try:
        if hasattr(call, "read"):
            assert await call.read() is grpc.aio.EOF
            raise grpc.aio.AioRpcError(await call.code(), None, await call.trailing_metadata(), await call.details())
        await call
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    raise AssertionError("the call was not refused")


def invoke(channel: grpc.aio.Channel, method: Any, request: Message | bytes, metadata: Any = ()) -> Any:
    """Calls a method known by its descriptor alone."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    response = GetMessageClass(method.output_type)
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    raw = request if isinstance(request, bytes) else request.SerializeToString()
    return make(path, response_deserializer=response.FromString)(raw, metadata=metadata, timeout=20)
