"""The gate before every handler: who calls, may they, under which request id; and the clock starts.

It works on metadata alone and refuses before the request's message is read, so nobody without a token makes us parse
32 MiB. What it learnt travels to the handler in one ContextVar: grpc.aio runs both in the same task.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import grpc

from agentsvc.domain.errors import AgentsvcError, Code, Error, Reason
from agentsvc.domain.ports import Authenticator
from agentsvc.domain.runs import Principal
from agentsvc.domain.timeline import Stage, Timeline
from agentsvc.engine.ids import new_id
from agentsvc.transport.errors import RichStatus

log = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

RpcEnded: TypeAlias = Callable[[str, Code, float], None]
"""``(method, code, seconds)`` of every RPC that ended, as ``agentsvc.v1.AgentService/Chat``. Must not raise."""

REQUEST_ID: Final = "x-request-id"
OPEN: Final = ("/grpc.health.v1.Health/", "/grpc.reflection.v1.", "/grpc.reflection.v1alpha.")
ADMIN_ONLY: Final = frozenset(
    {
        "/agentsvc.v1.AgentAdminService/CreateAgent",
        "/agentsvc.v1.AgentAdminService/UpdateAgent",
        "/agentsvc.v1.AgentAdminService/DeleteAgent",
        "/agentsvc.v1.ProviderService/ListProviders",
    }
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_BEARER = re.compile(r"[Bb]earer +([!-~]{1,4096})")  # RFC 6750, RFC 9110 11.1: the scheme is case-insensitive
_USUAL = "Bearer "
_SEND = "send one metadata entry `authorization: Bearer <token>`."


@dataclass(slots=True)
class Call:
    """What is known about a call when its handler starts."""

    principal: Principal
    timeline: Timeline
    _request_id: str  # the caller's; empty when there is none
    context: Context = field(init=False)  # set by the handler's guard: before the message is read there is none

    @property
    def request_id(self) -> str:
        """The caller's, or one of ours, which is made when it is first asked for: the first token can do without."""
        if not self._request_id:
            self._request_id = new_id("request")
        return self._request_id

    @property
    def deadline(self) -> float | None:
        """The caller's deadline as a reading of ``time.monotonic``; None when there is none."""
        remaining: float | None = self.context.time_remaining()
        return None if remaining is None else time.monotonic() + remaining


call: ContextVar[Call] = ContextVar("call")


class Gate(grpc.aio.ServerInterceptor):
    """Bearer token -> Principal, role, request id. All methods need a token, save health and reflection."""

    def __init__(self, authenticator: Authenticator, ended: RpcEnded) -> None:
        self._authenticator = authenticator
        self._ended = ended

    def intercept_service(  # type: ignore[override]  # gRPC only awaits what it returns
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Awaitable[Handler | None]:
        """The method's own handler for those who may call it, one that refuses for the others.

        No coroutine for a token that is known: every call comes this way, and nearly all have one.
        """
        timeline = Timeline()
        method: str = handler_call_details.method
        if method.startswith(OPEN):
            return continuation(handler_call_details)
        authorizations, request_id = _read(handler_call_details.invocation_metadata)
        principal = self._recalled(authorizations)
        if principal is None or method in ADMIN_ONLY:
            return self._examined(continuation, handler_call_details, authorizations, request_id, timeline)
        timeline.reached(Stage.AUTH)
        call.set(Call(principal, timeline, request_id))
        return continuation(handler_call_details)

    def _recalled(self, authorizations: Sequence[str]) -> Principal | None:
        """Who calls, if this is the usual header with a token that is known. What is odd about others, others say."""
        if len(authorizations) == 1 and authorizations[0].startswith(_USUAL):
            try:
                return self._authenticator.recall(authorizations[0][len(_USUAL) :])
            except Exception:  # no way in and no end: the whole way has an edge, and says what is wrong
                return None
        return None

    async def _examined(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        details: grpc.HandlerCallDetails,
        authorizations: Sequence[str],
        request_id: str,
        timeline: Timeline,
    ) -> Handler | None:
        """The whole way, where it may have to be waited for, or refused."""
        method: str = details.method
        request_id = request_id or new_id("request")
        try:
            principal = await self._authenticator.authenticate(_bearer(authorizations))
            if method in ADMIN_ONLY and not principal.is_admin:
                raise AgentsvcError(Reason.PERMISSION_DENIED, f"{method} needs a token with the role admin.")
        except AgentsvcError as refused:
            return self._refusal(refused.error, request_id, method, timeline)
        except BaseException as bug:  # the outermost edge: the caller gets a typed answer and we a log line
            if isinstance(bug, asyncio.CancelledError) and is_cancelled():
                raise
            log.exception("authentication failed unexpectedly, request id %s", request_id)
            return self._refusal(internal(request_id), request_id, method, timeline)
        timeline.reached(Stage.AUTH)
        call.set(Call(principal, timeline, request_id))
        return await continuation(details)

    def _refusal(self, error: Error, request_id: str, method: str, timeline: Timeline) -> Handler:
        """A handler that answers without reading the request: to gRPC it is one that might have read a stream."""
        status = RichStatus(error, request_id, ((REQUEST_ID, request_id),))

        async def refuse(_: object, context: Context) -> None:
            self._ended(method.removeprefix("/"), error.code, timeline.elapsed_us() * 1e-6)
            await context.abort_with_status(status)

        return grpc.stream_stream_rpc_method_handler(refuse)


def unwatched(_method: str, _code: Code, _seconds: float) -> None:
    """Nobody wants to know."""


def internal(request_id: str) -> Error:
    """Our own bug, as a caller sees it: no detail, but the key to the log."""
    return Error(Reason.INTERNAL, f"Internal error: the service's log has the cause under request id {request_id}.")


def is_cancelled() -> bool:
    """Whether somebody cancelled this task, rather than something in it having raised CancelledError by itself."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _read(metadata: Iterable[tuple[str, str | bytes]] | None) -> tuple[Sequence[str], str]:
    """The authorization entries, and the caller's request id if it is a sane one, else an empty one."""
    authorizations: list[str] = []
    request_id = ""
    for key, value in metadata or ():
        if key == "authorization":
            authorizations.append(str(value))
        elif key == REQUEST_ID and _REQUEST_ID.fullmatch(str(value)):
            request_id = str(value)
    return authorizations, request_id


def _bearer(authorizations: Sequence[str]) -> str:
    match authorizations:
        case [one]:
            if found := _BEARER.fullmatch(one.strip()):
                return found[1]
            raise AgentsvcError(Reason.UNAUTHENTICATED, f"The authorization metadata is not a bearer token: {_SEND}")
        case []:
            raise AgentsvcError(Reason.UNAUTHENTICATED, f"No token: {_SEND}")
        case _:
            raise AgentsvcError(
                Reason.UNAUTHENTICATED, f"There are {len(authorizations)} authorization entries: {_SEND}"
            )
