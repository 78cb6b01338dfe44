"""Another organisation's ids, in every RPC that takes one: answered as ids that nobody has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from agentsvc import v1
from agentsvc.providers.script import Say
from tests.e2e.house import CONTINUE, House, Tenant, open_house, question
from tests.transport.rpc import METHODS, invoke

pytestmark = pytest.mark.asyncio(loop_scope="module")

_NAME = FieldMask(paths=["display_name"])

# Which requests name something of a tenant's, made with such an id. "own" is an agent of the caller's.
Make = Callable[[str, str], Message]
ASKED: dict[str, dict[str, Make]] = {
    "StreamChat": {
        "agent": lambda agent, own: question(agent),
        "session": lambda session, own: question(own, session_id=session),
    },
    "Chat": {
        "agent": lambda agent, own: v1.ChatRequest(agent_id=agent, message="hi"),
        "session": lambda session, own: v1.ChatRequest(agent_id=own, message="hi", session_id=session),
    },
    "SubscribeRun": {"run": lambda run, own: v1.SubscribeRunRequest(run_id=run)},
    "GetRun": {"run": lambda run, own: v1.GetRunRequest(run_id=run)},
    "ListRuns": {
        "agent": lambda agent, own: v1.ListRunsRequest(agent_id=agent),
        "session": lambda session, own: v1.ListRunsRequest(session_id=session),
    },
    "CancelRun": {"run": lambda run, own: v1.CancelRunRequest(run_id=run)},
    "SubmitToolResults": {
        "run": lambda run, own: v1.SubmitToolResultsRequest(run_id=run, approvals=[v1.ToolApproval(tool_call_id="c")])
    },
    "CreateAgent": {"agent": lambda agent, own: v1.CreateAgentRequest(agent=_agent(agent))},
    "GetAgent": {"agent": lambda agent, own: v1.GetAgentRequest(agent_id=agent)},
    "UpdateAgent": {"agent": lambda agent, own: v1.UpdateAgentRequest(agent=_agent(agent), update_mask=_NAME)},
    "DeleteAgent": {"agent": lambda agent, own: v1.DeleteAgentRequest(agent_id=agent)},
    "ListAgents": {},
    "CreateSession": {"agent": lambda agent, own: v1.CreateSessionRequest(session=v1.Session(agent_id=agent))},
    "GetSession": {"session": lambda session, own: v1.GetSessionRequest(session_id=session)},
    "ListSessions": {"agent": lambda agent, own: v1.ListSessionsRequest(agent_id=agent)},
    "DeleteSession": {"session": lambda session, own: v1.DeleteSessionRequest(session_id=session)},
    "ListMessages": {"session": lambda session, own: v1.ListMessagesRequest(session_id=session)},
    "AddMemory": {"session": lambda session, own: v1.AddMemoryRequest()},
    "SearchMemories": {"agent": lambda agent, own: v1.SearchMemoriesRequest(query="x", agent_id=agent)},
    "ListMemories": {"agent": lambda agent, own: v1.ListMemoriesRequest(agent_id=agent)},
    "DeleteMemory": {"memory": lambda memory, own: v1.DeleteMemoryRequest(memory_id=memory)},
    "GetWorkingMemory": {"agent": lambda agent, own: v1.GetWorkingMemoryRequest(agent_id=agent)},
    "UpdateWorkingMemory": {"agent": lambda agent, own: v1.UpdateWorkingMemoryRequest()},
    "ListProviders": {},
}
CASES = [(method, kind) for method in METHODS for kind in ASKED[method.name]]


def _agent(agent_id: str) -> v1.Agent:
    return v1.Agent(agent_id=agent_id, display_name="Mine", llm_config=v1.LlmConfig(provider="openai"))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house() -> AsyncIterator[House]:
    async with open_house() as opened:
        yield opened


async def possessions(house: House, tenant: Tenant) -> dict[str, str]:
    """An agent, a session and a run of the tenant's; the ids by kind."""
    agent = await house.agent(tenant=tenant, instructions="A secret.")
    answer = await house.ask(agent, Say("Secret."), tenant=tenant, options=CONTINUE)
    return {"agent": agent, "session": answer.session_id, "run": answer.run_id, "memory": "mem_" + "1" * 32}


