"""A log that is only read, beside the server that appends to it: no lock is taken, nothing is written."""

from __future__ import annotations

from pathlib import Path

from gnexec import migrate
from gnexec.errors import BadConfiguration
from gnexec.store.connections import Readers
from gnexec.store.contract import Entry, Head
from gnexec.store.sqlite import read_entries, read_head, read_story, read_tile


class SqliteReader:
    """A SQLite log, through connections that cannot write; see `gnexec.store.contract.LogReader`."""

    def __init__(self, database: Path) -> None:
        """Open the file.

        Raises:
            BadConfiguration: there is no such file, or its schema is not at head.
        """
        path = database.resolve()
        if not path.is_file():
            msg = f"There is no database at {path}. {migrate.MEND}"
            raise BadConfiguration(msg)
        migrate.check(f"sqlite:///{path}")
        self._readers = Readers(path)

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

    def close(self) -> None:
        """Close the connections; harmless when done twice."""
        self._readers.close()
