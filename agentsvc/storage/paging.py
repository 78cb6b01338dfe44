"""Pages (AIP-158) and filters, as SQL.

A page token holds where the last page ended, ``(create_time, id)`` or a position, so a page costs the same wherever it
stands, and rows that come and go meanwhile neither repeat nor hide others. It also holds a digest of what was listed:
presented with another tenant, parent or filter it is refused. It is no secret and grants nothing: the query has its
own tenant.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Column, ColumnElement, Select, Table, and_, column, exists, false, select, tuple_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from agentsvc.domain.errors import AgentsvcError, invalid_field
from agentsvc.domain.ports import Filter, Page, PageRequest
from agentsvc.storage.database import AnyRow, Database
from agentsvc.storage.tables import Word

MAX_PAGE_SIZE = 1000

T = TypeVar("T")


class _PageToken(msgspec.Struct, array_like=True, frozen=True):
    digest: str
    after: datetime | int
    id: str = ""


_token = msgspec.json.Decoder(_PageToken)


class _label_pairs(GenericFunction[Any]):  # noqa: N801 - SQL functions are written small
    """A table of the keys and values of a JSON object."""

    inherit_cache = True


@compiles(_label_pairs)
def _for_sqlite(element: _label_pairs, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(_label_pairs, "postgresql")
def _for_postgresql(element: _label_pairs, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each_text(CAST({compiler.process(element.clauses, **options)} AS JSON))"


def conditions(table: Table, where: Filter) -> Iterator[ColumnElement[bool]]:
    """What the filter says about the table's rows. A condition on a field that its values have not is never met."""
    for name in ("agent_id", "session_id", "user_id"):
        if wanted := getattr(where, name):
            yield table.c[name] == wanted if name in table.c else false()
    if where.states:
        yield table.c.state.in_([state.value for state in where.states]) if "state" in table.c else false()
    if where.after is not None:
        yield table.c.create_time >= where.after
    if where.before is not None:
        yield table.c.create_time < where.before
    for key, wanted in where.labels.items():
        pairs = _label_pairs(table.c.labels).table_valued(column("key", Word), column("value", Word))
        yield exists().where(and_(pairs.c.key == key, pairs.c.value == wanted))


async def newest_first(
    database: Database,
    table: Table,
    key: Column[str],
    tenant_id: str,
    page: PageRequest,
    where: Filter,
    value: Callable[[AnyRow], T],
) -> Page[T]:
    """One page of a tenant's rows, the youngest first. ``value`` makes an item of a row.

    Raises:
        AgentsvcError: INVALID_FIELD page_token.
    """
    digest = _digest(table.name, tenant_id, replace(where, labels=dict(sorted(where.labels.items()))))
    query = select(table).where(table.c.tenant_id == tenant_id, *conditions(table, where))
    if page.token:
        after = _read(page.token, digest, datetime)
        query = query.where(tuple_(table.c.create_time, key) < (after.after, after.id))
    query = query.order_by(table.c.create_time.desc(), key.desc())
    rows, more = await _page(database, query, page)
    last = _write(_PageToken(digest, rows[-1].create_time, getattr(rows[-1], key.name))) if more else ""
    return Page(tuple(value(row) for row in rows), last)


async def oldest_first(
    database: Database,
    table: Table,
    position: Column[int],
    parent: Mapping[str, str],
    page: PageRequest,
    value: Callable[[AnyRow], T],
) -> Page[T]:
    """One page of the rows below ``parent`` (column name -> id) in the order of their positions.

    Raises:
        AgentsvcError: INVALID_FIELD page_token.
    """
    digest = _digest(table.name, *parent.values())
    query = select(table).where(*(table.c[name] == wanted for name, wanted in parent.items()))
    if page.token:
        query = query.where(position > _read(page.token, digest, int).after)
    rows, more = await _page(database, query.order_by(position), page)
    last = _write(_PageToken(digest, getattr(rows[-1], position.name))) if more else ""
    return Page(tuple(value(row) for row in rows), last)


async def _page(database: Database, query: Select[Any], page: PageRequest) -> tuple[Sequence[AnyRow], bool]:
    size = max(1, min(page.size, MAX_PAGE_SIZE))
    rows = await database.rows(query.limit(size + 1))  # one more tells whether there is a next page
    return rows[:size], len(rows) > size


def _digest(*what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def _write(token: _PageToken) -> str:
    return urlsafe_b64encode(msgspec.json.encode(token)).decode()


def _read(text: str, digest: str, kind: type) -> _PageToken:
    try:
        token = _token.decode(urlsafe_b64decode(text))
    except ValueError:  # not base64, not JSON, not a token: all of them are ValueErrors
        raise _refused() from None
    if token.digest != digest or not isinstance(token.after, kind) or not _is_sound(token.after):
        raise _refused()
    return token


def _is_sound(after: datetime | int) -> bool:
    """Whether a row can have it; a token of somebody's own making may hold anything."""
    if isinstance(after, int):
        return 0 <= after < 1 << 63
    return after.tzinfo is not None and 1 < after.year < 9999


def _refused() -> AgentsvcError:
    return invalid_field("page_token", "not a token that this list returned; start again without one")
