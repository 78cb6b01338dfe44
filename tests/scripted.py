"""Vendors that play a script over HTTP: chat completions on ``.../chat/completions``, Anthropic on ``.../v1/messages``.

The script comes from the test, or from the request (``provider_options["script"]``), or is what the model ``mock-echo`` or
``mock-demo`` does (chat completions only). Requests that the vendor would refuse get that vendor's 400.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

from agentsvc.providers import mock, script
from agentsvc.providers.mock import Data, Hang, Head, Reset, Wire
from agentsvc.providers.script import Script
from tests.upstream import Call, Handler

STREAM = Head(200, {"content-type": "text/event-stream; charset=utf-8"})


def scripted(told: Script | None = None) -> Handler:
    """Plays ``told``, else what the request asks for."""

    async def handler(call: Call) -> None:
        body = call.request.body
        if told is not None:
            body = json.dumps({**call.request.json, "script": script.write(told)}).encode()
        messages = call.request.path.endswith("/messages")
        await play(call, anthropic(json.loads(body)) if messages else mock.answer(body))

    return handler


async def play(call: Call, moves: Iterator[Wire]) -> None:
    """Does on the socket what ``moves`` say."""
    for move in moves:
        match move:
            case Head(status, headers):
                await call.start(status, headers=headers)
            case Data(delay, data):
                await asyncio.sleep(delay)
                await call.send(data)
            case Hang():
                return await call.gone()
            case Reset():
                return call.connection.reset()
    return await call.end()


def anthropic(request: dict[str, Any]) -> Iterator[Wire]:
    """What the Messages API does with a request whose ``script`` it plays."""
    from tests.providers.strict import check_anthropic

    told = script.read(request.pop("script"))
    if refusal := check_anthropic(request):
        yield from _refuse(400, refusal)
        return
    steps = script.turn(told, _turn(request["messages"]))
    if steps and isinstance(steps[0], script.Refuse):
        error = {"type": steps[0].code or "api_error", "message": steps[0].message}
        yield from _refuse(steps[0].status, {"type": "error", "error": error}, steps[0].headers)
        return
    yield STREAM
    yield from _Message(request).moves(steps)


def _refuse(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Iterator[Wire]:
    yield Head(status, {"content-type": "application/json", **(headers or {})})
    yield Data(0.0, json.dumps(body).encode())


def _turn(messages: list[dict[str, Any]]) -> int:
    """How often the model has answered since the user last spoke; tool results are not the user's words."""
    answers = 0
    for message in messages:
        if message["role"] == "assistant":
            answers += 1
        elif isinstance(message["content"], str) or any(part["type"] == "text" for part in message["content"]):
            answers = 0
    return answers


class _Message:
    """An answer being streamed, block by block."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._input = len(json.dumps(request["messages"]).split())
        self._model = request["model"]
        self._index = -1
        self._kind = ""
        self._tokens = self._calls = 0
        self._finish = script.Finish()

    def moves(self, steps: Script) -> Iterator[Wire]:
        usage = {"input_tokens": self._input, "output_tokens": 1}
        head = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "usage": usage,
        }
        yield Data(0.0, _event("message_start", message=head) + _event("ping"))
        for move in self._play(steps):
            if move is None:
                return
            yield move
            if isinstance(move, Reset | Hang):
                return
        reason = self._finish.reason or ("tool_use" if self._calls else "end_turn")
        told = {"usage": {"output_tokens": self._tokens}} if self._finish.usage else {}
        end = _event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, **told)
        yield Data(0.0, self._close() + end + _event("message_stop"))

    def _play(self, steps: Script) -> Iterator[Wire | None]:
        for step in steps:
            match step:
                case script.Say(text, chunk, delay):
                    yield from self._grow("text", {"type": "text", "text": ""}, "text", text, chunk, delay)
                case script.Reason(text, chunk, delay):
                    thinking = {"type": "thinking", "thinking": "", "signature": ""}
                    yield from self._grow("thinking", thinking, "thinking", text, chunk, delay)
                case script.Call(name, arguments, fragment, delay, call_id):
                    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
                    yield Data(0.0, self._close())
                    self._calls += 1
                    block: dict[str, Any] = {
                        "type": "tool_use",
                        "id": call_id or f"toolu_{self._calls}",
                        "name": name,
                        "input": {},
                    }
                    yield from self._grow("tool_use", block, "partial_json", text, fragment or len(text), delay)
                case script.Pause(seconds, pings):
                    for _ in range(pings + 1):
                        yield Data(seconds / (pings + 1), _event("ping"))
                case script.Repeat(times, inner):
                    for _ in range(times):
                        yield from self._play(inner)
                case script.Flood(tokens, text, batch, delay):
                    yield Data(0.0, self._open("text", {"type": "text", "text": ""}))
                    self._tokens += tokens
                    for sent in range(0, tokens, batch):
                        yield Data(delay, self._delta("text", text) * min(batch, tokens - sent))
                case script.Raw(data, delay):
                    yield Data(delay, data.encode())
                case script.Finish():
                    self._finish = step
                case script.Malformed():
                    yield Data(
                        0.0,
                        self._open("text", {"type": "text", "text": ""}) + self._delta("text", "torn")[:-9] + b"\n\n",
                    )
                case script.ErrorFrame(code, _):
                    yield Data(0.0, _event("error", error={"type": code, "message": "The upstream was told to fail."}))
                    yield None
                case script.Reset():
                    yield Reset()
                case script.Stall():
                    yield Hang()
                case _:
                    yield None

    def _grow(self, kind: str, block: dict[str, Any], name: str, text: str, chunk: int, delay: float) -> Iterator[Wire]:
        yield Data(0.0, self._open(kind, block))
        pieces = [text[at : at + chunk] for at in range(0, len(text), chunk)] if chunk else text.split(" ")
        for number, piece in enumerate(pieces):
            self._tokens += 1
            yield Data(delay, self._delta(name, piece if chunk or not number else f" {piece}"))

    def _delta(self, name: str, piece: str) -> bytes:
        kind = "input_json_delta" if name == "partial_json" else f"{name}_delta"
        return _event("content_block_delta", index=self._index, delta={"type": kind, name: piece})

    def _open(self, kind: str, block: dict[str, Any]) -> bytes:
        if self._kind == kind:
            return b""
        closed = self._close()
        self._kind = kind
        self._index += 1
        return closed + _event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> bytes:
        kind, self._kind = self._kind, ""
        if not kind:
            return b""
        signed = self._delta("signature", f"signature-{self._index}") if kind == "thinking" else b""
        return signed + _event("content_block_stop", index=self._index)


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields}, ensure_ascii=False)}\n\n".encode()
