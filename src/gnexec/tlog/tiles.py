"""The log's tree cut into tiles, as it grows, is stored and is named on the wire.

A tile of level L holds up to 256 consecutive hashes of height 8·L; a full one (8,192 bytes) never changes. `Tree`
keeps only the right edge in memory: the nodes of each level's partial tile (at most 255 hashes of height 8·L and the
255 above them), so that a root or a proof about recent leaves costs look-ups, and hands out each tile once, when it
is full. Everything older is read from full tiles through a function that the caller passes.

This module does not store tiles, hash leaves or serve paths. Whoever keeps the tree must be able to read back every
tile that `Tree.append` has returned.

Source: C2SP tlog-tiles.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from gnexec.errors import CorruptLog, ProofError
from gnexec.tlog.merkle import EMPTY_ROOT, HASH_SIZE, node_hash

TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
"""Hashes in a full tile, entries in a full bundle."""

MAX_ENTRY_SIZE: Final = 0xFFFF
"""Bytes in the longest leaf that an entry bundle can carry."""

ReadTile = Callable[[int, int], bytes | None]
"""(level, index) -> the 8,192 bytes of a full tile, or None where there is none."""

ReadLeafHashes = Callable[[int, int], list[bytes]]
"""(start, stop) -> the hashes of leaves start..stop-1."""

_PATH: Final = re.compile(
    r"tile/(?:(?P<level>[0-9]{1,2})|entries)/(?P<index>(?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/(?P<width>[0-9]{1,3}))?"
)


@dataclass(frozen=True, slots=True)
class Tile:
    """A full tile.

    Attributes:
        level: 0..; its hashes are roots of complete subtrees of 256**level leaves.
        index: 0.., place within the level.
        data: 8,192 bytes, 256 hashes.
    """

    level: int
    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class TileName:
    """What a path names: a tile of hashes, or a bundle of entries.

    Attributes:
        level: 0..63, or None for a bundle of entries.
        index: 0..10**18 - 1, place within the level.
        width: hashes or entries in it, 1..256; under 256 it is a partial one.
    """

    level: int | None
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """The path below the log's prefix, such as "tile/0/x001/x234/067.p/8" or "tile/entries/000"."""
        digits = f"{self.index:03}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        level = "entries" if self.level is None else self.level
        index = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        return f"tile/{level}/{index}" + ("" if self.width == TILE_WIDTH else f".p/{self.width}")


def parse_path(path: str) -> TileName:
    """Read the path of a tile or entry bundle, without a slash before "tile".

    Raises:
        ValueError: not such a path, or not its one canonical form.
    """
    found = _PATH.fullmatch(path)
    if found is None:
        msg = "not the path of a tile"
        raise ValueError(msg)
    level, width = found["level"], found["width"]
    name = TileName(
        level=None if level is None else int(level),
        index=int(found["index"].replace("x", "").replace("/", "")),
        width=TILE_WIDTH if width is None else int(width),
    )
    whole = width is None or 1 <= name.width < TILE_WIDTH
    if name.path != path or not whole or (name.level is not None and name.level > 63):
        msg = "not the canonical path of a tile"
        raise ValueError(msg)
    return name


def encode_entries(leaves: Iterable[bytes]) -> bytes:
    """Write an entry bundle: each leaf behind its length, 16 bits, big-endian.

    Args:
        leaves: at most 256, each at most 65,535 bytes.

    Raises:
        ValueError: a leaf is longer.
    """
    parts: list[bytes] = []
    for leaf in leaves:
        if len(leaf) > MAX_ENTRY_SIZE:
            msg = f"a leaf of {len(leaf)} bytes does not fit into an entry bundle"
            raise ValueError(msg)
        parts += (struct.pack(">H", len(leaf)), leaf)
    return b"".join(parts)


