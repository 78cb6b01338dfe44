"""What a vendor's refusal means. The one mapping from HTTP statuses, error bodies and in-stream errors to our reasons.

An error is read in three steps: what the vendor says in words of its own that leave no doubt (``insufficient_quota``),
then its number (the HTTP status, or the code inside a 200), then its vague words (``invalid_request_error`` stands on
401s, 404s and 429s alike). What callers read is written here; the vendor's own text goes nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from agentsvc.domain.errors import Error, Reason

RETRY_AFTER_CAP = 3600.0  # seconds; a longer hint is a mistake or of no use to the one who waits


class MalformedStreamError(Exception):
    """What came is not the format. Never leaves the room: the answer ends with MALFORMED_STREAM and these words."""


@dataclass(frozen=True, slots=True)
class Vendor:
    """Who is speaking, for the errors of a dialect: the provider's id, its name for people, and the settings it reads.

    ``codes`` are the vendor's own error codes where the common tables do not know them.
    """

    provider: str
    name: str
    key_env: str = ""
    base_url_env: str = ""
    codes: Mapping[str, Reason] = field(default_factory=dict)

    def error(self, reason: Reason, status: int = 0, detail: str = "") -> Error:
        """An error in this vendor's name. ``status`` is the HTTP status, 0 when there was none worth telling."""
        where = f" (HTTP {status})" if status >= 300 else ""
        message = _MESSAGES[reason].format(
            vendor=self.name,
            where=where,
            key=self.key_env or "its key",
            base_url=self.base_url_env or "its base URL",
            detail=f": {detail}" if detail else "",
        )
        return Error(reason, message, self.provider, reason.retryable)

    def halted(self, word: str, *, retryable: bool = False) -> Error:
        """The model gave up with a finish reason of its own, ``word``: asking again the same way rarely helps."""
        error = self.error(Reason.PROVIDER_SERVER_ERROR)
        return replace(error, retryable=retryable, metadata={"provider_code": word})

    def knowing(self, codes: Mapping[str, Reason]) -> Vendor:
        """This vendor, reading the codes of a format as well; its own count first."""
        return replace(self, codes={**codes, **self.codes})

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Error:
        """The meaning of an HTTP answer that is not 200. ``headers`` have lower-case names."""
        complaint = Complaint.read(body)
        if 200 <= status < 300:
            return self.error(Reason.MALFORMED_STREAM, status, f"it answered with HTTP {status}")
        error = self._judge(complaint, status)
        told = headers.get("x-should-retry")
        retryable = told == "true" if told in {"true", "false"} else error.retryable
        delay = retry_after(headers)
        return replace(error, retryable=retryable, retry_after=complaint.retry_after if delay is None else delay)

    def complaint(self, value: Any) -> Error:
        """The meaning of an error inside a 200: ``value`` is the JSON it came in, whole."""
        complaint = Complaint.of(value)
        return replace(self._judge(complaint, complaint.status), retry_after=complaint.retry_after)

    def _judge(self, complaint: Complaint, status: int) -> Error:
        error = self.error(complaint.reason(status, self.codes), status)
        return replace(error, metadata={"provider_code": complaint.code}) if complaint.code else error


