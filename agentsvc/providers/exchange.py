"""One answer being fetched: its attempts, its timer, and the connection that must not outlive it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import aiohttp
from yarl import URL

from agentsvc.domain.errors import Error, ProviderError, Reason
from agentsvc.domain.events import (
    ModelEvent,
    ModelFailed,
    ModelFinished,
    ReasoningDelta,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallStarted,
)
from agentsvc.domain.timeline import Timeline
from agentsvc.providers.client import ProviderClient
from agentsvc.providers.connection import Flight
from agentsvc.providers.dialect import Decoder, HttpRequest
from agentsvc.providers.resolver import ForbiddenAddressError
from agentsvc.providers.response import NotHttpError, Response
from agentsvc.providers.stall import StallTimer
from agentsvc.providers.way import Attempt

_ERROR_BODY_BYTES = 64 * 1024
_ERROR_BODY_SECONDS = 5.0
_DRAIN_SECONDS = 1.0

_TOKENS = frozenset({TextDelta, ReasoningDelta, ToolCallStarted, ToolCallArgumentsDelta})

Meaning = Callable[[int, Mapping[str, str], bytes], Error]  # Dialect.error


class Exchange:
    """From the request to the end of its answer. ``close`` it on every path; closing early closes the connection.

    ``provider`` and ``setting`` (what to look at when the address is wrong) are for the messages of errors.
    """

    __slots__ = ("_client", "_flight", "_meaning", "_provider", "_response", "_setting", "_timeline", "_told", "stall")

    def __init__(
        self,
        client: ProviderClient,
        timeline: Timeline,
        meaning: Meaning,
        *,
        provider: str,
        setting: str,
        streamed: bool,
        attempt: Attempt,
    ) -> None:
        config = client.config
        self._client = client
        self._timeline = timeline
        self._meaning = meaning
        self._provider = provider
        self._setting = setting
        self._told = attempt
        self._flight: Flight | None = None
        self._response: Response | None = None
        first = config.first_token_timeout if streamed else config.answer_timeout
        self.stall = StallTimer(first, config.idle_timeout, self.cut)
        client.exchanges.add(self)

    async def response(self, request: HttpRequest) -> Response:
        """The response with status 200, after as many attempts as policy and patience allow.

        Raises:
            ProviderError: what the last attempt failed of.
        """
        retries = 0
        while True:
            try:
                return await self._attempt(request)
            except ProviderError as failure:
                delay = self._client.config.retry.delay(failure.error, retries)
                if delay is None or not self.stall.allows(delay):
                    raise
            retries += 1
            self._client.retries += 1
            asked = self._timeline.clock()
            await asyncio.sleep(delay)
            self._timeline.waited(asked)
            self.close_stages()

    async def _attempt(self, request: HttpRequest, *, fresh: bool = False) -> Response:
        self._response = None
        flight = self._flight = Flight(fresh=fresh)
        client = self._client
        client.requests += 1
        try:
            address = client.address(request.url)
            head = address.head(request.headers, len(request.body))
            if (patience := self.stall.patience) is None:
                connection = await client.connect(address, flight)
            else:  # a further attempt: only as long as there is some left
                async with asyncio.timeout(patience):
                    connection = await client.connect(address, flight)
            try:
                if self.stall.fired:
                    raise TimeoutError
                wire = flight.send(head, request.body)
                self.stall.start()
                response = await Response.on(wire, connection)
            except BaseException:
                connection.close()
                raise
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as broken:
            self._waited_for(flight)
            if not self.stall.allows(0.0):
                raise self._timed_out() from broken
            if flight.found_dead:
                client.reconnects += 1
                return await self._attempt(request, fresh=True)
            raise self._failure(broken, flight, request.url) from broken
        self._waited_for(flight)
        self._response = response
        if response.status != 200:
            raise await self._refusal(response)
        return response

    async def _refusal(self, response: Response) -> ProviderError:
        """What a status that is not 200 means; the body is read as far as it is worth it."""
        body = bytearray()
        with suppress(aiohttp.ClientError, OSError):
            async with asyncio.timeout(_ERROR_BODY_SECONDS):
                while len(body) < _ERROR_BODY_BYTES and (chunk := await response.read()):
                    body += chunk
        if not response.content.at_eof():
            self.cut()
        elif self._flight is not None and self._flight.wire is not None:
            self._flight.wire.rest(response.headers.get("Keep-Alive"))
        headers = {name.lower(): value for name, value in response.headers.items()}
        error = self._meaning(response.status, headers, bytes(body[:_ERROR_BODY_BYTES]))
        return ProviderError(
            error.reason,
            error.message,
            provider=error.provider or self._provider,
            retryable=error.retryable,
            retry_after=error.retry_after,
            metadata=error.metadata,
        )

    def torn(self, decoder: Decoder) -> Sequence[ModelEvent]:
        """The connection broke under a read: how the answer ends then.

        An answer whose finish reason had come is complete all the same; the decoder knows.
        """
        events = decoder.close()
        return blame(events, self._timed_out()) if self.stall.fired else events

    def took(self, events: Sequence[ModelEvent]) -> bool:
        """Events are about to be handed to the reader, who has the ball then. True if they end the answer."""
        last = type(events[-1])
        over = last is ModelFinished or last is ModelFailed
        if not self.stall.begun or not self._timeline.answered:
            self._took_first(token=bring_token(events), over=over)
        if over:
            self._told.over(events[-1])
            if last is ModelFinished:
                self._settle()
        return over

    def _took_first(self, *, token: bool, over: bool) -> None:
        """Of the first events, and of all up to the run's first token."""
        if not self.stall.begun:
            self.stall.begin()
            if token or not over:
                self._told.began(token=token)
        if not self._timeline.answered and (over or token):
            self.close_stages()
            self._timeline.answered = token

    def close_stages(self) -> None:
        """Marks how far the attempt came; the time since its last mark goes to the stage it is in."""
        if self._flight is not None and not self._timeline.answered:
            self._flight.mark(self._timeline)
            self._timeline.reached(self._flight.stage)

    def _settle(self) -> None:
        """The answer is complete: the connection is kept once the body ends, too, for which it is given a second.

        Nobody reads what still comes; aiohttp takes at most a read buffer of it.
        """
        response = self._response
        if response is None or self._flight is None or self._flight.wire is None:
            return
        self._flight.wire.rest(response.headers.get("Keep-Alive"))
        if response.connection is not None:
            self._client.ending.add(response)
            timer = asyncio.get_running_loop().call_later(_DRAIN_SECONDS, _drop, response)
            response.content.on_eof(timer.cancel)
        self._response = self._flight = None

    def cut(self) -> None:
        """Closes the connection at once, in whatever phase; what waits for it fails."""
        flight, response = self._flight, self._response
        if flight is None or (response is not None and response.connection is None):
            return  # it is over, and the connection is the pool's again
        flight.abort()
        if response is not None:
            response.close()

    def close(self) -> None:
        """The end, on every path. Not settled by then means: not complete, and the connection is closed at once."""
        self.stall.stop()
        self.cut()
        self._client.exchanges.discard(self)
        self._told.close()

    def _timed_out(self) -> ProviderError:
        return timed_out(
            self._provider,
            self._client.config.idle_timeout if self.stall.begun else self.stall.first,
            begun=self.stall.begun,
        )

    def _waited_for(self, flight: Flight) -> None:
        if flight.sent_ns:
            self._timeline.waited(flight.sent_ns)

    def _failure(self, broken: Exception, flight: Flight, url: str) -> ProviderError:
        """What it means that there is no response."""
        if isinstance(broken, NotHttpError):
            message = f"{self._provider} answered with something that is not HTTP. Check {self._setting}."
            return ProviderError(Reason.MALFORMED_STREAM, message, provider=self._provider)
        if flight.wire is not None and flight.wire.heard:
            message = f"{self._provider} hung up before the headers of its answer were complete. Try again."
            return ProviderError(Reason.STREAM_TRUNCATED, message, provider=self._provider)
        why, hopeless = _explain(broken, url)
        message = f"{self._provider} could not be reached: {why}. Check {self._setting} and the network."
        return ProviderError(Reason.PROVIDER_UNREACHABLE, message, provider=self._provider, retryable=not hopeless)


