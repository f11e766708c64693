"""Connections to a SQLite log: the one that writes, and a few that only read.

SQLite before 3.51.3 can damage a write-ahead log when two connections write or checkpoint. So exactly one connection
does either; the others are opened read-only, which keeps them from checkpointing even when they are closed last.

They are the driver's own connections, since each statement through SQLAlchemy costs as much as the insertion of several
rows. They begin no transaction by themselves: who writes says BEGIN.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from gnexec.errors import BadConfiguration, CorruptLog, StoreAway

FULL: Final = 2
"""What `PRAGMA synchronous` answers for FULL."""

PATIENCE_S: Final = 5.0
"""How long SQLite waits for a lock, and a reading thread for a connection."""

READERS: Final = 8
"""Most connections that read at the same time; each costs file handles and up to 2 MB of cache."""


def connect(database: Path, *, mode: str) -> sqlite3.Connection:
    """Open a database file; usable from any thread, by one at a time.

    Args:
        database: the file, which must be there.
        mode: "rw" or "ro", as in https://sqlite.org/uri.html.

    Raises:
        sqlite3.OperationalError: the file is not there or may not be opened.
    """
    address = f"file:{quote(str(database))}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)


def open_writer(database: Path) -> sqlite3.Connection:
    """Open the connection that writes and checkpoints; make sure that a commit survives a power loss.

    Raises:
        BadConfiguration: the file system does not allow a write-ahead log, or full synchronisation is not to be had.
        sqlite3.Error: the file cannot be opened, or is no database.
    """
    db = connect(database, mode="rw")
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")  # what is erased is overwritten, not only unlinked
        check_durable(db)
    except BaseException:
        db.close()
        raise
    return db


def check_durable(db: sqlite3.Connection) -> None:
    """Read back what decides whether a commit survives a power loss.

    Raises:
        BadConfiguration: no write-ahead log, or one that is not flushed at each commit.
    """
    for pragma, wanted in (("journal_mode", "wal"), ("synchronous", FULL)):
        (got,) = db.execute(f"PRAGMA {pragma}").fetchone()
        if got != wanted:
            msg = f"SQLite has {pragma} = {got} here, not {wanted}. Put the database on a local, ordinary file system."
            raise BadConfiguration(msg)


@contextmanager
def translated() -> Iterator[None]:
    """Turn SQLite's errors into ours.

    Raises:
        StoreAway: locked, full, or not readable or writable just now.
        CorruptLog: a key that must be new is there already, or the file is damaged.
    """
    try:
        yield
    except sqlite3.OperationalError as err:
        msg = f"SQLite: {err}"
        raise StoreAway(msg) from err
    except sqlite3.IntegrityError as err:
        msg = f"the store already holds what was to be added ({err})"
        raise CorruptLog(msg) from err
    except sqlite3.DatabaseError as err:
        if type(err) is not sqlite3.DatabaseError:
            raise  # a mistake in the program, such as the use of a closed store
        msg = f"the database file is damaged ({err})"
        raise CorruptLog(msg) from err


class Readers:
    """A bounded set of read-only connections, opened when first needed."""

    def __init__(self, database: Path) -> None:
        """Make the set; opens nothing yet."""
        self._closed = threading.Event()
        self._database = database
        self._idle: queue.LifoQueue[sqlite3.Connection | None] = queue.LifoQueue()
        for _ in range(READERS):
            self._idle.put(None)

    @contextmanager
    def borrow(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection to the calling thread; errors are translated.

        Raises:
            StoreAway: all are lent out for too long, SQLite does not answer, or the set is closed.
            CorruptLog: the file is damaged.
        """
        if self._closed.is_set():
            msg = "the store is closed"
            raise StoreAway(msg)
        try:
            reader = self._idle.get(timeout=PATIENCE_S)
        except queue.Empty as err:
            msg = f"all {READERS} reading connections are in use"
            raise StoreAway(msg) from err
        try:
            with translated():
                if reader is None:
                    reader = connect(self._database, mode="ro")
                    reader.execute("PRAGMA query_only = ON")
                yield reader
        except StoreAway:
            if reader is not None:
                reader.close()
            reader = None
            raise
        finally:
            self._idle.put(reader)
            if self._closed.is_set():
                self.close()

    def close(self) -> None:
        """Close the connections: the idle ones now, those lent out when they come back."""
        self._closed.set()
        with suppress(queue.Empty):
            while True:
                reader = self._idle.get_nowait()
                if reader is not None:
                    reader.close()
