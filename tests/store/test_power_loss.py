"""Power loss: what was acknowledged is there afterwards, whole, whatever the disk has made of the rest.

The desk's own ledger appends to the store's own SQLite code, over a disk that forgets what was not synced (`power`).
The power goes at any write, cut, sync or deletion: while a commit is written, while the write-ahead log is moved into
the database, while a server starts on what the last loss has left. `synchronous = NORMAL` is the canary: the same lives
under it must lose acknowledged batches, or these tests could not see a loss.

GNEXEC_TORTURE=10 lives a thousand lives; GNEXEC_SEED names one to live again.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from gnexec import migrate
from gnexec.core.commands import Enrol, JobRequest, NextJobs
from gnexec.desk.clock import Clock
from gnexec.desk.ledger import Ledger
from gnexec.desk.requests import Request
from gnexec.desk.sealer import Sealer
from gnexec.errors import BadConfiguration, CorruptLog, ProofError, StoreAway
from gnexec.store import connections
from gnexec.store.contract import Append, Content, Entry
from gnexec.store.sqlite import SqliteStore
from gnexec.tlog.tiles import Tree
from tests.core.scene import OFFER, ONE, ORIGIN, digest, draw
from tests.desk.house import KEY, Time, opening, report, submission
from tests.desk.test_faults import check_store
from tests.store.driver import Connection
from tests.store.power import Disk, Loss
from tests.store.stores import content

LIVES: Final = 100 * int(os.environ.get("GNEXEC_TORTURE", "0")) or 30
SEEDS: Final = [int(os.environ["GNEXEC_SEED"])] if os.environ.get("GNEXEC_SEED") else list(range(LIVES))
CUTS: Final = 4
"""Losses of power in one life."""
CANARIES: Final = 8
"""Lives that are lived under settings that must do harm."""
FILE: Final = "log.sqlite"
GONE: Final = (StoreAway, BadConfiguration, sqlite3.OperationalError)
"""What the store makes of a disk that does not answer."""


class Recorder(Sealer):
    """A sealer that remembers what it last sealed."""

    _sealed: tuple[Entry, ...] = ()

    def seal(self, *what: Any, **named: Any) -> tuple[Append, Tree]:  # noqa: ANN401 -- whatever it takes
        """Seal, and remember."""
        append, tree = super().seal(*what, **named)
        self._sealed = tuple(append.entries)
        return append, tree

    def sealed(self) -> tuple[Entry, ...]:
        """Return what was sealed since this was last asked."""
        sealed, self._sealed = self._sealed, ()
        return sealed


@dataclass
class Told:
    """What the world outside was told.

    Attributes:
        entries: acknowledged, in order.
        contents: acknowledged by digest; erased: those whose erasure was acknowledged.
        trying: entries that were being appended when the power went.
        unsure: digests that were being erased then.
    """

    entries: list[Entry] = field(default_factory=list)
    contents: dict[bytes, Content] = field(default_factory=dict)
    erased: set[bytes] = field(default_factory=set)
    trying: list[Entry] = field(default_factory=list)
    unsure: set[bytes] = field(default_factory=set)


@contextmanager
def powered(
    monkeypatch: pytest.MonkeyPatch, disk: Disk, *, synchronous: str = "FULL", pages: int = 1000
) -> Iterator[None]:
    """Have the store's and the migrations' connections go over a disk.

    Args:
        monkeypatch: of the test.
        disk: that may lose its power.
        synchronous: what is made of the store's own FULL.
        pages: of the write-ahead log at which SQLite checkpoints.
    """

    class Wired(Connection):
        """A connection over the disk."""

        def execute(self, sql: str, values: object = ()) -> object:  # type: ignore[override]
            """Run a statement, with the setting that is tried out."""
            return super().execute(sql.replace("synchronous = FULL", f"synchronous = {synchronous}"), values)  # type: ignore[arg-type]

    def connect(database: Path, *, mode: str) -> Connection:
        wired = Wired(str(database), mode=mode, vfs=disk.vfs)
        if mode == "rw":
            wired.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        return wired

    with monkeypatch.context() as patch:
        for module in (connections, migrate):
            patch.setattr(module, "connect", connect)
        patch.setattr(sys, "unraisablehook", disk.told)
        if synchronous != "FULL":
            patch.setattr(connections, "check_durable", lambda _: None)
        try:
            yield
        finally:
            disk.close()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a new log in it, and return it."""
    folder = tmp_path_factory.mktemp("fresh")
    SqliteStore(folder / FILE, create=True).close()
    return folder


