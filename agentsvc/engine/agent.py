"""The library face: an agent in your own process, without any server.

    agent = Agent(model, instructions="Be brief.", tools=[get_weather])
    answer = await agent.generate("Is it raining in Oslo?")
    async for event in agent.stream("And in Bergen?"): ...

It is the same loop the service runs; what the service adds (journal, sessions, limits) is not here. An Agent remembers
its conversation in ``history``; calls of one agent follow each other, use several agents for several conversations.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from agentsvc.domain.agents import Budget, GenerationOptions, StreamingMode, StreamingOptions
from agentsvc.domain.events import Event, GenerationCompleted, StepCompleted
from agentsvc.domain.messages import FinishReason, Message, Part, Role, Text, Usage
from agentsvc.domain.ports import ChatModel, ModelRequest
from agentsvc.domain.timeline import Timeline
from agentsvc.engine.loop import Plan, converse
from agentsvc.engine.tools import Tool, Toolset
from agentsvc.engine.transcript import Transcript

StepCallback = Callable[[StepCompleted], Any]
FinishCallback = Callable[[GenerationCompleted], Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: the last step's text, all messages of the turn, what it cost."""

    text: str
    finish_reason: FinishReason
    steps: int
    usage: Usage
    messages: tuple[Message, ...]


class Agent:
    """A model with instructions, tools and a memory of what was said.

    ``model`` is any ChatModel (``agentsvc.providers.connect`` makes one); ``model_name`` empty: the provider's default.
    """

    def __init__(
        self,
        model: ChatModel,
        model_name: str = "",
        *,
        instructions: str = "",
        tools: Iterable[Tool] = (),
        generation: GenerationOptions | None = None,
        streaming: StreamingOptions | None = None,
        budget: Budget | None = None,
        max_steps: int = 10,
    ) -> None:
        self.history: tuple[Message, ...] = ()
        self._model = model
        self._name = model_name or model.default_model
        self._instructions = instructions
        self._tools = Toolset.of(tools)
        self._generation = generation or GenerationOptions()
        self._streaming = streaming or StreamingOptions()
        self._budget = budget or Budget()
        if self._budget.wall_clock is not None or self._budget.cost_micros is not None:
            raise ValueError("budget: an Agent limits tokens and tool_calls; for time use asyncio.timeout")
        self._max_steps = max_steps

    async def generate(self, message: str | tuple[Part, ...]) -> Answer:
        """The whole answer at once.

        Raises:
            ProviderError: the vendor failed.
            BudgetExceeded: a limit tripped.
        """
        before = len(self.history)
        async with aclosing(self.stream(message)) as events:
            async for event in events:
                if isinstance(event, GenerationCompleted):
                    end = event
        return Answer(end.text, end.finish_reason, end.total_steps, end.usage, self.history[before:])

    async def stream(self, message: str | tuple[Part, ...]) -> AsyncGenerator[Event, None]:
        """The answer's events while they happen, ending in GenerationCompleted. Raises as ``generate`` does.

        Closing the generator closes the provider's connection; what was said until then stays in ``history``.
        """
        question = Message(Role.USER, (Text(message),) if isinstance(message, str) else message)
        transcript = Transcript()
        try:
            async with aclosing(converse(self._plan(question), transcript, Timeline())) as events:
                async for event in events:
                    yield event
        finally:
            transcript.close()
            self.history = (*self.history, question, *transcript.messages)

    async def stream_with_callbacks(
        self,
        message: str | tuple[Part, ...],
        *,
        on_step: StepCallback | None = None,
        on_finish: FinishCallback | None = None,
    ) -> AsyncGenerator[Event, None]:
        """``stream``, telling ``on_step`` of every StepCompleted and ``on_finish`` of the end; both may be async."""
        async with aclosing(self.stream(message)) as events:
            async for event in events:
                match event:
                    case StepCompleted() if on_step is not None:
                        await _tell(on_step(event))
                    case GenerationCompleted() if on_finish is not None:
                        await _tell(on_finish(event))
                    case _:
                        pass
                yield event

    def _plan(self, question: Message) -> Plan:
        request = ModelRequest(
            model=self._name,
            messages=(*self.history, question),
            instructions=self._instructions,
            tools=self._tools.specs,
            generation=self._generation,
            stream=self._streaming.mode is not StreamingMode.BUFFERED,
        )
        return Plan(self._model, request, self._tools, self._streaming, self._max_steps, self._budget)


async def _tell(result: Any) -> None:
    if inspect.isawaitable(result):
        await result
