"""The scripted provider: chat completions without a model. Tests, the demo and the benchmark share it.

``answer`` takes the body of a request as a vendor would get it and yields what goes over the wire: a ``Head``, then
``Data`` with the delay before it, perhaps a ``Reset`` or ``Hang``; running out means a clean close. Pure: a client can
play it in process, an HTTP server can play it on a socket.

What it answers is said by ``script`` in the body (``provider_options["script"]``, see ``script.py``), else by the model:

    mock-echo    the user's last message, word by word
    mock-demo    thinks; calls ``get_weather``, or else the first tool, if one is offered and no result is there yet; then
                 answers with the result

``delay`` in the body (``provider_options["delay"]``) is the seconds before each token of these two. Requests that OpenAI
would refuse are refused in its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from agentsvc.providers import script as steps
from agentsvc.providers.script import Script
from agentsvc.providers.strictness import check_openai_chat

_WORDS = re.compile(r"\S+\s*|\s+")
_MODELS = ("mock-demo", "mock-echo")


_TEXTS = frozenset({"content", "reasoning_content"})
_MOST_IN_ONE_BODY = 4 << 20  # characters


@dataclass(frozen=True, slots=True)
class Head:
    """The status line and headers, names in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


class Data(NamedTuple):
    """``delay`` seconds of silence, then these bytes in one write."""

    delay: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection breaks (RST)."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Nothing more, and the connection stays open."""


Wire = Head | Data | Reset | Hang

# What a step comes down to: after a delay in seconds, a delta so many times; or a step that is no delta.
Move = tuple[float, dict[str, Any], int] | steps.Step


def answer(body: bytes) -> Iterator[Wire]:
    """What the scripted provider does with a request."""
    try:
        request: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
        script = steps.read(request["script"]) if "script" in request else None
    except msgspec.MsgspecError as problem:
        yield from _refuse(steps.Refuse(400, "invalid_script", str(problem)))
        return
    if refusal := check_openai_chat(request):
        yield from _json(400, refusal)
        return
    if script is None and request["model"] not in _MODELS:
        message = f"The model `{request['model']}` does not exist; there are {' and '.join(_MODELS)}."
        yield from _refuse(steps.Refuse(404, "model_not_found", message))
        return
    turn = _turn_number(request["messages"])
    played = steps.turn(script, turn) if script is not None else _improvise(request)
    if played and isinstance(played[0], steps.Refuse):
        yield from _refuse(played[0])
    elif request.get("stream"):
        yield from _Stage(request, turn).stream(played)
    else:
        yield from _Stage(request, turn).whole(played)


