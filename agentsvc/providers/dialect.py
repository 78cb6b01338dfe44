"""How a vendor is spoken to, without a socket: a request becomes an HttpRequest, bytes become events.

A ``Dialect`` is a wire format (chat completions, Anthropic messages, ...). A ``Provider`` is a vendor that speaks one,
with its address, its key's name and its accent. ``client.py`` is the only file that moves the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from agentsvc.domain.errors import Error, Reason
from agentsvc.domain.events import ModelEvent
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.providers import Capabilities
from agentsvc.domain.quick import quick
from agentsvc.providers.errors import Vendor
from agentsvc.providers.sse import LINE_LIMIT


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a provider is reached and with which key. ``base_url`` is what the vendor's own SDK takes, no trailing slash.

    ``extra`` holds further settings of the provider (``api_version`` of Azure, ``organization`` of OpenAI, ...); ``model``
    among them is the default model of whoever set the endpoint up.
    """

    base_url: str
    api_key: str = field(default="", repr=False)
    extra: Mapping[str, str] = field(default_factory=dict, repr=False)  # some of it is secret, too


@quick
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
        """Of the format. Provider state is marked with it, or, where each vendor has a form of its own, with the vendor."""
        ...

    def encode(self, request: ModelRequest, endpoint: Endpoint) -> HttpRequest:
        """The request in this format.

        Raises:
            AgentsvcError: CAPABILITY_MISSING for what the format cannot carry, INVALID_FIELD for what it must refuse.
        """
        ...

    def decoder(self, limit: int = LINE_LIMIT) -> Decoder:
        """For a streamed answer (``text/event-stream``, NDJSON). A line or an event of more than ``limit`` bytes ends it in
        MALFORMED_STREAM: of what is not complete yet, no more than that and one read are held.
        """
        ...

    def body_decoder(self) -> Decoder:
        """For a whole answer in one JSON body: asked for with ``stream`` False, or sent by a vendor all the same."""
        ...

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> Error:
        """The meaning of an HTTP status that is not 200. ``headers`` have lower-case names."""
        ...


class TokenDialect(Dialect, Protocol):
    """How a vendor is asked for a token that stands in for the key: see ``token_exchange.py``.

    The text of its answer is the token, the annotation ``expires_in`` the token's life in seconds. The request says
    nothing; who asks is told by the endpoint.
    """

    def serves(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint holds what a token is given for. If not, its key is used as it is."""
        ...

    def refused(self, error: Error) -> bool:
        """Whether an answer failed because the vendor no longer takes the token, whatever life it had left."""
        ...


@dataclass(frozen=True, slots=True)
class Provider:
    """A vendor. What it needs to be configured is said by ``key_env`` / ``base_url_env`` (the first set name counts).

    ``base_url`` is the public default, empty where the operator must say it (Azure, Huawei). ``needs_key`` is False for
    Ollama and the like. ``extra_env``: ``Endpoint.extra`` name -> environment variables, the first set one counts.
    ``read_base_url`` makes an address of what the vendor's own variable may hold. ``tokens`` is said where a token is asked
    for first; the dialect finds it in ``Endpoint.extra`` as ``access_token``.
    """

    name: str
    dialect: Dialect
    title: str = ""
    base_url: str = ""
    key_env: Sequence[str] = ()
    base_url_env: Sequence[str] = ()
    needs_key: bool = True
    default_model: str = ""
    capabilities: Capabilities = Capabilities()
    extra_env: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    read_base_url: Callable[[str], str] = str
    tokens: TokenDialect | None = None

    @classmethod
    def of(
        cls,
        name: str,
        title: str,
        dialect: Callable[[Vendor], Dialect],
        *,
        base_url: str = "",
        key_env: tuple[str, ...] = (),
        base_url_env: tuple[str, ...] = (),
        read_base_url: Callable[[str], str] = str,
        needs_key: bool = True,
        default_model: str = "",
        capabilities: Capabilities | None = None,
        extra_env: Mapping[str, tuple[str, ...]] | None = None,
        codes: Mapping[str, Reason] | None = None,
        tokens: Callable[[Vendor], TokenDialect] | None = None,
    ) -> Self:
        """A provider under the rule for settings: ``<NAME>_API_KEY`` and ``<NAME>_BASE_URL``, then the vendor's own names.

        ``title`` is its name for people, ``codes`` its own error codes where the common tables do not know them.
        """
        prefix = name.upper().replace("-", "_")
        keys = tuple(dict.fromkeys((f"{prefix}_API_KEY", *key_env)))
        urls = tuple(dict.fromkeys((f"{prefix}_BASE_URL", *base_url_env)))
        vendor = Vendor(name, title, " or ".join(keys), " or ".join(urls), codes or {})
        return cls(
            name=name,
            dialect=dialect(vendor),
            title=title,
            base_url=base_url,
            key_env=keys,
            base_url_env=urls,
            read_base_url=read_base_url,
            needs_key=needs_key,
            default_model=default_model,
            capabilities=capabilities or Capabilities(),
            extra_env=extra_env or {},
            tokens=tokens(vendor) if tokens else None,
        )
