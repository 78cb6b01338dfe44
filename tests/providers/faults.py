"""What can go wrong between us and a vendor, what each dialect's vendor sends then, and what callers are told.

``docs/faults.md`` is this table for people; ``python -m tests.providers.faults`` writes it anew. ``test_faults.py`` lets every
dialect commit every fault over a real socket.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from agentsvc.domain.errors import Reason

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
KEY = "sk-tell-tale"
SAID = f"Tell-tale prose of the vendor's, with {KEY} in it."  # must not reach the caller
HTML = f"<html><head><title>{SAID}</title></head>\r\n<body><center><h1>{SAID}</h1></center></body></html>\r\n".encode()
Json = Any


# --- the vendors -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Voice:
    """How the vendor of one dialect speaks.

    ``says`` is a piece of text, ``opening`` comes before the first token, ``life`` is a sign of life that says nothing.
    ``errors`` are the bodies by HTTP status; what is missing there comes from a gateway, as HTML. ``inside`` are errors
    in a stream, by a word of ours. ``finish`` is the finish reason where something may follow it, empty where it is the
    end.
    """

    provider: str  # who is asked, by its id in the registry
    says: Callable[[str], bytes]
    opening: bytes
    life: bytes
    errors: Mapping[int, Json]
    inside: Mapping[str, bytes]
    finish: bytes = b""
    content_type: str = "text/event-stream"


def data(value: Json) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def event(kind: str, **more: Json) -> bytes:
    return f"event: {kind}\n".encode() + data({"type": kind, **more})


def chat_completions() -> Voice:
    """OpenAI, with the in-stream refusal and the 413 of Groq, and OpenRouter's errors of a number."""

    def chunk(delta: Json, finish_reason: str | None = None) -> bytes:
        return data({"id": "own", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})

    unfit = {**openai("invalid_request_error", "tool_use_failed")["error"], "status_code": 400}
    return Voice(
        "openai",
        lambda text: chunk({"content": text}),
        opening=chunk({"role": "assistant", "content": "", "refusal": None}),
        life=b": keep-alive\n\n",
        errors={**OPENAI, 413: openai("tokens", "rate_limit_exceeded")},
        inside={
            "request": b"event: error\n" + data({"error": unfit}),
            "rate": data({"error": {"code": 429, "message": SAID}}),
            "load": data({"error": {"code": 503, "message": SAID}}),
            "failure": data(openai("server_error")),
        },
        finish=chunk({}, "stop"),
    )


def openai(kind: str, code: str | None = None) -> Json:
    return {"error": {"message": SAID, "type": kind, "param": None, "code": code}}


OPENAI = {
    400: openai("invalid_request_error"),
    401: openai("invalid_request_error", "invalid_api_key"),
    403: openai("request_forbidden", "unsupported_country_region_territory"),
    404: openai("invalid_request_error", "model_not_found"),
    429: openai("requests", "rate_limit_exceeded"),
    500: openai("server_error"),
    503: openai("service_unavailable_error", "server_is_overloaded"),
}


def responses() -> Voice:
    busy = event("response.in_progress", response={"status": "in_progress"})
    return Voice(
        "openai-responses",
        lambda text: event("response.output_text.delta", output_index=0, delta=text),
        opening=event("response.created", response={"status": "in_progress"}),
        life=busy,
        errors=OPENAI,
        inside={
            "request": failed_response("invalid_image_format"),
            "rate": event("error", **openai("requests", "rate_limit_exceeded")),
            "load": failed_response("server_is_overloaded"),
            "failure": event("error", code="server_error", message=SAID, param=None),
        },
    )


def failed_response(code: str) -> bytes:
    return event("response.failed", response={"status": "failed", "error": {"code": code, "message": SAID}})


def anthropic() -> Voice:
    kinds = {
        400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
        413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 529: "overloaded_error",
    }  # fmt: skip
    errors = {status: {"type": "error", "error": {"type": kind, "message": SAID}} for status, kind in kinds.items()}
    start = event("message_start", message={"usage": {"input_tokens": 9, "output_tokens": 1}})
    return Voice(
        "anthropic",
        lambda text: event("content_block_delta", index=0, delta={"type": "text_delta", "text": text}),
        opening=start + event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        life=event("ping"),
        errors=errors,
        inside={word: event("error", **errors[status]) for word, status in {**INSIDE, "load": 529}.items()},
        finish=event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4}),
    )


