"""Calls by method name with bytes, and errors taken apart: what a foreign client sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_status import rpc_status  # type: ignore[import-untyped]  # no stubs

from agentsvc import v1
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

    def but_for(self, asked: str) -> tuple[Any, ...]:
        """All that a caller learns, but for the id asked for and the request id."""
        trailers = {key for key in self.trailers if key != "grpc-status-details-bin"}
        return self.code, self.message.replace(repr(asked), "?"), self.reason, self.fields, self.metadata, trailers


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


async def rest(call: Any) -> list[v1.ChatEvent]:
    """What a call that is read message by message still brings."""
    events = []
    while (response := await call.read()) is not grpc.aio.EOF:
        events.append(response.event)
    return events


async def to_the_end(call: Any) -> tuple[list[v1.ChatEvent], grpc.aio.AioRpcError]:
    """All events of a call that ends with an error, and that error."""
    events = []
    try:
        async for response in call:
            events.append(response.event)  # noqa: PERF401 - what came before the error counts
    except grpc.aio.AioRpcError as error:
        return events, error
    raise AssertionError("the call ended well")


def invoke(channel: grpc.aio.Channel, method: Any, request: Message | bytes, metadata: Any = ()) -> Any:
    """Calls a method known by its descriptor alone."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    response = GetMessageClass(method.output_type)
    make: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
    raw = request if isinstance(request, bytes) else request.SerializeToString()
    return make(path, response_deserializer=response.FromString)(raw, metadata=metadata, timeout=20)
