"""How the old Qianfan API gives out its access tokens.

    POST {base_url}/oauth/2.0/token?grant_type=client_credentials&client_id={key}&client_secret={secret}
    {"access_token":"24.6c5e...","expires_in":2592000,...}    {"error":"invalid_client","error_description":"..."}

A token lives thirty days. Key and secret are those of an application; whoever was given a token needs neither. cloud.baidu.com/doc/WENXINWORKSHOP/s/Ilkkrb0i5
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

import msgspec

from agentsvc.domain.errors import Error, Reason
from agentsvc.domain.events import Annotation, ModelEvent, ModelFailed, ModelFinished, TextDelta
from agentsvc.domain.messages import FinishReason
from agentsvc.domain.ports import ModelRequest
from agentsvc.providers.dialect import Decoder, Endpoint, HttpRequest
from agentsvc.providers.errors import Vendor
from agentsvc.providers.sse import LINE_LIMIT

SECRET = "secret_key"  # noqa: S105 - the name of the setting in Endpoint.extra
_LIMIT = 64 * 1024  # bytes of an answer; a token has a hundred
_EXPIRED = frozenset({"110", "111"})  # access token invalid or no longer valid; access token expired
_SHUT = frozenset({400, 401, 403})


class Grant(msgspec.Struct, gc=False):
    """An answer: a token and the seconds it lives, or an error."""

    access_token: str = ""
    expires_in: float = 2_592_000.0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class QianfanV1Token:
    """A ``TokenDialect``. ``secret_env`` is what to look at, beside the key, when the exchange is refused."""

    vendor: Vendor
    secret_env: str = "its secret key"  # noqa: S105 - as above
    name: str = "qianfan-v1-token"

    def serves(self, endpoint: Endpoint) -> bool:
        """Whether there is a secret, and a key that belongs to it: unlike keys, tokens have dots."""
        return bool(endpoint.extra.get(SECRET)) and "." not in endpoint.api_key

    def refused(self, error: Error) -> bool:
        """Whether the vendor no longer takes the token."""
        return error.metadata.get("provider_code") in _EXPIRED

    def encode(self, request: ModelRequest, endpoint: Endpoint) -> HttpRequest:  # noqa: ARG002 - it says nothing
        """The request. Key and secret stand in the URL: do not log that."""
        query = urlencode(
            {
                "grant_type": "client_credentials",
                "client_id": endpoint.api_key,
                "client_secret": endpoint.extra[SECRET],
            }
        )
        url = f"{endpoint.base_url.rstrip('/')}/oauth/2.0/token?{query}"
        return HttpRequest(url, {"Content-Type": "application/json", "Accept": "application/json"}, b"{}")

    def decoder(self, limit: int = LINE_LIMIT) -> Decoder:  # noqa: ARG002 - there are no lines
        """The same as for a body: there is no stream."""
        return self.body_decoder()

    def body_decoder(self) -> Decoder:
        """For the token."""
        return GrantDecoder(self._speaker)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> Error:
        """The meaning of an HTTP status that is not 200: what is wrong with the request is wrong with key or secret."""
        if status in _SHUT:
            return self._speaker.error(Reason.PROVIDER_AUTH, status)
        return self._speaker.refusal(status, headers, body)

    @property
    def _speaker(self) -> Vendor:
        return replace(self.vendor, key_env=f"{self.vendor.key_env} and {self.secret_env}")


class GrantDecoder:
    """A ``Decoder``: the whole body, then the token."""

    __slots__ = ("_body", "_vendor")

    def __init__(self, vendor: Vendor) -> None:
        self._vendor = vendor
        self._body = bytearray()

    def feed(self, chunk: bytes) -> Sequence[ModelEvent]:
        """Collects; what is too long for a token is cut off, and so is no JSON in the end."""
        self._body += chunk[: _LIMIT - len(self._body)]
        return ()

    def close(self) -> Sequence[ModelEvent]:
        """The token, or why there is none."""
        try:
            grant = msgspec.json.decode(self._body, type=Grant)
        except (ValueError, RecursionError):
            return (ModelFailed(self._vendor.error(Reason.MALFORMED_STREAM, detail="it is not the JSON of a token")),)
        if not grant.access_token:
            return (ModelFailed(self._vendor.error(Reason.PROVIDER_AUTH)),)
        life = Annotation("expires_in", str(grant.expires_in))
        return (TextDelta(grant.access_token), life, ModelFinished(FinishReason.STOP, None))
