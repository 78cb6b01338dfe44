from __future__ import annotations

import pytest
from google.protobuf.descriptor import MethodDescriptor

from agentsvc import v1
from tests.transport.house import ADMIN, CALLER, House, bearer
from tests.transport.rpc import METHODS, invoke, refused

ADMIN_METHODS = {"CreateAgent", "UpdateAgent", "DeleteAgent", "ListProviders"}


def named(method: MethodDescriptor) -> str:
    return str(method.name)


@pytest.mark.parametrize("method", METHODS, ids=named)
async def test_every_method_needs_a_token_and_says_how_to_send_it(house: House, method: MethodDescriptor) -> None:
    refusal = await refused(invoke(house.channel, method, b""))
    assert (refusal.code, refusal.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    assert "authorization: Bearer <token>" in refusal.message
    assert house.authenticator.asked == 0


@pytest.mark.parametrize("method", METHODS, ids=named)
async def test_a_role_that_is_too_low_is_refused_before_the_request_is_read(
    house: House, method: MethodDescriptor
) -> None:
    refusal = await refused(invoke(house.channel, method, b"\xff", bearer(CALLER)))
    if method.name in ADMIN_METHODS:
        assert (refusal.code, refusal.reason) == ("PERMISSION_DENIED", "PERMISSION_DENIED")
        assert "admin" in refusal.message
    else:
        assert refusal.reason in {"INVALID_FIELD", "NOT_IMPLEMENTED"}


@pytest.mark.parametrize(
    "metadata",
    [
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer  "),),
        (("authorization", "Basic Y2FsbGVyOg=="),),
        (("authorization", "caller-token"),),
        (("authorization", "Bearer caller token"),),
        (("authorization", "Bearer " + "x" * 5000),),
        (*bearer(CALLER), *bearer(CALLER)),
        (*bearer(CALLER), *bearer(ADMIN)),
        (("x-authorization", f"Bearer {CALLER}"),),
        bearer("never-issued"),
    ],
)
async def test_anything_but_one_good_token_is_refused(house: House, metadata: tuple[tuple[str, str], ...]) -> None:
    refusal = await refused(house.agents.GetRun(v1.GetRunRequest(run_id="r"), metadata=metadata))
    assert (refusal.code, refusal.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    assert CALLER not in refusal.message
    assert await house.ask()  # and the server lives on


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_the_scheme_is_known_in_both_spellings(house: House, scheme: str) -> None:
    metadata = (("authorization", f"{scheme} {CALLER}"),)
    assert (await house.agents.ListRuns(v1.ListRunsRequest(), metadata=metadata)).runs == []


async def test_a_request_without_a_token_is_refused_without_being_read(house: House) -> None:
    big = v1.StreamChatRequest(agent_id="demo", message="x" * (40 << 20))  # above even the transport's limit
    assert (await refused(house.agents.StreamChat(big))).reason == "UNAUTHENTICATED"


async def test_the_callers_request_id_comes_back_with_answers_and_refusals(house: House) -> None:
    metadata = (*bearer(CALLER), ("x-request-id", "my-id.1"))
    call = house.agents.StreamChat(v1.StreamChatRequest(agent_id="demo", message="hi"), metadata=metadata)
    assert [response async for response in call]
    assert (await call.trailing_metadata())["x-request-id"] == "my-id.1"
    refusal = await refused(house.agents.GetRun(v1.GetRunRequest(run_id="r"), metadata=metadata))
    assert refusal.request_id == refusal.trailers["x-request-id"] == "my-id.1"


@pytest.mark.parametrize("odd", ["with space", "x" * 129, "semi;colon", "<b>", '"quoted"'])
async def test_an_odd_request_id_is_replaced_by_one_of_ours(house: House, odd: str) -> None:
    refusal = await refused(house.agents.GetRun(v1.GetRunRequest(run_id="r"), metadata=(("x-request-id", odd),)))
    assert refusal.request_id
    assert odd not in refusal.request_id


async def test_two_calls_without_a_request_id_get_different_ones(house: House) -> None:
    one, two = [await refused(house.agents.GetRun(v1.GetRunRequest(run_id="r"))) for _ in range(2)]
    assert one.request_id != two.request_id


async def test_a_bug_in_authentication_shows_nothing_of_its_inside(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = await refused(house.agents.GetRun(v1.GetRunRequest(run_id="r"), metadata=bearer("broken")))
    assert (refusal.code, refusal.reason) == ("INTERNAL", "INTERNAL")
    assert "secret" not in refusal.message
    assert refusal.request_id in refusal.message
    assert refusal.request_id in caplog.text


async def test_the_clock_starts_before_authentication(house: House) -> None:
    question = v1.ChatRequest(agent_id="demo", message="hi")
    question.options.streaming.emit_timings = True
    stages = (await house.agents.Chat(question, metadata=bearer(CALLER))).timings
    assert (stages[0].stage, stages[0].start_us) == ("auth", 0)


async def test_a_token_is_asked_about_once_and_an_odd_header_goes_the_whole_way(house: House) -> None:
    request = v1.ListRunsRequest()
    await house.agents.ListRuns(request, metadata=bearer(CALLER))
    asked = house.authenticator.asked
    await house.agents.ListRuns(request, metadata=bearer(CALLER))
    assert house.authenticator.asked == asked
    await house.agents.ListRuns(request, metadata=(("authorization", f"bearer  {CALLER}"),))
    assert house.authenticator.asked == asked + 1
    again = await refused(house.agents.ListRuns(request, metadata=(*bearer(CALLER), *bearer(CALLER))))
    assert again.reason == "UNAUTHENTICATED"


async def test_a_bug_in_what_is_remembered_is_no_way_in(house: House) -> None:
    refusal = await refused(house.agents.ListRuns(v1.ListRunsRequest(), metadata=bearer("forgotten")))
    assert (refusal.code, refusal.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
