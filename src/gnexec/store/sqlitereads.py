"""What is read of a SQLite log: of what is committed, or of what an open batch sees."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from gnexec.errors import CorruptLog
from gnexec.store.connections import Readers
from gnexec.store.contract import Entry, Head

HEAD: Final = "SELECT size, note FROM head"
ENTRIES: Final = "SELECT seq, leaf, salt, payload FROM entries WHERE seq >= ? AND seq < ? ORDER BY seq"
STORY: Final = (
    "SELECT seq, leaf, salt, payload FROM refs CROSS JOIN entries USING (seq) WHERE refs.key = ? ORDER BY refs.seq"
)
TILE: Final = "SELECT data FROM tiles WHERE level = ? AND idx = ?"


def read_head(db: sqlite3.Connection) -> Head:
    """Return the head as `db` sees it."""
    row = db.execute(HEAD).fetchone()
    if row is None:
        msg = "the table `head` has lost its row"
        raise CorruptLog(msg)
    return Head(*row)


def read_entries(db: sqlite3.Connection, start: int, stop: int) -> list[Entry]:
    """Return entries start..stop-1 as `db` sees them.

    Raises:
        CorruptLog: an entry is missing before the last one found.
    """
    rows = db.execute(ENTRIES, (start, stop)).fetchall()
    if rows and rows[-1][0] - max(start, 0) + 1 != len(rows):
        there = {row[0] for row in rows}
        msg = "the entry is missing"
        raise CorruptLog(msg, seq=next(seq for seq in range(max(start, 0), stop) if seq not in there))
    return [Entry(leaf, salt, payload) for _, leaf, salt, payload in rows]


def read_story(db: sqlite3.Connection, key: bytes) -> list[tuple[int, Entry]]:
    """Return (seq, entry) of all entries filed under `key`, as `db` sees them."""
    return [(seq, Entry(leaf, salt, payload)) for seq, leaf, salt, payload in db.execute(STORY, (key,))]


def read_tile(db: sqlite3.Connection, level: int, index: int) -> bytes | None:
    """Return a full tile as `db` sees it."""
    row: tuple[bytes] | None = db.execute(TILE, (level, index)).fetchone()
    return None if row is None else row[0]


class CommittedReads:
    """Reads through connections that cannot write, from any thread; see `gnexec.store.contract.Reader`."""

    def __init__(self, database: Path) -> None:
        """Read this file, which is opened when it is first needed."""
        self._readers = Readers(database)

    def head(self) -> Head:
        """Return the committed head."""
        with self._readers.borrow() as db:
            return read_head(db)

    def entries(self, start: int, stop: int) -> list[Entry]:
        """Return committed entries start..stop-1."""
        with self._readers.borrow() as db:
            return read_entries(db, start, stop)

    def story(self, key: bytes) -> list[tuple[int, Entry]]:
        """Return (seq, entry) of all committed entries filed under `key`."""
        with self._readers.borrow() as db:
            return read_story(db, key)

    def tile(self, level: int, index: int) -> bytes | None:
        """Return a full tile, or None."""
        with self._readers.borrow() as db:
            return read_tile(db, level, index)
