"""What the model is shown: instructions, history, the new message. The front never changes between two turns of a
session, so that vendors' prompt caches stay warm: tools and instructions first, history next, the new turn last.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentsvc.domain.agents import Agent, MemoryOptions, StreamingMode
from agentsvc.domain.messages import Message, Role
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import RunRequest
from agentsvc.engine.tools import Toolset

DEFAULT_LAST_MESSAGES = 20


def assemble(
    agent: Agent, request: RunRequest, model: str, tools: Toolset, mode: StreamingMode, history: Sequence[Message]
) -> ModelRequest:
    """The request of a run's first step."""
    options = request.options
    spoken = [message for message in history if message.role is not Role.SYSTEM]
    system = [message.text for message in history if message.role is Role.SYSTEM]
    instructions = agent.instructions if request.instructions is None else request.instructions
    return ModelRequest(
        model=model,
        messages=(*spoken, *question(request)),
        instructions="\n\n".join(text for text in (instructions, *system) if text),
        tools=tools.specs,
        tool_choice=options.tool_choice,
        parallel_tool_calls=options.parallel_tool_calls,
        generation=options.generation.over(agent.llm_config.parameters),
        response_schema=options.response_schema,
        stream=mode is StreamingMode.STREAM,
    )


def question(request: RunRequest) -> tuple[Message, ...]:
    """The new turn; none when the caller's history ends with tool results, which the model is to go on from."""
    return (Message(Role.USER, request.parts),) if request.parts else ()


def recent(messages: Sequence[Message], options: MemoryOptions) -> Sequence[Message]:
    """The end of a session that goes into the prompt: at most ``last_messages``, cut so that it opens with a question.

    A cut between a tool call and its result is something every vendor refuses.
    """
    last = DEFAULT_LAST_MESSAGES if options.last_messages is None else options.last_messages
    tail = messages[max(0, len(messages) - last) :]
    opening = next((i for i, message in enumerate(tail) if message.role is Role.USER), len(tail))
    return tail[opening:]
