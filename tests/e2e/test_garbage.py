"""What a call leaves behind: nothing that only the cyclic collector could free, gRPC's native calls least of all."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agentsvc.providers.script import Say, Step
from tests.e2e.house import House, open_house

CALLS = 10


@contextmanager
def collector() -> Iterator[list[object]]:
    """What the collector would have freed of what was made inside; it looks once, at the end."""
    gc.collect()
    gc.disable()
    found: list[object] = []
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found.extend(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def calls(house: House, agent: str, *steps: Step) -> None:
    for _ in range(CALLS):
        await house.ask(agent, *steps)
    await asyncio.sleep(0.1)  # what is told of runs afterwards: their log lines, their metrics


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_a_call_leaves_nothing_to_the_collector(provider: str) -> None:
    async with open_house() as house:
        agent = await house.agent(provider)
        await calls(house, agent, Say("Hello there."))
        with collector() as found:
            await calls(house, agent, Say("Hello there."))
    left = Counter(f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in found)
    ours = {name: count for name, count in left.items() if name.startswith("agentsvc.") or "RPCState" in name}
    assert ours == {}
