"""What a Python caller imports: StreamChat that survives broken connections.

    async with AgentClient("127.0.0.1:50051", token) as client:
        async with client.stream_chat(agent_id="demo", message="Hello") as stream:
            async for event in stream:
                print(event.text_delta.text, end="")

A stream that breaks off is resumed with SubscribeRun from the last sequence: no event is lost, none comes twice, and no
model is asked again. For that the run outlives its reader by ``GRACE`` seconds (on_disconnect CONTINUE_FOR), and a
stream that is closed early cancels its run. Who sets on_disconnect keeps that choice: CANCEL ends the run with its
connection, CONTINUE leaves it running.

A refusal that passes by itself (a limit, a replica that goes away) is waited out for as long as the service says and the
call made again, ``REFUSALS`` times at most: no run exists then. A start whose connection broke is repeated only under a
request_id, since a run may exist.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, TypeVar

import grpc
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from agentsvc import v1

if TYPE_CHECKING:  # the stub's asynchronous face exists for type checkers only
    from agentsvc.v1.agent_service_pb2_grpc import AgentServiceAsyncStub

GRACE: Final = 60  # seconds a run waits for its reader to come back
CLOSING: Final = 5.0  # seconds that closing may take: the status of an ended stream, CancelRun of an abandoned one
FIRST_PAUSE: Final = 0.1  # seconds before the first new attempt, doubled from one to the next
LONGEST_PAUSE: Final = 5.0
ATTEMPTS: Final = 12  # without an event in between; with these pauses a good half of GRACE
REFUSALS: Final = 5  # of one call
LINGER: Final = 1.5  # seconds that a server which goes away has to end a stream by itself: its run may end with it

_CUT: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
_PASSING: Final = frozenset({"DRAINING", "STORAGE_UNAVAILABLE", "OVERLOADED", "LIMIT_EXCEEDED"})
_GO_ON: Final = _PASSING | {"SLOW_CONSUMER"}

Q = TypeVar("Q")
R = TypeVar("R")
_Call: TypeAlias = (
    "grpc.aio.UnaryStreamCall[v1.StreamChatRequest, v1.StreamChatResponse]"
    " | grpc.aio.UnaryStreamCall[v1.SubscribeRunRequest, v1.SubscribeRunResponse]"
)


@dataclass(eq=False)
class AgentError(Exception):
    """Why a call or a run failed. ``reason`` as in v1.Error.reason, empty when the answer is not the service's own.

    ``retry_after`` in seconds, None when nobody said; ``violations`` are (field, description) of INVALID_FIELD.
    """

    code: grpc.StatusCode
    reason: str
    message: str
    retryable: bool = False
    retry_after: float | None = None
    violations: Sequence[tuple[str, str]] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    request_id: str = ""

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"

    @classmethod
    def from_rpc(cls, error: grpc.aio.AioRpcError) -> Self:
        """From the status of a call."""
        found = cls(error.code(), "", error.details() or "")
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin" and isinstance(value, bytes):
                for detail in Status.FromString(value).details:
                    found._learn(detail)
        return found

    @classmethod
    def from_run(cls, error: v1.Error) -> Self:
        """From run_finished or a run's record."""
        code = next(code for code in grpc.StatusCode if code.value[0] == int(error.code))
        after = _seconds(error.retry_after) if error.HasField("retry_after") else None
        return cls(code, error.reason, error.message, error.retryable, after)

    def _learn(self, detail: Any) -> None:
        match detail.TypeName():
            case "google.rpc.ErrorInfo":
                info = error_details_pb2.ErrorInfo.FromString(detail.value)
                self.reason, self.metadata = info.reason, dict(info.metadata)
                self.retryable = self.metadata.pop("retryable", "") == "true"
            case "google.rpc.RetryInfo":
                self.retry_after = _seconds(error_details_pb2.RetryInfo.FromString(detail.value).retry_delay)
            case "google.rpc.RequestInfo":
                self.request_id = error_details_pb2.RequestInfo.FromString(detail.value).request_id
            case "google.rpc.BadRequest":
                bad = error_details_pb2.BadRequest.FromString(detail.value)
                self.violations = tuple((v.field, v.description) for v in bad.field_violations)


