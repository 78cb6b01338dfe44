"""The contract of protos/agentsvc/v1, as far as buf does not check it: names, shapes, and what a bad request is told."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Any

import protovalidate
import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from agentsvc import v1
from agentsvc.domain.errors import Reason
from agentsvc.v1 import (
    agent_admin_service_pb2,
    agent_service_pb2,
    memory_service_pb2,
    provider_service_pb2,
    session_service_pb2,
)

SERVICE_FILES = (
    agent_service_pb2,
    agent_admin_service_pb2,
    session_service_pb2,
    memory_service_pb2,
    provider_service_pb2,
)
SERVICES = {service.name: service for file in SERVICE_FILES for service in file.DESCRIPTOR.services_by_name.values()}
METHODS = list(chain.from_iterable(service.methods for service in SERVICES.values()))
RPCS = {
    "AgentService": ["StreamChat", "SubscribeRun", "Chat", "GetRun", "ListRuns", "CancelRun", "SubmitToolResults"],
    "AgentAdminService": ["CreateAgent", "GetAgent", "ListAgents", "UpdateAgent", "DeleteAgent"],
    "SessionService": ["CreateSession", "GetSession", "ListSessions", "DeleteSession", "ListMessages"],
    "MemoryService": [
        "AddMemory",
        "SearchMemories",
        "ListMemories",
        "DeleteMemory",
        "GetWorkingMemory",
        "UpdateWorkingMemory",
    ],
    "ProviderService": ["ListProviders"],
}
# The fields of each event. `timings` is named by its one field, `event_loop_lag_us` is the lag reported beside
# the overhead.
EVENTS = {
    "run_started": "run_id session_id agent_id provider model mode resumable",
    "memory_retrieved": "outcome items duration_us",
    "text_delta": "text",
    "reasoning_delta": "text",
    "tool_call_started": "tool_call_id name",
    "tool_call_arguments_delta": "tool_call_id fragment",
    "tool_call_requested": "tool_call_id name arguments_json executor approval_required",
    "tool_progress": "tool_call_id message fraction",
    "tool_result": "tool_call_id status content duration_us",
    "input_required": "tool_call_ids",
    "timings": "stages",
    "attempt_changed": "from to reason discard_after_sequence",
    "resumability_changed": "resumable",
    "step_completed": "step finish_reason usage",
    "annotation": "key value",
    "generation_completed": "text finish_reason total_steps usage timings",
    "memory_updated": "operation memory",
    "run_finished": (
        "state error partial_text budget_kind usage cost persisted framework_overhead_us event_loop_lag_us"
    ),
    "heartbeat": "",
    "draining": "retry_after",
}
ERROR_PROTO = Path(__file__).parents[2] / "protos/agentsvc/v1/error.proto"
OPTIONS = (v1.ChatOptions, v1.StreamingOptions, v1.MemoryOptions, v1.Budget, v1.GenerationParameters)


def messages() -> list[type[Message]]:
    """Every message of the contract."""
    found = (getattr(v1, name) for name in v1.__all__)
    return [item for item in found if isinstance(item, type) and issubclass(item, Message)]


def kinds() -> dict[str, Any]:
    """The events' names and what they carry."""
    return {field.name: field.message_type for field in v1.ChatEvent.DESCRIPTOR.oneofs_by_name["kind"].fields}


# --- services -------------------------------------------------------------------------------------------------------
def test_the_rpcs_are_those_of_the_design() -> None:
    assert {name: [method.name for method in service.methods] for name, service in SERVICES.items()} == RPCS