def gemini() -> Voice:
    def part(**candidate: Json) -> bytes:
        return data({"candidates": [{"index": 0, **candidate}]}).replace(b"\n", b"\r\n")

    statuses = {
        400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
        429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE",
    }  # fmt: skip
    errors = {code: {"error": {"code": code, "message": SAID, "status": word}} for code, word in statuses.items()}
    hint = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "48s"}
    errors[429] = {"error": {**errors[429]["error"], "details": [hint]}}
    return Voice(
        "gemini",
        lambda text: part(content={"role": "model", "parts": [{"text": text}]}),
        opening=data({"usageMetadata": {"promptTokenCount": 9}}),
        life=b"\r\n",
        errors={code: [error] if code == 429 else error for code, error in errors.items()},  # at times an array
        inside={word: data(errors[status]) for word, status in INSIDE.items()},
        finish=part(finishReason="STOP"),
    )


def cohere() -> Voice:
    return Voice(
        "cohere",
        lambda text: event("content-delta", index=0, delta={"message": {"content": {"text": text}}}),
        opening=event("message-start", delta={"message": {"role": "assistant", "content": [], "tool_calls": []}}),
        life=event("debug"),
        errors={status: {"id": "own", "message": SAID} for status in (400, 401, 403, 404, 429, 500, 503)},
        inside={"failure": event("message-end", delta={"finish_reason": "ERROR", "error": SAID})},
    )


def ollama() -> Voice:
    def line(text: str) -> bytes:
        return json.dumps({"message": {"role": "assistant", "content": text}, "done": False}).encode() + b"\n"

    return Voice(
        "ollama",
        line,
        opening=line(""),
        life=b"\n",
        errors={status: {"error": SAID} for status in (400, 401, 403, 404, 429, 500, 502, 503)},
        inside={"failure": json.dumps({"error": SAID}).encode() + b"\n"},
        content_type="application/x-ndjson",
    )


def dashscope() -> Voice:
    codes = {
        400: "InvalidParameter", 401: "InvalidApiKey", 403: "AccessDenied.Unpurchased", 404: "ModelNotFound",
        429: "Throttling.RateQuota", 500: "InternalError.Algo", 503: "ModelServingError",
    }  # fmt: skip
    return Voice(
        "qwen-native",
        generated,
        opening=generated(""),
        life=generated(""),
        errors={status: {"code": code, "message": SAID, "request_id": "own"} for status, code in codes.items()},
        # As far as its codes go, only the status in the comment tells what these are.
        inside={word: generation_error(status, "Own.Code") for word, status in INSIDE.items()},
        finish=generated("", "stop"),
    )


def generated(text: str, finish_reason: str = "null") -> bytes:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return f"id:1\nevent:result\n:HTTP_STATUS/200\ndata:{json.dumps({'output': {'choices': [choice]}})}\n\n".encode()


def generation_error(status: int, code: str) -> bytes:
    value = {"code": code, "message": SAID, "request_id": "own"}
    return f"id:2\nevent:error\n:HTTP_STATUS/{status}\ndata:{json.dumps(value)}\n\n".encode()


def qianfan() -> Voice:
    """Its own errors all come inside a 200; with a status, they come from a gateway before it."""

    def sentence(text: str) -> bytes:
        return data({"id": "own", "is_end": False, "result": text, "finish_reason": "normal"})

    codes = {400: 336003, 401: 110, 403: 6, 404: 3, 429: 18, 500: 336000, 503: 336100}
    errors = {status: {"error_code": code, "error_msg": SAID} for status, code in codes.items()}
    inside = {word: data(errors[status]) for word, status in INSIDE.items()}
    return Voice("baidu-v1", sentence, sentence(""), sentence(""), errors, inside)


