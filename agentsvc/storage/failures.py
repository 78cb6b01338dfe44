"""What goes wrong below, in our own words: out of reach for now, there already, or refused."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from agentsvc.domain.errors import AgentsvcError, Reason

_log = logging.getLogger(__name__)

# SQLSTATE classes after which the same statement may succeed: authorisation and catalogue (while a server is being set
# up), read-only (a replica before its promotion), deadlocks, resources, locks, operator intervention, system, connection.
_TRANSIENT = ("08", "25", "28", "3D", "40", "53", "55", "57", "58")


@contextmanager
def translated() -> Iterator[None]:
    """Exceptions of the database libraries become ours.

    Raises:
        AgentsvcError: STORAGE_UNAVAILABLE, ALREADY_EXISTS for a broken constraint, INTERNAL for a refused statement.
    """
    try:
        yield
    except (IntegrityError, sqlite3.IntegrityError) as error:
        raise AgentsvcError(Reason.ALREADY_EXISTS, "A stored row with this key exists already.") from error
    except (SQLAlchemyError, asyncpg.PostgresError, sqlite3.Error, OSError, TimeoutError) as error:
        if _is_transient(error):
            raise unavailable() from error
        _log.error("the database refused a statement", exc_info=error)
        raise AgentsvcError(Reason.INTERNAL, "The database refused a statement; the log has the details.") from error


def unavailable() -> AgentsvcError:
    """STORAGE_UNAVAILABLE, with the advice to come back in a second."""
    return AgentsvcError(
        Reason.STORAGE_UNAVAILABLE,
        "The database cannot be reached or is too busy; repeat the call in a moment.",
        retry_after=1.0,
    )


def cause_of(error: AgentsvcError) -> str:
    """For the log: what the library said, in a line."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}".splitlines()[0]


def _is_transient(error: Exception) -> bool:
    match error:
        case DBAPIError(connection_invalidated=True) | OperationalError() | PoolTimeoutError():
            return True
        case DBAPIError():
            return str(getattr(error.orig, "sqlstate", None)).startswith(_TRANSIENT)
        case SQLAlchemyError():
            return False
        case sqlite3.Error():
            return isinstance(error, sqlite3.OperationalError)
        case _:  # the socket, the clock, or a server that refused the connection
            return True