def bring_token(events: Sequence[ModelEvent]) -> bool:
    """Whether the time to first token ends with these events."""
    return not _TOKENS.isdisjoint(map(type, events))


def timed_out(provider: str, seconds: float, *, begun: bool) -> ProviderError:
    """What it means that ``provider`` had the ball for ``seconds``, before anything of an answer or after it had begun."""
    if begun:
        message = f"{provider} fell silent in the middle of its answer, for {seconds:g} s. Try again."
        return ProviderError(Reason.IDLE_TIMEOUT, message, provider=provider)
    message = f"{provider} sent nothing of an answer within {seconds:g} s. Try again, or take a faster model."
    return ProviderError(Reason.FIRST_TOKEN_TIMEOUT, message, provider=provider)


def blame(events: Sequence[ModelEvent], failure: ProviderError) -> Sequence[ModelEvent]:
    """``events`` of a decoder that was closed early, with the true reason. Those of a complete answer stay as they are."""
    match events:
        case [*before, ModelFailed(usage=usage)]:
            return [*before, ModelFailed(failure.error, usage)]
        case _:
            return events


def _drop(response: Response) -> None:
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()
    response.close()


def _explain(broken: Exception, url: str) -> tuple[str, bool]:
    """Why there was no connection, in words without secrets, and whether trying again is useless."""
    try:
        parts = URL(url)
        peer = f"{parts.host}:{parts.port}"
    except ValueError:
        return "its base URL is not a URL", True
    match broken:
        case aiohttp.ClientConnectorDNSError() if isinstance(broken.os_error, ForbiddenAddressError):
            return f"{parts.host} does not lead to a public address", True
        case aiohttp.ClientConnectorDNSError():
            return f"the name {parts.host} cannot be resolved", False
        case aiohttp.ClientConnectorCertificateError():
            return f"the certificate of {peer} is not trusted", True
        case aiohttp.ClientConnectorSSLError():
            return f"TLS with {peer} failed", False
        case aiohttp.ClientConnectorError():
            errno = broken.os_error.errno
            return f"no connection to {peer} ({os.strerror(errno).lower() if errno else 'no address answers'})", False
        case TimeoutError():
            return f"no connection to {peer} in time", False
        case aiohttp.InvalidURL() | ValueError():
            return "its base URL or its key cannot be put into an HTTP request", True
        case RuntimeError():
            return "its connections are closed, since the service stops", True
        case _:
            return f"{peer} closed the connection without an answer", False
