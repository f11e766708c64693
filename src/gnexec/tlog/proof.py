"""Inclusion and consistency proofs: made from complete subtrees, checked from nothing but hashes.

Making a proof asks for nodes by (height, index), see `merkle`; checking one follows RFC 9162 step by step and shares
no code with making it.

This module does not read tiles, notes or files. A check that fails raises `ProofError`; nothing returns False.

Source: RFC 6962, sections 2.1.1 and 2.1.2 (making); RFC 9162, sections 2.1.3.2 and 2.1.4.2 (checking).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gnexec.errors import ProofError
from gnexec.tlog.merkle import EMPTY_ROOT, HASH_SIZE, Node, node_hash, subtree_root


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """Prove that leaf `index` is in the tree of the first `size` leaves.

    Args:
        index: 0..size-1.
        size: leaves in the tree, >= 1.
        node: hash of any complete subtree of that tree.

    Returns:
        PATH(index, D[size]): at most ceil(log2(size)) hashes, from the leaf's sibling up.

    Raises:
        ProofError: no such leaf in a tree of that size.

    Source: RFC 6962, section 2.1.1.
    """
    if not 0 <= index < size:
        msg = f"a tree of {size} leaves has no leaf {index}"
        raise ProofError(msg)
    return list(_siblings(index, 0, size, node))


def consistency_proof(old: int, new: int, node: Node) -> list[bytes]:
    """Prove that the tree of the first `old` leaves is a prefix of the tree of the first `new`.

    Args:
        old: 0..new; nothing needs to be proved for 0 and for `new`, so the proof is then empty.
        new: leaves in the newer tree.
        node: hash of any complete subtree of the newer tree.

    Returns:
        PROOF(old, D[new]): at most ceil(log2(new)) + 1 hashes.

    Raises:
        ProofError: old > new, or negative: a tree never shrinks.

    Source: RFC 6962, section 2.1.2.
    """
    if not 0 <= old <= new:
        msg = f"a tree of {new} leaves does not grow from one of {old}"
        raise ProofError(msg)
    if old in {0, new}:
        return []
    last = old - 1
    height = (old & -old).bit_length() - 1  # of the largest complete subtree that ends where the old tree ends
    proof = [] if old == 1 << height else [node(height, last >> height)]
    proof.extend(_siblings(last, height, new, node))
    return proof


def verify_inclusion(leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf of hash `leaf_hash` stands at `index` in the tree of `size` leaves under `root`.

    Raises:
        ProofError: it is not shown to.

    Source: RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        msg = f"a tree of {size} leaves has no leaf {index}"
        raise ProofError(msg)
    _check_lengths([leaf_hash, *proof])
    fn, sn, r = index, size - 1, leaf_hash
    for p in proof:
        if sn == 0:
            msg = "the inclusion proof is too long"
            raise ProofError(msg)
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            fn, sn = _skip(fn, sn)
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        msg = "the inclusion proof is too short"
        raise ProofError(msg)
    if r != root:
        msg = "the inclusion proof leads to another root"
        raise ProofError(msg)


def verify_consistency(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Check that the tree (`new`, `new_root`) grew from the tree (`old`, `old_root`) by appending only.

    Args:
        old: leaves in the older tree, 0..new; from the empty tree and to the same tree the proof is empty.
        new: leaves in the newer tree.
        proof: as `consistency_proof` makes it.
        old_root: root of the older tree; `EMPTY_ROOT` if old is 0.
        new_root: root of the newer tree.

    Raises:
        ProofError: it is not shown to.

    Source: RFC 9162, section 2.1.4.2.
    """
    if not 0 <= old <= new:
        msg = f"a tree of {new} leaves does not grow from one of {old}"
        raise ProofError(msg)
    _check_lengths([old_root, new_root, *proof])
    if old in {0, new}:
        _verify_trivial(old, new, proof, old_root, new_root)
        return
    if not proof:
        msg = "the consistency proof is empty"
        raise ProofError(msg)
    path = [old_root, *proof] if old & (old - 1) == 0 else proof
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            msg = "the consistency proof is too long"
            raise ProofError(msg)
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            fn, sn = _skip(fn, sn)
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        msg = "the consistency proof is too short"
        raise ProofError(msg)
    if (fr, sr) != (old_root, new_root):
        msg = "the consistency proof leads to another old or new root"
        raise ProofError(msg)


def _siblings(leaf: int, height: int, size: int, node: Node) -> Iterator[bytes]:
    """Yield the sibling of each ancestor of `leaf` from `height` up, in the tree of `size` leaves."""
    for level in range(height, (size - 1).bit_length()):
        start = (leaf >> level ^ 1) << level
        if start < size:  # else this ancestor is moved up unpaired
            yield subtree_root(start, min(start + (1 << level), size), node)


def _skip(fn: int, sn: int) -> tuple[int, int]:
    """Climb over the levels at which the rightmost node has no sibling."""
    while not fn & 1 and fn:
        fn, sn = fn >> 1, sn >> 1
    return fn, sn


def _check_lengths(hashes: Sequence[bytes]) -> None:
    # Hashes of other lengths would let bytes move between a left and a right child.
    if any(len(h) != HASH_SIZE for h in hashes):
        msg = f"a hash has {HASH_SIZE} bytes"
        raise ProofError(msg)


def _verify_trivial(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    if proof:
        msg = "the consistency proof is too long"
        raise ProofError(msg)
    if old == 0 and old_root != EMPTY_ROOT:
        msg = "the old tree is empty, but its root is not the empty root"
        raise ProofError(msg)
    if old == new and old_root != new_root:
        msg = "two trees of one size have different roots"
        raise ProofError(msg)
