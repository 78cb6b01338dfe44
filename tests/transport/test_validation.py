from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protovalidate import Validator

from agentsvc import v1
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.transport import validation
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


@given(
    st.builds(
        v1.StreamChatRequest,
        agent_id=st.text(max_size=140),
        message=st.text(max_size=20)
        | st.just("ä" * (1 << 18))
        | st.just("x" * ((1 << 20) + 1))
        | st.just("€" * (1 << 18)),
        session_id=st.text(max_size=140),
        user_id=st.text(max_size=140),
        request_id=st.text(max_size=140),
        labels=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=1),
        parts=st.lists(st.just(v1.ContentPart()), max_size=1),
    )
)
def test_what_passes_as_plain_breaks_no_rule(request: v1.StreamChatRequest) -> None:
    if validation.is_plain(request):
        assert not Validator().collect_violations(request)


def test_the_usual_question_is_plain_and_one_with_more_is_not() -> None:
    usual = v1.StreamChatRequest(agent_id="demo", message="Hello", session_id="session_1", user_id="u", request_id="r")
    assert validation.is_plain(usual)
    for more in ({"labels": {"a": "b"}}, {"store": False}, {"options": v1.ChatOptions()}, {"instructions": ""}):
        assert not validation.is_plain(v1.StreamChatRequest(agent_id="demo", message="Hello", **more))
    assert not validation.is_plain(v1.StreamChatRequest(agent_id="demo"))
