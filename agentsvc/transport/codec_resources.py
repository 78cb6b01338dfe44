"""Runs, sessions and messages at rest, as callers see them, and what callers write of them."""

from __future__ import annotations

from agentsvc import v1
from agentsvc.domain import messages, runs
from agentsvc.domain.agents import Session
from agentsvc.transport import codec_values as values


def to_run(run: runs.Run, *, texts: bool = True) -> v1.Run:
    """A run's record; lists leave out its texts and pending calls."""
    wire = v1.Run(
        run_id=run.run_id,
        agent_id=run.agent_id,
        session_id=run.session_id,
        user_id=run.user_id,
        request_id=run.request_id,
        state=values.run_states.wire[run.state],
        finish_reason=values.finish_reasons.wire[run.finish_reason],
        usage=values.to_usage(run.usage),
        cost=values.to_cost(run.cost),
        error=values.to_error(run.error),
        labels=run.labels,
        first_sequence=run.first_sequence,
        last_sequence=run.last_sequence,
        create_time=values.to_timestamp(run.create_time),
        end_time=values.to_timestamp(run.end_time),
        budget_kind=values.budget_kinds.wire[run.budget_kind],
        framework_overhead_us=run.framework_overhead_us,
    )
    if texts:
        wire.text = run.text
        wire.partial_text = run.partial_text
        for call in run.pending_tool_calls:
            wire.pending_tool_calls.add(
                tool_call_id=call.tool_call_id, name=call.name, arguments_json=call.arguments_json
            )
    return wire


def to_session(session: Session) -> v1.Session:
    """A session."""
    return v1.Session(
        session_id=session.session_id,
        agent_id=session.agent_id,
        user_id=session.user_id,
        labels=session.labels,
        create_time=values.to_timestamp(session.create_time),
        update_time=values.to_timestamp(session.update_time),
    )


def from_session(session: v1.Session) -> Session:
    """A session to make; its id and times are the service's."""
    return Session("", session.agent_id, session.user_id, dict(session.labels))


def to_message(message: messages.Message) -> v1.Message:
    """A stored message; the vendor's opaque state stays here."""
    return v1.Message(
        message_id=message.message_id,
        role=values.roles.wire[message.role],
        parts=[values.to_part(part) for part in message.parts],
        tool_calls=[
            v1.ToolCall(tool_call_id=c.tool_call_id, name=c.name, arguments_json=c.arguments_json)
            for c in message.tool_calls
        ],
        tool_call_id=message.tool_call_id,
        run_id=message.run_id,
        status=values.message_statuses.wire[message.status],
        create_time=values.to_timestamp(message.create_time),
        is_error=message.is_error,
    )
