"""A PostgreSQL log that is only read: it counts as no server, takes no lock, and can write nothing."""

from __future__ import annotations

from gnexec import migrate
from gnexec.store.contract import Entry, Head
from gnexec.store.pgaddress import PgAddress
from gnexec.store.pgpool import Pool
from gnexec.store.pgreads import read_entries, read_head, read_story, read_tile
from gnexec.store.pgsession import open_session


class PostgresReader:
    """A PostgreSQL log, through connections that cannot write; see `gnexec.store.contract.LogReader`."""

    def __init__(self, url: str) -> None:
        """Connect.

        Raises:
            BadConfiguration: no such database, a schema that is not at head, or no driver.
            StoreAway: no answer.
        """
        address, revision = PgAddress.parse(url), migrate.head()
        self._readers = Pool(lambda: open_session(address, revision, writes=False, present=False)[0])
        self.head()

    def head(self) -> Head:
        """Return the committed head."""
        return self._readers.read(read_head)

    def entries(self, start: int, stop: int) -> list[Entry]:
        """Return committed entries start..stop-1."""
        return self._readers.read(lambda link: read_entries(link, start, stop))

    def story(self, key: bytes) -> list[tuple[int, Entry]]:
        """Return (seq, entry) of all committed entries filed under `key`."""
        return self._readers.read(lambda link: read_story(link, key))

    def tile(self, level: int, index: int) -> bytes | None:
        """Return a full tile, or None."""
        return self._readers.read(lambda link: read_tile(link, level, index))

    def close(self) -> None:
        """Disconnect; harmless when done twice."""
        self._readers.close()