@dataclass(frozen=True, slots=True)
class Complaint:
    """What an error body says, whichever of the vendors' shapes it has.

    ``words`` are its codes, types and statuses in lower case, ``text`` its prose, ``status`` the HTTP status it names (0:
    none), ``code`` its most telling word, if that is a word: never prose, nothing that could hold a key. ``retry_after`` in
    seconds.
    """

    words: tuple[str, ...] = ()
    text: str = ""
    status: int = 0
    code: str = ""
    retry_after: float | None = None

    @classmethod
    def read(cls, body: bytes) -> Complaint:
        """From a body: JSON of any shape, HTML, or nothing."""
        try:
            return cls.of(msgspec.json.decode(body))
        except (ValueError, RecursionError):
            return cls(text=body[:4096].decode("utf-8", "replace").lower())

    @classmethod
    def of(cls, value: Any) -> Complaint:
        """From decoded JSON."""
        scalars = tuple(_scalars(value))
        words = tuple(dict.fromkeys(str(said).lower() for key, said in scalars if key in _WORD_KEYS))
        if number := base_resp(value):
            words = (f"base_resp {number}", *words)
        text = " ".join(said for key, said in scalars if key in _TEXT_KEYS and isinstance(said, str)).lower()
        numbers = (int(word) for word in words if word.isascii() and word.isdecimal() and len(word) == 3)
        status = next((number for number in numbers if 400 <= number < 600), 0)
        delays = (
            _seconds(said.removesuffix("s")) for key, said in scalars if key == "retryDelay" and isinstance(said, str)
        )
        delay = next((min(delay, RETRY_AFTER_CAP) for delay in delays if delay is not None), None)
        named = {key: str(said) for key, said in reversed(scalars) if key in _WORD_KEYS}
        codes = (named[key] for key in _CODE_KEYS if key in named)
        code = next((code for code in codes if _SAFE_CODE.fullmatch(code)), "")
        return cls(words, text, status, code, delay)

    def reason(self, status: int, codes: Mapping[str, Reason]) -> Reason:
        """What it comes down to. ``status`` 0: it came inside a 200 and named no number."""
        for word in self.words:
            found = codes.get(word) or _CLEAR_WORDS.get(word)
            # Groq says "rate limit" of a request that alone is larger than the limit: waiting makes it no smaller.
            if found and not (status == 413 and found.retryable):
                return found
        if status in {0, 400, 413, 422} and _TOO_LONG.search(self.text):
            return Reason.CONTEXT_LENGTH
        if found := _STATUSES.get(status):
            return found
        if status:
            return Reason.PROVIDER_SERVER_ERROR if status >= 500 else Reason.PROVIDER_INVALID_REQUEST
        vague = (_VAGUE_WORDS[word] for word in self.words if word in _VAGUE_WORDS)
        return next(vague, Reason.PROVIDER_SERVER_ERROR)


def is_complaint(value: Mapping[str, Any]) -> bool:
    """Whether JSON without an answer in it is an error in one of the shapes that have no ``error`` object."""
    keys = ("error", "error_code", "error_msg", "detail", "code")
    return any(value.get(key) for key in keys) or bool(base_resp(value))


def base_resp(value: Any) -> str:
    """The code of MiniMax's ``{"base_resp":{"status_code":1004,"status_msg":"..."}}``; empty for none, and for 0: all is well."""
    match value:
        case {"base_resp": {"status_code": int(code)}} if code:
            return str(code)
        case _:
            return ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait as the headers say, at most an hour. ``retry-after-ms: 0`` is what Azure sends for "not said"."""
    milliseconds = _seconds(headers.get("retry-after-ms", ""))
    if milliseconds:
        return min(milliseconds / 1000, RETRY_AFTER_CAP)
    told = headers.get("retry-after", "")
    if (seconds := _seconds(told)) is not None:
        return min(seconds, RETRY_AFTER_CAP)
    if (then := _date(told)) is None:
        return None
    # Against the sender's own clock where it tells the time: ours may differ.
    now = _date(headers.get("date", "")) or datetime.now(UTC)
    return min(max(0.0, (then - now).total_seconds()), RETRY_AFTER_CAP)


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value >= 0 else None  # nor is NaN


def _date(text: str) -> datetime | None:
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _scalars(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every scalar of a JSON value with the name it stands under, outer ones first. Bounded: it is a stranger's."""
    if isinstance(value, dict) and depth < 6:
        nested = [(name, item) for name, item in value.items() if isinstance(item, dict | list)]
        yield from ((name, item) for name, item in value.items() if not isinstance(item, dict | list))
        for name, item in nested:
            yield from _scalars(item, name, depth + 1)
    elif isinstance(value, list) and depth < 6:
        for item in value[:32]:
            yield from _scalars(item, key, depth + 1)
    elif depth:
        yield key, value


_WORD_KEYS = frozenset({"code", "type", "status", "status_code", "error_code", "error_type", "reason", "object"})
_CODE_KEYS = ("code", "error_code", "type", "error_type", "status", "status_code")  # the most telling first
_TEXT_KEYS = frozenset({"message", "error", "detail", "error_msg", "raw", "msg"})
_SAFE_CODE = re.compile(r"[a-z]{2,24}(?:_[a-z]{2,24}){1,4}|[1-9][0-9]{0,5}")