def test_only_the_two_readers_of_a_run_stream() -> None:
    assert {method.name for method in METHODS if method.server_streaming} == {"StreamChat", "SubscribeRun"}
    assert not any(method.client_streaming for method in METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_rpc_has_an_http_rule_whose_variables_exist(method: MethodDescriptor) -> None:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    path = getattr(rule, rule.WhichOneof("pattern") or "")
    assert path.startswith("/api/v1/")
    for variable in re.findall(r"{([^}]+)}", path):
        kind: Any = method.input_type
        for name in variable.split("."):
            kind = kind.fields_by_name[name].message_type
    if rule.body not in {"", "*"}:
        assert rule.body in method.input_type.fields_by_name


def test_no_two_rpcs_share_an_http_rule() -> None:
    rules = [method.GetOptions().Extensions[annotations_pb2.http] for method in METHODS]
    routes = [(rule.WhichOneof("pattern"), getattr(rule, rule.WhichOneof("pattern") or "")) for rule in rules]
    assert len(set(routes)) == len(routes)


def test_lists_are_paged() -> None:
    for method in METHODS:
        if method.name.startswith("List"):
            assert {"page_size", "page_token"} <= set(method.input_type.fields_by_name), method.name
            assert "next_page_token" in method.output_type.fields_by_name, method.name


# --- shapes ---------------------------------------------------------------------------------------------------------
def test_both_streams_carry_the_same_bytes() -> None:
    for response in (v1.StreamChatResponse, v1.SubscribeRunResponse):
        assert [(field.name, field.number) for field in response.DESCRIPTOR.fields] == [("event", 1)]
        assert response.DESCRIPTOR.fields[0].message_type is v1.ChatEvent.DESCRIPTOR


def test_chat_takes_what_stream_chat_takes() -> None:
    def shape(kind: type[Message]) -> tuple[Any, ...]:
        fields = [
            (f.name, f.number, f.type, f.is_repeated, f.has_presence, f.GetOptions().SerializeToString())
            for f in kind.DESCRIPTOR.fields
        ]
        return (*fields, kind.DESCRIPTOR.GetOptions().SerializeToString())

    assert shape(v1.ChatRequest) == shape(v1.StreamChatRequest)
    asked = v1.StreamChatRequest(agent_id="demo", message="hi", store=False, options=v1.ChatOptions(temperature=0))
    assert v1.ChatRequest.FromString(asked.SerializeToString()).SerializeToString() == asked.SerializeToString()


@pytest.mark.parametrize("kind", OPTIONS, ids=lambda kind: kind.DESCRIPTOR.name)
def test_a_scalar_option_tells_zero_from_unset(kind: type[Message]) -> None:
    scalars = [f for f in kind.DESCRIPTOR.fields if not f.is_repeated and f.enum_type is None]
    assert [field.name for field in scalars if not field.has_presence] == []


def test_the_events_are_those_of_the_design() -> None:
    assert {name: " ".join(field.name for field in kind.fields) for name, kind in kinds().items()} == EVENTS
    assert [(f.name, f.number) for f in v1.ChatEvent.DESCRIPTOR.fields[:3]] == [
        ("sequence", 1),
        ("elapsed_us", 2),
        ("step", 3),
    ]


def test_an_event_is_named_as_its_message() -> None:
    assert {name.title().replace("_", "") for name in EVENTS} == {kind.name for kind in kinds().values()}


def test_what_is_sent_most_costs_one_byte_of_tag() -> None:
    number = {field.name: field.number for field in v1.ChatEvent.DESCRIPTOR.fields}
    every_run = {"run_started", "text_delta", "step_completed", "generation_completed", "run_finished"}
    often = {name for name in EVENTS if name.startswith(("tool_", "reasoning_"))} | {"heartbeat"}
    assert max(number[name] for name in every_run | often) < 16


def test_microseconds_are_int64_everywhere() -> None:
    times = [field for message in messages() for field in message.DESCRIPTOR.fields if field.name.endswith("_us")]
    assert times
    assert {field.type for field in times} == {FieldDescriptor.TYPE_INT64}


def test_error_documents_every_reason_and_no_other() -> None:
    text = ERROR_PROTO.read_text()
    table = text[text.index("// What happened, as one word") : text.index("string reason = 2")]
    words = set(re.findall(r"\b[A-Z]{3,}(?:_[A-Z]+)*\b", table))
    codes = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "ABORTED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    codes |= {"OUT_OF_RANGE", "UNIMPLEMENTED", "DEADLINE_EXCEEDED"}
    assert words - codes == {reason.value for reason in Reason}


# --- requests -------------------------------------------------------------------------------------------------------
def ask(**fields: Any) -> v1.StreamChatRequest:
    """A good question with ``fields`` changed."""
    return v1.StreamChatRequest(**{"agent_id": "demo", "message": "hi", **fields})


def opt(**fields: Any) -> v1.StreamChatRequest:
    """A good question with these options."""
    return ask(options=v1.ChatOptions(**fields))


def part(**fields: Any) -> v1.StreamChatRequest:
    """A question of one part."""
    return ask(message="", parts=[v1.ContentPart(**fields)])


def media(uri: str = "https://example.com/a.png", media_type: str = "image/png") -> v1.Media:
    """A picture somewhere."""
    return v1.Media(uri=uri, media_type=media_type)


def say(role: v1.MessageRole.ValueType, **fields: Any) -> v1.Message:
    """A message of text."""
    return v1.Message(role=role, parts=[v1.ContentPart(text="so")], **fields)


def struct(size: int) -> Struct:
    """A struct of ``size`` keys."""
    value = Struct()
    value.update({f"key{i}": i for i in range(size)})
    return value


RESULT = say(v1.MESSAGE_ROLE_TOOL, tool_call_id="call")
CALL = v1.Message(role=v1.MESSAGE_ROLE_ASSISTANT, tool_calls=[v1.ToolCall(tool_call_id="call", name="look")])
NEW_AGENT = v1.Agent(agent_id="demo", llm_config=v1.LlmConfig(provider="openai", model="gpt"))

GOOD = {
    "a question": ask(),
    "a megabyte": ask(message="x" * (1 << 20)),
    "no instructions at all": ask(instructions=""),
    "text part": part(text="hi"),
    "picture by address": part(image=media()),
    "file by value": part(file=v1.Media(data=b"%PDF", media_type="application/pdf", filename="a.pdf")),
    "history": ask(history=[say(v1.MESSAGE_ROLE_USER), CALL, RESULT]),
    "history that ends with a tool's result": ask(message="", history=[CALL, RESULT]),
    "labels": ask(labels={"team": "search", "example.com/cost-centre": ""}),
    "metadata": ask(metadata=struct(64)),
    "zeros": opt(
        temperature=0,
        top_p=0,
        streaming=v1.StreamingOptions(text_buffer_size=0, text_delta_delay=Duration()),
        memory=v1.MemoryOptions(last_messages=0, top_k=0, max_wait=Duration()),
    ),
    "bounds": opt(temperature=2, top_p=1, max_output_tokens=1, stop=["x"] * 16, max_steps=100),
    "budget": opt(
        budget=v1.Budget(tokens=1, cost=v1.Cost(micros=1), wall_clock=Duration(nanos=1), tool_calls=1),
    ),
    "continue for": opt(on_disconnect=v1.ON_DISCONNECT_CONTINUE_FOR, continue_for=Duration(seconds=60)),
    "a named tool": opt(tool_choice=v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_TOOL, name="look")),
    "client tools": opt(client_tools=[v1.ClientTool(name="look"), v1.ClientTool(name="see", parameters=struct(1))]),
    "subscribe from the start": v1.SubscribeRunRequest(run_id="r"),
    "the first runs": v1.ListRunsRequest(),
    "runs under way": v1.ListRunsRequest(page_size=1000, states=[v1.RUN_STATE_RUNNING, v1.RUN_STATE_QUEUED]),
    "an approval": v1.SubmitToolResultsRequest(run_id="r", approvals=[v1.ToolApproval(tool_call_id="call")]),
    "an agent": v1.CreateAgentRequest(agent=NEW_AGENT),
    "an agent named by the server": v1.CreateAgentRequest(agent=v1.Agent(llm_config=v1.LlmConfig(provider="mock"))),
    "another model": v1.UpdateAgentRequest(agent=v1.Agent(agent_id="demo", llm_config=v1.LlmConfig(model="gpt"))),
    "a session": v1.CreateSessionRequest(session=v1.Session(agent_id="demo", user_id="u")),
    "a memory": v1.AddMemoryRequest(memory=v1.Memory(agent_id="demo", content="so")),
    "a cleared pad": v1.UpdateWorkingMemoryRequest(working_memory=v1.WorkingMemory(agent_id="demo")),
    "all providers": v1.ListProvidersRequest(),
}