class AgentClient:
    """One channel to the service. ``credentials`` None means plaintext; ``options`` are gRPC channel options."""

    def __init__(
        self,
        target: str,
        token: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.channel = (
            grpc.aio.insecure_channel(target, options=options)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options=options)
        )
        self.stub: AgentServiceAsyncStub = v1.AgentServiceStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channel; streams that are still open break off."""
        await self.channel.close()

    def stream_chat(self, request: v1.StreamChatRequest | None = None, **fields: Any) -> ChatStream:
        """Asks an agent; ``fields`` are those of StreamChatRequest. Nothing is sent before the stream is read."""
        question = v1.StreamChatRequest(**fields)
        if request is not None:
            question.MergeFrom(request)
        ours = not question.options.on_disconnect
        if ours:
            question.options.on_disconnect = v1.ON_DISCONNECT_CONTINUE_FOR
            question.options.continue_for.seconds = GRACE
        return ChatStream(self, question, cancels=ours)

    def subscribe_run(self, run_id: str, after_sequence: int = 0) -> ChatStream:
        """Joins or resumes a run. Closing this stream leaves the run alone."""
        return ChatStream(self, None, run_id=run_id, after_sequence=after_sequence)

    async def chat(self, request: v1.ChatRequest | None = None, **fields: Any) -> v1.ChatResponse:
        """Asks an agent and returns its answer whole. Raises AgentError."""
        question = v1.ChatRequest(**fields)
        if request is not None:
            question.MergeFrom(request)
        return await self._answer(self.stub.Chat, question)

    async def get_run(self, run_id: str) -> v1.Run:
        """A run's record. Raises AgentError."""
        return (await self._answer(self.stub.GetRun, v1.GetRunRequest(run_id=run_id))).run

    async def cancel_run(self, run_id: str) -> v1.Run:
        """Stops a run; one that has ended is returned as it ended. Raises AgentError."""
        return (await self._answer(self.stub.CancelRun, v1.CancelRunRequest(run_id=run_id))).run

    async def _answer(self, method: grpc.aio.UnaryUnaryMultiCallable[Q, R], request: Q) -> R:
        refusals = 0
        while True:
            try:
                return await method(request, metadata=self.metadata)
            except grpc.aio.AioRpcError as error:
                failure = AgentError.from_rpc(error)
                if failure.reason not in _PASSING or (refusals := refusals + 1) > REFUSALS:
                    raise failure from error
            await asyncio.sleep(_pause(failure, refusals))


