"""What is read from a PostgreSQL log, and how rows become entries: the same for readers and for an open batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from psycopg.pq.abc import PGresult

from gnexec.errors import CorruptLog
from gnexec.store.contract import Content, Entry, Head
from gnexec.store.pglink import Call, Link, Statement
from gnexec.store.pgvalues import TEXT, bytea_array, from_int8, int8

HEAD: Final = Statement(b"head", b"SELECT size, note, clock_timestamp() FROM head")
ENTRIES: Final = Statement(
    b"entries", b"SELECT seq, leaf, salt, payload FROM entries WHERE seq >= $1::int8 AND seq < $2::int8 ORDER BY seq"
)
BOUNDS: Final = Statement(b"bounds", b"SELECT coalesce(max(seq) + 1, 0) FROM entries")
STORY: Final = Statement(
    b"story",
    b"SELECT seq, leaf, salt, payload FROM refs JOIN entries USING (seq) WHERE refs.key = $1::bytea ORDER BY seq",
)
TILE: Final = Statement(b"tile", b"SELECT data FROM tiles WHERE level = $1::int8 AND idx = $2::int8")
CONTENT: Final = Statement(b"content", b"SELECT digest, salt, data FROM contents WHERE digest = ANY ($1::bytea[])")
GRANTED: Final = Statement(
    b"granted", b"SELECT digest FROM grants WHERE principal = $1::text AND digest = ANY ($2::text[])"
)
LAST_PULSE: Final = Statement(b"last_pulse", b"SELECT at_ms FROM pulse")
OTHERS: Final = Statement(
    b"others",
    b"SELECT DISTINCT pid::int8 FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
    b" AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
    b" AND classid::int8 << 32 | objid::int8 = $1::int8",
)

SNAPSHOT: Final = Statement(b"snapshot", b"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
ALL_REFS: Final = Statement(
    b"all_refs", b"DECLARE all_refs NO SCROLL CURSOR FOR SELECT key, seq FROM refs ORDER BY key, seq"
)
MORE_REFS: Final = Statement(b"more_refs", b"FETCH 10000 FROM all_refs")
ROLLBACK: Final = Statement(b"rollback", b"ROLLBACK")

ASKED: Final = 10_000
"""Digests looked up in one statement."""


def head_of(result: PGresult) -> Head:
    """Return what `HEAD` answered.

    Raises:
        CorruptLog: the table has lost its row.
    """
    if result.ntuples != 1:
        msg = "the table `head` has lost its row"
        raise CorruptLog(msg)
    return Head(from_int8(result.get_value(0, 0)), result.get_value(0, 1) or b"")


def read_head(link: Link) -> Head:
    """Return the head as `link` sees it."""
    return head_of(link.ask(Call(HEAD))[0])


def read_entries(link: Link, start: int, stop: int) -> list[Entry]:
    """Return entries start..stop-1 as `link` sees them.

    Raises:
        CorruptLog: an entry is missing before the last one found.
    """
    start = max(start, 0)
    if stop <= start:
        return []
    (result,) = link.ask(Call(ENTRIES, (int8(start), int8(stop))))
    get, count = result.get_value, result.ntuples
    if count and from_int8(get(count - 1, 0)) - start + 1 != count:
        there = {from_int8(get(row, 0)) for row in range(count)}
        msg = "the entry is missing"
        raise CorruptLog(msg, seq=next(seq for seq in range(start, stop) if seq not in there))
    return [Entry(get(row, 1) or b"", get(row, 2) or b"", get(row, 3) or b"") for row in range(count)]


def read_story(link: Link, key: bytes) -> list[tuple[int, Entry]]:
    """Return (seq, entry) of all entries filed under `key`, as `link` sees them."""
    (result,) = link.ask(Call(STORY, (key,)))
    get = result.get_value
    return [
        (from_int8(get(row, 0)), Entry(get(row, 1) or b"", get(row, 2) or b"", get(row, 3) or b""))
        for row in range(result.ntuples)
    ]


def read_tile(link: Link, level: int, index: int) -> bytes | None:
    """Return a full tile as `link` sees it."""
    (result,) = link.ask(Call(TILE, (int8(level), int8(index))))
    return result.get_value(0, 0) if result.ntuples else None


def read_content(link: Link, digests: Sequence[bytes]) -> dict[bytes, Content]:
    """Return those of the contents that are there."""
    found = {}
    for first in range(0, len(digests), ASKED):
        (result,) = link.ask(Call(CONTENT, (bytea_array(digests[first : first + ASKED]),)))
        for row in range(result.ntuples):
            digest, salt, data = (result.get_value(row, column) or b"" for column in range(3))
            found[digest] = Content(digest, salt, data)
    return found


def read_granted(link: Link, principal: str, digests: Sequence[str]) -> set[str]:
    """Return those of `digests` that `principal` holds a grant for."""
    found: set[str] = set()
    for first in range(0, len(digests), ASKED):
        some = bytea_array([digest.encode() for digest in digests[first : first + ASKED]], element=TEXT)
        (result,) = link.ask(Call(GRANTED, (principal.encode(), some)))
        found.update((result.get_value(row, 0) or b"").decode() for row in range(result.ntuples))
    return found


def read_refs(link: Link) -> Iterator[tuple[bytes, int]]:
    """Yield all (key, seq) pairs of one moment, in order."""
    result = link.ask(Call(SNAPSHOT), Call(ALL_REFS), Call(MORE_REFS))[-1]
    try:
        while result.ntuples:
            get = result.get_value
            yield from [(get(row, 0) or b"", from_int8(get(row, 1))) for row in range(result.ntuples)]
            (result,) = link.ask(Call(MORE_REFS))
    finally:
        if not link.lost:
            link.ask(Call(ROLLBACK))
