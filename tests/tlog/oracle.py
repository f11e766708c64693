"""RFC 6962 written down literally, over lists of leaves: slow, and simple enough to be compared with the text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from gnexec.tlog.tiles import Tree


def mth(d: Sequence[bytes]) -> bytes:
    """MTH(D[n]), section 2.1."""
    n = len(d)
    if n == 0:
        return hashlib.sha256(b"").digest()
    if n == 1:
        return hashlib.sha256(b"\x00" + d[0]).digest()
    k = split(n)
    return hashlib.sha256(b"\x01" + mth(d[0:k]) + mth(d[k:n])).digest()


def path(m: int, d: Sequence[bytes]) -> list[bytes]:
    """PATH(m, D[n]), section 2.1.1."""
    n = len(d)
    if n == 1:
        return []
    k = split(n)
    if m < k:
        return [*path(m, d[0:k]), mth(d[k:n])]
    return [*path(m - k, d[k:n]), mth(d[0:k])]


def proof(m: int, d: Sequence[bytes]) -> list[bytes]:
    """PROOF(m, D[n]), section 2.1.2, for 0 < m <= n."""
    return subproof(m, d, whole=True)


def subproof(m: int, d: Sequence[bytes], *, whole: bool) -> list[bytes]:
    """SUBPROOF(m, D[n], b), section 2.1.2."""
    n = len(d)
    if m == n:
        return [] if whole else [mth(d)]
    k = split(n)
    if m <= k:
        return [*subproof(m, d[0:k], whole=whole), mth(d[k:n])]
    return [*subproof(m - k, d[k:n], whole=False), mth(d[0:k])]


def split(n: int) -> int:
    """Return k, the largest power of two smaller than n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def leaves(count: int) -> list[bytes]:
    """Return different leaves; the first ones are the same for every count."""
    return [b"leaf %d" % seq for seq in range(count)]


class Grown:
    """A tree of `leaves(size)` beside the tiles that it has filled, as a store would hold them."""

    def __init__(self, size: int) -> None:
        self.tree = Tree()
        self.tiles: dict[tuple[int, int], bytes] = {}
        self.hashes: list[bytes] = []
        self.extend(size)

    def extend(self, size: int) -> None:
        """Grow to `size` leaves."""
        for leaf in leaves(size)[self.tree.size :]:
            self.hashes.append(hashlib.sha256(b"\x00" + leaf).digest())
            for tile in self.tree.append(self.hashes[-1]):
                assert (tile.level, tile.index) not in self.tiles
                self.tiles[tile.level, tile.index] = tile.data

    def read_tile(self, level: int, index: int) -> bytes | None:
        """Return a tile that was filled."""
        return self.tiles.get((level, index))

    def read_leaf_hashes(self, start: int, stop: int) -> list[bytes]:
        """Return the hashes of leaves."""
        return self.hashes[start:stop]

    def node(self, height: int, index: int) -> bytes:
        """Return the hash of a complete subtree."""
        return self.tree.node(height, index, self.read_tile)

    def restored(self) -> Tree:
        """Return the tree as it comes back after a restart."""
        return Tree.restore(self.tree.size, self.read_tile, self.read_leaf_hashes)
