"""PostgreSQL's end of a copied log; see `gnexec.store.copying`."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, cast

import psycopg
from psycopg import sql
from sqlalchemy import Integer, LargeBinary, Table, Text

from gnexec import migrate
from gnexec.errors import BadConfiguration, GnexecError, StoreAway
from gnexec.store.pgaddress import PgAddress

FETCHED: Final = 64
"""Rows read at one time: few, since each may hold megabytes."""


@contextmanager
def postgres_end(url: str, *, writes: bool) -> Iterator[PostgresEnd]:
    """Own a database for one transaction, which commits when the block ends without an error.

    Raises:
        BadConfiguration: a server has it open, or it does not allow what is needed.
        StoreAway: no answer.
    """
    with migrate.writing(url) as connection:
        db = cast("psycopg.Connection", connection.connection.driver_connection)
        try:
            with db.transaction():
                if not writes:
                    db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                yield PostgresEnd(db)
        except psycopg.Error as err:
            raise _translated(PgAddress.parse(url), err) from err


class PostgresEnd:
    """A PostgreSQL database."""

    def __init__(self, db: psycopg.Connection) -> None:
        """Work in a transaction that has begun."""
        self._db = db

    def count(self, table: Table) -> int:
        """Return the number of rows."""
        row = self._db.execute(sql.SQL("SELECT count(*) FROM {}").format(_name(table))).fetchone()
        return int(row[0]) if row else 0

    def rows(self, table: Table) -> Generator[tuple[int | bytes | str, ...], None, None]:
        """Yield all rows in order of the primary key, text compared as UTF-8."""
        keys = [
            sql.SQL('{} COLLATE "C"' if isinstance(column.type, Text) else "{}").format(sql.Identifier(column.name))
            for column in table.primary_key.columns
        ]
        query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(_columns(table), _name(table), sql.SQL(", ").join(keys))
        with self._db.cursor(f"all_{table.name}", binary=True) as cursor:
            cursor.itersize = FETCHED
            yield from cursor.execute(query)

    def write(self, table: Table, rows: Iterable[tuple[int | bytes | str, ...]]) -> None:
        """Add rows."""
        query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(_name(table), _columns(table))
        with self._db.cursor() as cursor, cursor.copy(query) as copy:
            copy.set_types([_type(column.type) for column in table.columns])
            for row in rows:
                copy.write_row(row)

    def clear_head(self) -> None:
        """Remove the row that an empty log has."""
        self._db.execute("DELETE FROM head")


def _name(table: Table) -> sql.Identifier:
    return sql.Identifier(table.name)


def _columns(table: Table) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, table.columns.keys()))


def _type(column: object) -> str:
    """Return the name of a column's type; a BigInteger is an Integer to SQLAlchemy, too."""
    match column:
        case LargeBinary():
            return "bytea"
        case Integer():
            return "int8" if type(column) is not Integer else "int4"
        case _:
            return "text"


def _translated(address: PgAddress, err: psycopg.Error) -> GnexecError:
    words = err.diag.message_primary or " ".join(str(err).split())
    if isinstance(err, psycopg.OperationalError):
        return StoreAway(f"{address.shown}: {words}")
    return BadConfiguration(f"{address.shown} does not take the copy: {words}.")
