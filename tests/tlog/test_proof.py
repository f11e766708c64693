"""Proofs: made as RFC 6962 defines them, and refused when anything about them is changed."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.errors import ProofError
from gnexec.tlog.merkle import EMPTY_ROOT, leaf_hash, subtree_root
from gnexec.tlog.proof import consistency_proof, inclusion_proof, verify_consistency, verify_inclusion
from tests.tlog import oracle
from tests.tlog.vectors import CONSISTENCY, INCLUSION, LEAVES, ROOTS

GROWN = oracle.Grown(1100)
LEAVES_OF_GROWN = oracle.leaves(1100)
BORDERS = [1, 2, 3, 4, 7, 8, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025]
SIZES = st.sampled_from(BORDERS) | st.integers(1, 1100)


def root(size: int) -> bytes:
    """Return the root of the first `size` leaves."""
    return subtree_root(0, size, GROWN.node)


@st.composite
def size_and_index(draw: st.DrawFn) -> tuple[int, int]:
    """Draw a tree's size and a leaf in it, often at a border."""
    size = draw(SIZES)
    return size, draw(st.sampled_from([0, size // 2, size - 1]) | st.integers(0, size - 1))


@st.composite
def old_and_new(draw: st.DrawFn) -> tuple[int, int]:
    """Draw two sizes, the older first, never the same."""
    new = draw(SIZES.filter(lambda size: size > 1))
    return draw(st.integers(1, new - 1)), new


def flip(data: bytes, bit: int) -> bytes:
    """Return `data` with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(size_and_index())
def test_inclusion_proof_equals_the_literal_definition_and_verifies(drawn: tuple[int, int]) -> None:
    """PATH by look-ups is PATH by the book, and RFC 9162's check accepts it."""
    size, index = drawn
    proof = inclusion_proof(index, size, GROWN.node)
    assert proof == oracle.path(index, LEAVES_OF_GROWN[:size])
    verify_inclusion(leaf_hash(LEAVES_OF_GROWN[index]), index, size, proof, root(size))


@given(old_and_new())
def test_consistency_proof_equals_the_literal_definition_and_verifies(drawn: tuple[int, int]) -> None:
    """PROOF by look-ups is PROOF by the book, and RFC 9162's check accepts it."""
    old, new = drawn
    proof = consistency_proof(old, new, GROWN.node)
    assert proof == oracle.proof(old, LEAVES_OF_GROWN[:new])
    verify_consistency(old, new, proof, root(old), root(new))


def test_proofs_of_every_small_tree_equal_the_literal_definition() -> None:
    """Nothing is left to chance up to 40 leaves."""
    for size in range(1, 41):
        leaves = LEAVES_OF_GROWN[:size]
        for index in range(size):
            assert inclusion_proof(index, size, GROWN.node) == oracle.path(index, leaves)
            assert consistency_proof(index + 1, size, GROWN.node) == oracle.proof(index + 1, leaves)


@pytest.mark.parametrize(("index", "size", "vector"), INCLUSION)
def test_inclusion_proof_of_the_published_tree_verifies(index: int, size: int, vector: list[str]) -> None:
    """Proofs made by another implementation are accepted, and ours equal them."""
    proof = [bytes.fromhex(item) for item in vector]
    verify_inclusion(leaf_hash(LEAVES[index]), index, size, proof, bytes.fromhex(ROOTS[size - 1]))
    assert oracle.path(index, LEAVES[:size]) == proof


@pytest.mark.parametrize(("old", "new", "vector"), CONSISTENCY)
def test_consistency_proof_of_the_published_tree_verifies(old: int, new: int, vector: list[str]) -> None:
    """Proofs made by another implementation are accepted, and ours equal them."""
    proof = [bytes.fromhex(item) for item in vector]
    verify_consistency(old, new, proof, bytes.fromhex(ROOTS[old - 1]), bytes.fromhex(ROOTS[new - 1]))
    assert oracle.proof(old, LEAVES[:new]) == proof


def test_proofs_of_a_real_certificate_log_verify() -> None:
    """A log of nearly a thousand million leaves, run by strangers, is checked by our code."""
    vector = json.loads((Path(__file__).parent / "vectors" / "argon2020.json").read_text())
    b64 = base64.b64decode
    inclusion = [b64(item) for item in vector["inclusion"]]
    consistency = [b64(item) for item in vector["consistency"]]
    verify_inclusion(b64(vector["leaf_hash"]), vector["index"], vector["size"], inclusion, b64(vector["root"]))
    verify_consistency(vector["old_size"], vector["size"], consistency, b64(vector["old_root"]), b64(vector["root"]))


@given(size_and_index(), st.data())
def test_inclusion_proof_with_any_bit_flipped_is_refused(drawn: tuple[int, int], data: st.DataObject) -> None:
    """One bit in the leaf's hash, the root or the proof is enough."""
    size, index = drawn
    parts = [leaf_hash(LEAVES_OF_GROWN[index]), root(size), *inclusion_proof(index, size, GROWN.node)]
    which = data.draw(st.integers(0, len(parts) - 1))
    parts[which] = flip(parts[which], data.draw(st.integers(0, 255)))
    with pytest.raises(ProofError):
        verify_inclusion(parts[0], index, size, parts[2:], parts[1])


@given(size_and_index(), st.integers(0, 10))
def test_inclusion_proof_for_another_index_is_refused(drawn: tuple[int, int], bit: int) -> None:
    """A proof shows one place in the log, no other."""
    size, index = drawn
    proof = inclusion_proof(index, size, GROWN.node)
    with pytest.raises(ProofError):
        verify_inclusion(leaf_hash(LEAVES_OF_GROWN[index]), index ^ 1 << bit, size, proof, root(size))


@given(size_and_index(), st.data())
def test_inclusion_proof_with_a_hash_added_or_removed_is_refused(drawn: tuple[int, int], data: st.DataObject) -> None:
    """Neither padding nor shortening goes through, at any place."""
    size, index = drawn
    proof = inclusion_proof(index, size, GROWN.node)
    at = data.draw(st.integers(0, len(proof)))
    filler = data.draw(st.sampled_from([root(size), EMPTY_ROOT, b"", *proof]))
    mangled = [[*proof[:at], filler, *proof[at:]]]
    if at < len(proof):
        mangled.append(proof[:at] + proof[at + 1 :])
    for wrong in mangled:
        with pytest.raises(ProofError):
            verify_inclusion(leaf_hash(LEAVES_OF_GROWN[index]), index, size, wrong, root(size))


@given(old_and_new(), st.data())
def test_consistency_proof_with_any_bit_flipped_is_refused(drawn: tuple[int, int], data: st.DataObject) -> None:
    """One bit in either root or the proof is enough."""
    old, new = drawn
    parts = [root(old), root(new), *consistency_proof(old, new, GROWN.node)]
    which = data.draw(st.integers(0, len(parts) - 1))
    parts[which] = flip(parts[which], data.draw(st.integers(0, 255)))
    with pytest.raises(ProofError):
        verify_consistency(old, new, parts[2:], parts[0], parts[1])


@given(old_and_new(), st.data())
def test_consistency_proof_with_a_hash_added_or_removed_is_refused(drawn: tuple[int, int], data: st.DataObject) -> None:
    """Neither padding nor shortening goes through, at any place."""
    old, new = drawn
    proof = consistency_proof(old, new, GROWN.node)
    at = data.draw(st.integers(0, len(proof)))
    filler = data.draw(st.sampled_from([root(old), root(new), b"", *proof]))
    mangled = [[*proof[:at], filler, *proof[at:]]]
    if at < len(proof):
        mangled.append(proof[:at] + proof[at + 1 :])
    for wrong in mangled:
        with pytest.raises(ProofError):
            verify_consistency(old, new, wrong, root(old), root(new))


@given(old_and_new())
def test_rewritten_history_is_not_consistent(drawn: tuple[int, int]) -> None:
    """A log that changed one old leaf cannot prove that it grew, with the proof of its new self."""
    old, new = drawn
    forged = [b"forged", *LEAVES_OF_GROWN[1:new]]
    with pytest.raises(ProofError):
        verify_consistency(old, new, oracle.proof(old, forged), root(old), oracle.mth(forged))


@pytest.mark.parametrize("size", [0, 1, 5, 256])
def test_consistency_with_itself_and_with_nothing_needs_no_proof(size: int) -> None:
    """The two sizes that RFC 6962 leaves out are accepted with an empty proof."""
    assert consistency_proof(0, size, GROWN.node) == []
    assert consistency_proof(size, size, GROWN.node) == []
    verify_consistency(0, size, [], EMPTY_ROOT, root(size))
    verify_consistency(size, size, [], root(size), root(size))


@pytest.mark.parametrize(
    ("old", "new", "proof", "old_root", "new_root"),
    [
        (2, 1, [], root(2), root(1)),
        (-1, 1, [], root(1), root(1)),
        (1, 2, [], root(1), root(2)),
        (0, 3, [], root(1), root(3)),
        (0, 3, [root(1)], EMPTY_ROOT, root(3)),
        (3, 3, [], root(2), root(3)),
        (3, 3, [root(3)], root(3), root(3)),
        (0, 0, [], EMPTY_ROOT, root(1)),
        (3, 3, [], b"", b""),
    ],
)
def test_shrunk_or_forked_tree_is_refused(
    old: int, new: int, proof: list[bytes], old_root: bytes, new_root: bytes
) -> None:
    """A tree never shrinks, and two trees of one size are one tree."""
    with pytest.raises(ProofError):
        verify_consistency(old, new, proof, old_root, new_root)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 5), (5, 5), (6, 5)])
