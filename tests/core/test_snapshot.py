"""Snapshots: a world that went through bytes is the world it was, in every index and in every later decision."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from gnexec.core import openjobs, snapshot
from gnexec.core.events import JobState
from gnexec.core.job import Job
from gnexec.core.openjobs import SavedColumns
from gnexec.core.snapshot import FOLD, REBUILT, Saved, UnusableSnapshot, decode, encode, fold_version
from gnexec.core.world import World
from gnexec.tlog.merkle import leaf_hash
from gnexec.tlog.tiles import Tree
from tests.core.golden import names, opened, read
from tests.core.scene import Scene, request
from tests.core.summary import summary
from tests.core.test_machine import Laws

GOLDEN = {
    1: {
        "spine-1": "d729962b55a76b980197e3aaad2fe56aa3f2c47be60f090812577fe08aa9c41e",
        "spine-2": "056d20d635303001f07639119cfaf5efa4469d80a3086865391d2f0989458fbf",
        "trusting-1": "3b89bdbed60d97245da17c9d8a1eeda7070420033b3799149685c85681cb11c3",
        "trusting-2": "3b89bdbed60d97245da17c9d8a1eeda7070420033b3799149685c85681cb11c3",
        "turning-1": "8e3691fd7f4291f96fd27e6baf86f94b2f33901c6a559ae956e5c4ad8359334a",
    }
}
"""SHA-256 of what the golden logs fold to, for each `FOLD`."""


def tree_of(size: int) -> Tree:
    """Return a tree over that many leaves, each of its own."""
    tree = Tree()
    for place in range(size):
        tree.append(leaf_hash(b"%d" % place))
    return tree


def told(world: World) -> dict[str, Any]:
    """Return what a world knows, and what it counts as it goes."""
    counts = {str(state): world.jobs.count(state) for state in JobState}
    return {**summary(world), "counts": counts, "open": len(world.jobs), "waiting": len(world.ready)}


def through_bytes(world: World) -> World:
    """Return a world that was written and read."""
    return decode(encode(world, tree_of(world.size)))[0]


class Restarts(Laws):
    """The laws under a server that stops and starts from a snapshot at any moment.

    All that follows is decided by the restored world, and the model of `Laws` judges it.
    """

    @rule(few=st.sampled_from([1, 2, 8]))
    def restart(self, few: int) -> None:
        """The server starts again; from now on, submissions of `few` jobs stand in columns."""
        with patch.object(openjobs, "FEW", few):
            world = World()
            for at_ms, event in self.scene.told:
                world.apply(event, at_ms)
        self.scene.world = through_bytes(world)

    @invariant()
    def world_is_the_same_through_bytes(self) -> None:
        """Whatever has happened, the world that is read is the one that was written."""
        assert told(through_bytes(self.scene.world)) == told(self.scene.world)


TestRestarts = Restarts.TestCase
TestRestarts.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=30)


def test_snapshot_of_a_new_world_is_a_new_world() -> None:
    """Nothing is as good as anything else."""
    world, tree = decode(encode(World(), Tree()))
    assert summary(world) == summary(World())
    assert (tree.size, tree.root()) == (0, Tree().root())


def test_snapshot_of_waiting_jobs_keeps_them_in_columns() -> None:
    """A large submission is neither taken apart by writing nor by reading, whichever of its jobs have left it."""
    scene = Scene()
    scene.jobs(100)
    worker = scene.enrol("vera")
    scene.report(scene.take(worker, 3))
    taken = scene.take(worker, 2)
    world = through_bytes(scene.world)
    assert sorted(job.id for job in world.jobs.records()) == sorted(job for job, _ in taken.jobs)
    assert told(world) == told(scene.world)


def test_restored_jobs_share_their_terms_with_those_to_come() -> None:
    """A million jobs of a few kinds cost no more memory after a restart than before."""
    scene = Scene()
    scene.jobs(20)
    scene.take(scene.enrol("vera"), 2)
    scene.world = through_bytes(scene.world)
    scene.jobs(10)
    assert len({id(job.terms) for job in scene.world.jobs.values()}) == 1


def test_snapshot_grows_with_open_work_and_not_with_history() -> None:
    """Decided jobs leave no trace in it but counts, and the hashes of the tree's edge."""
    scene, short = Scene(), Scene()
    for each, rounds in ((short, 1), (scene, 8)):
        worker = each.enrol("vera")
        for turn in range(rounds):
            each.submit(*(request((turn, n)) for n in range(8)))
            each.report(each.take(worker, 8))
    data, less = (encode(each.world, tree_of(each.world.size)) for each in (scene, short))
    edges = 32 * (scene.world.size + short.world.size)
    assert len(data) <= len(less) + edges