def nobodys(found: str) -> str:
    """An id like ``found`` that nobody has."""
    prefix, _, digits = found.rpartition("_")
    return f"{prefix}_{''.join(f'{(int(digit, 16) + 1) % 16:x}' for digit in digits)}"


async def answered(house: House, method: Any, request: Message) -> tuple[Any, ...]:
    """Everything the caller gets: responses, status, message, and all metadata."""
    metadata = (*house.acme.admin, ("x-request-id", "same"))
    call = invoke(house.channel, method, request, metadata)
    responses: list[Message] = []
    try:
        if method.server_streaming:
            responses += [response async for response in call]
        else:
            responses.append(await call)
    except grpc.aio.AioRpcError:
        pass
    initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
    return [_timeless(r) for r in responses], await call.code(), await call.details(), tuple(initial), tuple(trailing)


def _timeless(response: Message) -> bytes:
    """Without what differs between any two calls."""
    if isinstance(response, v1.CreateAgentResponse):
        for field in ("etag", "create_time", "update_time"):
            response.agent.ClearField(field)
    return response.SerializeToString()


def but_for(given: str, answer: tuple[Any, ...]) -> str:
    return repr(answer).replace(given, "<id>")


@pytest.mark.parametrize(("method", "kind"), CASES, ids=[f"{method.name}-{kind}" for method, kind in CASES])
async def test_a_foreign_id_is_answered_as_a_random_one(house: House, method: Any, kind: str) -> None:
    theirs = await possessions(house, house.other)
    own = await house.agent()
    make = ASKED[method.name][kind]
    foreign, random = theirs[kind], nobodys(theirs[kind])
    to_foreign = await answered(house, method, make(foreign, own))
    to_random = await answered(house, method, make(random, own))
    assert but_for(foreign, to_foreign) == but_for(random, to_random)
    assert "ecret" not in repr(to_foreign)
    await assert_untouched(house, theirs)


async def assert_untouched(house: House, theirs: dict[str, str]) -> None:
    metadata = house.other.admin
    agent = (await house.admin.GetAgent(v1.GetAgentRequest(agent_id=theirs["agent"]), metadata=metadata)).agent
    assert agent.instructions == "A secret."
    assert not agent.display_name
    request = v1.ListMessagesRequest(session_id=theirs["session"])
    assert len((await house.sessions.ListMessages(request, metadata=metadata)).messages) == 2
    run = (await house.agents.GetRun(v1.GetRunRequest(run_id=theirs["run"]), metadata=metadata)).run
    assert run.state == v1.RUN_STATE_COMPLETED


async def test_every_rpc_is_in_the_table() -> None:
    assert {method.name for method in METHODS} == ASKED.keys()


async def test_lists_show_the_callers_own_alone(house: House) -> None:
    theirs = await possessions(house, house.other)
    mine = await possessions(house, house.acme)
    for method in METHODS:
        if method.name in {"ListAgents", "ListRuns", "ListSessions"}:
            request = {"ListAgents": v1.ListAgentsRequest, "ListRuns": v1.ListRunsRequest}.get(
                method.name, v1.ListSessionsRequest
            )
            listed = repr(await answered(house, method, request()))
            assert any(found in listed for found in mine.values())
            assert not any(found in listed for found in theirs.values())


async def test_a_session_and_a_request_id_are_each_tenants_own(house: House) -> None:
    theirs, mine = await possessions(house, house.other), await possessions(house, house.acme)
    first = await house.ask(theirs["agent"], Say("Theirs."), tenant=house.other, request_id="the-same")
    second = await house.ask(mine["agent"], Say("Mine."), request_id="the-same")
    assert first.run_id != second.run_id
    assert (first.text, second.text) == ("Theirs.", "Mine.")