INSIDE = {"request": 400, "key": 401, "rate": 429, "load": 503, "failure": 500}
VOICES: Mapping[str, Voice] = {
    "openai-chat": chat_completions(),
    "openai-responses": responses(),
    "anthropic": anthropic(),
    "gemini": gemini(),
    "cohere-v2": cohere(),
    "ollama": ollama(),
    "dashscope": dashscope(),
    "qianfan-v1": qianfan(),
}


# --- the rows ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Refuses:
    """An HTTP answer with an error in its body."""

    status: int
    headers: Callable[[], Mapping[str, str]] = dict
    html: bool = False
    body_of: int = 0  # the status whose error the body holds, where that is not ``status``


@dataclass(frozen=True)
class Complains:
    """An error inside a stream, after some text, and then silence."""

    inside: str


@dataclass(frozen=True)
class Breaks:
    """The connection ends: before the ``headers``, in a ``line``, before the ``finish`` reason or, after it, the ``end``."""

    before: str
    well: bool = False  # as after a complete answer, not by a reset


@dataclass(frozen=True)
class Stalls:
    """Signs of life and nothing else, before the first token or after some text."""

    begun: bool


@dataclass(frozen=True)
class Told:
    """What the caller learns. ``retry_after`` in seconds, None when nobody said."""

    reason: Reason
    retry_after: float | None = None


@dataclass(frozen=True)
class Fault:
    """A row. ``unlike``: the dialects that are told otherwise."""

    name: str
    does: Refuses | Complains | Breaks | Stalls
    told: Told
    unlike: Mapping[str, Told] = field(default_factory=dict)

    @property
    def dialects(self) -> list[str]:
        """Those whose vendors can do this."""
        does = self.does
        return [name for name in VOICES if not isinstance(does, Complains) or does.inside in VOICES[name].inside]

    def tells(self, dialect: str) -> Told:
        return self.unlike.get(dialect, self.told)


def wait(told: str) -> Callable[[], Mapping[str, str]]:
    return lambda: {"Retry-After": told}


def wait_until(seconds: float, *, skew: timedelta | None = None) -> Callable[[], Mapping[str, str]]:
    """A date that many seconds from now; ``skew`` is how far the vendor's clock, which it tells then, is ahead."""

    def headers() -> Mapping[str, str]:
        now = datetime.now(UTC) + (skew or timedelta())
        told = {"Retry-After": format_datetime(now + timedelta(seconds=seconds), usegmt=True)}
        return told if skew is None else {**told, "Date": format_datetime(now, usegmt=True)}

    return headers


REFUSED, FAILED = Told(Reason.PROVIDER_INVALID_REQUEST), Told(Reason.PROVIDER_SERVER_ERROR)
KEYLESS, DENIED = Told(Reason.PROVIDER_AUTH), Told(Reason.PROVIDER_PERMISSION)
LIMITED, BUSY, CUT = Told(Reason.PROVIDER_RATE_LIMIT), Told(Reason.PROVIDER_OVERLOADED), Told(Reason.STREAM_TRUNCATED)
IN_A_MOMENT = Told(Reason.PROVIDER_RATE_LIMIT, 30)
HINTED = {"gemini": Told(Reason.PROVIDER_RATE_LIMIT, 48)}
AHEAD = timedelta(hours=1)

