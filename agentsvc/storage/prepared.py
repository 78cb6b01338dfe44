"""A statement that is executed for many rows at a time, over and over.

SQLAlchemy looks at every parameter of every row anew, and SQLite's driver lets go of the interpreter for every row: each
of both costs more than the row. Here text, order and conversions are found out once, and up to 32 rows go into one
execution. PostgreSQL's driver sends all rows at once and adapts parameters itself, so there the statement goes the
usual way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Executable
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from agentsvc.storage.rows import Values

Process = Callable[[Any], Any]

_MOST = 32  # rows of one execution, a power of two: so few texts are needed
_ROW = re.compile(r"VALUES (\(\?(?:, \?)*\))")


class Prepared:
    """``statement`` for rows of ``parameters``: name -> type. It holds ``VALUES (...)`` for one row."""

    def __init__(self, statement: Executable, parameters: Mapping[str, TypeEngine[Any]]) -> None:
        self._statement = statement
        self._parameters = parameters
        self._texts: dict[int, str] = {}  # by number of rows
        self._columns: Sequence[tuple[str, Process | None]] = ()

    def execute(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Executes it for all rows."""
        if not rows:
            return
        if connection.dialect.name != "sqlite":
            connection.execute(self._statement, rows)
            return
        if not self._texts:
            self._prepare(connection.dialect)
        # Past SQLAlchemy's bookkeeping, which costs as much as the statement.
        execute = connection.connection.driver_connection.execute  # type: ignore[union-attr]  # an open one
        columns, done = self._columns, 0
        tuples = [
            tuple([row[name] if process is None else process(row[name]) for name, process in columns]) for row in rows
        ]
        while done < len(tuples):
            count = min(_MOST, 1 << ((len(tuples) - done).bit_length() - 1))
            parameters = tuple(chain.from_iterable(tuples[done : done + count]))
            execute(self._text(count), parameters)
            done += count

    def _text(self, count: int) -> str:
        if count not in self._texts:
            self._texts[count] = _ROW.sub(lambda row: "VALUES " + ", ".join([row[1]] * count), self._texts[1], count=1)
        return self._texts[count]

    def _prepare(self, dialect: Dialect) -> None:
        compiled = self._statement.compile(dialect=dialect, column_keys=list(self._parameters))  # type: ignore[attr-defined]  # every statement of ours is a ClauseElement
        assert isinstance(compiled, SQLCompiler)  # noqa: S101 - of SQL
        self._columns = [(name, self._parameters[name].bind_processor(dialect)) for name in compiled.positiontup or ()]
        self._texts[1] = str(compiled)
