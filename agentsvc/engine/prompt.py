"""What the model is shown: instructions, history, the new message. The front never changes between two turns of a
session, so that vendors' prompt caches stay warm: tools and instructions first, history next, the new turn last.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentsvc.domain.agents import MemoryOptions, StreamingMode
from agentsvc.domain.messages import Message, Role
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import RunRequest
from agentsvc.engine.catalog import Layers, Prepared

DEFAULT_LAST_MESSAGES = 20


def assemble(
    prepared: Prepared, layers: Layers, request: RunRequest, model: str, history: Sequence[Message]
) -> ModelRequest:
    """The request of a run's first step."""
    options = request.options
    instructions = prepared.agent.instructions if request.instructions is None else request.instructions
    if system := [message.text for message in history if message.role is Role.SYSTEM]:
        history = [message for message in history if message.role is not Role.SYSTEM]
        instructions = "\n\n".join(text for text in (instructions, *system) if text)
    return ModelRequest(
        model=model,
        messages=(*history, *question(request)),
        instructions=instructions,
        tools=prepared.tools.specs,
        tool_choice=options.tool_choice,
        parallel_tool_calls=options.parallel_tool_calls,
        generation=layers.generation,
        response_schema=options.response_schema,
        stream=layers.mode is StreamingMode.STREAM,
    )


def question(request: RunRequest) -> tuple[Message, ...]:
    """The new turn; none when the caller's history ends with tool results, which the model is to go on from."""
    return (Message(Role.USER, request.parts),) if request.parts else ()


def recent(messages: Sequence[Message], options: MemoryOptions) -> Sequence[Message]:
    """The end of a session that goes into the prompt: at most ``last_messages``, cut so that it opens with a question.

    A cut between a tool call and its result is something every vendor refuses.
    """
    if not messages:
        return ()
    last = DEFAULT_LAST_MESSAGES if options.last_messages is None else options.last_messages
    tail = messages[max(0, len(messages) - last) :]
    opening = next((i for i, message in enumerate(tail) if message.role is Role.USER), len(tail))
    return tail[opening:]
