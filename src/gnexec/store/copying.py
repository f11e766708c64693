"""Copy a log to another database, byte for byte: from SQLite to PostgreSQL when one server is not enough, or back.

All that a store keeps is copied (`TABLES`); what running attempts tell of themselves is not. The whole copy is one
transaction of the target, so that there is all of it or nothing, and needs memory for a few rows only.

Rules:
- No server may have either database open; none can open it meanwhile.
- The target holds nothing before.
- Before it commits, everything is read back from the target: each table has the same bytes in the same order as the
  source, entries have no gap, and the tree's root, computed anew from the copied leaves, is the checkpoint's.

It does not judge signatures or events: `gnexec log verify` does, before or after. Blobs and keys are files, and stay.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
from sqlalchemy import BigInteger, Integer, LargeBinary, Table

from gnexec import migrate
from gnexec.errors import BadConfiguration, CorruptLog, ProofError
from gnexec.store import schema
from gnexec.store.connections import translated
from gnexec.store.pgaddress import is_postgres
from gnexec.tlog.checkpoint import parse_checkpoint
from gnexec.tlog.merkle import leaf_hash
from gnexec.tlog.note import parse_note
from gnexec.tlog.tiles import Tree

TABLES: Final = (
    schema.head,
    schema.entries,
    schema.tiles,
    schema.refs,
    schema.contents,
    schema.grants,
    schema.pulse,
)

TOLD_EVERY: Final = 10_000
"""Rows between two tellings of how far it is."""

Value = int | bytes | str
Row = tuple[Value, ...]
Tell = Callable[[str, int, int], None]
"""Is told what is being done, rows done, and rows in all."""

_PACK: Final = msgspec.msgpack.Encoder().encode
"""Turns a row into bytes that say where each value ends, and that no other row gives."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied.

    Attributes:
        size: entries of the log.
        rows: rows of each table, by its name.
    """

    size: int
    rows: dict[str, int]


class End(Protocol):
    """One of the two databases, in a transaction of its own."""

    def count(self, table: Table) -> int:
        """Return the number of rows."""
        ...

    def rows(self, table: Table) -> Generator[Row, None, None]:
        """Yield all rows in order of the primary key, text compared as UTF-8."""
        ...

    def write(self, table: Table, rows: Iterable[Row]) -> None:
        """Add rows."""
        ...

    def clear_head(self) -> None:
        """Remove the row that an empty log has."""
        ...


def copy_database(source: str, target: str, tell: Tell) -> Copied:
    """Copy a log.

    Args:
        source: address of the database to read.
        target: address of one that holds nothing; its schema is made where there is none.
        tell: told of the progress.

    Raises:
        BadConfiguration: a database is in use, is not at this program's schema, or the target holds something.
        CorruptLog: the source contradicts itself; nothing is kept.
        StoreAway: a database does not answer; nothing is kept.
    """
    if source == target:
        msg = "Source and target are the same database. Name an empty one as target."
        raise BadConfiguration(msg)
    migrate.check(source)
    if migrate.current(target) is None:
        migrate.upgrade(target)
    migrate.check(target)
    with _end(source, writes=False) as reading, _end(target, writes=True) as writing:
        _refuse_full(writing)
        totals = {table.name: reading.count(table) for table in TABLES}
        writing.clear_head()
        prints: dict[str, bytes] = {}
        for table in TABLES:
            seen = _Watcher(table, totals[table.name], f"copying {table.name}", tell)
            with closing(reading.rows(table)) as rows:
                writing.write(table, seen.passed(rows))
            prints[table.name] = seen.print
        return Copied(_verify(writing, totals, prints, tell), totals)


def _end(url: str, *, writes: bool) -> AbstractContextManager[End]:
    if is_postgres(url):
        from gnexec.store.pgcopying import postgres_end  # noqa: PLC0415 - its driver is an extra

        return postgres_end(url, writes=writes)
    return _sqlite_end(url, writes=writes)


def _refuse_full(target: End) -> None:
    """Raise BadConfiguration if the target holds anything but an empty log."""
    full = [table.name for table in TABLES if table is not schema.head and target.count(table)]
    if full or any(size for _, size, _ in target.rows(schema.head)):
        msg = f"The target holds a log already (table {(full or ['head'])[0]}). Name an empty database as target."
        raise BadConfiguration(msg)


def _verify(target: End, totals: dict[str, int], prints: dict[str, bytes], tell: Tell) -> int:
    """Read everything back; return the log's size.

    Raises:
        CorruptLog: something is not as it was, or as the checkpoint says.
    """
    tree = Tree()
    for table in TABLES:
        seen = _Watcher(table, totals[table.name], f"verifying {table.name}", tell)
        with closing(target.rows(table)) as rows:
            for row in seen.passed(rows):
                if table is schema.entries:
                    _grow(tree, row)
        if seen.print != prints[table.name]:
            msg = f"the table {table.name} came out with other bytes than it had"
            raise CorruptLog(msg)
    _hold_against_checkpoint(tree, list(target.rows(schema.head)))
    return tree.size


def _grow(tree: Tree, row: Row) -> None:
    """Add the leaf of an entry, which must be the next."""
    if row[0] != tree.size:
        msg = "the entry is missing"
        raise CorruptLog(msg, seq=tree.size)
    tree.append(leaf_hash(bytes(row[1])))  # type: ignore[arg-type]  # `passed` has seen to the type


def _hold_against_checkpoint(tree: Tree, heads: list[Row]) -> None:
    if len(heads) != 1:
        msg = f"the table head has {len(heads)} rows, not one"
        raise CorruptLog(msg)
    size, note = heads[0][1], bytes(heads[0][2])  # type: ignore[arg-type]  # `passed` has seen to the types
    if size != tree.size:
        msg = f"the head says {size!r} entries, the entries end at {tree.size}"
        raise CorruptLog(msg)
    if not size and not note:
        return
    try:
        checkpoint = parse_checkpoint(parse_note(note).text)
    except ProofError as err:
        msg = f"the checkpoint cannot be read: {err}"
        raise CorruptLog(msg) from err
    if (checkpoint.size, checkpoint.root) != (tree.size, tree.root()):
        msg = f"the {tree.size} leaves do not give the root of the checkpoint of {checkpoint.size}"
        raise CorruptLog(msg)


class _Watcher:
    """Lets rows pass: counts them, sees to their types, and takes their fingerprint."""

    def __init__(self, table: Table, total: int, what: str, tell: Tell) -> None:
        self._name = table.name
        self._types = tuple(_type(column.type) for column in table.columns)
        self._total = total
        self._what = what
        self._tell = tell
        self._hash = hashlib.sha256()

    @property
    def print(self) -> bytes:
        """SHA-256 over the rows that passed, and where each value ends."""
        return self._hash.digest()

    def passed(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows.

        Raises:
            CorruptLog: a value of another type than its column's, which SQLite allows.
        """
        count = 0
        for row in rows:
            if tuple(map(type, row)) != self._types:
                msg = f"the table {self._name} holds a value of another type than its column's, in row {count}"
                raise CorruptLog(msg)
            self._hash.update(_PACK(row))
            count += 1
            if count % TOLD_EVERY == 0:
                self._tell(self._what, count, self._total)
            yield row
        self._tell(self._what, count, self._total)