def test_leaf_outside_the_tree_is_refused(index: int, size: int) -> None:
    """Neither made nor accepted."""
    with pytest.raises(ProofError):
        inclusion_proof(index, size, GROWN.node)
    with pytest.raises(ProofError):
        verify_inclusion(GROWN.hashes[0], index, size, [], GROWN.hashes[0])


@pytest.mark.parametrize(("old", "new"), [(2, 1), (-1, 3)])
def test_consistency_proof_of_a_shrinking_tree_is_not_made(old: int, new: int) -> None:
    """There is nothing to prove."""
    with pytest.raises(ProofError):
        consistency_proof(old, new, GROWN.node)


def test_hashes_of_shifted_length_are_refused() -> None:
    """Bytes moved between a leaf's hash and its sibling give the same root, and are refused for their length."""
    left, right = GROWN.hashes[:2]
    with pytest.raises(ProofError, match="32 bytes"):
        verify_inclusion(left + right[:1], 0, 2, [right[1:]], root(2))


def test_inner_node_passed_off_as_a_leaf_is_refused() -> None:
    """The hash of a pair leads to the root by a shorter proof; a leaf must come from the bottom."""
    with pytest.raises(ProofError, match="too short"):
        verify_inclusion(GROWN.node(1, 0), 0, 4, [GROWN.node(1, 1)], root(4))


