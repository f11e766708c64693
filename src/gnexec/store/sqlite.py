"""The store of a single server: one SQLite file, in write-ahead mode.

It keeps the rules of `gnexec.store.contract`, with nothing beside it: no server, no daemon. One process owns the file
(see `lockfile`); in it, one connection writes under a lock and others read (see `connections`). Committing many
requests at once is the caller's art: one batch is one transaction, and one fsync of the write-ahead log.

Rules:
- An acknowledged batch survives a power loss (synchronous=FULL, checked at start).
- A failed commit leaves the store usable, and the caller in doubt: it must read the head again.
- It does not migrate a schema that is there, and refuses one that is not at head (see `gnexec.migrate`).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gnexec import migrate
from gnexec.errors import BadConfiguration, Conflict, CorruptLog, StoreAway
from gnexec.store.clock import wall_ms
from gnexec.store.connections import open_writer, translated
from gnexec.store.contract import Append, Content, Entry, Grant, Head
from gnexec.store.lockfile import LockFile
from gnexec.store.sqlitereads import CommittedReads, read_entries, read_head, read_story, read_tile

LAST: Final = "SELECT max(seq) FROM entries"
REFS: Final = "SELECT key, seq FROM refs ORDER BY key, seq"
CONTENT: Final = "SELECT digest, salt, data FROM contents WHERE digest IN (%s)"
MOST_ROWS: Final = 64
"""Rows inserted by one statement, a power of two."""
CONTENTS_AT_ONCE: Final = 64
"""Contents asked for in one statement: as many as a hand-out has jobs."""
GRANTED: Final = "SELECT 1 FROM grants WHERE principal = ? AND digest = ?"
LAST_PULSE: Final = "SELECT at_ms FROM pulse"

ADD_ENTRY: Final = "INSERT INTO entries (seq, leaf, salt, payload) VALUES "
ADD_REF: Final = "INSERT OR IGNORE INTO refs (key, seq) VALUES "
ADD_TILE: Final = "INSERT INTO tiles (level, idx, data) VALUES (?, ?, ?)"
MOVE_HEAD: Final = "UPDATE head SET size = ?, note = ?"
KEEP_CONTENT: Final = "INSERT OR IGNORE INTO contents (digest, salt, data) VALUES "
KEEP_GRANT: Final = "INSERT OR IGNORE INTO grants (principal, digest) VALUES (?, ?)"
CLEAR_REFS: Final = "DELETE FROM refs"
ERASE: Final = "DELETE FROM contents WHERE digest = ?"
PULSE: Final = (
    "INSERT INTO pulse (id, at_ms) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET at_ms = max(at_ms, excluded.at_ms)"
)


def insert(db: sqlite3.Connection, statement: str, rows: Sequence[Sequence[object]]) -> None:
    """Insert rows, many in one statement: a step for each row costs twice as much, and takes the interpreter's lock.

    The numbers of rows are powers of two, so that there are few different statements and each is prepared once.

    Args:
        db: in a transaction.
        statement: up to its values.
        rows: of equal length.
    """
    start = 0
    while start < len(rows):
        count = min(MOST_ROWS, 1 << (len(rows) - start).bit_length() - 1)
        some = rows[start : start + count]
        marks = f"({', '.join('?' * len(some[0]))})"
        db.execute(statement + ", ".join([marks] * count), [value for row in some for value in row])
        start += count


class SqliteBatch:
    """An open transaction of the writing connection; see `gnexec.store.contract.Batch`."""

    def __init__(self, db: sqlite3.Connection, clock_ms: Callable[[], int]) -> None:
        """Read the head; the transaction has begun."""
        self._db = db
        self._head = read_head(db)
        self._state = "open"
        self._clock_ms = clock_ms

    def clock_ms(self) -> int:
        """Return the store's clock."""
        return self._clock_ms()

    def head(self) -> Head:
        """Return the head, with what this batch has appended."""
        return self._head

    def entries(self, start: int, stop: int) -> list[Entry]:
        """Return entries start..stop-1, with what this batch has appended."""
        with self._use():
            return read_entries(self._db, start, stop)

    def story(self, key: bytes) -> list[tuple[int, Entry]]:
        """Return (seq, entry) of all entries filed under `key`, with what this batch has appended."""
        with self._use():
            return read_story(self._db, key)

    def tile(self, level: int, index: int) -> bytes | None:
        """Return a full tile, or None."""
        with self._use():
            return read_tile(self._db, level, index)

    def append(self, what: Append) -> None:
        """Add entries at the head and move it."""
        with self._use():
            start = self._head.size
            rows = [(seq, entry.leaf, entry.salt, entry.payload) for seq, entry in enumerate(what.entries, start)]
            head = Head(start + len(rows), what.note)
            insert(self._db, ADD_ENTRY, rows)
            insert(self._db, ADD_REF, what.refs)
            if what.tiles:
                self._db.executemany(ADD_TILE, [(tile.level, tile.index, tile.data) for tile in what.tiles])
            self._db.execute(MOVE_HEAD, (head.size, head.note))
            self._head = head

    def keep(self, contents: Iterable[Content], grants: Iterable[Grant]) -> None:
        """Keep content and grants."""
        with self._use():
            insert(self._db, KEEP_CONTENT, [(each.digest, each.salt, each.data) for each in contents])
            self._db.executemany(KEEP_GRANT, ((each.principal, each.digest) for each in grants))

    def replace_refs(self, refs: Iterable[tuple[bytes, int]]) -> None:
        """Throw all refs away and write these instead."""
        with self._use():
            self._db.execute(CLEAR_REFS)
            self._db.executemany(f"{ADD_REF}(?, ?)", refs)

    def end(self) -> bool:
        """Let nothing more through this batch; return whether every call of it had succeeded."""
        whole = self._state == "open"
        self._state = "ended"
        return whole

    @contextmanager
    def _use(self) -> Iterator[None]:
        if self._state != "open":
            msg = f"this batch has {self._state}"
            raise RuntimeError(msg)
        try:
            with translated():
                yield
        except BaseException:
            self._state = "failed"
            raise


