"""Snapshots on disk: what starts from one is what folds everything, and nothing that is wrong with one does harm."""

from __future__ import annotations

import os
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from gnexec.core import snapshot
from gnexec.core.world import World
from gnexec.desk.clock import Clock
from gnexec.desk.ledger import Ledger
from gnexec.desk.sealer import Sealer
from gnexec.desk.snapshots import KEPT, MAGIC, OTHERS_KEPT_S, Snapshots
from gnexec.errors import CorruptLog
from gnexec.store.contract import Append, Entry, Store
from gnexec.store.memory import MemoryStore
from tests.core.scene import ORIGIN
from tests.core.summary import summary
from tests.desk.house import KEY, opening
from tests.desk.test_ledger import SealedScene

SECRET = bytes(range(32))
Logged = list[MutableMapping[str, Any]]


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    """Return an empty folder of snapshots."""
    return Snapshots(tmp_path / "snapshots", SECRET, ORIGIN)


@pytest.fixture
def sealed() -> SealedScene:
    """Return a scene with some history, sealed into a store."""
    scene = SealedScene()
    scene.jobs(20)
    scene.report(scene.take(scene.enrol("vera"), 4))
    return scene


def ledger(store: Store, snapshots: Snapshots | None = None) -> Ledger:
    """Return what a new server folds from the store."""
    new = Ledger(store, Sealer(ORIGIN, KEY), opening(), Clock(lambda: 0), snapshots)
    new.refold()
    return new


def keep(snapshots: Snapshots, store: Store) -> Path:
    """Keep a snapshot of a log as it is now."""
    sealer = Sealer(ORIGIN, KEY)
    folded = Ledger(store, sealer, opening(), Clock(lambda: 0))
    folded.refold()
    return snapshots.keep(folded.world, sealer.tree)


def go_on(scene: SealedScene) -> None:
    """Let something happen that touches what the snapshot holds."""
    scene.report(scene.take(scene.enrol("wim"), 2))
    scene.jobs(3)


def restored(world: World) -> bool:
    """Tell whether a world was read from a snapshot."""
    return isinstance(world, snapshot._Restored)


def warned(logged: Logged) -> list[str]:
    """Return what the operator was warned of."""
    return [line["event"] for line in logged if line["log_level"] == "warning"]


# What starts from a snapshot.


def test_start_from_a_snapshot_folds_only_what_follows_it(sealed: SealedScene, snapshots: Snapshots) -> None:
    """World and tree are those of a whole fold, and entries before the snapshot are not read again."""
    keep(snapshots, sealed.store)
    before = sealed.store.head().size
    go_on(sealed)
    read: list[int] = []
    entries = sealed.store.entries

    def noted(start: int, stop: int) -> list[Entry]:
        read.append(start)
        return entries(start, stop)

    sealed.store.entries = noted  # type: ignore[method-assign]
    restarted = ledger(sealed.store, snapshots)
    assert min(read) == before - 1
    assert summary(restarted.world) == summary(sealed.ledger.world) == summary(ledger(sealed.store).world)


def test_server_that_started_from_a_snapshot_goes_on_as_the_one_before(
    sealed: SealedScene, snapshots: Snapshots
) -> None:
    """It decides the same as a server that folded everything, and its checkpoints hold."""
    keep(snapshots, sealed.store)
    go_on(sealed)
    sealed.ledger = ledger(sealed.store, snapshots)
    go_on(sealed)
    sealed.catch_up()
    assert summary(ledger(sealed.store).world) == summary(sealed.ledger.world)


def test_refold_after_a_failed_commit_begins_with_a_snapshot_too(sealed: SealedScene, snapshots: Snapshots) -> None:
    """Throwing the world away costs as little as a start."""
    keep(snapshots, sealed.store)
    restarted = ledger(sealed.store, snapshots)
    first = restarted.world
    restarted.refold()
    assert restarted.world is not first
    assert restored(restarted.world)
    assert summary(restarted.world) == summary(first)


