"""A statement that is executed for many rows at a time, over and over.

SQLAlchemy looks at every parameter of every row anew: more work than SQLite has with the row. Here text, order and
conversions are found out once; what is left is a tuple per row. PostgreSQL's driver adapts parameters to the server's
types itself, so there the statement goes the usual way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Executable
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from agentsvc.storage.rows import Values

Process = Callable[[Any], Any]


class Prepared:
    """``statement`` for rows of ``parameters``: name -> type."""

    def __init__(self, statement: Executable, parameters: Mapping[str, TypeEngine[Any]]) -> None:
        self._statement = statement
        self._parameters = parameters
        self._text = ""
        self._columns: Sequence[tuple[str, Process | None]] = ()

    def execute(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Executes it once per row."""
        if connection.dialect.name != "sqlite":
            connection.execute(self._statement, rows)
            return
        if not self._text:
            self._prepare(connection.dialect)
        columns = self._columns
        connection.exec_driver_sql(
            self._text,
            [
                tuple([row[name] if process is None else process(row[name]) for name, process in columns])
                for row in rows
            ],
        )

    def _prepare(self, dialect: Dialect) -> None:
        compiled = self._statement.compile(dialect=dialect, column_keys=list(self._parameters))  # type: ignore[attr-defined]  # every statement of ours is a ClauseElement
        assert isinstance(compiled, SQLCompiler)  # noqa: S101 - of SQL
        self._columns = [(name, self._parameters[name].bind_processor(dialect)) for name in compiled.positiontup or ()]
        self._text = str(compiled)
