import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsvc.domain.agents import Agent, LLMConfig, Session
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import RunState
from agentsvc.domain.messages import Message, Role, Text
from agentsvc.domain.ports import Filter, PageRequest
from agentsvc.domain.runs import Run, TokenRole
from agentsvc.storage import Storage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def pages(read: Any, size: int) -> list[list[Any]]:
    """All pages of a list. ``read(page)`` reads one."""
    found, token = [], ""
    while True:
        page = await read(PageRequest(size, token))
        found.append(list(page.items))
        token = page.next_token
        if not token:
            return found


async def fill(storage: Storage, count: int) -> None:
    """Runs r0, r1, ... one minute apart, every other pair at the same moment."""
    for number in range(count):
        run = Run(
            f"r{number}",
            f"agent{number % 2}",
            f"s{number % 3}",
            f"u{number % 2}",
            state=RunState.COMPLETED if number % 2 else RunState.FAILED,
            labels={"n": str(number), "parity": "odd" if number % 2 else "even"},
            create_time=NOON + timedelta(minutes=number // 2),
            end_time=NOON,
        )
        storage.ledger.ended("acme", run, ())
    await storage.ledger.barrier()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_pages_cut_the_list_without_a_gap_or_a_repetition(storage: Storage, size: int) -> None:
    await fill(storage, 7)
    found = await pages(lambda page: storage.runs.list("acme", page, Filter()), size)
    assert [run.run_id for page in found for run in page] == ["r6", "r5", "r4", "r3", "r2", "r1", "r0"]
    assert all(len(page) == size for page in found[:-1])
    assert found[-1] != []


async def test_rows_that_come_and_go_between_pages_do_not_shift_them(storage: Storage) -> None:
    for name in "abcd":
        await storage.sessions.create("acme", Session(name, "demo"))
    first = await storage.sessions.list("acme", PageRequest(2), Filter())
    await storage.sessions.create("acme", Session("e", "demo"))
    await storage.sessions.delete("acme", "d")
    second = await storage.sessions.list("acme", PageRequest(2, first.next_token), Filter())
    assert [s.session_id for s in (*first.items, *second.items)] == ["d", "c", "b", "a"]


async def test_every_list_pages(storage: Storage) -> None:
    for number in range(5):
        await storage.agents.create("acme", Agent(f"a{number}", LLMConfig("mock")))
        await storage.sessions.create("acme", Session(f"s{number}", "demo"))
        await storage.tokens.create("acme", TokenRole.CALLER, str(number))
        storage.ledger.ended("acme", Run(f"r{number}", "demo", "s0"), [Message(Role.USER, (Text(str(number)),))])
    newest = [4, 3, 2, 1, 0]
    agents = await pages(lambda page: storage.agents.list("acme", page, Filter()), 2)
    assert [a.agent_id for page in agents for a in page] == [f"a{n}" for n in newest]
    sessions = await pages(lambda page: storage.sessions.list("acme", page, Filter()), 2)
    assert [s.session_id for page in sessions for s in page] == [f"s{n}" for n in newest]
    tokens = await pages(lambda page: storage.tokens.list("acme", page), 2)
    assert [t.display_name for page in tokens for t in page] == [str(n) for n in newest]
    messages = await pages(lambda page: storage.sessions.messages("acme", "s0", page), 2)
    assert [m.text for page in messages for m in page] == [str(n) for n in reversed(newest)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Filter(agent_id="agent1"), ["r5", "r3", "r1"]),
        (Filter(session_id="s0"), ["r3", "r0"]),
        (Filter(user_id="u0"), ["r4", "r2", "r0"]),
        (Filter(states=(RunState.FAILED,)), ["r4", "r2", "r0"]),
        (Filter(states=(RunState.FAILED, RunState.COMPLETED), agent_id="agent1"), ["r5", "r3", "r1"]),
        (Filter(labels={"parity": "odd"}), ["r5", "r3", "r1"]),
        (Filter(labels={"parity": "odd", "n": "3"}), ["r3"]),
        (Filter(labels={"parity": "odd", "n": "4"}), []),
        (Filter(labels={"odd": "parity"}), []),
        (Filter(after=NOON + timedelta(minutes=1)), ["r5", "r4", "r3", "r2"]),
        (Filter(before=NOON + timedelta(minutes=1)), ["r1", "r0"]),
        (Filter(after=NOON + timedelta(minutes=1), before=NOON + timedelta(minutes=2)), ["r3", "r2"]),
    ],
)
async def test_a_filter_narrows_and_pages_keep_it(storage: Storage, where: Filter, expected: list[str]) -> None:
    await fill(storage, 6)
    found = await pages(lambda page: storage.runs.list("acme", page, where), 2)
    assert [run.run_id for page in found for run in page] == expected


