"""One conversation of the loop with a scripted model, for its tests."""

from collections.abc import Sequence
from typing import Any

import pytest

from agentsvc.domain.events import (
    Event,
)
from agentsvc.domain.messages import Message, Role, Text
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.timeline import Timeline
from agentsvc.engine.loop import Plan, converse
from agentsvc.engine.tools import Tool, Toolset, tool
from agentsvc.engine.transcript import Transcript
from tests.engine.fakes import (
    FakeModel,
    Script,
    call,
    check_history,
)

QUESTION = Message(Role.USER, (Text("Hi"),))


class Talk:
    """One conversation of the loop with a scripted model, and what came of it."""

    def __init__(self, *scripts: Script, tools: Sequence[Tool] = (), **plan: Any) -> None:
        self.model = FakeModel(*scripts)
        self.transcript = Transcript()
        self.timeline = Timeline()
        self.plan = Plan(self.model, ModelRequest("m", (QUESTION,)), Toolset.of(tools), **plan)
        self.events: list[Event] = []

    async def run(self) -> list[Event]:
        async for event in converse(self.plan, self.transcript, self.timeline):
            self.events.append(event)
        return self.events

    async def fails(self, kind: type[Exception]) -> Any:
        with pytest.raises(kind) as raised:
            await self.run()
        self.transcript.close()
        check_history((QUESTION, *self.transcript.messages))
        return raised.value

    def texts_of_tools(self) -> list[str]:
        return [message.text for message in self.transcript.messages if message.role is Role.TOOL]


@tool
async def weather(city: str) -> str:
    """The weather in a city, now."""
    return f"rain in {city}"


def weather_in(city: str, call_id: str = "call_0") -> Any:
    return call("weather", f'{{"city":"{city}"}}', call_id)
