"""Who hangs up before the vendor has told its count still pays for what was produced, within 5 % of the truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentsvc import v1
from agentsvc.engine.estimate import output_tokens
from agentsvc.providers.script import Flood, Reason, Say, Stall, Step
from tests.e2e.house import read_until
from tests.torture.station import Station, open_station

PROMPT = 4 + 1  # as the scripted vendor counts
STREAMS: dict[str, tuple[Step, int, int]] = {  # what is said, in how many tokens, in how many characters
    "words": (Say("the quick brown fox jumps over a lazy dog " * 50), 450, 2100),
    "short words": (Say("a b c d " * 100), 400, 800),
    "Chinese": (Say("今天天气很好我们去公园" * 40, chunk=2), 220, 440),
    "reasoning": (Reason("so it may well be that " * 70), 420, 1610),
    "a flood": (Flood(1000, " token"), 1000, 6000),
    "several tokens at a time": (Say("tokens come in fours. " * 80, chunk=16), 440, 1760),
}


async def cut_off(station: Station, agent: str, step: Step, characters: int) -> v1.Run:
    """A run whose caller hangs up when it has read all that was said, before the count."""
    call = station.stream(agent, step, Stall())
    events = await read_until(call, "run_started")
    read = 0
    while read < characters:
        event = (await call.read()).event
        read += len(event.text_delta.text) + len(event.reasoning_delta.text)
    call.cancel()
    return await station.ended(events[0].run_started.run_id)


async def test_what_was_produced_is_accounted_although_nobody_counted(tmp_path: Path) -> None:
    async with open_station(tmp_path) as station:
        agent = await station.agent()
        for name, (step, tokens, characters) in STREAMS.items():
            run = await cut_off(station, agent, step, characters)
            assert run.state == v1.RUN_STATE_CANCELLED, name
            assert run.usage.estimated, name
            assert run.usage.output_tokens == pytest.approx(tokens, rel=0.05), name
            assert run.usage.input_tokens + run.usage.output_tokens == pytest.approx(PROMPT + tokens, rel=0.05), name

        told = await station.ask(agent, STREAMS["words"][0])
        usage = told.finished.usage
        assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (PROMPT, 450, False)


@pytest.mark.parametrize(
    ("text", "pieces", "tokens"),
    [
        ("It is eighteen degrees.", 5, 5),  # a token a chunk: the chunks are the count
        ("a b c d e f", 6, 6),
        ("今天天气很好", 4, 4),
        ("It is eighteen degrees.", 23, 6),  # a character a chunk
        ("It is eighteen degrees.", 1, 6),  # a whole body
        ("", 0, 0),
    ],
)
def test_chunks_are_counted_where_they_are_tokens(text: str, pieces: int, tokens: int) -> None:
    assert output_tokens(text, pieces) == tokens
