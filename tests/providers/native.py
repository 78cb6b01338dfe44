"""What the tests of the native dialects share: a conversation, and how to read what was encoded or recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from agentsvc.domain.events import ModelFinished
from agentsvc.domain.messages import Media, Message, ProviderState, Role, Text, ToolCall, ToolSpec
from agentsvc.domain.ports import ModelRequest
from agentsvc.providers.dialect import Dialect, Endpoint
from tests.providers.recorded import RECORDINGS, Heard, decode, hear

Check = Callable[[dict[str, Any]], dict[str, Any] | None]

HERE = Endpoint("https://api.acme.test/", "secret")
TIDE = ToolSpec("tide", "When is high water?", {"type": "object", "properties": {"port": {"type": "string"}}})
NOW = ToolSpec("now", "")
SCHEMA = {"type": "object", "properties": {"hour": {"type": "integer"}}, "additionalProperties": False}


def says(role: Role, *parts: str | Media, **more: Any) -> Message:
    return Message(role, tuple(Text(part) if isinstance(part, str) else part for part in parts), **more)


ASKED = says(Role.USER, "High water in Ayr and Brest?")
CALLS = (ToolCall("a", "tide", '{"port":"Ayr"}'), ToolCall("b", "now", ""))
# Made by another vendor, in parallel, with text.
CALLED = says(
    Role.ASSISTANT, "Looking.", tool_calls=CALLS, provider_state=ProviderState("elsewhere", [{"type": "thinking"}])
)
RESULTS = (
    says(Role.TOOL, "06:10", tool_call_id="a"),
    says(Role.TOOL, "no clock", tool_call_id="b", is_error=True),
)
PICTURE = Media("image", "image/png", b"\x89P")
LINKED = Media("image", "", uri="https://x.test/a.png")
FILE = Media("file", "application/pdf", b"%PDF")


def encoded(dialect: Dialect, check: Check, *messages: Message, model: str = "m-1", **options: Any) -> dict[str, Any]:
    """The body of a request that the vendor takes."""
    request = ModelRequest(model, messages or (ASKED,), **options)
    body: dict[str, Any] = json.loads(dialect.encode(request, HERE).body)
    assert check(body) is None, check(body)
    return body


def heard(name: str) -> Heard:
    """One of the project's own streams."""
    recording = next(recording for recording in RECORDINGS if recording.name == name)
    return hear(decode(recording.decoder(), [recording.body]))


def state(name: str) -> Any:
    """The provider state that one of the project's own streams ends with; None for none."""
    end = heard(name).end
    assert isinstance(end, ModelFinished)
    return end.provider_state.payload if end.provider_state else None