class _Stage:
    """One answer being played: what has been said is counted, for the finish reason and the usage."""

    def __init__(self, request: Mapping[str, Any], turn: int) -> None:
        self._turn = turn
        self._calls = self._tokens = self._reasoning = 0
        self._finish = steps.Finish()
        self._prompt = sum(len(_content(message).split()) + 1 for message in request["messages"])
        usage = (request.get("stream_options") or {}).get("include_usage")
        self._tells_usage = bool(usage)
        head = {"id": f"chatcmpl-mock-{turn}", "object": "chat.completion.chunk", "model": request["model"]}
        self._head = msgspec.json.encode(head)[:-1]

    def stream(self, script: Script) -> Iterator[Wire]:
        """As ``text/event-stream``."""
        yield Head(200, {"content-type": "text/event-stream; charset=utf-8"})
        yield Data(0.0, self._frame({"role": "assistant", "content": ""}))
        for move in self._play(script):
            match move:
                case (delay, delta, times):
                    yield Data(delay, self._frame(delta) * times)
                case steps.Raw(data, delay):
                    yield Data(delay, data.encode())
                case steps.Malformed():
                    yield Data(0.0, self._frame({"content": "torn"})[:-16] + self._frame({"content": "next"}))
                case steps.ErrorFrame():
                    yield Data(0.0, b"data: %b\n\n" % _encode(_error(move)))
                    return
                case _:
                    yield from _breaks(move)
                    return
        end = self._frame({}, self._finish_reason())
        if self._tells_usage and self._finish.usage:
            end += b'data: %b,"choices":[],"usage":%b}\n\n' % (self._head, _encode(self._usage()))
        yield Data(0.0, end + b"data: [DONE]\n\n")

    def whole(self, script: Script) -> Iterator[Wire]:
        """As one JSON body, after all the delays. A script without measure is cut off, as a vendor's output limit does."""
        yield Head(200, {"content-type": "application/json"})
        waited, size = 0.0, 0
        message: dict[str, Any] = {"role": "assistant", "content": []}
        for move in self._play(script):
            match move:
                case (delay, delta, times):
                    waited += delay
                    _merge(message, delta, times)
                    size += times * len(delta.get("content") or delta.get("reasoning_content") or "")
                    if size > _MOST_IN_ONE_BODY:
                        self._finish = msgspec.structs.replace(self._finish, reason="length")
                        break
                case steps.Raw(_, delay):
                    waited += delay
                case steps.ErrorFrame():
                    yield Data(waited, _encode(_error(move)))
                    return
                case _:
                    yield Data(waited, b'{"choices":[')
                    yield from _breaks(move)
                    return
        message |= {name: "".join(value) for name, value in message.items() if name in _TEXTS}
        choice = {"index": 0, "message": message, "finish_reason": self._finish_reason()}
        usage = self._usage() if self._finish.usage else None
        yield Data(waited, b'%b,"choices":[%b],"usage":%b}' % (self._head, _encode(choice), _encode(usage)))

    def _play(self, script: Script) -> Iterator[Move]:
        for step in script:
            match step:
                case steps.Say(text, chunk, delay):
                    for piece in _cut(text, chunk):
                        self._tokens += 1
                        yield delay, {"content": piece}, 1
                case steps.Reason(text, chunk, delay):
                    for piece in _cut(text, chunk):
                        self._tokens += 1
                        self._reasoning += 1
                        yield delay, {"reasoning_content": piece}, 1
                case steps.Call():
                    yield from self._call(step)
                case steps.Flood(tokens, text, batch, delay):
                    for begun in range(0, tokens, batch):
                        size = min(batch, tokens - begun)
                        self._tokens += size
                        yield delay, {"content": text}, size
                case steps.Pause(seconds, pings):
                    for _ in range(pings):
                        yield steps.Raw(": ping\n\n", seconds / (pings + 1))
                        yield 0.0, {"role": "assistant"}, 1
                    yield steps.Raw("", seconds / (pings + 1))
                case steps.Repeat(times, inner):
                    for _ in range(times):
                        yield from self._play(inner)
                case steps.Finish():
                    self._finish = step
                case _:
                    yield step

    def _call(self, step: steps.Call) -> Iterator[Move]:
        index, self._calls = self._calls, self._calls + 1
        self._tokens += 1
        arguments = step.arguments if isinstance(step.arguments, str) else _encode(step.arguments).decode()
        call_id = step.id or f"call_mock_{self._turn}_{index}"
        head = {"name": step.name, "arguments": ""}
        yield step.delay, {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": head}]}, 1
        for fragment in _cut(arguments, step.fragment or len(arguments) or 1):
            self._tokens += 1
            yield step.delay, {"tool_calls": [{"index": index, "function": {"arguments": fragment}}]}, 1

    def _frame(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return b'data: %b,"choices":[%b]}\n\n' % (self._head, _encode(choice))

    def _finish_reason(self) -> str:
        return self._finish.reason or ("tool_calls" if self._calls else "stop")

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": self._tokens,
            "total_tokens": self._prompt + self._tokens,
            "completion_tokens_details": {"reasoning_tokens": self._reasoning},
        }


def _improvise(request: Mapping[str, Any]) -> Script:
    """What mock-echo and mock-demo do."""
    messages = request["messages"]
    delay = float(request.get("delay") or 0.0)
    asked = next((_content(message) for message in reversed(messages) if message["role"] == "user"), "")
    if request["model"] == "mock-echo":
        return (steps.Say(asked, delay=delay),)
    results = [_content(message) for message in messages[_after_last_user(messages) :] if message["role"] == "tool"]
    if results:
        said = f"Here is what I found: {' '.join(results)} Ask me anything else, and I will look again."
        return (steps.Reason("The tool has answered. ", delay=delay), steps.Say(said, delay=delay))
    tools = {tool["function"]["name"]: tool["function"] for tool in request.get("tools") or () if "function" in tool}
    if tools and request.get("tool_choice") != "none":
        name = "get_weather" if "get_weather" in tools else next(iter(tools))
        arguments = _sample(tools[name].get("parameters") or {})
        reasoning = f"I cannot know this by myself, but {name} can tell. "
        return (
            steps.Reason(reasoning, delay=delay),
            steps.Call(name, arguments if isinstance(arguments, dict) else {}, fragment=6, delay=delay),
        )
    said = f"I am the scripted provider of agentsvc, and you said: {asked} With a tool at hand I would use it now."
    return (steps.Reason("There is no tool to ask, so I answer at once. ", delay=delay), steps.Say(said, delay=delay))


def _sample(schema: Mapping[str, Any]) -> Any:
    """A plausible value for a JSON Schema."""
    if "default" in schema:
        return schema["default"]
    if schema.get("enum"):
        return schema["enum"][0]
    match schema.get("type"):
        case "string":
            return "Paris"
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case "array":
            return []
        case _:
            required, properties = schema.get("required") or (), schema.get("properties") or {}
            return {name: _sample(properties.get(name) or {"type": "string"}) for name in required}


def _after_last_user(messages: list[dict[str, Any]]) -> int:
    return max((number + 1 for number, message in enumerate(messages) if message["role"] == "user"), default=0)


def _turn_number(messages: list[dict[str, Any]]) -> int:
    return sum(message["role"] == "assistant" for message in messages[_after_last_user(messages) :])


def _content(message: Mapping[str, Any]) -> str:
    match message.get("content"):
        case str() as text:
            return text
        case list() as parts:
            return " ".join(str(part["text"]) for part in parts if part.get("type") == "text" and "text" in part)
        case _:
            return ""


def _cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)] if size > 0 else _WORDS.findall(text)


def _merge(message: dict[str, Any], delta: dict[str, Any], times: int) -> None:
    """Adds a delta to a whole message, whose texts are lists of pieces until its end."""
    for name, value in delta.items():
        if name in _TEXTS:
            message.setdefault(name, []).append(value * times)
        for piece in value if name == "tool_calls" else ():
            calls = message.setdefault("tool_calls", [])
            if piece["index"] == len(calls):
                calls.append({name: part for name, part in piece.items() if name != "index"})
            else:
                calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]


def _breaks(step: steps.Step) -> Iterator[Wire]:
    """How the connection ends before the answer has."""
    if isinstance(step, steps.Reset):
        yield Reset()
    elif isinstance(step, steps.Stall):
        yield Hang()


def _error(step: steps.ErrorFrame) -> dict[str, Any]:
    return {"error": {"message": "The mock was told to fail.", "type": step.code, "code": step.status}}


def _refuse(step: steps.Refuse) -> Iterator[Wire]:
    error = {"message": step.message, "type": "mock_error", "param": None, "code": step.code or None}
    yield from _json(step.status, {"error": error}, step.headers)


def _json(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Iterator[Wire]:
    yield Head(status, {"content-type": "application/json", **(headers or {})})
    yield Data(0.0, _encode(body))


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value)
