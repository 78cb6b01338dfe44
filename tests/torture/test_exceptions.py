"""Whatever is raised wherever, the caller gets a status within a second and the service lives on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from agentsvc import v1
from agentsvc.engine.catalog import Catalog
from agentsvc.engine.runs import Runs
from agentsvc.providers.bound import BoundModel
from agentsvc.providers.script import Call, Say, Turn
from agentsvc.storage.authenticator import CachingAuthenticator
from tests.e2e.house import House, collect, open_house
from tests.torture.inside import EXCEPTIONS
from tests.torture.station import AT_ONCE, PATIENCE, open_station

SECRET = "secret-of-the-tool"


async def test_a_tool_may_raise_anything(tmp_path: Path) -> None:
    async with open_station(tmp_path) as station:
        agent = await station.agent(tools=["fail", "fail_in_thread"])
        before = await station.inside()
        for where in ("fail", "fail_in_thread"):
            for name in EXCEPTIONS:
                began = time.monotonic()
                answer = await station.ask(agent, Call(where, {"with_": name}), Turn(), Say("Well."))
                assert time.monotonic() - began < AT_ONCE, (where, name)
                assert answer.text == "Well.", (where, name)
                (result,) = answer.all("tool_result")
                assert result.status != v1.TOOL_STATUS_OK
                assert SECRET not in str(answer.events)
                assert "Traceback" not in str(answer.events)
        await station.back_to(before)


class Raising:
    """Stands in for a function and raises each time."""

    def __init__(self, failure: BaseException) -> None:
        self.failure = failure

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise self.failure


async def status_of(house: House, agent: str) -> tuple[str, str]:
    """StreamChat's status, within a second; nothing of the inside is told."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        answer = await collect(house.stream(agent, Say("Never.")))
    assert time.monotonic() - began < AT_ONCE
    assert answer.end is not None
    assert SECRET not in answer.end.message
    assert "Traceback" not in answer.end.message
    return answer.status.name, answer.end.reason


PLACES = ((CachingAuthenticator, "authenticate"), (Runs, "start"), (Catalog, "choose"), (BoundModel, "stream"))


@pytest.mark.parametrize("name", EXCEPTIONS)
async def test_a_handler_and_a_model_may_raise_anything(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = EXCEPTIONS[name]
    async with open_house() as house:
        agent = await house.agent()
        for room, function in PLACES:
            with monkeypatch.context() as patched:
                patched.setattr(room, function, Raising(failure))
                assert await status_of(house, agent) == ("INTERNAL", "INTERNAL"), (room.__name__, function)
        assert (await house.ask(agent, Say("Still here."))).text == "Still here."
