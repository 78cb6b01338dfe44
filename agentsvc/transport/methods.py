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
from typing import Any, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from agentsvc.domain.errors import AgentsvcError, Error, Reason
from agentsvc.transport import validation
from agentsvc.transport.errors import RichStatus
from agentsvc.transport.interceptors import REQUEST_ID, Call, Context, Handler, call, internal

log = logging.getLogger(__name__)

Method: TypeAlias = Callable[[Any, Call], Awaitable[Message | None]]
Behaviour: TypeAlias = Callable[[bytes, Context], Awaitable[Any]]


def bind(service: ServiceDescriptor, implementation: object) -> grpc.GenericRpcHandler:
    """Handlers for all methods of ``service``; their request types are warmed up."""
    validation.warm(GetMessageClass(method.input_type) for method in service.methods)
    handlers = {method.name: _handler(method, implementation) for method in service.methods}
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _handler(descriptor: MethodDescriptor, implementation: object) -> Handler:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", descriptor.name).lower()
    method: Method | None = getattr(implementation, name, None)
    guarded = _unbuilt(descriptor) if method is None else _guarded(descriptor, method)
    if descriptor.server_streaming:
        # Bytes in both directions: the journal's entries are the responses, encoded once for all readers.
        return grpc.unary_stream_rpc_method_handler(guarded)
    response = GetMessageClass(descriptor.output_type)
    return grpc.unary_unary_rpc_method_handler(guarded, response_serializer=response.SerializeToString)


def _guarded(descriptor: MethodDescriptor, method: Method) -> Behaviour:
    """The method between parsed bytes and a status, whatever happens in it."""
    kind = GetMessageClass(descriptor.input_type)

    async def behave(raw: bytes, context: Context) -> Message | None:
        current = call.get()
        current.context = context
        context.set_trailing_metadata(((REQUEST_ID, current.request_id),))
        try:
            return await method(validation.parse(kind, raw), current)
        except AgentsvcError as raised:
            failure = raised.error
        except grpc.aio.BaseError:
            raise  # gRPC's own: the caller has gone or the server has stopped, there is nobody to answer
        except BaseException as bug:  # the outermost edge: a bug of ours must not show its inside, nor end in a bare UNKNOWN
            if isinstance(bug, asyncio.CancelledError) and is_cancelled():
                raise  # always: a handler that swallows it leaks native memory with each call
            # Whatever else is no Exception: gRPC would log it and leave the caller waiting for a status for ever.
            log.exception("%s failed unexpectedly, request id %s", descriptor.full_name, current.request_id)
            failure = internal(current.request_id)
        await _abort(context, failure, current.request_id)
        return None  # abort has raised

    return behave


def is_cancelled() -> bool:
    """Whether somebody cancelled this task, rather than something in it having raised CancelledError by itself."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _unbuilt(descriptor: MethodDescriptor) -> Behaviour:
    async def refuse(_: bytes, context: Context) -> None:
        request_id = call.get().request_id
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        failure = Error(Reason.NOT_IMPLEMENTED, f"{descriptor.full_name} is not built yet.")
        await _abort(context, failure, request_id)

    return refuse


async def _abort(context: Context, error: Error, request_id: str) -> None:
    """Ends the call with ``error``, keeping the trailers set so far."""
    await context.abort_with_status(RichStatus(error, request_id, context.trailing_metadata()))
