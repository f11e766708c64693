"""The growing tree, its tiles, their paths, and bundles of entries."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.errors import CorruptLog, ProofError
from gnexec.tlog.proof import inclusion_proof, verify_inclusion
from gnexec.tlog.tiles import Tile, TileName, Tree, decode_entries, encode_entries, parse_path
from tests.tlog import oracle

PATHS = [
    ("tile/0/000", TileName(0, 0)),
    ("tile/0/001.p/255", TileName(0, 1, 255)),
    ("tile/1/999.p/1", TileName(1, 999, 1)),
    ("tile/0/x001/000", TileName(0, 1000)),
    ("tile/3/x001/x234/067", TileName(3, 1234067)),
    ("tile/63/x001/x234/067.p/8", TileName(63, 1234067, 8)),
    ("tile/entries/000", TileName(None, 0)),
    ("tile/entries/x001/x234/067.p/8", TileName(None, 1234067, 8)),
    ("tile/0/x999/x999/x999/x999/x999/999", TileName(0, 10**18 - 1)),
]

NOT_PATHS = [
    "",
    "tile",
    "tile/0",
    "tile/0/",
    "/tile/0/000",
    "tile/0/000/",
    "tile/0/000\n",
    "tile/0/0",
    "tile/0/00",
    "tile/0/0000",
    "tile/0/1000",
    "tile/00/000",
    "tile/01/000",
    "tile/64/000",
    "tile/100/000",
    "tile/-1/000",
    "tile/+1/000",
    "tile/x/000",
    "tile/data/000",
    "tile//000",
    "tile/0/x000/000",
    "tile/0/x000/x001/000",
    "tile/0/x001",
    "tile/0/001/000",
    "tile/0/x001/x000",
    "tile/0/X001/000",
    "tile/0/x01/000",
    "tile/0/x001//000",
    "tile/0/x001/../000",
    "tile/0/x001/x000/x000/x000/x000/x000/000",
    "tile/0/000.p",
    "tile/0/000.p/",
    "tile/0/000.p/0",
    "tile/0/000.p/01",
    "tile/0/000.p/256",
    "tile/0/000.p/999",
    "tile/0/000.p/-1",
    "tile/0/000.p/1/",
    "tile/0/000.q/1",
    "tile/0/000xp/1",
    "tile/entries/0",
    "tile/entries/000.p/256",
    "tile/entries/x000/000",
    "tile/\u0660/000",
    "tile/0/\u0660\u0660\u0660",
    "tile/0/%30%30%30",
]


@pytest.mark.parametrize(("path", "name"), PATHS)
def test_path_of_a_tile_is_read_and_written(path: str, name: TileName) -> None:
    """The forms of tlog-tiles, both ways."""
    assert parse_path(path) == name
    assert name.path == path


@pytest.mark.parametrize("path", NOT_PATHS)
def test_path_that_is_not_canonical_is_refused(path: str) -> None:
    """A tile has one address, so that caches hold it once."""
    with pytest.raises(ValueError, match="path of a tile"):
        parse_path(path)


@given(st.none() | st.integers(0, 63), st.integers(0, 10**18 - 1), st.integers(1, 256))
def test_path_of_any_tile_comes_back(level: int | None, index: int, width: int) -> None:
    """Writing and reading a path are inverse."""
    name = TileName(level, index, width)
    assert parse_path(name.path) == name


@given(st.from_regex(r"tile/([0-9]{1,2}|entries)/(x[0-9]{3}/){0,3}[0-9]{3}(\.p/[0-9]{1,3})?", fullmatch=True))
def test_path_that_is_read_is_written_the_same(path: str) -> None:
    """Whatever the parser accepts is canonical."""
    try:
        name = parse_path(path)
    except ValueError:
        return
    assert name.path == path


@given(st.lists(st.binary(max_size=300), max_size=256))
def test_entry_bundle_comes_back(leaves: list[bytes]) -> None:
    """Writing and reading a bundle are inverse; empty leaves are leaves."""
    assert decode_entries(encode_entries(leaves), len(leaves)) == leaves


def test_entry_bundle_has_big_endian_lengths() -> None:
    """The bytes are those of tlog-tiles."""
    assert encode_entries([b"ab", b"", b"c" * 258]) == b"\x00\x02ab" + b"\x00\x00" + b"\x01\x02" + b"c" * 258


def test_entry_longer_than_its_length_field_is_refused() -> None:
    """65,535 bytes fit, one more does not."""
    longest = b"x" * 65_535
    assert decode_entries(encode_entries([longest]), 1) == [longest]
    with pytest.raises(ValueError, match="65536 bytes"):
        encode_entries([longest + b"x"])


@pytest.mark.parametrize(
    ("data", "width"),
    [
        (b"", 1),
        (b"\x00", 1),
        (b"\x00\x01", 1),
        (b"\x00\x02a", 1),
        (b"\x00\x01a", 2),
        (b"\x00\x01a\x00\x01b", 1),
        (b"\x00\x01ab", 1),
        (b"\x00\x01a\x00", 1),
        (b"\x00\x01a\x00", 2),
        (b"\x00", 0),
    ],
)
def test_entry_bundle_of_another_width_is_refused(data: bytes, width: int) -> None:
    """Too few, too many, or cut short."""
    with pytest.raises(ProofError):
        decode_entries(data, width)


def test_tree_has_the_root_of_the_definition_at_every_size() -> None:
    """Grown leaf by leaf, over both borders of the first tiles."""
    grown = oracle.Grown(0)
    for size in range(1101):
        grown.extend(size)
        assert grown.tree.size == size
        if size < 40 or size % 37 == 0 or size % 256 in {255, 0, 1}:
            assert grown.tree.root() == oracle.mth(oracle.leaves(size))


def test_tree_restored_at_every_size_is_the_grown_tree() -> None:
    """After a restart it has the same root and nodes, and fills the same tiles from there on."""
    grown = oracle.Grown(0)
    for size in range(800):
        grown.extend(size)
        restored = grown.restored()
        assert restored.size == size
        assert restored.root() == grown.tree.root()
        known = grown.tree.copy()
        for _ in range(3 if size % 256 < 253 else 5):
            leaf = b"\x01" * 32
            assert restored.append(leaf) == known.append(leaf)
            assert restored.root() == known.root()


def test_tree_of_70000_leaves_has_the_tiles_of_the_specification() -> None:
    """The worked example of tlog-tiles, with the second level filled, restored, read and proved from."""
    grown = oracle.Grown(65_535)
    assert (1, 0) not in grown.tiles
    grown.extend(65_536)
    assert list(grown.tiles)[-2:] == [(0, 255), (1, 0)]
    grown.extend(70_000)
    assert [sum(level == wanted for level, _ in grown.tiles) for wanted in range(3)] == [273, 1, 0]
    tree, leaves = grown.tree, oracle.leaves(70_000)
    assert tree.root() == oracle.mth(leaves)
    for level, index, width in [(0, 273, 112), (1, 1, 17), (2, 0, 1)]:
        full = TileName(level, index, width)
        data = tree.tile(full, grown.read_tile)
        assert data is not None
        span = 256**level
        first = index * 256 * span
        assert data[:32] == oracle.mth(leaves[first : first + span])
        assert data[-32:] == oracle.mth(leaves[first + (width - 1) * span : first + width * span])
        assert tree.tile(TileName(level, index, width + 1), grown.read_tile) is None
    restored = grown.restored()
    assert restored.root() == tree.root()
    node = functools.partial(restored.node, read_tile=grown.read_tile)
    for index in (255, 65_535, 65_536, 69_999):
        proof = inclusion_proof(index, 70_000, node)
        assert proof == oracle.path(index, leaves)
        verify_inclusion(grown.hashes[index], index, 70_000, proof, tree.root())


def test_full_tile_holds_the_hashes_of_its_leaves() -> None:
    """A tile is returned once, by the leaf that fills it, and its bytes are the leaf hashes."""
    grown = oracle.Grown(255)
    assert grown.tiles == {}
    hashes = [*grown.hashes, b"\x07" * 32]
    assert grown.tree.append(b"\x07" * 32) == [Tile(0, 0, b"".join(hashes))]
    assert grown.tree.append(b"\x08" * 32) == []


@given(st.integers(1, 1100), st.data())
def test_node_of_any_complete_subtree_equals_the_literal_definition(size: int, data: st.DataObject) -> None:
    """At the edge and from full tiles, at heights within a tile too."""
    grown = _grown(size)
    height = data.draw(st.integers(0, size.bit_length() - 1))
    index = data.draw(st.integers(0, (size >> height) - 1))
    expected = oracle.mth(oracle.leaves(size)[index << height : (index + 1) << height])
    assert grown.node(height, index) == expected
    restored = grown.restored()
    assert restored.node(height, index, grown.read_tile) == expected


@pytest.mark.parametrize(("height", "index"), [(0, 300), (0, -1), (-1, 0), (8, 1), (9, 0), (200, 0)])
def test_node_of_an_incomplete_subtree_is_refused(height: int, index: int) -> None:
    """A hash that may still change is never given out as a node."""
    with pytest.raises(ProofError):
        _grown(300).node(height, index)


@given(st.integers(1, 1100), st.data())
def test_partial_tile_of_any_width_reached_is_served(size: int, data: st.DataObject) -> None:
    """Each size had its checkpoint, so each width may be asked for, now full or not; a wider one is not there."""
    grown = _grown(size)
    index = data.draw(st.integers(0, (size - 1) // 256))
    width = data.draw(st.integers(1, 256))
    served = grown.tree.tile(TileName(0, index, width), grown.read_tile)
    if index * 256 + width <= size:
        assert served == b"".join(grown.hashes[index * 256 : index * 256 + width])
    else:
        assert served is None


def test_tile_that_the_tree_has_not_reached_is_absent() -> None:
    """Far tiles and high levels are absent rather than errors."""
    grown = _grown(300)
    assert grown.tree.tile(TileName(0, 2, 1), grown.read_tile) is None
    assert grown.tree.tile(TileName(5, 0, 1), grown.read_tile) is None
    assert grown.tree.tile(TileName(63, 10**18 - 1), grown.read_tile) is None
    assert Tree().tile(TileName(0, 0, 1), grown.read_tile) is None


def test_bundle_of_entries_is_not_the_trees_to_serve() -> None:
    """The tree knows hashes only."""
    with pytest.raises(ValueError, match="entries"):
        Tree().tile(TileName(None, 0), lambda _level, _index: None)


@given(st.integers(0, 600), st.integers(1, 300))
def test_copy_grows_without_changing_the_tree_and_the_other_way_round(size: int, more: int) -> None:
    """A commit that failed is thrown away with the copy it was made on."""
    grown = _grown(size)
    before = grown.tree.root()
    tried = grown.tree.copy()
    for _ in range(more):
        tried.append(b"\x01" * 32)
    assert (grown.tree.size, grown.tree.root()) == (size, before)
    attempted = tried.root()
    after = tried.copy()
    for _ in range(more):
        tried.append(b"\x02" * 32)
    assert (after.size, after.root()) == (size + more, attempted)


def test_missing_tile_is_a_corrupt_log() -> None:
    """Restoring and proving both name the tile that is not there."""
    grown = _grown(600)
    with pytest.raises(CorruptLog, match="tile 0/0 is missing"):
        Tree.restore(600, lambda _level, _index: None, grown.read_leaf_hashes)
    with pytest.raises(CorruptLog, match="tile 0/1 is missing"):
        grown.tree.node(0, 300, lambda _level, _index: None)


def test_truncated_tile_is_a_corrupt_log() -> None:
    """A tile is 8,192 bytes or it is damaged."""
    grown = _grown(600)
    with pytest.raises(CorruptLog, match="damaged"):
        grown.tree.node(0, 0, lambda level, index: (grown.read_tile(level, index) or b"")[:-1])


def test_missing_leaf_hash_is_a_corrupt_log_that_names_the_entry() -> None:
    """Restoring says which leaf is the first that is not there."""
    grown = _grown(600)
    with pytest.raises(CorruptLog) as caught:
        Tree.restore(600, grown.read_tile, lambda start, stop: grown.hashes[start : stop - 3])
    assert caught.value.seq == 597


@functools.cache
def _grown(size: int) -> oracle.Grown:
    return oracle.Grown(size)
