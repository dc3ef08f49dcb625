"""Pages by key: each begins after the last row of the one before, however many rows there are by then."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, literal, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from config.errors import RefusedInputError
from db.queries.audit.questions import Page
from db.types import UtcDateTime

Key = tuple[str | int | float, ...]
AnyColumn = InstrumentedAttribute[Any] | ColumnElement[Any]
AnySelect = Select[*tuple[Any, ...]]
AnyRow = Row[*tuple[Any, ...]]


class Keyset:
    """An order of rows by columns that are unique together; an index over just these makes every page cheap."""

    def __init__(self, *columns: AnyColumn, descending: bool = True) -> None:
        """Take the columns, most significant first; newest first unless ``descending`` is False."""
        self._columns = columns
        self._descending = descending

    def page(self, session: Session, query: AnySelect, page: Page) -> tuple[list[AnyRow], Key | None]:
        """Return the page's rows and the key of the next page, None when there is none.

        The key columns come after the columns of ``query``.
        """
        query = self.ordered(query.add_columns(*self._columns), page).limit(page.limit + 1)
        rows = list(session.execute(query).all())
        more = len(rows) > page.limit
        rows = rows[: page.limit]
        return rows, self.key_of(rows[-1]) if more else None

    def ordered(self, query: AnySelect, page: Page) -> AnySelect:
        """Return the query in this order, without the rows up to the page."""
        if page.after is not None:
            this, that = tuple_(*self._columns), tuple_(*self._after(page.after))
            query = query.where(this < that if self._descending else this > that)
        return query.order_by(*(one.desc() if self._descending else one.asc() for one in self._columns))

    def key_of(self, row: AnyRow) -> Key:
        """Return the key of a row that ends in the key columns."""
        return tuple(_written(value) for value in tuple(row)[-len(self._columns) :])

    def _after(self, key: Key) -> list[ColumnElement[Any]]:
        if len(key) != len(self._columns):
            raise RefusedInputError("cursor: it is not of this question")
        try:
            return [literal(_read(value, _kind(one)), one.type) for value, one in zip(key, self._columns, strict=True)]
        except (ValueError, TypeError):
            raise RefusedInputError("cursor: it is not of this question") from None


def _kind(column: AnyColumn) -> type:
    return datetime if isinstance(column.type, UtcDateTime) else column.type.python_type


def _written(value: Any) -> str | int | float:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, int | float) else str(value)


def _read(value: str | float, kind: type) -> Any:
    if kind is datetime:
        moment = datetime.fromisoformat(str(value))
        if moment.tzinfo is None:
            raise ValueError("no zone")
        return moment
    if kind is UUID:
        return UUID(str(value))
    if kind is int and (not isinstance(value, int) or abs(value) > 2**63 - 1):
        raise TypeError("no integer")
    if kind is str and (not isinstance(value, str) or "\x00" in value):
        raise TypeError("no text")
    return value
