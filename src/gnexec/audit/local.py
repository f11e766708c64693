"""A log in a store on this machine, through a connection that cannot write; a server may be at work on it.

Entries never change once they are there, so they are read in pieces, up to the head as it was on opening. Leaf hashes
are taken from the tiles where those are full: they tell which entry was tampered with.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gnexec import migrate
from gnexec.audit.lines import Header, Record, Seal
from gnexec.core.events import LogOpened
from gnexec.errors import BadConfiguration, CorruptLog
from gnexec.store.connections import connect, translated
from gnexec.store.contract import Entry, Head
from gnexec.store.sqlite import REFS
from gnexec.store.sqlitereads import read_entries, read_head, read_tile
from gnexec.tlog.merkle import HASH_SIZE, leaf_hash
from gnexec.tlog.tiles import TILE_WIDTH, Tree
from gnexec.wire import decode_event

CHUNK: Final = 16 * TILE_WIDTH
"""Entries read at one time."""


class LocalLog:
    """A store, open for reading; see `gnexec.audit.source.Provable`.

    Attributes:
        note: the checkpoint as it was on opening.
    """

    def __init__(self, database: Path, *, still: bool = False) -> None:
        """Open the database and read its head.

        Args:
            database: the SQLite file.
            still: see all of it as it is at one moment; a server at work cannot shorten its write-ahead log meanwhile.

        Raises:
            BadConfiguration: there is none, its schema is not this program's, or the log has no entry yet.
            CorruptLog: its first entry does not open a log.
            StoreAway: it cannot be read now.
        """
        path = database.resolve()
        if not path.is_file():
            msg = f"There is no log at {path}. Give the folder that `gnexec serve --data` was given."
            raise BadConfiguration(msg)
        migrate.check(f"sqlite:///{path}")
        with translated():
            self._db = connect(path, mode="ro")
        try:
            with translated():
                self._db.execute("PRAGMA query_only = ON")
                self._db.text_factory = bytearray  # text, where bytes belong, is told from them and needs no decoding
                if still:
                    self._db.execute("BEGIN")
                self._head = read_head(self._db)
            self.note = self._head.note
            _check_head(self._head.size, self.note)
            self.header = self._header(path)
        except BaseException:
            self._db.close()
            raise

    def head(self) -> Head:
        """Return the head as it was on opening."""
        return self._head

    def entries(self, start: int, stop: int) -> list[Entry]:
        """Return entries start..stop-1.

        Raises:
            CorruptLog: one holds something else than bytes, which SQLite allows in any column.
        """
        with translated():
            entries = read_entries(self._db, start, stop)
        for seq, entry in enumerate(entries, start):
            if not all(isinstance(part, bytes) for part in (entry.leaf, entry.salt, entry.payload)):
                msg = "the entry is not made of bytes"
                raise CorruptLog(msg, seq=seq)
        return entries

    def tile(self, level: int, index: int) -> bytes | None:
        """Return a full tile, or None; what is not even bytes is no tile."""
        with translated():
            data = read_tile(self._db, level, index)
        return data if isinstance(data, bytes) else None

    def refs(self) -> Iterator[tuple[bytes, int]]:
        """Yield all (key, seq) pairs, in order of key, then seq."""
        with translated():
            yield from self._db.execute(REFS)

    def items(self, start: int = 0) -> Iterator[Record | Seal]:
        """Yield the entries from `start` on, then the seal."""
        size = self._head.size
        for first in range(start, size, CHUNK):
            stop = min(first + CHUNK, size)
            entries = self.entries(first, stop)
            for seq, entry in enumerate(entries, first):
                if seq == first or seq % TILE_WIDTH == 0:
                    tile = self.tile(0, seq // TILE_WIDTH)
                yield Record(seq, entry.leaf, _hash(tile, seq), entry.salt, entry.payload)
            if len(entries) < stop - first:
                msg = "the entry is missing"
                raise CorruptLog(msg, seq=first + len(entries))
        yield Seal(self.note)

    def node(self, height: int, index: int) -> bytes:
        """Return the hash of a complete subtree."""
        return self._tree.node(height, index, self.tile)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def __enter__(self) -> Self:
        """Keep the store open for the length of a `with` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    @cached_property
    def _tree(self) -> Tree:
        return Tree.restore(
            self._head.size, self.tile, lambda start, stop: [leaf_hash(e.leaf) for e in self.entries(start, stop)]
        )

    def _header(self, path: Path) -> Header:
        first = self.entries(0, 1)
        if not self._head.size or not first:
            msg = f"The log at {path} has no entry yet. Start the server once."
            raise BadConfiguration(msg)
        try:
            opened = decode_event(first[0].payload)
        except CorruptLog as err:
            raise type(err)(err.reason, seq=0) from err
        if not isinstance(opened, LogOpened):
            msg = "the first entry does not open a log"
            raise CorruptLog(msg, seq=0)
        return Header(origin=opened.origin, vkey=opened.vkey, size=self._head.size)


def _check_head(size: object, note: object) -> None:
    """Make sure that the head is what its columns promise, which SQLite does not."""
    if not isinstance(size, int) or not isinstance(note, bytes):
        msg = "the head is not a size and a checkpoint"
        raise CorruptLog(msg)


def _hash(tile: bytes | None, seq: int) -> bytes | None:
    """Return a leaf's hash from its full tile, or None where the tile is not full yet or unusable."""
    if tile is None or len(tile) != TILE_WIDTH * HASH_SIZE:
        return None
    at = seq % TILE_WIDTH * HASH_SIZE
    return tile[at : at + HASH_SIZE]