class SqliteStore(CommittedReads):
    """A log in one SQLite file; see `gnexec.store.contract.Store`."""

    def __init__(self, database: Path, *, create: bool = False, clock_ms: Callable[[], int] = wall_ms) -> None:
        """Open the file and own it until `close`.

        Args:
            database: the file; `<file>.lock`, `<file>-wal` and `<file>-shm` appear beside it.
            create: make the file and its schema where there is none. A schema that is there is never changed.
            clock_ms: the store's clock.

        Raises:
            BadConfiguration: there is no such file, another process has it, or its schema is not at head.
            CorruptLog: the entries do not reach exactly to the head, or the file is damaged.
            StoreAway: the file is locked by someone who does not keep to the lock file.
        """
        self._path = database.resolve()
        if not create and not self._path.is_file():
            msg = f"There is no database at {self._path}. {migrate.MEND}"
            raise BadConfiguration(msg)
        self._clock_ms = clock_ms
        self._closed = False
        self._lock = threading.Lock()
        super().__init__(self._path)
        self._db: sqlite3.Connection | None = None
        self._owned = LockFile(self._path)
        try:
            migrate.prepare(self._path, create=create)
            self._file = self._path.stat()
            with translated():
                self._db = open_writer(self._path)
                self._seen: int | None = checked_head(self._db).size
        except BaseException:
            self.close()
            raise

    @contextmanager
    def batch(self) -> Iterator[SqliteBatch]:
        """Take the append lock; commit on leaving, roll back on an exception.

        Raises:
            Conflict: the head is not where this process left it; the next batch starts from the new one.
            StoreAway: no answer, or the commit's fate is unknown.
        """
        with self._transaction() as db:
            with translated():
                batch = SqliteBatch(db, self._clock_ms)
            size = batch.head().size
            if self._seen not in (size, None):
                expected, self._seen = self._seen, size
                msg = f"the log has {size} entries, not {expected}: another process has written to {self._path}"
                raise Conflict(msg)
            try:
                yield batch
            finally:
                whole = batch.end()
            if not whole:
                msg = "a call of this batch had failed, so none of it was committed"
                raise StoreAway(msg)
            self._seen = batch.head().size

    def content(self, digests: Sequence[bytes]) -> dict[bytes, Content]:
        """Return those of the contents that are there."""
        found: dict[bytes, Content] = {}
        with self._readers.borrow() as db:
            for start in range(0, len(digests), CONTENTS_AT_ONCE):
                some = digests[start : start + CONTENTS_AT_ONCE]
                for row in db.execute(CONTENT % ", ".join("?" * len(some)), some):
                    found[row[0]] = Content(*row)
        return found

    def erase(self, digests: Sequence[bytes]) -> int:
        """Erase contents from the file too: overwritten with zeros, and gone from the write-ahead log.

        A reader at work can keep the write-ahead log from being emptied at once (this waits for a while, as for any
        lock); then a later checkpoint or `close` does it.
        """
        with self._transaction() as db, translated():
            erased = db.executemany(ERASE, ((digest,) for digest in digests)).rowcount
        with self._lock, translated():
            self._writer().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return max(erased, 0)

    def granted(self, principal: str, digests: Sequence[str]) -> set[str]:
        """Return those of `digests` that `principal` holds a grant for."""
        with self._readers.borrow() as db:
            return {digest for digest in digests if db.execute(GRANTED, (principal, digest)).fetchone()}

    def refs(self) -> Iterator[tuple[bytes, int]]:
        """Yield all (key, seq) pairs of one moment; holds a reading connection until exhausted."""
        with self._readers.borrow() as db:
            yield from db.execute(REFS)

    def pulse(self, at_ms: int) -> None:
        """Note that a server is alive at `at_ms`."""
        with self._transaction() as db, translated():
            db.execute(PULSE, (at_ms,))

    def last_pulse(self) -> int | None:
        """Return the newest noted pulse, or None."""
        with self._readers.borrow() as db:
            row: tuple[int] | None = db.execute(LAST_PULSE).fetchone()
            return None if row is None else row[0]

    def alone(self) -> bool:
        """Return True: the lock file keeps every other process out."""
        self.head()
        return True

    def watch(self, wake: Callable[[], None]) -> None:
        """Call nobody: no other process appends."""

    def ping(self) -> None:
        """Make sure that the file can be read, and still is the one at its path.

        Raises:
            StoreAway: it is not; what is committed to a file that was moved or deleted would be lost.
        """
        self.head()
        try:
            there = os.path.samestat(self._path.stat(), self._file)
        except OSError:
            there = False
        if not there:
            msg = f"{self._path} was moved, replaced or deleted while in use"
            raise StoreAway(msg)

    def close(self) -> None:
        """Close the file and let another process have it; harmless when done twice."""
        with self._lock:
            self._closed = True
            self._readers.close()
            if self._db is not None:
                self._db.close()
                self._db = None
            self._owned.release()

    def _commit(self, db: sqlite3.Connection) -> None:
        """Commit: the point at which tests make a store fail."""
        db.execute("COMMIT")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the lock and a transaction of the writing connection."""
        with self._lock:
            db = self._writer()
            with translated():
                db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                self._undo(db)
                raise
            try:
                self._commit(db)
            except BaseException as err:
                self._seen = None
                self._undo(db)
                if not isinstance(err, sqlite3.Error):
                    raise
                msg = f"SQLite: {err}; it is unknown whether the commit was kept"
                raise StoreAway(msg) from err

    def _writer(self) -> sqlite3.Connection:
        """Return the writing connection, opened again if it had to be given up."""
        if self._closed:
            msg = "the store is closed"
            raise StoreAway(msg)
        if self._db is None:
            with translated():
                self._db = open_writer(self._path)
        return self._db

    def _undo(self, db: sqlite3.Connection) -> None:
        """Leave no transaction open; give up the connection if it will not roll back."""
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")
        except sqlite3.Error:
            self._db = None
            db.close()


def checked_head(db: sqlite3.Connection) -> Head:
    """Return the head, having made sure that the entries end there.

    Raises:
        CorruptLog: they do not, or the head is none.
    """
    head = read_head(db)
    size = head.size
    if type(size) is not int or type(head.note) is not bytes:  # a damaged page may hold anything
        msg = "the head is not a size and a checkpoint"
        raise CorruptLog(msg)
    (last,) = db.execute(LAST).fetchone()
    end = 0 if last is None else last + 1
    if end != size:
        msg = f"the head says {size} entries, the entries end at {end}"
        raise CorruptLog(msg, seq=min(end, size))
    return head
