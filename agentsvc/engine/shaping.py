"""How text leaves: at once (nothing of this file runs), in pieces of a size, with a pause between, or all at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from agentsvc.domain.agents import StreamingMode, StreamingOptions
from agentsvc.domain.errors import AgentsvcError
from agentsvc.domain.events import AttemptChanged, Event, TextDelta
from agentsvc.domain.timeline import Timeline
from agentsvc.engine.budget import BudgetExceeded

_PIECE = 65_536  # characters of a buffered answer without a size: far below what a client receives by default


def shaped(
    events: AsyncGenerator[Event, None], options: StreamingOptions, timeline: Timeline
) -> AsyncGenerator[Event, None]:
    """``events`` with their text as ``options`` ask for it."""
    if not options.text_buffer_size and not options.text_delta_delay and options.mode is not StreamingMode.BUFFERED:
        return events
    return _reshape(events, options, timeline)


async def _reshape(
    events: AsyncGenerator[Event, None], options: StreamingOptions, timeline: Timeline
) -> AsyncGenerator[Event, None]:
    # Buffered mode asked the provider for the whole answer: what comes here is complete and only cut.
    exact = options.mode is StreamingMode.BUFFERED
    size, delay = options.text_buffer_size or (_PIECE if exact else 0), options.text_delta_delay or 0.0
    held, first = "", True
    async with aclosing(_with_end(events)) as source:
        async for event in source:
            if isinstance(event, TextDelta):
                pieces, held = _cut(held + event.text, size, exact=exact)
            else:  # what a failed attempt had said and nobody has seen yet is not said any more
                pieces, held = ([held] if held and not isinstance(event, AttemptChanged) else []), ""
            for piece in pieces:
                if delay and not first:
                    paused = timeline.clock()
                    await asyncio.sleep(delay)
                    timeline.waited(paused)
                first = False
                yield TextDelta(piece)
            match event:
                case AgentsvcError() | BudgetExceeded():
                    raise event
                case TextDelta():
                    pass
                case _:
                    yield event


async def _with_end(
    events: AsyncGenerator[Event, None],
) -> AsyncGenerator[Event | AgentsvcError | BudgetExceeded, None]:
    """The events, and how they ended as one more item: text that was held back must leave before the error does."""
    async with aclosing(events):
        try:
            async for event in events:
                yield event
        except (AgentsvcError, BudgetExceeded) as end:
            yield end


def _cut(text: str, size: int, *, exact: bool) -> tuple[list[str], str]:
    """Pieces that may leave now, and what waits for more. Streaming sends all it has once that is ``size`` characters."""
    if not size:
        return [text], ""
    if not exact:
        return ([text], "") if len(text) >= size else ([], text)
    whole = len(text) - len(text) % size
    return [text[i : i + size] for i in range(0, whole, size)], text[whole:]