BAD: dict[str, tuple[Message, str, str]] = {
    "no agent": (ask(agent_id=""), "agent_id", "required"),
    "long id": (ask(agent_id="x" * 129), "agent_id", "128"),
    "nothing asked": (ask(message=""), "", "needs a message or parts"),
    "history that ends with an answer": (
        ask(message="", history=[say(v1.MESSAGE_ROLE_ASSISTANT)]),
        "",
        "needs a message or parts",
    ),
    "too much text": (ask(message="é" * (1 << 19) + "x"), "message", "1048576 bytes"),
    "too many instructions": (ask(instructions="x" * ((1 << 18) + 1)), "instructions", "262144 bytes"),
    "too long a history": (ask(history=[say(v1.MESSAGE_ROLE_USER)] * 1001), "history", "1000"),
    "too many parts": (ask(parts=[v1.ContentPart(text="x")] * 65), "parts", "64"),
    "part of nothing": (part(), "parts[0].content", "required"),
    "long part": (part(text="x" * ((1 << 20) + 1)), "parts[0].text", "1048576 bytes"),
    "picture from nowhere": (part(image=v1.Media(media_type="image/png")), "parts[0].image.source", "required"),
    "picture over http": (part(image=media("http://example.com/a.png")), "parts[0].image.uri", "https://"),
    "picture from disk": (part(image=media("file:///etc/passwd")), "parts[0].image.uri", "https://"),
    "picture that is none": (part(image=media(media_type="text/html")), "parts[0].image", "begins with image/"),
    "file of no type": (part(file=media(media_type="")), "parts[0].file.media_type", "required"),
    "file of odd type": (part(file=media(media_type="PDF")), "parts[0].file.media_type", "such as image/png"),
    "nobody speaks": (ask(history=[v1.Message()]), "history[0].role", "required"),
    "role of the future": (ask(history=[say(99)]), "history[0].role", "defined"),  # type: ignore[arg-type]
    "silent user": (ask(history=[v1.Message(role=v1.MESSAGE_ROLE_USER)]), "history", "need at least one part"),
    "result of no call": (ask(history=[say(v1.MESSAGE_ROLE_TOOL)]), "history", "need tool_call_id"),
    "label without a name": (ask(labels={"": "x"}), "labels[]", "a label's key"),
    "label with a space": (ask(labels={"a b": "x"}), "labels[a b]", "a label's key"),
    "long label": (ask(labels={"a": "x" * 257}), "labels[a]", "256 bytes"),
    "many labels": (ask(labels={f"l{i}": "" for i in range(33)}), "labels", "32"),
    "much metadata": (ask(metadata=struct(65)), "metadata", "64 keys"),
    "hot": (opt(temperature=2.1), "options.temperature", "less than or equal to 2"),
    "not a number": (opt(temperature=float("nan")), "options.temperature", "less than or equal to 2"),
    "cold": (opt(top_p=-0.1), "options.top_p", "greater than or equal to 0"),
    "no output": (opt(max_output_tokens=0), "options.max_output_tokens", "greater than or equal to 1"),
    "many stops": (opt(stop=["x"] * 17), "options.stop", "16"),
    "empty stop": (opt(stop=[""]), "options.stop[0]", "at least 1"),
    "no step": (opt(max_steps=0), "options.max_steps", "greater than or equal to 1"),
    "many steps": (opt(max_steps=101), "options.max_steps", "less than or equal to 100"),
    "empty model": (opt(model=""), "options.model", "at least 1"),
    "mode of the future": (
        opt(streaming=v1.StreamingOptions(mode=9)),  # type: ignore[arg-type]
        "options.streaming.mode",
        "defined",
    ),
    "big buffer": (
        opt(streaming=v1.StreamingOptions(text_buffer_size=65537)),
        "options.streaming.text_buffer_size",
        "65536",
    ),
    "slow": (
        opt(streaming=v1.StreamingOptions(text_delta_delay=Duration(seconds=11))),
        "options.streaming.text_delta_delay",
        "10s",
    ),
    "patient": (opt(memory=v1.MemoryOptions(max_wait=Duration(seconds=11))), "options.memory.max_wait", "10s"),
    "no tokens": (opt(budget=v1.Budget(tokens=0)), "options.budget.tokens", "greater than 0"),
    "no money": (opt(budget=v1.Budget(cost=v1.Cost())), "options.budget.cost", "more than 0 micros"),
    "odd money": (
        opt(budget=v1.Budget(cost=v1.Cost(micros=1, currency_code="usd"))),
        "options.budget.cost.currency_code",
        "ISO 4217",
    ),
    "no time": (opt(budget=v1.Budget(wall_clock=Duration())), "options.budget.wall_clock", "greater than 0s"),
    "continue for how long": (
        opt(on_disconnect=v1.ON_DISCONNECT_CONTINUE_FOR),
        "options",
        "continue_for belongs to",
    ),
    "continue for, but cancel": (opt(continue_for=Duration(seconds=1)), "options", "continue_for belongs to"),
    "a tool, but which": (
        opt(tool_choice=v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_TOOL)),
        "options.tool_choice",
        "name belongs to the mode TOOL",
    ),
    "odd tool": (
        opt(client_tools=[v1.ClientTool(name="look around")]),
        "options.client_tools[0].name",
        "letters, digits",
    ),
    "twins": (opt(client_tools=[v1.ClientTool(name="look")] * 2), "options.client_tools", "same name"),
    "fallback to nobody": (opt(fallbacks=[v1.Fallback()]), "options.fallbacks[0].provider", "required"),
    "no run": (v1.SubscribeRunRequest(), "run_id", "required"),
    "big page": (v1.ListRunsRequest(page_size=1001), "page_size", "1000"),
    "negative page": (v1.ListAgentsRequest(page_size=-1), "page_size", "greater than or equal to 0"),
    "no answer": (v1.SubmitToolResultsRequest(run_id="r"), "", "at least one result or approval"),
    "two answers": (
        v1.SubmitToolResultsRequest(run_id="r", results=[v1.ClientToolResult(tool_call_id="call")] * 2),
        "results",
        "same tool call",
    ),
    "denied as a result": (
        v1.SubmitToolResultsRequest(
            run_id="r", results=[v1.ClientToolResult(tool_call_id="call", status=v1.TOOL_STATUS_DENIED)]
        ),
        "results[0].status",
        "send an approval",
    ),
    "no new agent": (v1.CreateAgentRequest(), "agent", "required"),
    "agent without a model": (v1.CreateAgentRequest(agent=v1.Agent()), "agent", "llm_config.provider"),
    "agent with a path": (
        v1.CreateAgentRequest(agent=v1.Agent(agent_id="a/b", llm_config=NEW_AGENT.llm_config)),
        "agent.agent_id",
        "letters, digits",
    ),
    "agent over http": (
        v1.UpdateAgentRequest(agent=v1.Agent(agent_id="demo", llm_config=v1.LlmConfig(base_url="http://10.0.0.1"))),
        "agent.llm_config.base_url",
        "https://",
    ),
    "change of no agent": (v1.UpdateAgentRequest(agent=v1.Agent()), "agent", "needs agent_id"),
    "a session of one's own name": (
        v1.CreateSessionRequest(session=v1.Session(session_id="mine", agent_id="demo")),
        "session",
        "leave it empty",
    ),
    "an empty memory": (v1.AddMemoryRequest(memory=v1.Memory(agent_id="demo")), "memory.content", "required"),
    "a search for nothing": (v1.SearchMemoriesRequest(agent_id="demo"), "query", "required"),
}


@pytest.mark.parametrize("request_", GOOD.values(), ids=GOOD.keys())
def test_a_good_request_passes(request_: Message) -> None:
    protovalidate.validate(request_)


@pytest.mark.parametrize(("request_", "field", "says"), BAD.values(), ids=BAD.keys())
def test_a_bad_request_is_told_which_field_and_why(request_: Message, field: str, says: str) -> None:
    violations = [(path(v), v.proto.message) for v in protovalidate.collect_violations(request_)]
    assert any(where == field and says in message for where, message in violations), violations


def path(violation: protovalidate.Violation) -> str:
    """Where a rule was broken, as in ``options.stop[0]``."""
    text = ""
    for element in violation.proto.field.elements if violation.proto.field else ():
        text += f".{element.field_name}"
        if element.subscript is not None:
            text += f"[{element.subscript.value}]"
    return text.removeprefix(".")
