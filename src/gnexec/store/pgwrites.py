"""What a batch writes to a PostgreSQL log, held back so that all of it goes in the round trip that commits.

Entries, their refs and the head are one statement over arrays; tiles, contents and grants are one more each, where
there are any. Refs to earlier entries, which may be there already, go by themselves, since asking PostgreSQL to look
makes each row cost a third more. Many entries, or large ones, are copied instead (`COPY`), which costs two more round
trips and less for each entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

from gnexec.store.contract import Append, Content, Entry, Grant
from gnexec.store.pglink import Call, Link, Statement
from gnexec.store.pgvalues import (
    COPY_HEADER,
    COPY_TRAILER,
    TEXT,
    bytea_array,
    copied_entries,
    from_int8,
    int8,
    int8_array,
    tid,
)
from gnexec.tlog.tiles import Tile

ADD: Final = Statement(
    b"add",
    b"WITH e AS (INSERT INTO entries (seq, leaf, salt, payload)"
    b" SELECT $1::int8 + o - 1, l, s, p"
    b" FROM unnest($2::bytea[], $3::bytea[], $4::bytea[]) WITH ORDINALITY AS t (l, s, p, o)),"
    b" r AS (INSERT INTO refs (key, seq)"
    b" SELECT k, s FROM unnest($5::bytea[], $6::int8[]) AS t (k, s))"
    b" UPDATE head SET size = $7::int8, note = $8::bytea RETURNING pg_notify($9::text, '')",
)
ADD_REFS: Final = Statement(
    b"add_refs",
    b"INSERT INTO refs (key, seq) SELECT k, s FROM unnest($1::bytea[], $2::int8[]) AS t (k, s) ON CONFLICT DO NOTHING",
)
ADD_TILES: Final = Statement(
    b"add_tiles",
    b"INSERT INTO tiles (level, idx, data) SELECT * FROM unnest($1::int8[], $2::int8[], $3::bytea[])",
)
KEEP_CONTENTS: Final = Statement(
    b"keep_contents",
    b"INSERT INTO contents (digest, salt, data)"
    b" SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bytea[]) ON CONFLICT DO NOTHING",
)
KEEP_GRANTS: Final = Statement(
    b"keep_grants",
    b"INSERT INTO grants (principal, digest) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING",
)
REFS_BLOCKS: Final = Statement(
    b"refs_blocks", b"SELECT pg_relation_size('refs'::regclass) / current_setting('block_size')::int8"
)
CLEAR_REFS: Final = Statement(b"clear_refs", b"DELETE FROM refs WHERE ctid >= $1::tid AND ctid < $2::tid")
COPY_ENTRIES: Final = b"COPY entries (seq, leaf, salt, payload) FROM STDIN (FORMAT binary)"

COPY_FROM: Final = 512
"""Entries from which on a COPY is the faster way; measured, see docs/adr/0013."""

COPY_FROM_BYTES: Final = 1 << 22
"""Bytes of payload from which on a COPY is used, so that no array comes near PostgreSQL's bound of 1 GiB."""

ROWS: Final = 10_000
"""Rows of one statement."""

BLOCKS: Final = 2_000
"""Blocks, of 8 KiB each, whose rows one statement deletes."""

COPY_ROWS: Final = 256
"""Entries turned into bytes at one time while copying."""

Item = TypeVar("Item")