FAULTS = (
    Fault("HTTP 400", Refuses(400), REFUSED),
    Fault("HTTP 401", Refuses(401), KEYLESS),
    Fault("HTTP 403", Refuses(403), DENIED),
    Fault("HTTP 404", Refuses(404), Told(Reason.PROVIDER_NOT_FOUND)),
    Fault("HTTP 408", Refuses(408), FAILED),
    Fault("HTTP 413", Refuses(413), REFUSED),
    Fault("HTTP 429, no `Retry-After`", Refuses(429), LIMITED, HINTED),
    Fault("HTTP 429, `Retry-After: 12`", Refuses(429, wait("12")), Told(Reason.PROVIDER_RATE_LIMIT, 12)),
    Fault("HTTP 429, `Retry-After` a date in 30 s", Refuses(429, wait_until(30)), IN_A_MOMENT),
    Fault("the same by a clock an hour ahead", Refuses(429, wait_until(30, skew=AHEAD)), IN_A_MOMENT),
    Fault("HTTP 500", Refuses(500), FAILED),
    Fault("HTTP 502", Refuses(502), FAILED),
    Fault("HTTP 503", Refuses(503), BUSY),
    Fault("HTTP 503, `Retry-After: 7`", Refuses(503, wait("7")), Told(Reason.PROVIDER_OVERLOADED, 7)),
    Fault("HTTP 529", Refuses(529), BUSY),
    Fault("HTTP 403, HTML body", Refuses(403, html=True), DENIED),
    Fault("HTTP 503, HTML body", Refuses(503, html=True), BUSY),
    Fault("HTTP 200, HTML body", Refuses(200, html=True), Told(Reason.MALFORMED_STREAM)),
    Fault("HTTP 200, the body of a 500", Refuses(200, body_of=500), FAILED),
    Fault("in a stream: the request is invalid", Complains("request"), REFUSED),
    Fault("in a stream: the key is refused", Complains("key"), KEYLESS),
    Fault("in a stream: the rate is limited", Complains("rate"), LIMITED, HINTED),
    Fault("in a stream: the vendor is overloaded", Complains("load"), BUSY),
    Fault("in a stream: the vendor failed", Complains("failure"), FAILED),
    Fault("reset before the headers", Breaks("headers"), Told(Reason.PROVIDER_UNREACHABLE)),
    Fault("reset in the middle of a line", Breaks("line"), CUT),
    Fault("reset before the finish reason", Breaks("finish"), CUT),
    Fault("regular end before the finish reason", Breaks("finish", well=True), CUT),
    Fault("stall before the first token", Stalls(begun=False), Told(Reason.FIRST_TOKEN_TIMEOUT)),
    Fault("stall between tokens", Stalls(begun=True), Told(Reason.IDLE_TIMEOUT)),
)


# --- the page ----------------------------------------------------------------------------------------------------------
TEXT = """\
# What callers are told when a vendor fails

Written by `python -m tests.providers.faults`; do not edit. `tests/providers/test_faults.py` holds every dialect to every row, over
a real socket and without retries of ours; those come first where a row is retryable and nothing of an answer has arrived
(`AGENTSVC_POOL__RETRY__MAX_RETRIES`).

In every row what arrived before the fault is handed on, and the failure comes once and last. Neither the key nor the vendor's
words are in it. After a reset, a stall or an error in a stream the connection is closed. `retry after` is `-` where nobody
said; Gemini says it in the body. A dialect that a row leaves out has no words of its own for that.

| fault | dialects | reason | gRPC status | retryable | retry after |
|---|---|---|---|---|---|
{rows}

A reset after the finish reason is no fault where something may follow it ({tolerant}): the answer
is complete. Elsewhere the finish reason is the end.

| dialect | provider asked |
|---|---|
{voices}
"""


def page() -> str:
    """docs/faults.md as it should be."""
    return TEXT.format(
        rows="\n".join(row for fault in FAULTS for row in _rows(fault)),
        tolerant=", ".join(f"`{name}`" for name, voice in VOICES.items() if voice.finish),
        voices="\n".join(f"| `{name}` | {voice.provider} |" for name, voice in VOICES.items()),
    )


def _rows(fault: Fault) -> list[str]:
    groups: dict[Told, list[str]] = {}
    for dialect in fault.dialects:
        groups.setdefault(fault.tells(dialect), []).append(dialect)
    rows = []
    for told, dialects in sorted(groups.items(), key=lambda group: -len(group[1])):
        reason = told.reason
        delay = "-" if told.retry_after is None else f"{told.retry_after:g} s"
        cells = fault.name, _named(dialects), reason, reason.code.name, "yes" if reason.retryable else "no", delay
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _named(dialects: list[str]) -> str:
    others = [f"`{name}`" for name in VOICES if name not in dialects]
    if len(others) >= len(dialects):
        return ", ".join(f"`{name}`" for name in dialects)
    return f"all but {', '.join(others)}" if others else "all"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
