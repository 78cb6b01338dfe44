"""The tables. What queries name is a column; the rest of a value lies in its ``document`` as JSON text (see rows.py).

Every key and every unique index of a tenant's rows begins with ``tenant_id``: two tenants may both have an agent "demo".
Agents, sessions and runs are not tied by foreign keys: a run outlives its agent, and a write must never fail because
something beside it was deleted meanwhile. Messages go with their session.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)


class Word(TypeDecorator[str]):
    """An identifier or another short text that queries compare. NUL becomes U+FFFD: PostgreSQL has no NUL in text."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - the protocol
        """Python to database."""
        return _without_nul(value)

    def bind_processor(self, dialect: Dialect) -> Callable[[str | None], str | None]:  # noqa: ARG002 - the protocol
        """The same in one call instead of three."""
        return _without_nul


class Instant(TypeDecorator[datetime]):
    """An aware datetime with microseconds, UTC on the way in and out. SQLite, which has no zones, keeps it naive."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Python to database."""
        if value is None:
            return None
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], Any] | None:
        """For SQLite the text that SQLAlchemy would make, at a tenth of the price."""
        return _sqlite_instant if dialect.name == "sqlite" else super().bind_processor(dialect)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Database to Python."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


def _without_nul(value: str | None) -> str | None:
    return value.replace("\x00", "\ufffd") if value is not None and "\x00" in value else value


def _sqlite_instant(value: datetime | None) -> str | None:
    if value is None:
        return None
    moment = value if value.tzinfo is UTC else value.astimezone(UTC)
    return moment.isoformat(" ", "microseconds")[:_NAIVE]  # without the +00:00


_NAIVE = len("2026-11-20 17:30:00.000000")


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _word(name: str, **options: Any) -> Column[str]:
    return Column(name, Word, nullable=False, **options)


organisations = Table(
    "organisations",
    metadata,
    _word("tenant_id", primary_key=True),
    _word("display_name"),
    Column("create_time", Instant, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    _word("token_id", primary_key=True),  # names the row before the tenant is known, so it is unique across tenants
    Column("tenant_id", Word, ForeignKey("organisations.tenant_id", ondelete="CASCADE"), nullable=False),
    _word("role"),
    _word("display_name"),
    Column("secret_hash", LargeBinary, nullable=False),  # SHA-256 of the whole text
    Column("create_time", Instant, nullable=False),
    Column("expire_time", Instant),
    Column("revoked", Boolean, nullable=False),
    Index("ix_tokens_recent", "tenant_id", "create_time", "token_id"),
)

agents = Table(
    "agents",
    metadata,
    _word("tenant_id", primary_key=True),
    _word("agent_id", primary_key=True),
    _word("etag"),
    Column("labels", Text, nullable=False),
    Column("api_key", LargeBinary),  # sealed, see secrets.py
    Column("document", Text, nullable=False),
    Column("create_time", Instant, nullable=False),
    Index("ix_agents_recent", "tenant_id", "create_time", "agent_id"),
)

sessions = Table(
    "sessions",
    metadata,
    _word("tenant_id", primary_key=True),
    _word("session_id", primary_key=True),
    _word("agent_id"),
    _word("user_id"),
    Column("labels", Text, nullable=False),
    Column("create_time", Instant, nullable=False),
    Column("update_time", Instant, nullable=False),
    Index("ix_sessions_recent", "tenant_id", "create_time", "session_id"),
)

messages = Table(
    "messages",
    metadata,
    _word("tenant_id", primary_key=True),
    _word("session_id", primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),  # grows within a session
    _word("message_id"),
    Column("document", Text, nullable=False),
    ForeignKeyConstraint(
        ["tenant_id", "session_id"], ["sessions.tenant_id", "sessions.session_id"], ondelete="CASCADE"
    ),
    # A batch whose commit got lost on the way back is written again: the id tells that it landed.
    Index("uq_messages_message_id", "tenant_id", "message_id", unique=True),
)

runs = Table(
    "runs",
    metadata,
    _word("tenant_id", primary_key=True),
    _word("run_id", primary_key=True),
    _word("agent_id"),
    _word("session_id"),
    _word("user_id"),
    _word("request_id"),
    _word("state"),
    _word("owner"),  # the process that runs it, see leases.py
    Column("labels", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("create_time", Instant, nullable=False),
    Column("end_time", Instant),
    Index("ix_runs_recent", "tenant_id", "create_time", "run_id"),
    Index(
        "uq_runs_request_id",
        "tenant_id",
        "request_id",
        unique=True,
        sqlite_where=text("request_id <> ''"),
        postgresql_where=text("request_id <> ''"),
    ),
    Index("ix_runs_open", "owner", sqlite_where=text("end_time IS NULL"), postgresql_where=text("end_time IS NULL")),
)

leases = Table(
    "leases",
    metadata,
    _word("owner", primary_key=True),
    Column("expire_time", Instant, nullable=False),
)

changes = Table(
    "changes",
    metadata,
    _word("topic", primary_key=True),
    Column("counter", BigInteger, nullable=False),
)