def decode_entries(data: bytes, width: int) -> list[bytes]:
    """Read an entry bundle that must hold exactly `width` leaves.

    Raises:
        ProofError: it holds more or fewer, or ends within one.
    """
    leaves: list[bytes] = []
    at = 0
    while at < len(data) and len(leaves) < width:
        start = at + 2
        at = start + int.from_bytes(data[at:start], "big")
        leaves.append(data[start:at])
    if at != len(data) or len(leaves) != width:
        msg = f"the entry bundle does not hold exactly {width} entries"
        raise ProofError(msg)
    return leaves


class Tree:
    """A growing Merkle tree of which only the right edge is in memory.

    `_rows[h]` holds, from left to right, the nodes of height h that lie in the partial tile of level h // 8:
    (size >> h) mod 2**(8 - h % 8) of them. Not safe for use by several threads at once.
    """

    __slots__ = ("_rows", "_size")

    def __init__(self) -> None:
        self._size = 0
        self._rows: list[list[bytes]] = []

    @classmethod
    def restore(cls, size: int, read_tile: ReadTile, read_leaf_hashes: ReadLeafHashes) -> Self:
        """Rebuild the tree of `size` leaves from what is stored.

        What is stored is believed: compare `root` with the signed checkpoint before anything rests on it.

        Args:
            size: leaves in the tree.
            read_tile: every full tile of that tree.
            read_leaf_hashes: asked once, for the leaves of the last partial tile (fewer than 256).

        Raises:
            CorruptLog: a tile or a leaf is missing, or a tile is not 8,192 bytes.
        """
        tree = cls()
        tree._size = size
        for level in range(-(-size.bit_length() // TILE_HEIGHT)):
            stop = size >> TILE_HEIGHT * level
            start = stop - stop % TILE_WIDTH
            if level == 0:
                row = list(read_leaf_hashes(start, stop)) if start < stop else []
            else:
                row = [_climb(_hashes(read_tile, level - 1, index), TILE_HEIGHT) for index in range(start, stop)]
            if len(row) != stop - start:
                msg = f"leaves {start} to {stop - 1} are not all there"
                raise CorruptLog(msg, seq=start + len(row))
            for _ in range(TILE_HEIGHT):
                tree._rows.append(row)
                row = _parents(row)
        return tree

    @classmethod
    def from_edge(cls, size: int, edge: Sequence[bytes]) -> Self:
        """Return the tree of `size` leaves that `edge` was taken from.

        What is given is believed, as by `restore`.

        Raises:
            ValueError: it is not the edge of a tree of that size.
        """
        tree = cls()
        tree._size = size
        widths = [(size >> TILE_HEIGHT * level) % TILE_WIDTH for level in range(-(-size.bit_length() // TILE_HEIGHT))]
        if [len(data) for data in edge] != [HASH_SIZE * width for width in widths]:
            msg = f"not the right edge of a tree of {size} leaves"
            raise ValueError(msg)
        for data in edge:
            row = [data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE)]
            for _ in range(TILE_HEIGHT):
                tree._rows.append(row)
                row = _parents(row)
        return tree

    def edge(self) -> list[bytes]:
        """Return all that `from_edge` needs: of each level, the hashes of its partial tile, one behind the other."""
        return [b"".join(self._rows[height]) for height in range(0, self._size.bit_length(), TILE_HEIGHT)]

    @property
    def size(self) -> int:
        """Leaves in the tree."""
        return self._size

    def copy(self) -> Tree:
        """Return a tree that grows on its own: what is appended to one is not seen by the other."""
        tree = Tree()
        tree._size = self._size
        tree._rows = [row[:] for row in self._rows]
        return tree

    def append(self, leaf_hash: bytes) -> list[Tile]:
        """Add a leaf by its hash (32 bytes) and return the tiles that it filled, lowest level first.

        Amortised cost: one hash and two list appends.
        """
        rows = self._rows
        place = self._size
        self._size = place + 1
        filled: list[Tile] = []
        node = leaf_hash
        height = 0
        while True:
            if height == len(rows):
                rows.append([])
            row = rows[height]
            row.append(node)
            if not place & 1:  # a left child waits for its sibling
                return filled
            node = node_hash(row[-2], node)
            place >>= 1
            height += 1
            if height % TILE_HEIGHT == 0:
                filled.append(self._cut(height - TILE_HEIGHT, place))

    def root(self) -> bytes:
        """Return the root of the tree as it is: at most log2(size) hashes."""
        root: bytes | None = None
        for height, row in enumerate(self._rows):
            if self._size >> height & 1:
                root = row[-1] if root is None else node_hash(row[-1], root)
        return EMPTY_ROOT if root is None else root

    def node(self, height: int, index: int, read_tile: ReadTile) -> bytes:
        """Return the hash of the complete subtree over leaves [index * 2**height, (index + 1) * 2**height).

        Looked up at the right edge; otherwise computed from one full tile, with at most 2**(height % 8) - 1 hashes.
        Bound to its tiles, `functools.partial(tree.node, read_tile=…)` is what `gnexec.tlog.proof` asks for.

        Raises:
            CorruptLog: the full tile is missing or not 8,192 bytes.
            ProofError: the tree has no such complete subtree.
        """
        if height < 0 or not 0 <= index < self._size >> height:
            msg = f"a tree of {self._size} leaves has no node {index} of height {height}"
            raise ProofError(msg)
        row = self._rows[height]
        first = (self._size >> height) - len(row)
        if index >= first:
            return row[index - first]
        level, rise = divmod(height, TILE_HEIGHT)
        tile, at = divmod(index << rise, TILE_WIDTH)
        return _climb(_hashes(read_tile, level, tile)[at : at + (1 << rise)], rise)

    def tile(self, name: TileName, read_tile: ReadTile) -> bytes | None:
        """Return the bytes of a tile of hashes, full or partial, or None where the tree has no such tile yet.

        Any width that the tree has reached is served: each size had its checkpoint.

        Args:
            name: with a level; bundles of entries are not the tree's to know.
            read_tile: every full tile of the tree.

        Raises:
            CorruptLog: the full tile is missing or not 8,192 bytes.
            ValueError: `name` names a bundle of entries.
        """
        if name.level is None:
            msg = "a tree has no entries, only their hashes"
            raise ValueError(msg)
        first = name.index * TILE_WIDTH
        complete = self._size >> TILE_HEIGHT * name.level
        if first + name.width > complete:
            return None
        if first == complete - complete % TILE_WIDTH:
            hashes = self._rows[TILE_HEIGHT * name.level]
        else:
            hashes = _hashes(read_tile, name.level, name.index)
        return b"".join(hashes[: name.width])

    def _cut(self, height: int, index: int) -> Tile:
        """Take the full tile whose lowest row has this height off the edge."""
        tile = Tile(height // TILE_HEIGHT, index, b"".join(self._rows[height]))
        for row in self._rows[height : height + TILE_HEIGHT]:
            row.clear()
        return tile


def _hashes(read_tile: ReadTile, level: int, index: int) -> list[bytes]:
    """Read a full tile's 256 hashes.

    Raises:
        CorruptLog: it is missing or not 8,192 bytes.
    """
    data = read_tile(level, index)
    if data is None or len(data) != TILE_WIDTH * HASH_SIZE:
        msg = f"tile {level}/{index} is missing or damaged"
        raise CorruptLog(msg)
    return [data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE)]


def _parents(row: list[bytes]) -> list[bytes]:
    """Hash neighbours in pairs; a last one without a neighbour has no parent yet."""
    return [node_hash(left, right) for left, right in zip(row[::2], row[1::2], strict=False)]


def _climb(row: list[bytes], rise: int) -> bytes:
    """Hash 2**rise nodes to the one that is `rise` levels above them."""
    for _ in range(rise):
        row = _parents(row)
    return row[0]
