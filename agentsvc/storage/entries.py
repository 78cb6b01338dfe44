"""What the ledger writes, and how: entries in memory become rows of runs, sessions and messages.

Every statement may be executed again: a commit whose answer got lost is simply repeated.
"""

from __future__ import annotations

import re
from asyncio import Future
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Insert, Integer, Table, bindparam, or_, text
from sqlalchemy.types import TypeEngine

from agentsvc.domain.agents import Session
from agentsvc.domain.messages import Message
from agentsvc.domain.quick import quick, replace
from agentsvc.domain.runs import Run
from agentsvc.storage.database import Database
from agentsvc.storage.prepared import Prepared
from agentsvc.storage.rows import Values, message_row, run_row, session_row
from agentsvc.storage.tables import Instant, Word, runs, sessions


@quick
@dataclass(frozen=True, slots=True)
class Entry:
    """What lands together. ``landed`` is done after the commit."""

    tenant_id: str
    run: Run
    session: Session | None
    messages: Sequence[Message]
    size: int
    accepted: datetime
    landed: Future[None] | None = None


class Writer:
    """Executes a batch on a connection. ``owner`` is the process that runs belong to."""

    def __init__(self, database: Database, owner: str) -> None:
        self._owner = owner
        self._insert_sessions = _prepared(database.insert(sessions).on_conflict_do_nothing(), sessions)
        self._upsert_runs = _prepared(_upsert_runs(database), runs)
        many = database.dialect == "sqlite"
        self._append_messages = _said(_APPEND_MESSAGES if many else _APPEND_MESSAGE)
        self._touch_sessions = _said(_TOUCH_SESSIONS if many else _TOUCH_SESSION)

    def __call__(self, connection: Connection, batch: Sequence[Entry]) -> None:
        """Writes what is in a batch."""
        spoken = {(entry.tenant_id, entry.run.session_id): entry.accepted for entry in batch if entry.messages}
        new = {
            (entry.tenant_id, entry.session.session_id): _dated_session(entry.session, entry.accepted)
            for entry in batch
            if entry.session
        }
        if new:
            rows = [
                session_row(key[0], replace(session, update_time=spoken.pop(key, session.update_time)))
                for key, session in new.items()
            ]
            self._insert_sessions.execute(connection, rows)
        states = {(entry.tenant_id, entry.run.run_id): entry for entry in batch}  # the last one counts
        runs = [
            run_row(tenant, _dated(entry.run, entry.accepted), self._owner) for (tenant, _), entry in states.items()
        ]
        self._upsert_runs.execute(connection, runs)
        self._append_messages.execute(connection, list(_messages(batch)))
        # Sorted, so that two processes lock sessions in one order.
        touched = [{"of_tenant": key[0], "of_session": key[1], "moment": spoken[key]} for key in sorted(spoken)]
        self._touch_sessions.execute(connection, touched)


def _upsert_runs(database: Database) -> Insert:
    insert = database.insert(runs)
    fixed = {"tenant_id", "run_id", "create_time"}
    return insert.on_conflict_do_update(
        index_elements=["tenant_id", "run_id"],
        set_={column.name: insert.excluded[column.name] for column in runs.c if column.name not in fixed},
        where=or_(runs.c.end_time.is_(None), insert.excluded.end_time.is_not(None)),
    )


def _prepared(statement: Insert, table: Table) -> Prepared:
    return Prepared(statement, {column.name: column.type for column in table.c})


# Each message behind the last one of its session, in their order; nothing when the session is gone or the message is
# there already. PostgreSQL gets rows one by one: there the type of every parameter in VALUES would have to be said.
_APPEND_MESSAGE = """
    INSERT INTO messages (tenant_id, session_id, position, message_id, document)
    SELECT
        s.tenant_id,
        s.session_id,
        (
            SELECT coalesce(max(m.position), 0) + 1
            FROM messages AS m
            WHERE m.tenant_id = s.tenant_id AND m.session_id = s.session_id
        ),
        :message_id,
        :document
    FROM sessions AS s
    WHERE s.tenant_id = :tenant_id AND s.session_id = :session_id
    ON CONFLICT (tenant_id, message_id) DO NOTHING
"""
_APPEND_MESSAGES = """
    WITH said (number, tenant_id, session_id, message_id, document) AS (
        VALUES (:number, :tenant_id, :session_id, :message_id, :document)
    )
    INSERT INTO messages (tenant_id, session_id, position, message_id, document)
    SELECT
        s.tenant_id,
        s.session_id,
        (
            SELECT coalesce(max(m.position), 0)
            FROM messages AS m
            WHERE m.tenant_id = s.tenant_id AND m.session_id = s.session_id
        ) + row_number() OVER (PARTITION BY s.tenant_id, s.session_id ORDER BY said.number),
        said.message_id,
        said.document
    FROM said JOIN sessions AS s ON s.tenant_id = said.tenant_id AND s.session_id = said.session_id
    WHERE true
    ON CONFLICT (tenant_id, message_id) DO NOTHING
"""
_TOUCH_SESSION = """
    UPDATE sessions SET update_time = :moment WHERE tenant_id = :of_tenant AND session_id = :of_session
"""
_TOUCH_SESSIONS = """
    WITH said (tenant_id, session_id, moment) AS (VALUES (:of_tenant, :of_session, :moment))
    UPDATE sessions
    SET update_time = (
        SELECT said.moment FROM said
        WHERE said.tenant_id = sessions.tenant_id AND said.session_id = sessions.session_id
    )
    WHERE (tenant_id, session_id) IN (SELECT tenant_id, session_id FROM said)
"""
_PARAMETERS: dict[str, TypeEngine[Any]] = {
    "number": Integer(),
    **dict.fromkeys(("tenant_id", "session_id", "message_id", "document", "of_tenant", "of_session"), Word()),
    "moment": Instant(),
}


def _said(sql: str) -> Prepared:
    named = {name: kind for name, kind in _PARAMETERS.items() if re.search(rf":{name}\b", sql)}
    return Prepared(text(sql).bindparams(*(bindparam(name, type_=kind) for name, kind in named.items())), named)


def _messages(batch: Sequence[Entry]) -> Iterator[Values]:
    """The rows of what was said, numbered."""
    said = (
        message_row(entry.tenant_id, entry.run.session_id, _identified(message, position, entry))
        for entry in batch
        for position, message in enumerate(entry.messages)
    )
    for number, row in enumerate(said):
        yield row | {"number": number}


def _dated(run: Run, now: datetime) -> Run:
    return run if run.create_time else replace(run, create_time=now)


def _dated_session(session: Session, now: datetime) -> Session:
    created = session.create_time or now
    return replace(session, create_time=created, update_time=session.update_time or created)


def _identified(message: Message, position: int, entry: Entry) -> Message:
    """The same ids at every repetition of a commit: what is there already must be recognised."""
    if message.message_id and message.run_id and message.create_time:
        return message
    return replace(
        message,
        message_id=message.message_id or f"{entry.run.run_id}.{position}",
        run_id=message.run_id or entry.run.run_id,
        create_time=message.create_time or entry.accepted,
    )