def test_restored_world_does_not_share_anything_that_changes() -> None:
    """Two worlds read from the same bytes go their own ways."""
    scene = Scene()
    scene.jobs(10)
    before = summary(scene.world)
    data = encode(scene.world, tree_of(scene.world.size))
    one, other = decode(data)[0], decode(data)[0]
    scene.world = one
    scene.report(scene.take(scene.enrol("vera"), 4))
    assert summary(other) == before


def test_every_attribute_of_a_world_is_written_or_rebuilt() -> None:
    """Whoever gives the world a new attribute must say what a snapshot does with it."""
    attributes = set(vars(World()))
    written = attributes - REBUILT
    assert written <= set(Saved.__struct_fields__)
    assert set(Saved.__struct_fields__) - written == {"fold", "edge", "terms", "columns", "records", "lines"}
    assert attributes >= REBUILT


def test_every_column_is_written() -> None:
    """The columns of waiting jobs have nothing that a snapshot does not."""
    columns = {name.strip("_") for name in openjobs._Columns.__slots__}
    named = {"owner" if name == "owners" else name for name in columns - {"left"}}
    assert named == set(SavedColumns.__struct_fields__)
    assert set(vars(World().jobs)) == {"_intern", "_records", "_firsts", "_columns", "_states"}


def test_world_and_tree_of_different_size_are_not_written_together() -> None:
    """A snapshot that could never be right is not made."""
    with pytest.raises(ValueError, match="a tree of 1 leaves"):
        encode(World(), tree_of(1))


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 70_000])
def test_tree_from_its_edge_grows_on_as_the_tree_itself(size: int) -> None:
    """At every boundary of tiles, the restored tree has the same root, and cuts the same tiles from then on."""
    tree = tree_of(size)
    again = Tree.from_edge(size, tree.edge())
    assert (again.size, again.root()) == (size, tree.root())
    for place in range(600):
        leaf = leaf_hash(b"more %d" % place)
        assert again.append(leaf) == tree.append(leaf)
        assert again.root() == tree.root()


@pytest.mark.parametrize("size", [0, 255, 257, 65_536])
def test_tree_from_the_edge_of_another_size_is_refused(size: int) -> None:
    """An edge fits one size only, as far as can be seen."""
    with pytest.raises(ValueError, match="not the right edge"):
        Tree.from_edge(size, tree_of(256 + 17).edge())


@pytest.mark.parametrize("data", [b"", b"\x80", b"not a snapshot", b"\x81\xa4fold\xa1x"])
def test_bytes_that_are_no_snapshot_are_unusable(data: bytes) -> None:
    """What cannot be read is said to be unusable, and nothing else is raised."""
    with pytest.raises(UnusableSnapshot):
        decode(data)


def test_snapshot_cut_short_anywhere_is_unusable() -> None:
    """No prefix of a snapshot is one."""
    scene = Scene()
    scene.jobs(10)
    scene.take(scene.enrol("vera"), 2)
    data = encode(scene.world, tree_of(scene.world.size))
    for length in range(len(data)):
        with pytest.raises(UnusableSnapshot):
            decode(data[:length])


def test_snapshot_of_another_fold_is_unusable_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that folds otherwise does not go on from here."""
    data = encode(World(), Tree())
    monkeypatch.setattr(snapshot, "fold_version", lambda: "2-0")
    with pytest.raises(UnusableSnapshot, match="made by fold"):
        decode(data)


def test_fold_version_tells_programs_apart_that_know_other_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new field or event gives another version by itself, so that no program skips an event that it does not know."""
    before = fold_version()
    assert before.startswith(f"{FOLD}-")

    class Later(Job, frozen=True, kw_only=True):
        mood: str = ""

    fold_version.cache_clear()
    monkeypatch.setattr(snapshot, "Job", Later)
    assert fold_version() != before
    fold_version.cache_clear()


@pytest.mark.parametrize("name", names())
def test_golden_log_folds_to_the_world_it_did(name: str) -> None:
    """The same entries fold to the same world as ever. If this fails: raise `FOLD`, and add the new digests."""
    lines, _ = read(name)
    world, tree = World(), Tree()
    for line, (at_ms, event) in zip(lines, opened(lines), strict=True):
        world.apply(event, at_ms)
        tree.append(leaf_hash(line.leaf.encode()))
    known = json.dumps(summary(decode(encode(world, tree))[0]), sort_keys=True, default=str)
    assert hashlib.sha256(known.encode()).hexdigest() == GOLDEN[FOLD][name]