class Pending:
    """What is to be written."""

    def __init__(self, channel: str) -> None:
        """Begin with nothing.

        Args:
            channel: on which the commit is made known.
        """
        self._channel = channel.encode()
        self._start = 0
        self._entries: list[Entry] = []
        self._refs: list[tuple[bytes, int]] = []
        self._tiles: list[Tile] = []
        self._note: bytes | None = None
        self._contents: list[Content] = []
        self._grants: list[Grant] = []

    def append(self, start: int, what: Append) -> None:
        """Add entries, the first of which is to stand at `start`, or after those that are pending."""
        if self._note is None:
            self._start = start
        self._entries.extend(what.entries)
        self._refs.extend(what.refs)
        self._tiles.extend(what.tiles)
        self._note = what.note

    def keep(self, contents: Iterable[Content], grants: Iterable[Grant]) -> None:
        """Add content and grants."""
        self._contents.extend(contents)
        self._grants.extend(grants)

    def write(self, link: Link) -> None:
        """Write all of it now; nothing is pending afterwards."""
        calls = self.last(link)
        if calls:
            link.ask(*calls)

    def last(self, link: Link) -> list[Call]:
        """Return what writes all of it; what is too much for that is written now. Nothing is pending afterwards."""
        calls: list[Call] = []
        if self._note is not None:
            calls += self._added(link)
        for contents in _some(self._contents):
            of_bytes = zip(*((each.digest, each.salt, each.data) for each in contents), strict=True)
            calls.append(Call(KEEP_CONTENTS, [bytea_array(column) for column in of_bytes]))
        for grants in _some(self._grants):
            of_text = zip(*((each.principal.encode(), each.digest.encode()) for each in grants), strict=True)
            calls.append(Call(KEEP_GRANTS, [bytea_array(column, element=TEXT) for column in of_text]))
        self._contents, self._grants = [], []
        return calls

    def _added(self, link: Link) -> list[Call]:
        """Return what appends; copy the entries now if they are many."""
        entries, stop = self._entries, self._start + len(self._entries)
        refs = list(dict.fromkeys(ref for ref in self._refs if self._start <= ref[1] < stop))
        others = [ref for ref in self._refs if not self._start <= ref[1] < stop]
        if len(entries) >= COPY_FROM or sum([len(entry.payload) for entry in entries]) >= COPY_FROM_BYTES:
            copy_entries(link, self._start, entries)
            entries = []
        if len(refs) > ROWS:
            others += refs
            refs = []
        calls = [_add_refs(some) for some in _some(others)]
        calls.append(
            Call(
                ADD,
                (
                    int8(self._start),
                    bytea_array([entry.leaf for entry in entries]),
                    bytea_array([entry.salt for entry in entries]),
                    bytea_array([entry.payload for entry in entries]),
                    bytea_array([key for key, _ in refs]),
                    int8_array([seq for _, seq in refs]),
                    int8(stop),
                    self._note or b"",
                    self._channel,
                ),
            )
        )
        for tiles in _some(self._tiles):
            levels, indexes, data = zip(*((tile.level, tile.index, tile.data) for tile in tiles), strict=True)
            calls.append(Call(ADD_TILES, (int8_array(levels), int8_array(indexes), bytea_array(data))))
        self._entries, self._refs, self._tiles, self._note = [], [], [], None
        return calls


def add_refs(link: Link, refs: Iterable[tuple[bytes, int]]) -> None:
    """Write refs, any number of them; one that is there stays."""
    for some in _some(refs):
        link.ask(_add_refs(some))


def clear_refs(link: Link) -> None:
    """Delete all refs, in steps that each take far less than a statement may.

    `TRUNCATE` would take one step, but lock out everybody who reads, until the new refs are there.
    """
    (found,) = link.ask(Call(REFS_BLOCKS))
    end = from_int8(found.get_value(0, 0))
    for first in range(0, end, BLOCKS):
        link.ask(Call(CLEAR_REFS, (tid(first), tid(min(first + BLOCKS, end)))))


def copy_entries(link: Link, start: int, entries: Sequence[Entry]) -> None:
    """Write entries by COPY."""

    def rows() -> Iterator[bytes]:
        yield COPY_HEADER
        for first in range(0, len(entries), COPY_ROWS):
            yield copied_entries(start + first, entries[first : first + COPY_ROWS])
        yield COPY_TRAILER

    link.copy(COPY_ENTRIES, rows())


def _add_refs(refs: Sequence[tuple[bytes, int]]) -> Call:
    return Call(ADD_REFS, (bytea_array([key for key, _ in refs]), int8_array([seq for _, seq in refs])))


def _some(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield items in lists of at most `ROWS`."""
    rest = iter(items)
    while some := list(islice(rest, ROWS)):
        yield some
