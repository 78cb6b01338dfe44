"""A conversation of several steps with every native dialect, against fakes that refuse what the vendors refuse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import ModelFinished
from agentsvc.domain.messages import Message, Role, Text, ToolCall
from agentsvc.domain.ports import ModelRequest
from agentsvc.providers.dialect import Dialect
from tests.providers.native import ASKED, CALLED, HERE, NOW, RESULTS, TIDE, Check, encoded, says
from tests.providers.recorded import DIALECTS, decode, hear
from tests.providers.strict import (
    check_cohere,
    check_dashscope,
    check_gemini,
    check_ollama,
    check_qianfan_v1,
    check_responses,
    sign,
    sign_call,
)

CHECKS: dict[str, Check] = {
    "gemini": check_gemini,
    "cohere-v2": check_cohere,
    "ollama": check_ollama,
    "dashscope": check_dashscope,
    "qianfan-v1": check_qianfan_v1,
    "openai-responses": check_responses,
}
AYR, BREST = {"port": "Ayr"}, {"port": "Brest"}
TEXT_CALL = {"type": "function", "function": {"name": "tide", "arguments": '{"port":"Ayr"}'}}


def gemini(*ports: dict[str, str], text: str = "") -> bytes:
    calls: list[dict[str, Any]] = [{"functionCall": {"name": "tide", "args": port}} for port in ports]
    for part in calls[:1]:
        part["thoughtSignature"] = sign_call(part["functionCall"])
    content = {"parts": [{"text": text}] * bool(text) + calls, "role": "model"}
    return b"data: %b\r\n\r\n" % json.dumps({"candidates": [{"content": content, "finishReason": "STOP"}]}).encode()


def cohere(*ports: dict[str, str], text: str = "") -> bytes:
    calls = [TEXT_CALL | {"id": f"tide_{n}"} for n, _ in enumerate(ports)]
    said: dict[str, Any] = {"content": [{"type": "text", "text": text}]} if text else {"tool_plan": "I will look."}
    end = {"type": "message-end", "delta": {"finish_reason": "TOOL_CALL" if calls else "COMPLETE"}}
    events = [{"type": "tool-call-start", "delta": {"message": said | {"tool_calls": calls}}}, end]
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)


def ollama(*ports: dict[str, str], text: str = "") -> bytes:
    calls = [{"function": {"name": "tide", "arguments": port}} for port in ports]
    return json.dumps({"message": {"content": text, "tool_calls": calls}, "done": True}).encode() + b"\n"


def dashscope(*ports: dict[str, str], text: str = "") -> bytes:
    calls = [TEXT_CALL | {"id": f"call_{n}", "index": n} for n, _ in enumerate(ports)]
    choice = {"message": {"content": text, "tool_calls": calls}, "finish_reason": "tool_calls" if calls else "stop"}
    return b"id:1\nevent:result\ndata:%b\n\n" % json.dumps({"output": {"choices": [choice]}}).encode()


def qianfan(*ports: dict[str, str], text: str = "") -> bytes:
    call = {"function_call": {"name": "tide", "arguments": json.dumps(ports[0]), "thoughts": "Hm."}} if ports else {}
    return b"data: %b\n\n" % json.dumps({"result": text, "is_end": True} | call).encode()


def responses(*ports: dict[str, str], text: str = "") -> bytes:
    summary = [{"type": "summary_text", "text": "Tides."}]
    items: list[dict[str, Any]] = [
        {"type": "reasoning", "id": "rs_0", "encrypted_content": sign("Tides."), "summary": summary}
    ]
    if text:
        content = [{"type": "output_text", "text": text}]
        items.append({"type": "message", "id": "msg_9", "role": "assistant", "content": content})
    for n, port in enumerate(ports):
        call = {"type": "function_call", "id": f"fc_{n}", "call_id": f"call_{n}"}
        items.append(call | {"name": "tide", "arguments": json.dumps(port)})
    events: list[dict[str, Any]] = [{"type": "response.output_text.delta", "delta": text}] if text else []
    events += [{"type": "response.output_item.done", "output_index": n, "item": item} for n, item in enumerate(items)]
    events.append({"type": "response.completed", "response": {"status": "completed"}})
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)


ANSWERS = {
    "gemini": gemini,
    "cohere-v2": cohere,
    "ollama": ollama,
    "dashscope": dashscope,
    "qianfan-v1": qianfan,
    "openai-responses": responses,
}


def turn(dialect: Dialect, answer: bytes, step: int) -> list[Message]:
    """The answer and the results of its calls as messages, under the ids that a run would give the calls."""
    heard = hear(decode(dialect.decoder(), [answer]))
    assert isinstance(heard.end, ModelFinished)
    calls = tuple(
        ToolCall(f"run-{step}-{n}", name, arguments) for n, (name, arguments) in enumerate(heard.calls.values())
    )
    parts = (Text(heard.text),) if heard.text else ()
    spoken = Message(Role.ASSISTANT, parts, calls, provider_state=heard.end.provider_state)
    return [spoken, *(says(Role.TOOL, "06:10", tool_call_id=call.tool_call_id) for call in calls)]


def talk(name: str, answers: Sequence[bytes]) -> list[dict[str, Any]]:
    """The bodies of a conversation in which each answer is followed by the next request, all of them taken."""
    messages, bodies = [ASKED], []
    for step, answer in enumerate(answers):
        bodies.append(encoded(DIALECTS[name], CHECKS[name], *messages, tools=(TIDE,), model="m-3"))
        messages += turn(DIALECTS[name], answer, step)
        if messages[-1].role is Role.ASSISTANT:
            messages.append(says(Role.USER, "And tomorrow?"))
    return bodies


@pytest.mark.parametrize("name", CHECKS)
def test_two_tool_steps_and_a_second_turn(name: str) -> None:
    answer = ANSWERS[name]
    again = answer(AYR, text="Looking again.")
    bodies = talk(name, [answer(AYR), answer(AYR, BREST), answer(text="06:10."), again, answer(text="06:50.")])
    assert len(bodies) == 5
    assert "06:10." in json.dumps(bodies[-1])


@pytest.mark.parametrize("name", CHECKS)
def test_a_history_of_another_vendors_parallel_calls_is_taken(name: str) -> None:
    thanks = says(Role.USER, "Thanks. Now Oban.")
    body = encoded(
        DIALECTS[name], CHECKS[name], ASKED, CALLED, *RESULTS, thanks, tools=(TIDE, NOW), instructions="Brief."
    )
    text = json.dumps(body)
    assert text.index("Looking.") < text.index("06:10") < text.index("no clock") < text.index("Oban")
    assert "thinking" not in text


@pytest.mark.parametrize("name", CHECKS)
def test_a_run_goes_on_from_another_vendors_calls(name: str) -> None:
    encoded(DIALECTS[name], CHECKS[name], ASKED, CALLED, *RESULTS, tools=(TIDE, NOW), instructions="Brief.")


@pytest.mark.parametrize("name", CHECKS)
def test_two_requests_share_their_bytes_up_to_the_new_turn(name: str) -> None:
    def body(*messages: Message) -> bytes:
        request = ModelRequest("m-1", messages, instructions="Be brief.", tools=(TIDE, NOW))
        return DIALECTS[name].encode(request, HERE).body

    answered = says(Role.ASSISTANT, "06:10.")
    first = body(ASKED, CALLED, *RESULTS, answered, ASKED)
    second = body(ASKED, CALLED, *RESULTS, answered, ASKED, answered, says(Role.USER, "And tomorrow?"))
    question = ASKED.text.encode()
    assert second.startswith(first[: first.rindex(question) + len(question)])


@pytest.mark.parametrize("name", ["gemini", "ollama"])
@pytest.mark.parametrize("arguments", ['{"port":', "[]", "06:10"])
def test_arguments_that_are_no_object_are_refused_where_one_is_wanted(name: str, arguments: str) -> None:
    called = says(Role.ASSISTANT, tool_calls=(ToolCall("a", "tide", arguments),))
    with pytest.raises(AgentsvcError) as refusal:
        encoded(DIALECTS[name], CHECKS[name], ASKED, called, RESULTS[0])
    assert refusal.value.reason is Reason.INVALID_FIELD


def lose(body: dict[str, Any], field: str) -> dict[str, Any]:
    """The body without a field, wherever it stands."""
    lost: dict[str, Any] = json.loads(
        json.dumps(body), object_hook=lambda value: {k: v for k, v in value.items() if k != field}
    )
    assert lost != body
    return lost


@pytest.mark.parametrize(
    ("name", "field", "complaint"),
    [
        ("gemini", "thoughtSignature", "missing a thought_signature"),
        ("gemini", "functionResponse", "exactly one initialized field"),
        ("cohere-v2", "tool_call_id", "no tool call"),
        ("ollama", "tool_name", "no tool call"),
        ("dashscope", "tool_call_id", "no tool call"),
        ("qianfan-v1", "function_call", "must not be empty"),
        ("qianfan-v1", "name", "name and arguments are required"),
        ("openai-responses", "encrypted_content", "not persisted"),
        ("openai-responses", "call_id", "call_id"),
    ],
)
def test_the_vendor_would_notice_what_is_lost(name: str, field: str, complaint: str) -> None:
    *_, body = talk(name, [ANSWERS[name](AYR), ANSWERS[name](text="06:10.")])
    assert complaint in json.dumps(CHECKS[name](lose(body, field)))
