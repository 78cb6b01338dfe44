"""Domain values as rows and back: the one place that knows how a value lies in the database.

A ``document`` is the value as JSON. A field that is missing in it takes its default and one that is unknown is skipped,
so processes of two versions can share a database. Secrets are no part of a document.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec

from agentsvc.domain.agents import Agent, Session
from agentsvc.domain.messages import Media, Message, MessageStatus, Part, ProviderState, Role, Text, ToolCall
from agentsvc.domain.ports import TokenRecord
from agentsvc.domain.runs import Run, TokenRole
from agentsvc.storage.database import AnyRow

Values = dict[str, Any]


class _Text(msgspec.Struct, frozen=True, tag="text"):
    text: str


class _Media(msgspec.Struct, frozen=True, tag="media", omit_defaults=True):
    kind: str
    media_type: str
    data: bytes = b""
    uri: str = ""


class _Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Message whose parts carry a tag: JSON has no types to tell a Text from a Media by."""

    role: Role
    parts: tuple[_Text | _Media, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    status: MessageStatus = MessageStatus.COMPLETE
    message_id: str = ""
    run_id: str = ""
    create_time: datetime | None = None
    provider_state: ProviderState | None = None
    is_error: bool = False


_encoder = msgspec.json.Encoder()
_agent = msgspec.json.Decoder(Agent)
_run = msgspec.json.Decoder(Run)
_message = msgspec.json.Decoder(_Message)
_labels = msgspec.json.Decoder(dict[str, str])


def agent_row(tenant_id: str, agent: Agent, api_key: bytes | None) -> Values:
    """``api_key`` is the sealed one; the clear one is left out."""
    bare = replace(agent, llm_config=replace(agent.llm_config, api_key=""))
    return {
        "tenant_id": tenant_id,
        "agent_id": agent.agent_id,
        "etag": agent.etag,
        "labels": _labels_json(agent.labels),
        "api_key": api_key,
        "document": _json(bare),
        "create_time": agent.create_time,
    }


def agent_of(row: AnyRow, api_key: str) -> Agent:
    """``api_key`` is the opened one."""
    agent = _agent.decode(row.document)
    return replace(agent, llm_config=replace(agent.llm_config, api_key=api_key)) if api_key else agent


def session_row(tenant_id: str, session: Session) -> Values:
    """Times must be set."""
    return {
        "tenant_id": tenant_id,
        "session_id": session.session_id,
        "agent_id": session.agent_id,
        "user_id": session.user_id,
        "labels": _labels_json(session.labels),
        "create_time": session.create_time,
        "update_time": session.update_time,
    }


def session_of(row: AnyRow) -> Session:
    """The session of a whole row."""
    return Session(
        row.session_id, row.agent_id, row.user_id, _labels.decode(row.labels), row.create_time, row.update_time
    )


def message_row(tenant_id: str, session_id: str, message: Message) -> Values:
    """Without its position, which the session gives."""
    document = _Message(
        message.role,
        tuple(_part_document(part) for part in message.parts),
        message.tool_calls,
        message.tool_call_id,
        message.status,
        message.message_id,
        message.run_id,
        message.create_time,
        message.provider_state,
        message.is_error,
    )
    return {
        "tenant_id": tenant_id,
        "session_id": session_id,
        "message_id": message.message_id,
        "document": _json(document),
    }


def message_of(row: AnyRow) -> Message:
    """The message of a row with ``document``."""
    document = _message.decode(row.document)
    return Message(
        document.role,
        tuple(_part_of(part) for part in document.parts),
        document.tool_calls,
        document.tool_call_id,
        document.status,
        document.message_id,
        document.run_id,
        document.create_time,
        document.provider_state,
        document.is_error,
    )


def run_row(tenant_id: str, run: Run, owner: str) -> Values:
    """``create_time`` must be set."""
    return {
        "tenant_id": tenant_id,
        "run_id": run.run_id,
        "agent_id": run.agent_id,
        "session_id": run.session_id,
        "user_id": run.user_id,
        "request_id": run.request_id,
        "state": run.state.value,
        "owner": owner,
        "labels": _labels_json(run.labels),
        "document": _json(run),
        "create_time": run.create_time,
        "end_time": run.end_time,
    }


def run_of(row: AnyRow) -> Run:
    """The run of a row with ``document``."""
    return _run.decode(row.document)


def token_of(row: AnyRow) -> TokenRecord:
    """The token of a row, without its hash."""
    return TokenRecord(
        row.token_id,
        row.tenant_id,
        TokenRole(row.role),
        row.display_name,
        row.create_time,
        row.expire_time,
        row.revoked,
    )


def _part_document(part: Part) -> _Text | _Media:
    match part:
        case Text(text):
            return _Text(text)
        case Media(kind, media_type, data, uri):
            return _Media(kind, media_type, data, uri)


def _part_of(part: _Text | _Media) -> Part:
    match part:
        case _Text(text):
            return Text(text)
        case _Media():
            return Media(part.kind, part.media_type, part.data, part.uri)


def _labels_json(labels: Mapping[str, str]) -> str:
    if not labels:
        return "{}"
    # These are looked into by SQL, and PostgreSQL cannot turn the escape of a NUL into text.
    return _json({_without_nul(name): _without_nul(value) for name, value in labels.items()})


def _without_nul(text: str) -> str:
    return text.replace("\x00", "\ufffd")


def _json(value: Any) -> str:
    try:
        return _encoder.encode(value).decode()
    except UnicodeEncodeError:
        # Half a surrogate pair, as a tool may bring it from a file name. It cannot be stored anywhere; "?" can.
        plain = msgspec.to_builtins(value)
        return json.dumps(plain, ensure_ascii=False).encode(errors="replace").decode()