async def test_a_filter_on_a_field_that_values_lack_matches_none(storage: Storage) -> None:
    await storage.agents.create("acme", Agent("demo", LLMConfig("mock")))
    for where in (Filter(session_id="s"), Filter(user_id="u"), Filter(states=(RunState.FAILED,))):
        assert (await storage.agents.list("acme", PageRequest(), where)).items == ()
    assert len((await storage.agents.list("acme", PageRequest(), Filter(agent_id="demo"))).items) == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=st.dictionaries(st.text(max_size=8), st.text(max_size=8), min_size=1, max_size=3))
def test_any_label_is_found_again(label_space: Any, labels: dict[str, str]) -> None:
    runner, storage, count = label_space
    run_id = f"r{next(count)}"

    async def write_and_find() -> None:
        await storage.ledger.ended("acme", Run(run_id, "demo", labels=labels), ())
        found = await pages(lambda page: storage.runs.list("acme", page, Filter(labels=labels)), 1000)
        assert run_id in [run.run_id for page in found for run in page]

    runner.run(write_and_find())


@pytest.fixture
def label_space(url: str) -> Any:
    """One loop and one storage for all examples: hypothesis is not asynchronous."""
    import asyncio
    import itertools

    from agentsvc.storage import StorageConfig

    with asyncio.Runner() as runner:
        storage = runner.run(Storage.open(StorageConfig(url, timeout=10.0)))
        yield runner, storage, itertools.count()
        runner.run(storage.close())


async def test_sizes_are_kept_within_one_and_a_thousand(storage: Storage) -> None:
    for number in range(1002):
        storage.ledger.ended("acme", Run(f"r{number}", "demo"), ())
    assert len((await storage.runs.list("acme", PageRequest(5000), Filter())).items) == 1000
    assert len((await storage.runs.list("acme", PageRequest(0), Filter())).items) == 1
    assert len((await storage.runs.list("acme", PageRequest(-3), Filter())).items) == 1


async def test_a_token_serves_only_the_list_that_made_it(storage: Storage) -> None:
    await fill(storage, 4)
    token = (await storage.runs.list("acme", PageRequest(1), Filter())).next_token
    assert (await storage.runs.list("acme", PageRequest(1, token), Filter())).items
    foreign = (
        storage.runs.list("other", PageRequest(1, token), Filter()),
        storage.runs.list("acme", PageRequest(1, token), Filter(user_id="u0")),
        storage.sessions.list("acme", PageRequest(1, token), Filter()),
        storage.sessions.messages("acme", "s0", PageRequest(1, token)),
        storage.tokens.list("acme", PageRequest(1, token)),
    )
    for attempt in foreign:
        with pytest.raises(AgentsvcError, match="page_token"):
            await attempt


async def test_a_filter_is_the_same_in_any_order_of_its_labels(storage: Storage) -> None:
    await fill(storage, 2)
    for number in range(2):
        storage.ledger.ended("acme", Run(f"x{number}", "demo", labels={"a": "1", "b": "2"}), ())
    token = (await storage.runs.list("acme", PageRequest(1), Filter(labels={"a": "1", "b": "2"}))).next_token
    page = await storage.runs.list("acme", PageRequest(1, token), Filter(labels={"b": "2", "a": "1"}))
    assert [run.run_id for run in page.items] == ["x0"]


@pytest.mark.parametrize("token", ["x", "not a token", "W10=", "WyJhIiwiYiIsImMiXQ==", "é", "e30", "\x00"])
async def test_what_is_no_token_is_refused_as_a_field(storage: Storage, token: str) -> None:
    with pytest.raises(AgentsvcError) as refusal:
        await storage.runs.list("acme", PageRequest(10, token), Filter())
    assert refusal.value.reason is Reason.INVALID_FIELD
    assert [violation.field for violation in refusal.value.error.violations] == ["page_token"]


@pytest.mark.parametrize("after", [1 << 63, -1, "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00"])
async def test_a_token_of_somebodys_own_making_is_refused_like_any_other(storage: Storage, after: str | int) -> None:
    await storage.sessions.create("acme", Session("s0", "demo"))
    for number in range(2):
        run = Run(f"r{number}", "demo", "s0", create_time=NOON)
        storage.ledger.ended("acme", run, (Message(Role.USER, (Text("Hi"),), message_id=f"m{number}"),))

    async def read(token: str) -> Any:
        if isinstance(after, str):
            return await storage.runs.list("acme", PageRequest(1, token), Filter())
        return await storage.sessions.messages("acme", "s0", PageRequest(1, token))

    digest, _, *rest = json.loads(urlsafe_b64decode((await read("")).next_token))
    forged = urlsafe_b64encode(json.dumps([digest, after, *rest]).encode()).decode()
    with pytest.raises(AgentsvcError, match="page_token"):
        await read(forged)


async def test_equal_moments_do_not_hide_rows(storage: Storage) -> None:
    for number in range(5):
        run = replace(Run(f"r{number}", "demo"), create_time=NOON)
        storage.ledger.ended("acme", run, ())
    found = await pages(lambda page: storage.runs.list("acme", page, Filter()), 2)
    assert [run.run_id for page in found for run in page] == ["r4", "r3", "r2", "r1", "r0"]