# What is wrong with one.


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda path: flip(path, 0), id="magic"),
        pytest.param(lambda path: flip(path, len(MAGIC)), id="code"),
        pytest.param(lambda path: flip(path, -1), id="last-byte"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-1]), id="cut-short"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes() + b"\0"), id="longer"),
        pytest.param(lambda path: path.rename(path.with_name("7" + path.name[1:])), id="renamed"),
        pytest.param(lambda path: (path.unlink(), path.mkdir()), id="folder"),
    ],
)
def test_damaged_snapshot_is_passed_over_with_a_warning(
    sealed: SealedScene, snapshots: Snapshots, logged: Logged, harm: Callable[[Path], object]
) -> None:
    """The server starts all the same, by folding everything."""
    harm(keep(snapshots, sealed.store))
    restarted = ledger(sealed.store, snapshots)
    assert not restored(restarted.world)
    assert summary(restarted.world) == summary(sealed.ledger.world)
    assert warned(logged) == ["a snapshot cannot be used"]


def test_damaged_snapshot_leaves_the_one_before_it(sealed: SealedScene, snapshots: Snapshots) -> None:
    """Two are kept, so that one may be damaged."""
    keep(snapshots, sealed.store)
    go_on(sealed)
    flip(keep(snapshots, sealed.store), 100)
    restarted = ledger(sealed.store, snapshots)
    assert restored(restarted.world)
    assert summary(restarted.world) == summary(sealed.ledger.world)


@pytest.mark.parametrize(("secret", "origin"), [(bytes(32), ORIGIN), (SECRET, "other.example/log")])
def test_snapshot_of_another_server_or_log_is_not_decoded(
    sealed: SealedScene, snapshots: Snapshots, logged: Logged, secret: bytes, origin: str
) -> None:
    """Who does not hold the server's secret cannot make a snapshot that it believes."""
    keep(Snapshots(snapshots.folder, secret, origin), sealed.store)
    assert not restored(ledger(sealed.store, snapshots).world)
    assert warned(logged) == ["a snapshot cannot be used"]


def test_forged_world_under_the_right_code_does_not_hold_against_the_log(
    sealed: SealedScene, snapshots: Snapshots, logged: Logged
) -> None:
    """Even with the server's secret, a world of another history is found out, and everything is folded."""
    other = SealedScene()
    other.jobs(4)
    while other.store.head().size < sealed.store.head().size:
        other.jobs(1)
    keep(snapshots, other.store)
    go_on(sealed)
    go_on(other)
    restarted = ledger(sealed.store, snapshots)
    assert not restored(restarted.world)
    assert summary(restarted.world) == summary(sealed.ledger.world)
    assert warned(logged) == ["a snapshot is of another log, or of another history of this one"]


def test_snapshot_whose_last_leaf_agrees_is_still_held_against_the_checkpoint(
    sealed: SealedScene, snapshots: Snapshots, logged: Logged
) -> None:
    """The quick look at the last leaf spares work; what is believed is the signed root."""
    sealer = Sealer(ORIGIN, KEY)
    folded = Ledger(sealed.store, sealer, opening(), Clock(lambda: 0))
    folded.refold()
    tree = sealer.tree.copy()
    tree._rows[0][0] = bytes(32)
    snapshots.keep(folded.world, type(tree).from_edge(tree.size, tree.edge()))
    restarted = ledger(sealed.store, snapshots)
    assert not restored(restarted.world)
    assert summary(restarted.world) == summary(sealed.ledger.world)
    assert warned(logged) == ["the log does not follow from a snapshot"]


