"""How a vendor is spoken to, without a socket: a request becomes an HttpRequest, bytes become events.

A ``Dialect`` is a wire format (chat completions, Anthropic messages, ...). A ``Provider`` is a vendor that speaks one,
with its address, its key's name and its accent. ``client.py`` is the only file that moves the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agentsvc.domain.errors import Error
from agentsvc.domain.events import ModelEvent
from agentsvc.domain.ports import Capabilities, ModelRequest


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a provider is reached and with which key. ``base_url`` is what the vendor's own SDK takes, no trailing slash.

    ``extra`` holds further settings of the provider (``api_version`` of Azure, ``organization`` of OpenAI, ...).
    """

    base_url: str
    api_key: str = field(default="", repr=False)
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request ready to be sent; ``body`` is JSON bytes."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class Decoder(Protocol):
    """Bytes in, events out. No socket, no clock, no await; any chunking of the same bytes gives the same events
    (adjacent deltas of one kind may be joined differently).

    After ModelFinished or ModelFailed nothing more is yielded: later bytes are swallowed.
    """

    def feed(self, chunk: bytes) -> Sequence[ModelEvent]:
        """What this chunk completes; adjacent deltas of one kind are joined. Often empty (pings, half lines)."""
        ...

    def close(self) -> Sequence[ModelEvent]:
        """The connection ended cleanly: the rest, ending in ModelFinished, or in ModelFailed(STREAM_TRUNCATED).

        Empty when the end had been told before.
        """
        ...


class Dialect(Protocol):
    """A wire format in one vendor's voice: errors, told here or by a decoder, name the vendor and its settings.

    One instance serves every request; decoders hold the state of one answer.
    """

    @property
    def name(self) -> str:
        """Of the format; also the vendor of the provider state it writes and takes back."""
        ...

    def encode(self, request: ModelRequest, endpoint: Endpoint) -> HttpRequest:
        """The request in this format.

        Raises:
            AgentsvcError: CAPABILITY_MISSING for what the format cannot carry, INVALID_FIELD for what it must refuse.
        """
        ...

    def decoder(self) -> Decoder:
        """For a streamed answer (``text/event-stream``, NDJSON)."""
        ...

    def body_decoder(self) -> Decoder:
        """For a whole answer in one JSON body: asked for with ``stream`` False, or sent by a vendor all the same."""
        ...

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> Error:
        """The meaning of an HTTP status that is not 200. ``headers`` have lower-case names."""
        ...


@dataclass(frozen=True, slots=True)
class Provider:
    """A vendor. What it needs to be configured is said by ``key_env`` / ``base_url_env`` (the first set name counts).

    ``base_url`` is the public default, empty where the operator must say it (Azure, Huawei). ``needs_key`` is False for
    Ollama and the like.
    """

    name: str
    dialect: Dialect
    base_url: str = ""
    key_env: Sequence[str] = ()
    base_url_env: Sequence[str] = ()
    needs_key: bool = True
    default_model: str = ""
    capabilities: Capabilities = Capabilities()
    extra_env: Mapping[str, str] = field(default_factory=dict)  # Endpoint.extra name -> environment variable
