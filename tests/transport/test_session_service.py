from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from agentsvc import v1
from tests.transport.house import CALLER, STRANGER, Gated, House, bearer, open_house
from tests.transport.rpc import refused, to_the_end


async def create(house: House, **fields: Any) -> v1.Session:
    session = v1.Session(**{"agent_id": "demo", **fields})
    request = v1.CreateSessionRequest(session=session)
    created: v1.Session = (await house.sessions.CreateSession(request, metadata=bearer(CALLER))).session
    return created


async def messages(house: House, session_id: str, **fields: Any) -> Any:
    request = v1.ListMessagesRequest(session_id=session_id, **fields)
    return await house.sessions.ListMessages(request, metadata=bearer(CALLER))


async def test_a_session_is_made_found_and_listed(house: House) -> None:
    created = await create(house, user_id="u", labels={"k": "v"})
    assert created.session_id
    assert (created.agent_id, created.user_id, dict(created.labels)) == ("demo", "u", {"k": "v"})
    request = v1.GetSessionRequest(session_id=created.session_id)
    assert (await house.sessions.GetSession(request, metadata=bearer(CALLER))).session == created
    where = v1.ListSessionsRequest(user_id="u", labels={"k": "v"})
    assert list((await house.sessions.ListSessions(where, metadata=bearer(CALLER))).sessions) == [created]
    assert (house.shelves.where.user_id, house.shelves.where.labels) == ("u", {"k": "v"})


async def test_a_turn_can_be_read_as_soon_as_the_answer_is_final(house: House) -> None:
    session_id = (await create(house)).session_id
    question = v1.StreamChatRequest(agent_id="demo", message="hi", session_id=session_id)
    call = house.agents.StreamChat(question, metadata=bearer(CALLER))
    while not (await call.read()).event.HasField("generation_completed"):
        pass
    page = await messages(house, session_id)
    assert [(m.role, m.parts[0].text) for m in page.messages] == [
        (v1.MESSAGE_ROLE_USER, "hi"),
        (v1.MESSAGE_ROLE_ASSISTANT, "Hello world"),
    ]
    assert all(m.message_id and m.run_id and m.HasField("create_time") for m in page.messages)
    assert all(m.status == v1.MESSAGE_STATUS_COMPLETE for m in page.messages)


async def test_messages_come_in_pages_oldest_first(house: House) -> None:
    session_id = (await create(house)).session_id
    await house.ask(session_id=session_id)
    first = await messages(house, session_id, page_size=1)
    second = await messages(house, session_id, page_size=1, page_token=first.next_page_token)
    assert [m.role for m in (*first.messages, *second.messages)] == [v1.MESSAGE_ROLE_USER, v1.MESSAGE_ROLE_ASSISTANT]
    assert not second.next_page_token


async def test_a_page_token_the_service_did_not_make_is_refused(house: House) -> None:
    request = v1.ListSessionsRequest(page_token="mine")
    found = await refused(house.sessions.ListSessions(request, metadata=bearer(CALLER)))
    assert (found.reason, found.fields) == ("INVALID_FIELD", ("page_token",))


async def test_a_deleted_session_is_gone(house: House) -> None:
    request = v1.DeleteSessionRequest(session_id=(await create(house)).session_id)
    await house.sessions.DeleteSession(request, metadata=bearer(CALLER))
    assert (await refused(house.sessions.DeleteSession(request, metadata=bearer(CALLER)))).reason == "SESSION_NOT_FOUND"


@pytest.mark.parametrize(
    ("session", "reason"),
    [
        (v1.Session(), "INVALID_FIELD"),
        (v1.Session(agent_id="demo", session_id="mine"), "INVALID_FIELD"),
        (v1.Session(agent_id="nobody"), "AGENT_NOT_FOUND"),
    ],
)
async def test_a_session_that_makes_no_sense_is_refused(house: House, session: v1.Session, reason: str) -> None:
    call = house.sessions.CreateSession(v1.CreateSessionRequest(session=session), metadata=bearer(CALLER))
    assert (await refused(call)).reason == reason


async def test_anothers_session_is_answered_as_one_that_never_was(house: House) -> None:
    session_id = (await create(house)).session_id

    async def answers(asked: str) -> list[tuple[Any, ...]]:
        calls = [
            house.sessions.GetSession(v1.GetSessionRequest(session_id=asked), metadata=bearer(STRANGER)),
            house.sessions.DeleteSession(v1.DeleteSessionRequest(session_id=asked), metadata=bearer(STRANGER)),
            house.sessions.ListMessages(v1.ListMessagesRequest(session_id=asked), metadata=bearer(STRANGER)),
        ]
        found = await asyncio.gather(*(refused(call) for call in calls))
        return [refusal.but_for(asked) for refusal in found]

    assert await answers(session_id) == await answers("session_0")
    assert all("SESSION_NOT_FOUND" in answer for answer in await answers(session_id))
    assert (await house.sessions.ListSessions(v1.ListSessionsRequest(), metadata=bearer(STRANGER))).sessions == []


async def test_deleting_a_session_cancels_the_run_that_speaks_in_it_first() -> None:
    gated = Gated()
    async with open_house(gated) as house:
        session_id = (await create(house)).session_id
        question = v1.StreamChatRequest(agent_id="demo", message="hi", session_id=session_id)
        call = house.agents.StreamChat(question, metadata=bearer(CALLER))
        assert (await anext(aiter(call))).event.HasField("run_started")
        await house.sessions.DeleteSession(v1.DeleteSessionRequest(session_id=session_id), metadata=bearer(CALLER))
        events, ended = await to_the_end(call)
        assert events[-1].run_finished.state == v1.RUN_STATE_CANCELLED
        assert ended.code() is grpc.StatusCode.CANCELLED
        request = v1.GetSessionRequest(session_id=session_id)
        assert (
            await refused(house.sessions.GetSession(request, metadata=bearer(CALLER)))
        ).reason == "SESSION_NOT_FOUND"
