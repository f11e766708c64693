"""A log that is only read, beside the server that appends to it: no lock is taken, nothing is written."""

from __future__ import annotations

from pathlib import Path

from gnexec import migrate
from gnexec.errors import BadConfiguration
from gnexec.store.sqlitereads import CommittedReads


class SqliteReader(CommittedReads):
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
        super().__init__(path)

    def close(self) -> None:
        """Close the connections; harmless when done twice."""
        self._readers.close()