def test_snapshot_beyond_a_restored_backup_is_passed_over(
    sealed: SealedScene, snapshots: Snapshots, logged: Logged
) -> None:
    """A log that is shorter than its snapshot starts from the snapshot before, and goes another way from there."""
    backup = MemoryStore(clock_ms=lambda: sealed.at_ms)
    keep(snapshots, sealed.store)
    with backup.batch() as batch:
        batch.append(append_all(sealed.store))
    go_on(sealed)
    keep(snapshots, sealed.store)
    again = ledger(backup, snapshots)
    assert restored(again.world)
    assert summary(again.world) == summary(ledger(backup).world)
    assert warned(logged) == ["a snapshot goes further than the log"]


def append_all(store: Store) -> Append:
    """Return what appends all that a store holds to an empty one."""
    head = store.head()
    return Append(store.entries(0, head.size), (), (), head.note)


def test_damage_behind_the_snapshot_is_reported_as_without_one(sealed: SealedScene, snapshots: Snapshots) -> None:
    """A snapshot never hides what is wrong with the log after it."""
    keep(snapshots, sealed.store)
    go_on(sealed)
    bad = sealed.store.head().size - 1
    entries = sealed.store.entries

    def damaged(start: int, stop: int) -> list[Entry]:
        found = entries(start, stop)
        if start <= bad < start + len(found):
            found[bad - start] = Entry(found[bad - start].leaf, bytes(16), b"{}")
        return found

    sealed.store.entries = damaged  # type: ignore[method-assign]
    with pytest.raises(CorruptLog) as caught:
        ledger(sealed.store, snapshots)
    assert caught.value.seq == bad


def test_snapshot_of_another_fold_is_left_to_those_who_made_it(
    sealed: SealedScene, snapshots: Snapshots, logged: Logged
) -> None:
    """Two versions of the program may share a folder during an upgrade; old files of another go after a day."""
    path = keep(snapshots, sealed.store)
    theirs = path.with_name(path.name.replace(snapshot.fold_version(), "9-0"))
    path.rename(theirs)
    assert not restored(ledger(sealed.store, snapshots).world)
    assert warned(logged) == []
    keep(snapshots, sealed.store)
    assert theirs.exists()
    os.utime(theirs, (0, theirs.stat().st_mtime - OTHERS_KEPT_S - 60))
    keep(snapshots, sealed.store)
    assert not theirs.exists()


# Keeping them.


def test_only_the_newest_two_are_kept(sealed: SealedScene, snapshots: Snapshots) -> None:
    """Older ones, and what an interrupted writer left, are removed."""
    kept = []
    for at_s in range(4):
        kept.append(keep(snapshots, sealed.store))
        os.utime(kept[-1], (at_s, at_s))
        go_on(sealed)
    (snapshots.folder / "3-00000000-x.new").write_bytes(b"half")
    last = keep(snapshots, sealed.store)
    assert sorted(snapshots.folder.iterdir()) == sorted([kept[-1], last])
    assert KEPT == 2


def test_snapshot_is_for_the_server_alone(sealed: SealedScene, snapshots: Snapshots) -> None:
    """It holds pseudonyms and digests that the log releases only later."""
    assert keep(snapshots, sealed.store).parent.stat().st_mode & 0o077 == 0


def test_newest_says_how_large_the_last_usable_one_is(sealed: SealedScene, snapshots: Snapshots) -> None:
    """Names and lengths are enough to tell whether another is due."""
    assert snapshots.newest(1 << 60) == (0, 0)
    path = keep(snapshots, sealed.store)
    size = sealed.store.head().size
    assert snapshots.newest(1 << 60) == (size, path.stat().st_size)
    assert snapshots.newest(size - 1) == (0, 0)


def test_one_process_at_a_time_makes_a_snapshot(snapshots: Snapshots) -> None:
    """Several servers over one folder do the work once."""
    other = Snapshots(snapshots.folder, SECRET, ORIGIN)
    with snapshots.making() as first:
        with other.making() as second:
            assert (first, second) == (True, False)
        with other.making() as still:
            assert not still
    with other.making() as later:
        assert later
