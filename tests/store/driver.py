"""SQLite through apsw with the manners of Python's own driver, so that the store's real code runs over any VFS.

Only what the store and SQLAlchemy's dialect ask of a connection. Errors are those of `sqlite3`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import apsw

_OPERATIONAL: Final = (
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.FullError,
    apsw.IOError,
    apsw.LockedError,
    apsw.ProtocolError,
    apsw.ReadOnlyError,
    apsw.SQLError,
)


@contextmanager
def _errors() -> Iterator[None]:
    """Turn apsw's errors into those of `sqlite3`."""
    try:
        yield
    except apsw.ConstraintError as err:
        raise sqlite3.IntegrityError(str(err)) from err
    except _OPERATIONAL as err:
        raise sqlite3.OperationalError(str(err)) from err
    except (apsw.CorruptError, apsw.NotADBError) as err:
        raise sqlite3.DatabaseError(str(err)) from err
    except apsw.Error as err:
        raise sqlite3.ProgrammingError(str(err)) from err


class Cursor:
    """A cursor; its rows are read as they are asked for."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._cursor = db.cursor()
        self.description: Any = None
        self.lastrowid = 0
        self.rowcount = -1
        self.arraysize = 1

    def execute(self, sql: str, values: Iterable[Any] = ()) -> Cursor:
        """Run a statement."""
        return self._run(self._cursor.execute, sql, values)

    def executemany(self, sql: str, rows: Iterable[Any]) -> Cursor:
        """Run a statement for each row."""
        return self._run(self._cursor.executemany, sql, rows)

    def fetchone(self) -> Any:  # noqa: ANN401 -- a row
        """Return the next row, or None."""
        with _errors():
            return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""
        with _errors():
            return list(self._cursor)

    def close(self) -> None:
        """Give the statement up."""
        self._cursor.close(force=True)

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows that are left."""
        with _errors():
            yield from self._cursor

    def _run(self, run: Callable[[str, Any], object], sql: str, values: Iterable[Any]) -> Cursor:
        before = self._db.total_changes()
        self._cursor.exec_trace = self._describe
        try:
            with _errors():
                run(sql, values)
        finally:
            self._cursor.exec_trace = None  # no ring of references: a cursor ends its statement when it is dropped
        self.rowcount = self._db.total_changes() - before
        return self

    def _describe(self, cursor: apsw.Cursor, _sql: str, _values: object) -> bool:
        """Note the columns before the first row is asked for: later they are gone where there is none."""
        self.description = [(name, *[None] * 6) for name, _ in cursor.get_description()] or None
        return True


class Connection:
    """A connection in autocommit mode."""

    def __init__(self, database: str, *, mode: str, vfs: str) -> None:
        """Open a file that is there.

        Args:
            database: its path.
            mode: "rw" or "ro".
            vfs: name of the VFS.

        Raises:
            sqlite3.OperationalError: it cannot be opened.
        """
        flags = apsw.SQLITE_OPEN_READONLY if mode == "ro" else apsw.SQLITE_OPEN_READWRITE
        with _errors():
            self._db = apsw.Connection(database, flags=flags, vfs=vfs)
            self._db.set_busy_timeout(100)
        self.isolation_level: None = None

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._db.in_transaction

    def cursor(self) -> Cursor:
        """Return a new cursor."""
        return Cursor(self._db)

    def execute(self, sql: str, values: Iterable[Any] = ()) -> Cursor:
        """Run a statement."""
        return self.cursor().execute(sql, values)

    def executemany(self, sql: str, rows: Iterable[Any]) -> Cursor:
        """Run a statement for each row."""
        return self.cursor().executemany(sql, rows)

    def create_function(self, name: str, narg: int, func: Callable[..., Any], **_: object) -> None:
        """Give SQL a function."""
        self._db.create_scalar_function(name, func, narg)

    def commit(self) -> None:
        """Commit if a transaction is open."""
        if self.in_transaction:
            self.execute("COMMIT")

    def rollback(self) -> None:
        """Roll back if a transaction is open."""
        if self.in_transaction:
            self.execute("ROLLBACK")

    def close(self) -> None:
        """Close; harmless when done twice.

        What goes wrong in the checkpoint of the last connection is no error of closing, as in SQLite itself.
        """
        with suppress(apsw.IOError):
            self._db.close(force=True)