class ChatStream:
    """A run's events, each once and in order; heartbeats and changes of connection stay inside.

    Ends after run_finished. A run that FAILED, was INTERRUPTED or CANCELLED raises AgentError after that event. Leave
    it through ``async with`` or ``aclose``: a gRPC call that is merely dropped goes on.
    """

    def __init__(
        self,
        client: AgentClient,
        question: v1.StreamChatRequest | None,
        *,
        run_id: str = "",
        after_sequence: int = 0,
        cancels: bool = False,
    ) -> None:
        self.run_id = run_id
        self.last_sequence = after_sequence
        self.finished: v1.RunFinished | None = None
        self._client = client
        self._question = question
        self._cancels = cancels
        self._resumable = question is None
        self._attempts = 0
        self._call: _Call | None = None
        self._events = self._read()

    @property
    def done(self) -> bool:
        """Whether run_finished has come."""
        return self.finished is not None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[v1.ChatEvent]:
        return self._events

    async def aclose(self) -> None:
        """Hangs up; a run that was started here with this client's own policy and has not ended is cancelled."""
        await self._events.aclose()
        if self._call is not None:
            self._call.cancel()
        if self._cancels and self.run_id and not self.done:
            self._cancels = False
            with suppress(AgentError, TimeoutError):  # unreachable: then the run ends by itself, after GRACE
                await asyncio.wait_for(self._client.cancel_run(self.run_id), CLOSING)

    async def _read(self) -> AsyncGenerator[v1.ChatEvent, None]:
        while True:
            self._call = call = self._connect()
            cut = AgentError(grpc.StatusCode.UNKNOWN, "", "the stream ended without run_finished")
            responses, patience = aiter(call), None
            try:
                while (event := await _next_event(responses, patience)) is not None:
                    if event.HasField("draining"):
                        # What follows at once may be the run's end; where nothing does, it goes on elsewhere.
                        after, patience = _seconds(event.draining.retry_after), LINGER
                        cut = AgentError(grpc.StatusCode.UNAVAILABLE, "DRAINING", "the server goes away", True, after)
                    elif self._is_new(event):
                        yield event
                    if event.HasField("run_finished"):
                        await self._end(call, event.run_finished)
                        return
            except grpc.aio.AioRpcError as error:
                cut = AgentError.from_rpc(error)
            call.cancel()
            await self._before_next(cut)

    def _connect(self) -> _Call:
        """StreamChat as long as no run is known, then always SubscribeRun."""
        if self._question is not None and not self.run_id:
            return self._client.stub.StreamChat(self._question, metadata=self._client.metadata)
        request = v1.SubscribeRunRequest(run_id=self.run_id, after_sequence=self.last_sequence)
        return self._client.stub.SubscribeRun(request, metadata=self._client.metadata)

    def _is_new(self, event: v1.ChatEvent) -> bool:
        """Whether the caller gets it; remembers what resuming needs."""
        self._attempts = 0
        kind = event.WhichOneof("kind")
        if kind == "run_finished":
            self.finished = event.run_finished
        elif kind == "heartbeat" or event.sequence <= self.last_sequence:
            return False
        elif kind == "run_started":
            self.run_id, self._resumable = event.run_started.run_id, event.run_started.resumable
        elif kind == "resumability_changed":
            self._resumable = event.resumability_changed.resumable
        self.last_sequence = event.sequence
        return True

    async def _before_next(self, cut: AgentError) -> None:
        """Waits before the next attempt; raises ``cut`` when there is to be none."""
        broken = cut.code in _CUT and not cut.reason  # nobody of the service said that: the connection did
        known = self._resumable if self.run_id else bool(self._question and self._question.request_id)
        refused = not self.run_id and cut.reason in _PASSING
        self._attempts += 1
        if not (refused or (known and (broken or cut.reason in _GO_ON))):
            raise cut
        if self._attempts > (REFUSALS if refused else ATTEMPTS):
            raise cut
        await asyncio.sleep(_pause(cut, self._attempts))

    async def _end(self, call: _Call, finished: v1.RunFinished) -> None:
        """Lets the status arrive, so that the service sees a clean end; raises what the run ended with."""
        with suppress(TimeoutError):
            await asyncio.wait_for(call.code(), CLOSING)
        if finished.HasField("error"):
            raise AgentError.from_run(finished.error)


async def _next_event(responses: AsyncIterator[Any], patience: float | None) -> v1.ChatEvent | None:
    """None at the end of the stream, or after ``patience`` seconds without an event."""
    try:
        event: v1.ChatEvent = (await asyncio.wait_for(anext(responses), patience)).event
    except (StopAsyncIteration, TimeoutError):
        return None
    return event


def _pause(failure: AgentError, attempt: int) -> float:
    """Seconds before the next attempt: what the service said, else longer from one to the next."""
    if failure.retry_after is not None:
        return failure.retry_after
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (attempt - 1))
    return longest * random.uniform(0.5, 1)  # noqa: S311 - spread, not secrecy


def _seconds(duration: Any) -> float:
    seconds: float = duration.seconds + duration.nanos / 1e9
    return seconds