# Phrases of OpenAI, Anthropic, DeepSeek, Ollama, Perplexity, Gemini, Mistral, vLLM, llama.cpp, DashScope and Cohere,
# in that order.
_TOO_LONG = re.compile(
    r"maximum context length|prompt is too long|exceed(?:s|ed)? (?:the )?(?:max(?:imum)? )?context|prompt too long"
    r"|total length of all messages is too long|input token count|too large for model with .* maximum context"
    r"|exceeds (?:the )?(?:available )?context size|context length exceeded|reduce the length of the (?:messages|input|prompt)"
    r"|range of input length|too many tokens: (?:total number|size limit)"
)
_CLEAR_WORDS: Mapping[str, Reason] = {
    "context_length_exceeded": Reason.CONTEXT_LENGTH,
    "too_many_prompt_tokens": Reason.CONTEXT_LENGTH,
    "too_many_tokens": Reason.CONTEXT_LENGTH,
    "tokens_too_long": Reason.CONTEXT_LENGTH,
    "exceed_context_size_error": Reason.CONTEXT_LENGTH,
    "content_filter": Reason.CONTENT_FILTER,
    "content_policy_violation": Reason.CONTENT_FILTER,
    "image_content_policy_violation": Reason.CONTENT_FILTER,
    "responsibleaipolicyviolation": Reason.CONTENT_FILTER,
    "insufficient_quota": Reason.PROVIDER_QUOTA,
    "quota_exceeded": Reason.PROVIDER_QUOTA,
    "billing_error": Reason.PROVIDER_QUOTA,
    "billing_not_active": Reason.PROVIDER_QUOTA,
    "billing_hard_limit_reached": Reason.PROVIDER_QUOTA,
    "insufficient_balance": Reason.PROVIDER_QUOTA,
    "invalid_api_key": Reason.PROVIDER_AUTH,
    "api_key_invalid": Reason.PROVIDER_AUTH,
    "authentication_error": Reason.PROVIDER_AUTH,
    "unauthenticated": Reason.PROVIDER_AUTH,
    "permission_error": Reason.PROVIDER_PERMISSION,
    "permission_denied": Reason.PROVIDER_PERMISSION,
    "not_found_error": Reason.PROVIDER_NOT_FOUND,
    "deploymentnotfound": Reason.PROVIDER_NOT_FOUND,
    "rate_limit_error": Reason.PROVIDER_RATE_LIMIT,
    "rate_limit_exceeded": Reason.PROVIDER_RATE_LIMIT,
    "ratelimitreached": Reason.PROVIDER_RATE_LIMIT,
    "resource_exhausted": Reason.PROVIDER_RATE_LIMIT,
    "too_many_requests": Reason.PROVIDER_RATE_LIMIT,
    "overloaded_error": Reason.PROVIDER_OVERLOADED,
    "overloaded": Reason.PROVIDER_OVERLOADED,
    "unavailable": Reason.PROVIDER_OVERLOADED,
    "service_unavailable": Reason.PROVIDER_OVERLOADED,
    # DashScope, whose errors in a stream have their HTTP status in a comment only.
    "invalidapikey": Reason.PROVIDER_AUTH,
    "arrearage": Reason.PROVIDER_QUOTA,
    "accessdenied": Reason.PROVIDER_PERMISSION,
    "model.accessdenied": Reason.PROVIDER_PERMISSION,
    "modelnotfound": Reason.PROVIDER_NOT_FOUND,
    "datainspectionfailed": Reason.CONTENT_FILTER,
    "data_inspection_failed": Reason.CONTENT_FILTER,
    "throttling": Reason.PROVIDER_RATE_LIMIT,
    "throttling.ratequota": Reason.PROVIDER_RATE_LIMIT,
    "throttling.burstrate": Reason.PROVIDER_RATE_LIMIT,
    "throttling.allocationquota": Reason.PROVIDER_RATE_LIMIT,
    "modelservingerror": Reason.PROVIDER_OVERLOADED,
    # MiniMax, whose numbers mean other things elsewhere. platform.minimaxi.com/docs/api-reference/errorcode
    **dict.fromkeys(("base_resp 1002", "base_resp 1039", "base_resp 1041"), Reason.PROVIDER_RATE_LIMIT),
    **dict.fromkeys(("base_resp 1004", "base_resp 2049"), Reason.PROVIDER_AUTH),
    **dict.fromkeys(("base_resp 1008", "base_resp 2056"), Reason.PROVIDER_QUOTA),
    **dict.fromkeys(("base_resp 1026", "base_resp 1027"), Reason.CONTENT_FILTER),
    "base_resp 2013": Reason.PROVIDER_INVALID_REQUEST,
}
_STATUSES: Mapping[int, Reason] = {
    **dict.fromkeys((301, 302, 303, 307, 308, 404, 405, 410), Reason.PROVIDER_NOT_FOUND),
    401: Reason.PROVIDER_AUTH,
    402: Reason.PROVIDER_QUOTA,
    403: Reason.PROVIDER_PERMISSION,
    408: Reason.PROVIDER_SERVER_ERROR,
    409: Reason.PROVIDER_SERVER_ERROR,
    429: Reason.PROVIDER_RATE_LIMIT,
    503: Reason.PROVIDER_OVERLOADED,
    529: Reason.PROVIDER_OVERLOADED,
}
_VAGUE_WORDS: Mapping[str, Reason] = {
    "model_not_found": Reason.PROVIDER_NOT_FOUND,  # stands on 400s, 403s and 404s
    "invalid_request_error": Reason.PROVIDER_INVALID_REQUEST,
    "invalid_argument": Reason.PROVIDER_INVALID_REQUEST,
    "badrequesterror": Reason.PROVIDER_INVALID_REQUEST,
    "bad_request": Reason.PROVIDER_INVALID_REQUEST,
    "request_too_large": Reason.PROVIDER_INVALID_REQUEST,
    "invalidparameter": Reason.PROVIDER_INVALID_REQUEST,
    "invalid_prompt": Reason.PROVIDER_INVALID_REQUEST,
    # Of a response that failed at OpenAI: the same image fails again.
    **dict.fromkeys(
        (
            *("invalid_image", "invalid_image_format", "invalid_image_mode", "invalid_image_url"),
            *("invalid_base64_image", "unsupported_image_media_type", "empty_image_file", "image_parse_error"),
            *("image_too_large", "image_too_small", "image_file_too_large", "image_file_not_found"),
            "failed_to_download_image",
        ),
        Reason.PROVIDER_INVALID_REQUEST,
    ),
    "server_is_overloaded": Reason.PROVIDER_OVERLOADED,
    "slow_down": Reason.PROVIDER_OVERLOADED,
}
# Of the old Qianfan API, whose errors come with HTTP 200. cloud.baidu.com/doc/WENXINWORKSHOP/s/tlmyncueh
QIANFAN_V1: Mapping[str, Reason] = {
    **dict.fromkeys(("1", "15", "336000"), Reason.PROVIDER_SERVER_ERROR),  # 15: no such app, for a moment
    **dict.fromkeys(("2", "336100"), Reason.PROVIDER_OVERLOADED),
    "3": Reason.PROVIDER_NOT_FOUND,
    **dict.fromkeys(("4", "18", "336501", "336502"), Reason.PROVIDER_RATE_LIMIT),
    "6": Reason.PROVIDER_PERMISSION,
    **dict.fromkeys(("13", "14", "100", "110", "111"), Reason.PROVIDER_AUTH),
    **dict.fromkeys(("17", "19", "336503"), Reason.PROVIDER_QUOTA),
    **dict.fromkeys((str(code) for code in range(336001, 336008)), Reason.PROVIDER_INVALID_REQUEST),
    "336103": Reason.CONTEXT_LENGTH,
    "336104": Reason.PROVIDER_INVALID_REQUEST,
}
_MESSAGES: Mapping[Reason, str] = {
    Reason.PROVIDER_AUTH: "{vendor} refused the key{where}: check {key}.",
    Reason.PROVIDER_PERMISSION: "{vendor} does not let this key do that{where}: check what the account may use.",
    Reason.PROVIDER_NOT_FOUND: "{vendor} does not know the model or the address{where}: check the model's name and {base_url}.",
    Reason.PROVIDER_INVALID_REQUEST: "{vendor} refused the request as invalid{where}: check the model's name and the options.",
    Reason.CONTEXT_LENGTH: "The conversation is too long for the model of {vendor}{where}: shorten it or take a larger model.",
    Reason.CONTENT_FILTER: "{vendor} refused the content{where}: its filter blocked the prompt or the answer.",
    Reason.PROVIDER_QUOTA: "The account at {vendor} has no credit or quota left{where}: top it up or take another key.",
    Reason.PROVIDER_RATE_LIMIT: "{vendor} limits the rate{where}: try again later.",
    Reason.PROVIDER_OVERLOADED: "{vendor} is overloaded{where}: try again later.",
    Reason.PROVIDER_SERVER_ERROR: "{vendor} failed{where}: try again later.",
    Reason.STREAM_TRUNCATED: "The answer of {vendor} was cut off before its end: try again.",
    Reason.MALFORMED_STREAM: "The answer of {vendor} cannot be read{detail}.",
}
