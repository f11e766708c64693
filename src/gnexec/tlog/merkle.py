"""The Merkle tree hash of RFC 6962: its two prefixes, and the shape that they build.

A *node* is the hash of a complete subtree, named by (height, index): it covers the leaves
[index * 2**height, (index + 1) * 2**height). Everything else in this package asks for nodes by these two numbers.

This module does not keep a tree (`tiles`), make or check proofs (`proof`), or read anything: who has the nodes
passes a function that returns them.

Source: RFC 6962, section 2.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Final

Node = Callable[[int, int], bytes]
"""(height, index) of a complete subtree -> its hash, 32 bytes."""

HASH_SIZE: Final = 32
"""Bytes in a hash (SHA-256)."""

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""Root of the tree without leaves."""


def leaf_hash(leaf: bytes) -> bytes:
    """Hash a leaf: SHA-256(0x00 ‖ leaf), 32 bytes."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two children: SHA-256(0x01 ‖ left ‖ right), 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def cover(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Name the complete subtrees that exactly cover the leaves start..stop-1, from left to right.

    Args:
        start: a multiple of the smallest power of two >= stop - start, as every subtree of RFC 6962 begins.
        stop: >= start.

    Yields:
        (height, index), heights strictly falling; one for each 1 in the binary form of stop - start.
    """
    while start < stop:
        height = (stop - start).bit_length() - 1
        yield height, start >> height
        start += 1 << height


def subtree_root(start: int, stop: int, node: Node) -> bytes:
    """Return MTH(D[start:stop]) from complete subtrees; `EMPTY_ROOT` where start == stop.

    Args:
        start: as for `cover`; 0 for the root of the whole tree of `stop` leaves.
        stop: >= start.
        node: the hashes of complete subtrees.

    Source: RFC 6962, section 2.1 (k is the largest power of two smaller than n, so an incomplete subtree is a
        chain of complete ones, joined from the right).
    """
    hashes = [node(height, index) for height, index in cover(start, stop)]
    if not hashes:
        return EMPTY_ROOT
    root = hashes.pop()
    while hashes:
        root = node_hash(hashes.pop(), root)
    return root