def serve(store: SqliteStore, told: Told, chance: random.Random) -> None:
    """Serve until the power goes: append batches of all sizes, erase, give signs of life.

    Raises:
        StoreAway: the power is gone.
    """
    time = Time()
    sealer = Recorder(ORIGIN, KEY)
    ledger = Ledger(store, sealer, opening(), Clock(time.steady))
    ledger.refold()
    time.wall_ms = ledger.world.at_ms
    first = [Request(command=opening())]
    while True:
        requests, first = first or work(ledger, chance), []
        try:
            ledger.record(requests)
        except StoreAway:
            told.trying = list(sealer.sealed())
            raise
        told.entries.extend(sealer.sealed())
        assert not [asked.error for asked in requests if asked.error]
        told.contents.update((each.digest, each) for asked in requests for each in asked.contents)
        time.later(1)
        if chance.random() < 0.2:
            store.pulse(time.wall_ms)
        if chance.random() < 0.1 and told.contents:
            told.unsure = set(chance.sample(sorted(told.contents), min(3, len(told.contents))))
            store.erase(sorted(told.unsure))
            told.erased |= told.unsure
            told.contents = {key: kept for key, kept in told.contents.items() if key not in told.unsure}
            told.unsure = set()


def work(ledger: Ledger, chance: random.Random) -> list[Request]:
    """Return what is asked in one batch: submissions with their contents, hand-outs, results."""
    requests = []
    for _ in range(chance.choice((1, 1, 2, 8))):
        kind = chance.random()
        held = chance.choice(sorted(ledger.world.hand_outs)) if ledger.world.hand_outs else None
        if kind < 0.3 and held is not None:
            requests.append(Request(command=report(ledger.world.hand_outs[held].event)))
        elif kind < 0.5 and ledger.world.workers:
            worker = ledger.world.workers[chance.choice(sorted(ledger.world.workers))]
            requests.append(Request(command=NextJobs(worker.id, worker.owner, 4, None, chance.randbytes(16))))
        elif kind < 0.6:
            requests.append(Request(command=enrolment(chance.choice(("vera", "wim")))))
        else:
            kept = [content(chance.randbytes(200)) for _ in range(chance.choice((1, 3, 10, 300)))]
            jobs = [JobRequest(digest(each.digest), each.digest.hex(), ONE) for each in kept]
            requests.append(Request(command=submission(*jobs), contents=tuple(kept)))
    return requests


def enrolment(owner: str) -> Enrol:
    """Return the command that enrols the worker of an owner."""
    return Enrol(owner, f"x-{owner}", f"kid-{owner}", OFFER, digest(owner), draw(("worker", owner)))


def check(store: SqliteStore, told: Told) -> int:
    """Hold what a loss of power has left against what was acknowledged; return how many entries of that are lost.

    What is there must be whole in any case: a prefix of what was sealed that ends where a batch ended, its checkpoint
    and caches in order, content for every job that names it.
    """
    there = store.entries(0, store.head().size)
    expected = told.entries + told.trying
    assert there == expected[: len(there)]
    if len(there) >= len(told.entries):
        assert len(there) in (len(told.entries), len(expected)), "half a batch is there"
    if there:
        check_store(store)
    with store._readers.borrow() as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return max(0, len(told.entries) - len(there))


def live(
    monkeypatch: pytest.MonkeyPatch, folder: Path, fresh: Path, seed: int, synchronous: str = "FULL"
) -> Counter[str]:
    """Live one life: serve, lose the power, start again on what is left, several times; return what happened."""
    chance = random.Random(seed)  # noqa: S311 -- a seed that can be told
    counts: Counter[str] = Counter()
    told = Told()
    left = Path(shutil.copytree(fresh, folder / "0"))
    for turn in range(1, CUTS + 1):
        disk = Disk(left, cut_at=round(chance.expovariate(1 / chance.choice((10, 100, 600)))))
        pages = chance.choice((4, 30, 1000))
        with powered(monkeypatch, disk, synchronous=synchronous, pages=pages), capture_logs():
            with pytest.raises(GONE):
                meet(left, told, chance, counts)
            assert disk.off, "something failed while the power was on"
        loss = chance.choice(list(Loss))
        left = disk.survivors(folder / str(turn), loss, chance)
        counts.update({"losses of power": 1, loss.value: 1, "changes": disk.done, "syncs": disk.syncs})
    with closing(SqliteStore(left / FILE)) as store:
        counts["entries lost"] += check(store, told)
    counts["entries"] += len(told.entries)
    return counts


