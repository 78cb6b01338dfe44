"""The tables of the first version."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Everything from nothing."""
    _tenants()
    _conversations()
    _processes()


def _tenants() -> None:
    op.create_table(
        "organisations",
        sa.Column("tenant_id", sa.String, nullable=False),
        sa.Column("display_name", sa.String, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_organisations"),
    )
    op.create_table(
        "tokens",
        sa.Column("token_id", sa.String, nullable=False),
        sa.Column("tenant_id", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("display_name", sa.String, nullable=False),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True)),
        sa.Column("revoked", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("token_id", name="pk_tokens"),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["organisations.tenant_id"], name="fk_tokens_organisations", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_tokens_recent", "tokens", ["tenant_id", "create_time", "token_id"])
    op.create_table(
        "agents",
        sa.Column("tenant_id", sa.String, nullable=False),
        sa.Column("agent_id", sa.String, nullable=False),
        sa.Column("etag", sa.String, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("api_key", sa.LargeBinary),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "agent_id", name="pk_agents"),
    )
    op.create_index("ix_agents_recent", "agents", ["tenant_id", "create_time", "agent_id"])


def _conversations() -> None:
    op.create_table(
        "sessions",
        sa.Column("tenant_id", sa.String, nullable=False),
        sa.Column("session_id", sa.String, nullable=False),
        sa.Column("agent_id", sa.String, nullable=False),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "session_id", name="pk_sessions"),
    )
    op.create_index("ix_sessions_recent", "sessions", ["tenant_id", "create_time", "session_id"])
    op.create_table(
        "messages",
        sa.Column("tenant_id", sa.String, nullable=False),
        sa.Column("session_id", sa.String, nullable=False),
        sa.Column("position", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("message_id", sa.String, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "session_id", "position", name="pk_messages"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "session_id"],
            ["sessions.tenant_id", "sessions.session_id"],
            name="fk_messages_sessions",
            ondelete="CASCADE",
        ),
    )
    op.create_index("uq_messages_message_id", "messages", ["tenant_id", "message_id"], unique=True)
    op.create_table(
        "runs",
        sa.Column("tenant_id", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("agent_id", sa.String, nullable=False),
        sa.Column("session_id", sa.String, nullable=False),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("request_id", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("end_time", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", name="pk_runs"),
    )
    op.create_index("ix_runs_recent", "runs", ["tenant_id", "create_time", "run_id"])
    asked = sa.text("request_id <> ''")
    op.create_index(
        "uq_runs_request_id",
        "runs",
        ["tenant_id", "request_id"],
        unique=True,
        sqlite_where=asked,
        postgresql_where=asked,
    )
    is_open = sa.text("end_time IS NULL")
    op.create_index("ix_runs_open", "runs", ["owner"], sqlite_where=is_open, postgresql_where=is_open)


def _processes() -> None:
    op.create_table(
        "leases",
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner", name="pk_leases"),
    )
    changes = op.create_table(
        "changes",
        sa.Column("topic", sa.String, nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("topic", name="pk_changes"),
    )
    op.bulk_insert(changes, [{"topic": "tokens", "counter": 0}, {"topic": "agents", "counter": 0}])