def _type(column: object) -> type[Value]:
    match column:
        case LargeBinary():
            return bytes
        case Integer() | BigInteger():
            return int
        case _:
            return str


@contextmanager
def _sqlite_end(url: str, *, writes: bool) -> Iterator[End]:
    with migrate.writing(url) as connection, translated():
        db = connection.connection.driver_connection
        assert isinstance(db, sqlite3.Connection)  # noqa: S101 - what `migrate.writing` connects
        if writes:
            db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            yield _SqliteEnd(db)
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")


class _SqliteEnd:
    """A SQLite file."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def count(self, table: Table) -> int:
        count: int = self._db.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0]  # noqa: S608 - our own names
        return count

    def rows(self, table: Table) -> Generator[Row, None, None]:
        columns, keys = names(table)
        yield from self._db.execute(f"SELECT {columns} FROM {table.name} ORDER BY {keys}")  # noqa: S608 - as above

    def write(self, table: Table, rows: Iterable[Row]) -> None:
        places = ", ".join("?" * len(table.columns))
        self._db.executemany(f"INSERT INTO {table.name} ({names(table)[0]}) VALUES ({places})", rows)  # noqa: S608

    def clear_head(self) -> None:
        self._db.execute("DELETE FROM head")


def names(table: Table) -> tuple[str, str]:
    """Return a table's columns and those of its primary key, as SQL lists them."""
    return ", ".join(table.columns.keys()), ", ".join(table.primary_key.columns.keys())
