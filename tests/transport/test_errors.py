from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from agentsvc.domain.errors import Code, Error, Reason, Violation
from agentsvc.transport.errors import DETAILS, LIMIT, PUSHBACK, RichStatus

KINDS = {
    "google.rpc." + kind.__name__: kind
    for kind in (
        error_details_pb2.ErrorInfo,
        error_details_pb2.RequestInfo,
        error_details_pb2.RetryInfo,
        error_details_pb2.QuotaFailure,
        error_details_pb2.BadRequest,
    )
}


def trailers(status: RichStatus) -> dict[str, Any]:
    return dict(status.trailing_metadata)


def details(status: RichStatus) -> dict[str, Any]:
    rich = Status.FromString(trailers(status)[DETAILS])
    assert (rich.code, rich.message) == (status.code.value[0], status.details)  # what clients' libraries check
    return {d.TypeName().rpartition(".")[2]: KINDS[d.TypeName()].FromString(d.value) for d in rich.details}


def error(reason: Reason, message: str = "what to do", **more: object) -> Error:
    return Error(reason, message, **{"retryable": reason.retryable, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_travels_with_its_code_and_its_name(reason: Reason) -> None:
    status = RichStatus(error(reason, provider="openai"), "r1")
    assert status.code.name == reason.code.name
    info = details(status)["ErrorInfo"]
    assert (info.reason, info.domain) == (reason.value, "agentsvc")
    assert dict(info.metadata) == {"retryable": str(reason.retryable).lower(), "provider": "openai"}
    assert details(status)["RequestInfo"].request_id == "r1"


OURS_TO_JUDGE = ["LIMIT_EXCEEDED", "OVERLOADED", "DRAINING", "STORAGE_UNAVAILABLE", "RUN_INTERRUPTED", "SESSION_BUSY"]


@pytest.mark.parametrize("name", OURS_TO_JUDGE)
def test_what_passes_by_itself_always_says_when_to_come_back(name: str) -> None:
    status = RichStatus(error(Reason(name)), "r1")
    assert details(status)["RetryInfo"].retry_delay.ToMilliseconds() == 1000
    assert trailers(status)[PUSHBACK] == "1000"


def test_a_hint_is_passed_on_to_people_and_channels() -> None:
    status = RichStatus(error(Reason.OVERLOADED, retry_after=0.25), "r1")
    assert details(status)["RetryInfo"].retry_delay.ToMilliseconds() == 250
    assert trailers(status)[PUSHBACK] == "250"


@pytest.mark.parametrize("reason", [Reason.PROVIDER_QUOTA, Reason.ETAG_MISMATCH])
def test_a_channel_is_told_not_to_repeat_what_cannot_succeed(reason: Reason) -> None:
    assert trailers(RichStatus(error(reason), "r1"))[PUSHBACK] == "-1"


def test_an_error_that_lost_its_retryability_to_a_started_tool_stops_the_channel() -> None:
    status = RichStatus(error(Reason.PROVIDER_OVERLOADED, retryable=False, retry_after=3.0), "r1")
    assert trailers(status)[PUSHBACK] == "-1"
    assert "RetryInfo" not in details(status)


@pytest.mark.parametrize("reason", [Reason.INVALID_FIELD, Reason.RUN_NOT_FOUND, Reason.UNAUTHENTICATED])
def test_refusals_nobody_retries_need_no_pushback(reason: Reason) -> None:
    assert PUSHBACK not in trailers(RichStatus(error(reason), "r1"))


def test_a_tenants_limit_names_whose_it_is() -> None:
    failure = details(RichStatus(error(Reason.LIMIT_EXCEEDED, metadata={"subject": "tenant:acme"}), "r1"))[
        "QuotaFailure"
    ]
    assert [(v.subject, v.description) for v in failure.violations] == [("tenant:acme", "what to do")]


def test_violations_name_their_fields_and_count_what_did_not_fit() -> None:
    many = tuple(Violation(f"labels[{i}]", "x" * 100) for i in range(100))
    bad = details(RichStatus(error(Reason.INVALID_FIELD, violations=many), "r1"))["BadRequest"].field_violations
    assert bad[0].field == "labels[0]"
    assert bad[-1].description == f"and {100 - (len(bad) - 1)} more"


def test_trailers_of_the_call_travel_beside_the_details() -> None:
    assert (
        trailers(RichStatus(error(Reason.CANCELLED), "r1", (("agentsvc-run-id", "run_1"),)))["agentsvc-run-id"]
        == "run_1"
    )


wild = st.text(max_size=1500) | st.sampled_from(["漢" * 3000, "\x00" * 3000, "a" * 9000, "\ud800" * 900])


@given(
    st.sampled_from(Reason),
    wild,
    st.lists(st.builds(Violation, wild, wild), max_size=40),
    st.dictionaries(wild, wild, max_size=12),
    wild,
)
def test_no_error_is_too_big_or_too_odd_to_travel(
    reason: Reason, message: str, violations: list[Violation], metadata: dict[str, str], provider: str
) -> None:
    status = RichStatus(
        error(reason, message, violations=tuple(violations), metadata=metadata, provider=provider), "r" * 128
    )
    on_the_wire = sum(
        len(f"%{byte:02x}") if not 32 <= byte < 127 or byte == 37 else 1 for byte in status.details.encode()
    )
    on_the_wire += (len(trailers(status)[DETAILS]) + 2) // 3 * 4
    assert on_the_wire <= LIMIT
    assert details(status)["ErrorInfo"].reason == reason


def test_codes_are_grpcs_own_numbers() -> None:
    assert {code.name: code.value for code in Code} == {code.name: code.value[0] for code in grpc.StatusCode}
