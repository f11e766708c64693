"""Every cache of a store, rebuilt from its log and compared.

The log's entries are the only truth. What a store keeps beside them can be made again: the tiles of the tree, the
checkpoint's root, and the refs by which entries are found. The world is never stored; that it folds is checked as well.
Content and grants are no caches: what is erased must not come back.

Refs may be rewritten (`repair_refs`). A damaged tile or head has no honest cause but a failing disk: restore a backup.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import Final, Protocol

from gnexec.core.refs import SHELF, job_key, refs
from gnexec.core.world import World
from gnexec.errors import CorruptLog, IllegalTransition, ProofError
from gnexec.store.contract import Batch, Entry, Head, Store
from gnexec.tlog.checkpoint import open_checkpoint
from gnexec.tlog.merkle import leaf_hash
from gnexec.tlog.note import parse_vkey
from gnexec.tlog.tiles import TILE_HEIGHT, Tree
from gnexec.wire import decode_leaf, open_payload

CHUNK: Final = 2000
Ref = tuple[bytes, int]


class Caches(Protocol):
    """What replay reads of a store."""

    def head(self) -> Head:
        """Return the head."""
        ...

    def entries(self, start: int, stop: int) -> list[Entry]:
        """Return entries start..stop-1."""
        ...

    def tile(self, level: int, index: int) -> bytes | None:
        """Return a full tile, or None."""
        ...

    def refs(self) -> Iterable[Ref]:
        """Yield all (key, seq) pairs, in order of key, then seq."""
        ...


@dataclass(frozen=True, slots=True)
class Difference:
    """A cache that is not what the log makes it.

    Attributes:
        cache: tiles, head or refs.
        detail: what differs first, and how much there is of it.
    """

    cache: str
    detail: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """What replay found.

    Attributes:
        size: entries folded.
        tiles: full tiles compared. refs: refs that the log makes.
        open_jobs: open jobs in the world, at the end. workers: enrolled ones.
    """

    size: int
    tiles: int
    refs: int
    open_jobs: int
    workers: int
    differences: tuple[Difference, ...]


class RebuiltRefs:
    """The refs that a log makes, sorted, in a temporary file: memory stays the same however many there are."""

    def __init__(self) -> None:
        """Begin with none."""
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE refs (key BLOB, seq INTEGER, PRIMARY KEY (key, seq)) WITHOUT ROWID; BEGIN"
        )

    def add(self, pairs: Iterable[Ref]) -> None:
        """File pairs; repeats are allowed."""
        self._db.executemany("INSERT OR IGNORE INTO refs VALUES (?, ?)", pairs)

    def __iter__(self) -> Iterator[Ref]:
        """Yield all of them, in order of key, then seq."""
        yield from self._db.execute("SELECT key, seq FROM refs ORDER BY key, seq")

    def __len__(self) -> int:
        """Count them."""
        (count,) = self._db.execute("SELECT count(*) FROM refs").fetchone()
        return int(count)

    def close(self) -> None:
        """Throw them away."""
        self._db.close()


def replay(store: Caches, progress: Callable[[int], None] = lambda _: None) -> Replayed:
    """Rebuild the caches of `store` and compare.

    Args:
        store: is only read, and must not change meanwhile.
        progress: told how many entries are folded, now and then.

    Raises:
        CorruptLog: an entry is missing, is not what its leaf commits to, or does not follow; names it.
    """
    head = store.head()
    world, tree = World(), Tree()
    differences: list[Difference] = []
    tiles, bad_tiles = 0, []
    with closing(RebuiltRefs()) as made:
        for seq, entry in _entries(store, head.size):
            _fold(world, made, seq, entry)
            if seq % CHUNK == 0:
                progress(seq)
            for tile in tree.append(leaf_hash(entry.leaf)):
                tiles += 1
                if store.tile(tile.level, tile.index) != tile.data:
                    bad_tiles.append(f"{tile.level}/{tile.index}")
        bad_tiles += _too_many(store, head.size)
        if bad_tiles:
            differences.append(Difference("tiles", f"{bad_tiles[0]} differs" + _more(len(bad_tiles) - 1)))
        differences += _compare_head(head, world, tree)
        differences += _compare_refs(made, (ref for ref in store.refs() if ref[1] < head.size))
        return Replayed(head.size, tiles, len(made), len(world.jobs), len(world.workers), tuple(differences))


def repair_refs(store: Store) -> int:
    """Throw the refs of a store away and write those that the log makes; return how many.

    Raises:
        CorruptLog: an entry is missing or damaged; nothing was changed.
    """
    with closing(RebuiltRefs()) as made, store.batch() as batch:
        world = World()
        for seq, entry in _entries(batch, batch.head().size):
            _fold(world, made, seq, entry)
        batch.replace_refs(made)
        return len(made)


def _entries(store: Caches | Batch, size: int) -> Iterator[tuple[int, Entry]]:
    for first in range(0, size, CHUNK):
        entries = store.entries(first, min(first + CHUNK, size))
        yield from enumerate(entries, first)
        if len(entries) < min(CHUNK, size - first):
            msg = f"the entry is missing, but the head says that there are {size}"
            raise CorruptLog(msg, seq=first + len(entries))


def _fold(world: World, made: RebuiltRefs, seq: int, entry: Entry) -> None:
    try:
        leaf = decode_leaf(entry.leaf)
        event = open_payload(leaf, entry.salt, entry.payload)
        world.apply(event, leaf.at)
        made.add((key, seq) for key in refs(event))
    except CorruptLog as err:
        raise type(err)(err.reason, seq=seq) from err
    except (IllegalTransition, LookupError, TypeError, ValueError, OverflowError) as err:
        msg = f"the entry does not follow: {err}"
        raise CorruptLog(msg, seq=seq) from err


def _too_many(store: Caches, size: int) -> list[str]:
    """Name the tiles that the log has not filled yet, and that would be in the way when it does."""
    ahead = []
    for level in range(size.bit_length() // TILE_HEIGHT + 1):
        index = size >> TILE_HEIGHT * (level + 1)
        if store.tile(level, index) is not None:
            ahead.append(f"{level}/{index}")
    return ahead


def _compare_head(head: Head, world: World, tree: Tree) -> list[Difference]:
    if not head.size:
        return [Difference("head", "an empty log has a checkpoint")] if head.note else []
    try:
        keys = [parse_vkey(vkey) for vkey in world.keys.in_force()]
        checkpoint = open_checkpoint(head.note, keys, world.origin, every=True)
    except (ProofError, ValueError) as err:
        return [Difference("head", str(err))]
    if (checkpoint.size, checkpoint.root) == (head.size, tree.root()):
        return []
    if checkpoint.size != head.size:
        return [Difference("head", f"it has {head.size} entries, its checkpoint commits to {checkpoint.size}")]
    return [Difference("head", "the root of its checkpoint is not that of its entries")]


def _compare_refs(made: Iterable[Ref], stored: Iterable[Ref]) -> list[Difference]:
    missing = extra = 0
    first = ""
    tagged = merge(((ref, "missing") for ref in made), ((ref, "too many") for ref in stored))
    for ref, both in groupby(tagged, key=itemgetter(0)):
        sides = [side for _, side in both]
        if len(sides) == 2:
            continue
        first = first or f"{_show(ref)} is {sides[0]}"
        missing += sides[0] == "missing"
        extra += sides[0] != "missing"
    return [Difference("refs", f"{first} (missing: {missing}, too many: {extra})")] if first else []


def _show(ref: Ref) -> str:
    key, seq = ref
    known = key[:1] == job_key(0)[:1] and len(key) == len(job_key(0))
    first = int.from_bytes(key[1:], "big") * SHELF
    about = f"jobs {first} to {first + SHELF - 1}" if known else f"key {key[:20].hex()}"
    return f"{about} at entry {seq}"


def _more(count: int) -> str:
    return f" (and {count} more)" if count > 0 else ""
