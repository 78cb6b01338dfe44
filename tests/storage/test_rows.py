"""Every value survives its way into a document and back."""

import json
from collections import namedtuple
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentsvc.domain.agents import (
    Agent,
    AgentStatus,
    Budget,
    GenerationOptions,
    LLMConfig,
    MemoryOptions,
    ModelRef,
    Session,
    StreamingMode,
    StreamingOptions,
)
from agentsvc.domain.errors import Error, Reason, Violation
from agentsvc.domain.events import BudgetKind, RunState
from agentsvc.domain.messages import (
    Cost,
    FinishReason,
    Media,
    Message,
    MessageStatus,
    ProviderState,
    Role,
    Text,
    ToolCall,
    Usage,
)
from agentsvc.domain.runs import Run
from agentsvc.storage.rows import (
    agent_of,
    agent_row,
    message_of,
    message_row,
    run_of,
    run_row,
    session_of,
    session_row,
)

words = st.text(max_size=12)
counts = st.integers(0, 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
moments = st.datetimes(timezones=st.just(UTC))
labels = st.dictionaries(words, words, max_size=3)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | finite | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


def some(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def tuples(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=3).map(tuple)


generations = st.builds(
    GenerationOptions,
    some(finite),
    some(finite),
    some(counts),
    some(tuples(words)),
    some(st.dictionaries(words, json_values, max_size=3)),
)
agents = st.builds(
    Agent,
    words,
    st.builds(LLMConfig, words, words, words, words, generations),
    words,
    words,
    tuples(words),
    st.builds(
        StreamingOptions,
        some(st.sampled_from(StreamingMode)),
        some(counts),
        some(finite),
        some(st.booleans()),
        some(st.booleans()),
        some(st.booleans()),
    ),
    st.builds(MemoryOptions, some(counts), some(counts), some(finite), some(st.booleans())),
    st.builds(Budget, some(counts), some(counts), some(finite), some(counts)),
    tuples(st.builds(ModelRef, words, words)),
    labels,
    st.sampled_from(AgentStatus),
    words,
    some(moments),
    some(moments),
)
calls = st.builds(ToolCall, words, words, words)
parts = st.builds(Text, words) | st.builds(Media, words, words, st.binary(max_size=20), words)
messages = st.builds(
    Message,
    st.sampled_from(Role),
    tuples(parts),
    tuples(calls),
    words,
    st.sampled_from(MessageStatus),
    words,
    words,
    some(moments),
    some(st.builds(ProviderState, words, json_values)),
    st.booleans(),
)
errors = st.builds(
    Error,
    st.sampled_from(Reason),
    words,
    words,
    st.booleans(),
    some(finite),
    tuples(st.builds(Violation, words, words)),
    labels,
)
runs = st.builds(
    Run,
    run_id=words,
    agent_id=words,
    session_id=words,
    user_id=words,
    request_id=words,
    fingerprint=words,
    state=st.sampled_from(RunState),
    text=words,
    partial_text=words,
    finish_reason=some(st.sampled_from(FinishReason)),
    usage=st.builds(Usage, counts, counts, counts, counts, counts, st.booleans()),
    cost=some(st.builds(Cost, counts, words, st.booleans())),
    error=some(errors),
    budget_kind=some(st.sampled_from(BudgetKind)),
    labels=labels,
    pending_tool_calls=tuples(calls),
    first_sequence=counts,
    last_sequence=counts,
    framework_overhead_us=counts,
    create_time=some(moments),
    end_time=some(moments),
)


def stored(values: dict[str, Any]) -> Any:
    """A row as the database would give it back."""
    return namedtuple("Stored", values)(**values)  # noqa: PYI024 - made from a dict


@given(agents)
@settings(deadline=None)
def test_agents_survive_storage(agent: Agent) -> None:
    row = agent_row("acme", agent, b"sealed")
    assert agent_of(stored(row), agent.llm_config.api_key) == agent


@given(messages)
@settings(deadline=None)
def test_messages_survive_storage(message: Message) -> None:
    assert message_of(stored(message_row("acme", "s", message))) == message


@given(runs)
@settings(deadline=None)
def test_runs_survive_storage(run: Run) -> None:
    assert run_of(stored(run_row("acme", run, "me"))) == run


@given(st.builds(Session, words, words, words, labels, moments, moments))
@settings(deadline=None)
def test_sessions_survive_storage(session: Session) -> None:
    clean = {key.replace("\x00", "\ufffd"): value.replace("\x00", "\ufffd") for key, value in session.labels.items()}
    found = session_of(stored(session_row("acme", session)))
    assert found.labels == clean
    assert (found.session_id, found.agent_id, found.user_id) == (session.session_id, session.agent_id, session.user_id)
    assert (found.create_time, found.update_time) == (session.create_time, session.update_time)


def test_a_key_is_no_part_of_a_document() -> None:
    row = agent_row("acme", Agent("demo", LLMConfig("openai", api_key="sk-secret")), None)
    assert "sk-secret" not in repr(row)


def test_half_a_surrogate_pair_costs_a_character_and_not_the_message() -> None:
    """A tool brings one along from a file name that is not UTF-8."""
    message = Message(Role.TOOL, (Text("name: \udcff.txt"),), create_time=datetime(2026, 1, 1, tzinfo=UTC))
    found = message_of(stored(message_row("acme", "s", message)))
    assert found.text == "name: ?.txt"
    assert found.create_time == message.create_time


def test_a_document_of_another_version_is_read_as_far_as_it_goes() -> None:
    row = run_row("acme", Run("r", "demo", text="hi"), "me")
    document = json.loads(row["document"])
    del document["usage"]
    document["from_the_future"] = [1, 2]
    assert run_of(stored(row | {"document": json.dumps(document)})) == Run("r", "demo", text="hi")
