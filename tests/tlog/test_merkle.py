"""The hashes of RFC 6962, against published vectors and the literal oracle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.tlog.merkle import EMPTY_ROOT, cover, leaf_hash, node_hash, subtree_root
from tests.tlog import oracle
from tests.tlog.vectors import LEAVES, ROOTS

GROWN = oracle.Grown(1100)


def test_empty_root_is_the_hash_of_nothing() -> None:
    """The empty tree has the root that RFC 6962 gives it."""
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        (b"", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        (b"L123456", "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"),
    ],
)
def test_leaf_hash_equals_the_published_vector(leaf: bytes, expected: str) -> None:
    """A leaf is hashed behind 0x00."""
    assert leaf_hash(leaf).hex() == expected


def test_node_hash_equals_the_published_vector() -> None:
    """A node is hashed behind 0x01."""
    expected = "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"
    assert node_hash(b"N123", b"N456").hex() == expected


@pytest.mark.parametrize("size", range(1, 9))
def test_root_of_the_eight_leaf_tree_equals_the_published_vector(size: int) -> None:
    """The roots of the certificate-transparency test tree come out, by the oracle and by the fast way."""
    hashes = [leaf_hash(leaf) for leaf in LEAVES]

    def node(height: int, index: int) -> bytes:
        if height == 0:
            return hashes[index]
        return node_hash(node(height - 1, 2 * index), node(height - 1, 2 * index + 1))

    assert subtree_root(0, size, node).hex() == ROOTS[size - 1]
    assert oracle.mth(LEAVES[:size]).hex() == ROOTS[size - 1]


@given(st.integers(0, 1100))
def test_root_of_any_prefix_equals_the_literal_definition(size: int) -> None:
    """The root of every earlier size can be had from complete subtrees."""
    assert subtree_root(0, size, GROWN.node) == oracle.mth(oracle.leaves(size))


@given(st.integers(0, 2**40))
def test_cover_of_a_tree_names_one_subtree_for_each_binary_one(size: int) -> None:
    """The subtrees follow each other without a gap and end at the size."""
    at = 0
    for height, index in cover(0, size):
        assert index << height == at
        at += 1 << height
    assert at == size
    assert len(list(cover(0, size))) == size.bit_count()
