"""Errors: what a vendor's refusal means, in our words, with the vendor's hint when to come back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsvc.domain.errors import Reason
from agentsvc.providers.errors import Vendor, is_complaint, retry_after

ACME = Vendor("acme", "Acme", "ACME_API_KEY", "ACME_BASE_URL", codes={"1301": Reason.CONTENT_FILTER})


def reason(status: int, body: Any) -> Reason:
    return ACME.refusal(status, {}, body if isinstance(body, bytes) else json.dumps(body).encode()).reason


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, {"error": {"message": "no", "type": "invalid_request_error", "code": None}}, Reason.PROVIDER_AUTH),
        (400, {"error": {"message": "no", "code": "invalid_api_key"}}, Reason.PROVIDER_AUTH),
        (400, {"error": {"message": "x", "code": "model_not_found"}}, Reason.PROVIDER_INVALID_REQUEST),
        (403, {"error": {"message": "x", "code": "model_not_found"}}, Reason.PROVIDER_PERMISSION),
        (404, {"error": {"message": "x", "code": "model_not_found"}}, Reason.PROVIDER_NOT_FOUND),
        (404, {"error": "model 'x' not found"}, Reason.PROVIDER_NOT_FOUND),
        (429, {"error": {"code": "insufficient_quota", "type": "insufficient_quota"}}, Reason.PROVIDER_QUOTA),
        (429, {"error": {"type": "requests", "code": "rate_limit_exceeded"}}, Reason.PROVIDER_RATE_LIMIT),
        (402, {"error": {"message": "Insufficient Balance", "type": "unknown_error"}}, Reason.PROVIDER_QUOTA),
        (400, {"type": "error", "error": {"type": "billing_error", "message": "no"}}, Reason.PROVIDER_QUOTA),
        (529, {"type": "error", "error": {"type": "overloaded_error"}}, Reason.PROVIDER_OVERLOADED),
        (403, {"type": "error", "error": {"type": "permission_error"}}, Reason.PROVIDER_PERMISSION),
        (413, {"type": "error", "error": {"type": "request_too_large"}}, Reason.PROVIDER_INVALID_REQUEST),
        (400, {"error": {"code": "content_filter", "innererror": {"code": "x"}}}, Reason.CONTENT_FILTER),
        (400, {"error": {"code": "1301", "message": "x"}}, Reason.CONTENT_FILTER),
        (400, {"id": "1", "message": "too many tokens", "error_type": "TOO_MANY_TOKENS"}, Reason.CONTEXT_LENGTH),
        (400, {"error": {"message": "This model's maximum context length is 9 tokens."}}, Reason.CONTEXT_LENGTH),
        (400, {"error": {"message": "prompt is too long: 9 tokens > 8 maximum"}}, Reason.CONTEXT_LENGTH),
        (422, {"detail": [{"type": "missing", "msg": "Field required"}]}, Reason.PROVIDER_INVALID_REQUEST),
        (401, {"detail": "Invalid API Key"}, Reason.PROVIDER_AUTH),
        (401, {"code": "InvalidApiKey", "message": "no", "request_id": "1"}, Reason.PROVIDER_AUTH),
        (504, {"error_code": "APIG.0203", "error_msg": "timeout"}, Reason.PROVIDER_SERVER_ERROR),
        (
            400,
            [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}],
            Reason.PROVIDER_AUTH,
        ),
        (429, [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}], Reason.PROVIDER_RATE_LIMIT),
        (502, b"<html>Bad gateway</html>", Reason.PROVIDER_SERVER_ERROR),
        (503, b"", Reason.PROVIDER_OVERLOADED),
        (400, b"", Reason.PROVIDER_INVALID_REQUEST),
        (418, b"null", Reason.PROVIDER_INVALID_REQUEST),
        (408, b"", Reason.PROVIDER_SERVER_ERROR),
        (302, b"", Reason.PROVIDER_NOT_FOUND),
        (204, b"", Reason.MALFORMED_STREAM),
    ],
)
def test_a_refusal_has_the_reason_its_status_and_body_say(status: int, body: Any, expected: Reason) -> None:
    assert reason(status, body) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"error": {"message": "x", "status_code": 400, "code": "tool_use_failed"}}, Reason.PROVIDER_INVALID_REQUEST),
        ({"error": {"code": 502, "message": "x"}}, Reason.PROVIDER_SERVER_ERROR),
        ({"error": {"code": "429"}}, Reason.PROVIDER_RATE_LIMIT),
        ({"error": {"type": "overloaded_error"}}, Reason.PROVIDER_OVERLOADED),
        ({"error": {"type": "invalid_request_error"}}, Reason.PROVIDER_INVALID_REQUEST),
        ({"error": {"type": "api_error"}}, Reason.PROVIDER_SERVER_ERROR),
        ({"error": "out of memory"}, Reason.PROVIDER_SERVER_ERROR),
    ],
)
def test_errors_inside_a_200(value: Any, expected: Reason) -> None:
    assert ACME.complaint(value).reason is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (1002, Reason.PROVIDER_RATE_LIMIT),
        (1004, Reason.PROVIDER_AUTH),
        (1008, Reason.PROVIDER_QUOTA),
        (1027, Reason.CONTENT_FILTER),
        (2013, Reason.PROVIDER_INVALID_REQUEST),
        (1000, Reason.PROVIDER_SERVER_ERROR),
    ],
)
def test_a_base_resp_with_a_code_is_an_error_inside_a_200(code: int, expected: Reason) -> None:
    value = {"base_resp": {"status_code": code, "status_msg": "login fail: secret"}}
    error = ACME.complaint(value)
    assert is_complaint(value)
    assert (error.reason, error.metadata) == (expected, {"provider_code": str(code)})
    assert "secret" not in error.message


def test_a_base_resp_without_one_is_none_and_its_numbers_mean_nothing_elsewhere() -> None:
    for value in ({"base_resp": {"status_code": 0, "status_msg": ""}}, {"base_resp": None}, {"base_resp": {}}):
        assert not is_complaint(value)
    assert ACME.complaint({"error": {"code": 1004}}).reason is Reason.PROVIDER_SERVER_ERROR


def test_the_message_is_ours_and_names_the_setting() -> None:
    body = b'{"error":{"message":"Incorrect key sk-canary","type":"sk-canary","code":"invalid_api_key"}}'
    error = ACME.refusal(401, {}, body)
    assert error.message == "Acme refused the key (HTTP 401): check ACME_API_KEY."
    assert "canary" not in repr(error)
    assert error.metadata == {"provider_code": "invalid_api_key"}


@given(st.integers(300, 599), st.sampled_from(["message", "code", "type", "status", "detail", "error", "raw"]))
def test_nothing_that_could_be_a_key_comes_through(status: int, key: str) -> None:
    for canary in ("sk-proj-4bC9", "9f8e7d6c5b4a", "AIzaSyCanary"):
        assert (
            canary.lower() not in repr(ACME.refusal(status, {}, json.dumps({"error": {key: canary}}).encode())).lower()
        )


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "0", "retry-after": "1"}, 1.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:29:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, 0.0),
        ({"retry-after": "999999"}, 3600.0),
        ({"retry-after-ms": "inf"}, 3600.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
    ],
)
def test_when_to_come_back_is_read_from_the_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_delay_in_the_body_counts_where_no_header_says_better() -> None:
    body = json.dumps({"error": {"code": 429, "details": [{"@type": "x/google.rpc.RetryInfo", "retryDelay": "48.5s"}]}})
    assert ACME.refusal(429, {}, body.encode()).retry_after == 48.5
    assert ACME.refusal(429, {"retry-after": "2"}, body.encode()).retry_after == 2.0


@pytest.mark.parametrize(
    ("status", "told", "retryable"),
    [(429, "", True), (500, "", True), (400, "", False), (401, "", False), (500, "false", False), (400, "true", True)],
)
def test_whether_to_come_back(status: int, told: str, retryable: bool) -> None:
    assert ACME.refusal(status, {"x-should-retry": told} if told else {}, b"").retryable is retryable
