"""An error on its way out: domain Error -> gRPC status with google.rpc details.

    grpc-status, grpc-message    the reason's code, the message
    grpc-status-details-bin      google.rpc.Status: ErrorInfo, RequestInfo, RetryInfo?, QuotaFailure?, BadRequest?
    grpc-retry-pushback-ms       when a retrying channel may try again; -1 tells it not to

Message and details together stay under ``LIMIT`` bytes as they travel: above about 8 KiB of trailers gRPC replaces the
whole status by a bare RESOURCE_EXHAUSTED and the caller never learns what happened. Every part has its own share, in
bytes, and is cut to it; the message counts twice, percent-encoded and inside the base64 of the details:

    768 + 4/3 * (768 message + 700 ErrorInfo + 200 RequestInfo and RetryInfo + 800 BadRequest or QuotaFailure) < 4096
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote

import grpc
from google.protobuf.any_pb2 import Any as PackedDetail
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from agentsvc.domain.errors import Code, Error, Reason

DOMAIN: Final = "agentsvc"
LIMIT: Final = 4096
DETAILS: Final = "grpc-status-details-bin"
PUSHBACK: Final = "grpc-retry-pushback-ms"

_MESSAGE_SHARE: Final = 768
_METADATA_SHARE: Final = 560
_VIOLATIONS_SHARE: Final = 700
_TEXT_SHARE: Final = 160  # one violation's description, one metadata value
_RETRY_AFTER: Final = 1.0  # seconds, where nobody knows better
_STATUS_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

# Ours to judge: these pass on their own, so the caller is always told when to come back.
_PASSING: Final = frozenset(
    {
        Reason.SESSION_BUSY,
        Reason.LIMIT_EXCEEDED,
        Reason.OVERLOADED,
        Reason.DRAINING,
        Reason.STORAGE_UNAVAILABLE,
        Reason.RUN_INTERRUPTED,
    }
)
# What retry policies usually name; of these codes a channel must be told when *not* to repeat the call.
_RETRIED_CODES: Final = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.ABORTED})


class RichStatus(grpc.Status):
    """What ``context.abort_with_status`` takes: code, message, and all trailers of the call."""

    def __init__(self, error: Error, request_id: str, trailers: Iterable[tuple[str, str | bytes]] = ()) -> None:
        """``request_id`` finds the call in the log, for a person who has only the error."""
        self.code = _STATUS_CODES[int(error.code)]
        self.details = _fitting(error.message)
        rich = Status(code=int(error.code), message=self.details)
        rich.details.extend(_packed(detail) for detail in _details(error, request_id))
        self.trailing_metadata = ((DETAILS, rich.SerializeToString()), *_pushback(error), *trailers)


def retry_after(error: Error) -> float | None:
    """Seconds until a retry makes sense; None when it never does or nobody can say."""
    if not error.retryable:
        return None
    if error.retry_after is None and error.reason in _PASSING:
        return _RETRY_AFTER
    return error.retry_after


def _details(error: Error, request_id: str) -> Iterator[Message]:
    yield _error_info(error)
    yield details.RequestInfo(request_id=request_id)
    if (seconds := retry_after(error)) is not None:
        yield details.RetryInfo(retry_delay=to_duration(seconds))
    if error.reason is Reason.LIMIT_EXCEEDED:
        subject = cut(error.metadata.get("subject", "tenant"), _TEXT_SHARE)
        violation = details.QuotaFailure.Violation(subject=subject, description=cut(error.message, _TEXT_SHARE))
        yield details.QuotaFailure(violations=[violation])
    elif error.violations:
        yield _bad_request(error)


def _error_info(error: Error) -> details.ErrorInfo:
    info = details.ErrorInfo(reason=error.reason, domain=DOMAIN)
    info.metadata["retryable"] = "true" if error.retryable else "false"
    if error.provider:
        info.metadata["provider"] = cut(error.provider, _TEXT_SHARE)
    for key, value in error.metadata.items():
        name, text = cut(key, 64), cut(value, _TEXT_SHARE)
        if info.ByteSize() + len(name.encode()) + len(text.encode()) > _METADATA_SHARE:
            break
        info.metadata[name] = text
    return info


def _bad_request(error: Error) -> details.BadRequest:
    """As many violations as fit; a last one tells how many did not."""
    bad = details.BadRequest()
    for count, violation in enumerate(error.violations):
        bad.field_violations.add(
            field=cut(violation.field, _TEXT_SHARE), description=cut(violation.description, _TEXT_SHARE)
        )
        if bad.ByteSize() > _VIOLATIONS_SHARE:
            del bad.field_violations[-1]
            bad.field_violations.add(description=f"and {len(error.violations) - count} more")
            break
    return bad


def _pushback(error: Error) -> tuple[tuple[str, str], ...]:
    # An etag that did not match will not match the second time either: reading again is the caller's move.
    repeatable = error.retryable and error.reason is not Reason.ETAG_MISMATCH
    if not repeatable:
        return ((PUSHBACK, "-1"),) if error.code in _RETRIED_CODES else ()
    seconds = retry_after(error)
    return () if seconds is None else ((PUSHBACK, str(round(seconds * 1000))),)


def _packed(detail: Message) -> PackedDetail:
    packed = PackedDetail()
    packed.Pack(detail)
    return packed


def to_duration(seconds: float) -> Duration:
    """Seconds as google.protobuf.Duration, to the microsecond."""
    whole, micros = divmod(round(seconds * 1_000_000), 1_000_000)
    return Duration(seconds=whole, nanos=micros * 1000)


def _fitting(message: str) -> str:
    """The message, cut so that its percent-encoded form keeps to its share."""
    share = _MESSAGE_SHARE
    while len(encoded(fitting := cut(message, share))) > _MESSAGE_SHARE:
        share -= share // 8
    return fitting


def encoded(text: str) -> str:
    """``text`` as grpc-message carries it: all but printable ASCII percent-encoded."""
    return quote(text, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}")


def cut(text: str, share: int) -> str:
    """``text`` in at most ``share`` bytes of UTF-8, never inside a code point; what cannot be encoded becomes ``?``."""
    raw = text.encode(errors="replace")
    return raw.decode() if len(raw) <= share else raw[: share - 3].decode(errors="ignore") + "…"
