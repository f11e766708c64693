"""A commit that fails, or fails but was kept, at every point of the whole path: nothing acknowledged is lost.

A client that asks again while the store is away comes to the very same end as one whose store never fails: every call
is repeatable, and the log says what was decided.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

import pytest

from gnexec.core.commands import Cancel, Cancelled, Directive, Progress, Verdict
from gnexec.core.events import Effort, JobState
from gnexec.core.refs import refs
from gnexec.core.world import World
from gnexec.desk.dispatcher import Dispatcher
from gnexec.desk.facts import read
from gnexec.errors import StoreAway
from gnexec.store.contract import Store
from gnexec.store.memory import Fault, MemoryStore
from gnexec.tlog.checkpoint import open_checkpoint
from gnexec.tlog.merkle import leaf_hash
from gnexec.tlog.tiles import Tree
from tests.core.scene import ORIGIN, PAIR, request
from tests.core.summary import summary
from tests.desk.house import VERIFIER, Client, Time, dispatcher, refolded, run
from tests.store.stores import Make

COMMITS = 22
"""Commits of the path below without faults, at least; a fault is put at each of them."""


async def walk(desk: Dispatcher, time: Time) -> list[Any]:
    """Submit, work, lose a worker, disagree, cancel, answer twice; return what was answered."""
    client = Client(desk, patient=True)
    told: list[Any] = []
    told.append(await client.submit(request(1, PAIR), request(2), key="k1"))
    vera, wim, eve = [await client.enrol(owner) for owner in ("vera", "wim", "eve")]
    first = await client.take(vera, "vera", 2)
    progress = Progress(first.jti, tuple(first.jobs), 1, Effort(5, 5, 5), first.exp_s)
    told.append((await client.answer(Directive, progress)).stop)
    told.append([one.verdict for one in await client.report(first)])
    lie = await client.take(eve, "eve")
    told.append([one.verdict for one in await client.report(lie, "wrong")])
    told.append([one.verdict for one in await client.report(lie, "another")])
    lost = await client.take(wim, "wim")
    while lost.jti in await client.insist(lambda: desk.ask(lambda view: set(view.world.hand_outs))):
        time.later(2)
    told.append([one.verdict for one in await client.report(lost)])
    told.append([one.verdict for one in await client.report(await client.take(wim, "wim", req="r2"))])
    told.append(await client.submit(request(3), request(1), key="k2"))
    (job,) = (await client.answer(Cancelled, Cancel("olga", (3,)))).jobs
    told.append(job.state)
    told.append([one.verdict for one in await client.report(first)])
    told.append(await client.submit(request(1, PAIR), request(2), key="k1"))
    return told


EXPECTED = [
    [1, 2],
    False,
    [Verdict.PENDING, Verdict.VALID],
    [Verdict.PENDING],
    [Verdict.EQUIVOCATION],
    [Verdict.TOO_LATE],
    [Verdict.VALID],
    [3, 1],
    JobState.CANCELLED,
    [Verdict.VALID, Verdict.VALID],
    [1, 2],
]
"""What is answered on the path, whatever happens."""


def walked(store: Store, time: Time) -> list[Any]:
    """Walk the path over a store, starting the server as often as it takes; return what was answered."""
    desk = dispatcher(store, time)
    while True:
        try:
            desk.start()
            break
        except StoreAway:
            desk = dispatcher(store, time)
    try:
        told = run(walk(desk, time))
        live = run(Client(desk, patient=True).insist(lambda: desk.ask(lambda view: summary(view.world))))
    finally:
        desk.stop()
    assert summary(refolded(store)) == live
    return told


def essence(world: World) -> dict[str, Any]:
    """Return what must not depend on faults: all but times, places, and how often a worker said who it is."""
    found = summary(world)
    tallies = {worker: record["tally"] for worker, record in found["workers"].items()}
    return {key: found[key] for key in ("next_job", "jobs", "hand_outs", "decided", "lines")} | {"tallies": tallies}


def check_store(store: Store) -> None:
    """Hold what is stored beside the entries against the entries: checkpoint, refs and tiles."""
    head = store.head()
    entries = store.entries(0, head.size)
    tree = Tree()
    tiles = [tile for entry in entries for tile in tree.append(leaf_hash(entry.leaf))]
    checkpoint = open_checkpoint(head.note, [VERIFIER], ORIGIN)
    assert (checkpoint.size, checkpoint.root) == (len(entries), tree.root())
    assert all(store.tile(tile.level, tile.index) == tile.data for tile in tiles)
    filed = sorted((key, seq) for seq, entry in enumerate(entries) for key in refs(read(seq, entry)[2]))
    assert list(store.refs()) == filed


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """Return what the path leaves behind over a store that never fails."""
    time = Time()
    store = MemoryStore(clock_ms=time.wall)
    assert walked(store, time) == EXPECTED
    return essence(refolded(store))


def test_path_without_faults_is_long_enough(make: Make, time: Time) -> None:
    """The points at which faults are put are all on the path."""
    commits: list[None] = []

    def counted() -> Iterator[None]:
        while True:
            commits.append(None)
            yield None

    store = make(clock_ms=time.wall, faults=counted())
    assert walked(store, time) == EXPECTED
    check_store(store)
    assert len(commits) > COMMITS


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("at", range(COMMITS))
def test_fault_at_any_commit_loses_nothing_that_was_acknowledged(
    make: Make, time: Time, plain: dict[str, Any], at: int, fault: Fault
) -> None:
    """One commit fails, in either way: every answer, and all that the log holds in the end, is as without it."""
    store = make(clock_ms=time.wall, faults=[*repeat(None, at), fault])
    assert walked(store, time) == EXPECTED
    assert essence(refolded(store)) == plain
    check_store(store)


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("start", [0, 5, 9])
def test_faults_in_a_row_lose_nothing_that_was_acknowledged(
    make: Make, time: Time, plain: dict[str, Any], start: int, fault: Fault
) -> None:
    """A store that fails at every second commit for a while comes through, too."""
    store = make(clock_ms=time.wall, faults=chain(repeat(None, start), [fault, None] * 12))
    assert walked(store, time) == EXPECTED
    assert essence(refolded(store)) == plain
    check_store(store)
