"""A service object bound to its descriptor: every RPC of the contract gets a handler, all of one make.

The method of an RPC is found by its name (``StreamChat`` -> ``stream_chat``); one that is not there is answered with
NOT_IMPLEMENTED. A method takes ``(request, call)``; a unary one returns its response, a streaming one writes to
``call.context`` and returns None. Both fail by raising: this is the outermost edge, where an exception becomes a status.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from agentsvc.domain.errors import AgentsvcError, Code, Error, Reason
from agentsvc.transport import compression, validation
from agentsvc.transport.errors import RichStatus
from agentsvc.transport.interceptors import (
    REQUEST_ID,
    Call,
    Context,
    Handler,
    RpcEnded,
    call,
    internal,
    is_cancelled,
    unwatched,
)

log = logging.getLogger(__name__)

Method: TypeAlias = Callable[[Any, Call], Awaitable[Message | None]]
Behaviour: TypeAlias = Callable[[bytes, Context], Awaitable[Any]]

_DEADLINE_SLACK = 0.05  # seconds: at its deadline a caller hangs up a moment before or after our own clock says so


def bind(service: ServiceDescriptor, implementation: object, ended: RpcEnded = unwatched) -> grpc.GenericRpcHandler:
    """Handlers for all methods of ``service``, whose calls ``ended`` is told; their request types are warmed up."""
    validation.warm(GetMessageClass(method.input_type) for method in service.methods)
    handlers = {method.name: _handler(method, implementation, ended) for method in service.methods}
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _handler(descriptor: MethodDescriptor, implementation: object, ended: RpcEnded) -> Handler:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", descriptor.name).lower()
    method: Method | None = getattr(implementation, name, None)
    guarded = _unbuilt(descriptor, ended) if method is None else _guarded(descriptor, method, ended)
    if descriptor.server_streaming:
        # Bytes in both directions: the journal's entries are the responses, encoded once for all readers.
        return grpc.unary_stream_rpc_method_handler(guarded)
    response = GetMessageClass(descriptor.output_type)
    return grpc.unary_unary_rpc_method_handler(guarded, response_serializer=response.SerializeToString)


def _guarded(descriptor: MethodDescriptor, method: Method, ended: RpcEnded) -> Behaviour:
    """The method between parsed bytes and a status, whatever happens in it."""
    kind, name = GetMessageClass(descriptor.input_type), _path(descriptor)

    async def behave(raw: bytes, context: Context) -> Message | None:
        current = call.get()
        with _Counted(name, context, ended):
            current.context = context
            try:
                response = await method(validation.parse(kind, raw), current)
            except AgentsvcError as raised:
                failure = raised.error
            except grpc.aio.BaseError:
                raise  # gRPC's own: the caller has gone or the server has stopped, there is nobody to answer
            # The outermost edge: a bug must not show its inside, nor end in a bare UNKNOWN.
            except BaseException as bug:
                if isinstance(bug, asyncio.CancelledError) and is_cancelled():
                    raise  # always: a handler that swallows it leaks native memory with each call
                # Whatever else is no Exception: gRPC would log it and leave the caller waiting for a status for ever.
                log.exception("%s failed unexpectedly, request id %s", descriptor.full_name, current.request_id)
                failure = internal(current.request_id)
            else:
                if response is not None:
                    compression.settle(context, response.ByteSize())
                if not context.trailing_metadata():
                    context.set_trailing_metadata(((REQUEST_ID, current.request_id),))
                return response
            await _abort(context, failure, current.request_id)
            return None  # abort has raised

    return behave


class _Counted:
    """Tells how a call ended. No coroutine around the method: each would be walked through at every message."""

    __slots__ = ("_context", "_ended", "_name")

    def __init__(self, name: str, context: Context, ended: RpcEnded) -> None:
        self._name = name
        self._context = context
        self._ended = ended

    def __enter__(self) -> None: ...

    def __exit__(self, failed: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        code = Code.OK if failed is None else _code(self._context)
        self._ended(self._name, code, call.get().timeline.elapsed_us() * 1e-6)


def _path(descriptor: MethodDescriptor) -> str:
    return f"{descriptor.containing_service.full_name}/{descriptor.name}"


def _code(context: Context) -> Code:
    """With what status a call ended that did not end well: ours, or the caller's, who has gone or whose time is up."""
    said: grpc.StatusCode | None = context.code()
    if said is not None:
        return Code(said.value[0])
    remaining: float | None = context.time_remaining()
    return Code.CANCELLED if remaining is None or remaining > _DEADLINE_SLACK else Code.DEADLINE_EXCEEDED


def _unbuilt(descriptor: MethodDescriptor, ended: RpcEnded) -> Behaviour:
    name = _path(descriptor)

    async def refuse(_: bytes, context: Context) -> None:
        with _Counted(name, context, ended):
            failure = Error(Reason.NOT_IMPLEMENTED, f"{descriptor.full_name} is not built yet.")
            await _abort(context, failure, call.get().request_id)

    return refuse


async def _abort(context: Context, error: Error, request_id: str) -> None:
    """Ends the call with ``error``, keeping the trailers set so far."""
    trailers = context.trailing_metadata() or ((REQUEST_ID, request_id),)
    await context.abort_with_status(RichStatus(error, request_id, trailers))
