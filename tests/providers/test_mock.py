"""The scripted provider: its scripts do what they say, and it refuses what OpenAI refuses."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from agentsvc.domain.agents import GenerationOptions
from agentsvc.domain.errors import Error, Reason
from agentsvc.domain.events import ModelFailed, ModelFinished
from agentsvc.domain.messages import FinishReason, Message, Role, Text, ToolCall, ToolSpec
from agentsvc.domain.ports import ModelRequest
from agentsvc.providers import PROVIDERS, Endpoint, script
from agentsvc.providers.mock import Data, Hang, Head, Reset, Wire, answer
from tests.providers.recorded import Heard, decode, hear

MOCK = PROVIDERS["mock"].dialect
WEATHER = ToolSpec(
    "get_weather", "", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
)
ASKED = Message(Role.USER, (Text("What is it like outside?"),))
CALLED = Message(Role.ASSISTANT, tool_calls=(ToolCall("c1", "get_weather", "{}"),))
RESULT = Message(Role.TOOL, (Text("18 degrees, light rain."),), tool_call_id="c1")


def wire(
    *messages: Message, model: str = "mock-demo", steps: Any = None, stream: bool = True, **more: Any
) -> list[Wire]:
    own = {} if steps is None else {"script": steps}
    generation = GenerationOptions(provider_options=own | more.pop("own", {}))
    request = ModelRequest(model, messages or (ASKED,), generation=generation, stream=stream, **more)
    return list(answer(MOCK.encode(request, Endpoint("mock:")).body))


def ask(*messages: Message, **options: Any) -> Heard | Error:
    head, *rest = wire(*messages, **options)
    assert isinstance(head, Head)
    body = [piece.data for piece in rest if isinstance(piece, Data)]
    if head.status != 200:
        return MOCK.error(head.status, head.headers, b"".join(body))
    decoder = MOCK.decoder() if head.headers["content-type"].startswith("text/event-stream") else MOCK.body_decoder()
    return hear(decode(decoder, body))


def heard(*messages: Message, **options: Any) -> Heard:
    outcome = ask(*messages, **options)
    assert isinstance(outcome, Heard)
    return outcome


def test_echo_says_the_last_message_word_by_word() -> None:
    pieces = wire(model="mock-echo", own={"delay": 0.5})
    assert heard(model="mock-echo").text == ASKED.text
    assert [piece.delay for piece in pieces if isinstance(piece, Data)].count(0.5) == len(ASKED.text.split())


@pytest.mark.parametrize("stream", [True, False])
def test_demo_calls_the_tool_and_then_answers_with_its_result(stream: bool) -> None:
    first = heard(tools=(WEATHER,), stream=stream)
    assert first.reasoning
    assert list(first.calls.values()) == [["get_weather", '{"city":"Paris"}']]
    assert isinstance(first.end, ModelFinished)
    assert first.end.finish_reason is FinishReason.TOOL_CALLS
    second = heard(ASKED, CALLED, RESULT, tools=(WEATHER,), stream=stream)
    assert "18 degrees, light rain." in second.text
    assert not second.calls
    assert isinstance(second.end, ModelFinished)
    assert second.end.usage is not None
    assert second.end.usage.output_tokens == len(f"{second.text} {second.reasoning}".split())


def test_demo_answers_at_once_without_tools() -> None:
    assert ASKED.text in heard().text


def test_a_script_plays_its_turns() -> None:
    steps: script.Script = (
        script.Reason("Hm. "),
        script.Say("One moment.", chunk=3),
        script.Call("get_weather", {"city": "Ayr"}, fragment=2, id="c1"),
        script.Call("get_weather", '{"city":"Nome"}'),
        script.Turn(),
        script.Repeat(2, (script.Say("Rain. "),)),
        script.Finish("length", usage=False),
    )
    first = heard(steps=script.write(steps))
    assert (first.reasoning, first.text) == ("Hm. ", "One moment.")
    assert list(first.calls.items()) == [
        ("c1", ["get_weather", '{"city":"Ayr"}']),
        ("call_mock_0_1", ["get_weather", '{"city":"Nome"}']),
    ]
    second = heard(ASKED, CALLED, RESULT, steps=script.write(steps))
    assert second.text == "Rain. Rain. "
    assert second.end == ModelFinished(FinishReason.LENGTH, None)
    assert heard(ASKED, CALLED, RESULT, CALLED, RESULT, steps=script.write(steps)).text == "Done."


@pytest.mark.parametrize("stream", [True, False])
def test_a_flood_is_all_there_and_counted(stream: bool) -> None:
    flood = heard(steps=[{"do": "flood", "tokens": 1000, "text": " x", "batch": 64}], stream=stream)
    assert flood.text == " x" * 1000
    assert isinstance(flood.end, ModelFinished)
    assert flood.end.usage is not None
    assert flood.end.usage.output_tokens == 1000


def test_pings_say_nothing_and_take_their_time() -> None:
    pieces = wire(steps=[{"do": "pause", "seconds": 3, "pings": 2}, {"do": "text", "text": "Hi"}])
    assert sum(piece.delay for piece in pieces if isinstance(piece, Data)) == 3
    decoder = MOCK.decoder()
    silent = [decoder.feed(piece.data) for piece in pieces[1:7] if isinstance(piece, Data)]
    assert silent == [[]] * 6


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ({"do": "malformed"}, Reason.MALFORMED_STREAM),
        ({"do": "raw", "data": "data: {\n\n"}, Reason.MALFORMED_STREAM),
        ({"do": "error", "status": 503}, Reason.PROVIDER_OVERLOADED),
        ({"do": "truncate"}, Reason.STREAM_TRUNCATED),
        ({"do": "reset"}, Reason.STREAM_TRUNCATED),
        ({"do": "stall"}, Reason.STREAM_TRUNCATED),
    ],
)
def test_faults_come_after_what_was_said(step: dict[str, Any], reason: Reason) -> None:
    faulty = heard(steps=[{"do": "text", "text": "So far so good"}, step])
    assert faulty.text.startswith("So far so good")
    assert isinstance(faulty.end, ModelFailed)
    assert faulty.end.error.reason is reason


def test_a_whole_body_can_fail_too() -> None:
    broken = heard(steps=[{"do": "truncate"}], stream=False)
    assert isinstance(broken.end, ModelFailed)
    assert broken.end.error.reason is Reason.MALFORMED_STREAM
    failed = heard(steps=[{"do": "error"}], stream=False)
    assert isinstance(failed.end, ModelFailed)
    assert failed.end.error.reason is Reason.PROVIDER_SERVER_ERROR


def test_a_reset_and_a_stall_are_told_to_whoever_plays() -> None:
    assert wire(steps=[{"do": "reset"}])[-1] == Reset()
    assert wire(steps=[{"do": "stall"}])[-1] == Hang()
    assert wire(steps=[{"do": "stall"}], stream=False)[-1] == Hang()


def test_a_status_instead_of_an_answer() -> None:
    error = ask(steps=[{"do": "status", "status": 429, "headers": {"retry-after": "2"}}])
    assert isinstance(error, Error)
    assert (error.reason, error.retry_after) == (Reason.PROVIDER_RATE_LIMIT, 2.0)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ((ASKED, CALLED), "must be followed by tool messages"),
        ((ASKED, CALLED, ASKED), "must be followed by tool messages"),
        ((ASKED, RESULT), "must be a response to a preceding message"),
        ((ASKED, CALLED, RESULT, RESULT), "must be a response to a preceding message"),
    ],
)
def test_it_refuses_what_openai_refuses(messages: tuple[Message, ...], words: str) -> None:
    head, body = wire(*messages)
    assert isinstance(head, Head)
    assert isinstance(body, Data)
    assert head.status == 400
    assert words in json.loads(body.data)["error"]["message"]


@pytest.mark.parametrize(
    ("options", "status"),
    [({"model": "gpt-9"}, 404), ({"steps": [{"do": "dance"}]}, 400), ({"steps": [{"do": "text"}]}, 400)],
)
def test_it_refuses_what_it_does_not_know(options: dict[str, Any], status: int) -> None:
    (head, _) = wire(**options)
    assert isinstance(head, Head)
    assert head.status == status


def test_a_body_that_is_no_json_is_refused() -> None:
    assert next(answer(b"{")) == Head(400, {"content-type": "application/json"})


def test_scripts_read_as_they_were_written() -> None:
    steps: script.Script = (script.Call("x", {"a": 1}), script.Repeat(3, (script.Pause(1.0, 2),)), script.Stall())
    assert script.read(msgspec.json.decode(msgspec.json.encode(script.write(steps)))) == steps