def meet(left: Path, told: Told, chance: random.Random, counts: Counter[str]) -> None:
    """Start on what is left, check it, take it for acknowledged, and serve until the power goes."""
    with closing(SqliteStore(left / FILE)) as store:
        counts["entries lost"] += check(store, told)
        there = store.entries(0, store.head().size)
        kept = store.content(sorted(told.contents))
        if len(there) >= len(told.entries):
            assert set(told.contents) - set(kept) <= told.unsure, "acknowledged content is lost"
            assert not store.content(sorted(told.erased)), "erased content is back"
        told.entries, told.trying, told.contents, told.unsure = there, [], kept, set()
        told.erased -= set(store.content(sorted(told.erased)))
        counts["starts"] += 1
        serve(store, told, chance)


@pytest.fixture(scope="module")
def total() -> Iterator[Counter[str]]:
    """Count over all lives, and print the counts at the end."""
    counts: Counter[str] = Counter()
    yield counts
    print(f"\npower loss, {len(SEEDS)} lives:", ", ".join(f"{what}: {n}" for what, n in sorted(counts.items())))  # noqa: T201 -- counts are what torture is read by


@pytest.mark.parametrize("seed", SEEDS)
def test_power_loss_at_any_change_loses_nothing_that_was_acknowledged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh: Path, total: Counter[str], seed: int
) -> None:
    """Under the settings that the store asks for, every acknowledged batch outlives every loss, whole."""
    counts = live(monkeypatch, tmp_path, fresh, seed)
    total.update(counts)
    assert counts["entries lost"] == 0


def test_power_loss_under_synchronous_normal_loses_acknowledged_entries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh: Path
) -> None:
    """The canary: with one setting less, the same lives lose what was acknowledged, and nothing else goes wrong."""
    lost: Counter[str] = Counter()
    for seed in range(CANARIES):
        (tmp_path / str(seed)).mkdir()
        lost.update(live(monkeypatch, tmp_path / str(seed), fresh, seed, "NORMAL"))
    print(f"\nunder synchronous = NORMAL: {lost['entries lost']} entries lost in {CANARIES} lives")  # noqa: T201 -- counts are what torture is read by
    assert lost["entries lost"] > 0


def test_power_loss_under_synchronous_off_damages_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh: Path
) -> None:
    """The other canary: without any sync the file itself comes to harm, and these tests see it."""
    harm: Counter[str] = Counter()
    for seed in range(CANARIES):
        (tmp_path / str(seed)).mkdir()
        try:
            live(monkeypatch, tmp_path / str(seed), fresh, seed, "OFF")
        except (AssertionError, CorruptLog, ProofError, pytest.fail.Exception) as err:
            harm[type(err).__name__] += 1
    print(f"\nunder synchronous = OFF: {dict(harm)} in {CANARIES} lives")  # noqa: T201 -- counts are what torture is read by
    assert harm.total() > 0


@pytest.mark.parametrize("loss", Loss)
def test_power_loss_while_a_log_is_made_leaves_one_that_can_be_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loss: Loss
) -> None:
    """Wherever the power goes while a new file gets its schema: the next start ends with an empty log."""
    whole = made(monkeypatch, tmp_path / "whole", None)
    assert whole.done > 10
    stride = 1 if "GNEXEC_TORTURE" in os.environ else max(1, whole.done // 6)
    for cut_at in range(0, whole.done, stride):
        disk = made(monkeypatch, tmp_path / f"{cut_at}", cut_at)
        left = disk.survivors(tmp_path / f"{cut_at} left", loss, random.Random(cut_at))  # noqa: S311 -- as above
        with closing(SqliteStore(left / FILE, create=True)) as store:
            assert store.head().size == 0


def made(monkeypatch: pytest.MonkeyPatch, folder: Path, cut_at: int | None) -> Disk:
    """Make a new log on a disk whose power goes at a change."""
    folder.mkdir()
    disk = Disk(folder, cut_at=cut_at)
    with powered(monkeypatch, disk), suppress(*GONE):
        SqliteStore(folder / FILE, create=True).close()
    assert disk.off == (cut_at is not None)
    return disk
