from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsvc import v1
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.transport.validation import parse, validate


def fields(request: v1.StreamChatRequest) -> list[str]:
    with pytest.raises(AgentsvcError) as refused:
        validate(request)
    assert refused.value.reason is Reason.INVALID_FIELD
    assert all(violation.description for violation in refused.value.error.violations)
    return [violation.field for violation in refused.value.error.violations]


def test_a_broken_rule_is_named_by_its_path() -> None:
    request = v1.StreamChatRequest(agent_id="a", message="m", labels={"k k": "v"})
    request.parts.add(text="ok")
    request.parts.add().image.uri = "ftp://x"
    request.options.streaming.text_delta_delay.seconds = 11
    assert set(fields(request)) == {
        "parts[1].image",
        "parts[1].image.media_type",
        "parts[1].image.uri",
        'labels["k k"]',
        "options.streaming.text_delta_delay",
    }


def test_rules_over_several_fields_are_named_too() -> None:
    with pytest.raises(AgentsvcError, match="needs a message or parts"):
        validate(v1.StreamChatRequest(agent_id="a"))


def test_all_broken_rules_are_told_at_once() -> None:
    assert fields(v1.StreamChatRequest(session_id="s" * 200)) == ["", "agent_id", "session_id"]


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\xff\xff", b"\x0a\x02\xff\xfe"], ids=["tag", "length", "utf-8"])
def test_bytes_that_are_no_request_are_refused_as_such(raw: bytes) -> None:
    with pytest.raises(AgentsvcError, match=r"are no agentsvc\.v1\.StreamChatRequest"):
        parse(v1.StreamChatRequest, raw)


def outcome(raw: bytes) -> Reason | None:
    try:
        parse(v1.StreamChatRequest, raw)
    except AgentsvcError as refused:
        return refused.reason
    return None


@given(st.binary(max_size=200))
def test_random_bytes_are_a_valid_request_or_refused(raw: bytes) -> None:
    assert outcome(raw) in {None, Reason.INVALID_FIELD}