def test_inclusion_proof_of_a_larger_tree_is_refused() -> None:
    """Leaf 3 of 4 turns the same way as leaf 1 of 2 would, and then goes on."""
    proof = inclusion_proof(3, 4, GROWN.node)
    verify_inclusion(GROWN.hashes[3], 3, 4, proof, root(4))
    with pytest.raises(ProofError, match="too long"):
        verify_inclusion(GROWN.hashes[3], 1, 2, proof, root(4))


def test_checkpoint_that_overstates_its_size_is_not_consistent() -> None:
    """The root of 3 leaves, signed as the root of 5, needs more than the proof for 3."""
    proof = consistency_proof(2, 3, GROWN.node)
    verify_consistency(2, 3, proof, root(2), root(3))
    with pytest.raises(ProofError, match="too short"):
        verify_consistency(2, 5, proof, root(2), root(3))


def test_checkpoints_that_understate_their_sizes_are_not_consistent() -> None:
    """The roots of 13 and 14 leaves, signed as those of 5 and 6, need less than their own proof."""
    proof = consistency_proof(13, 14, GROWN.node)
    verify_consistency(13, 14, proof, root(13), root(14))
    with pytest.raises(ProofError, match="too long"):
        verify_consistency(5, 6, proof, root(13), root(14))
