"""Several desks over one log, as several processes have it: what one commits, the others follow, and tell who waits.

The log is in memory and shared; each desk has a world, a tree and feeds of its own. Real processes over a real database
are tested in `tests/e2e/test_processes.py`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from gnexec.core.commands import Lapse
from gnexec.core.events import AnyEvent, OutageEnded
from gnexec.core.refs import job_key
from gnexec.desk.dispatcher import OUTAGE_MS, Dispatcher
from gnexec.desk.feed import Feed
from gnexec.errors import Refused, StoreAway
from gnexec.ids import salted_digest
from gnexec.store.contract import Append, Entry, Head
from gnexec.store.memory import MemoryBatch, MemoryStore
from gnexec.tlog.checkpoint import Checkpoint, sign_checkpoint
from gnexec.tlog.merkle import leaf_hash
from gnexec.tlog.tiles import Tree
from gnexec.wire import decode_event, encode_leaf
from tests.core.scene import ORIGIN, request
from tests.desk.house import KEY, Client, Time, dispatcher, passes, run, until


class SharedLog(MemoryStore):
    """A log in memory that several desks have open; it tells all of them of every commit.

    Attributes:
        away: whether it does not answer. deaf: whether commits go untold.
        batches: how many were committed.
    """

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        super().__init__(clock_ms=clock_ms)
        self.watchers: list[Callable[[], None]] = []
        self.away = False
        self.deaf = False
        self.batches = 0

    def alone(self) -> bool:
        """Tell whether no desk watches yet."""
        return len(self.watchers) == 0

    def watch(self, wake: Callable[[], None]) -> None:
        """Wake one more."""
        self.watchers.append(wake)

    def ping(self) -> None:
        """Make sure that the store is not away."""
        if self.away:
            msg = "the store is away"
            raise StoreAway(msg)
        super().ping()

    def head(self) -> Head:
        """Return the head, unless the store is away."""
        self.ping()
        return super().head()

    def _commit(self, batch: MemoryBatch) -> None:
        self.batches += 1
        super()._commit(batch)
        self.tell()

    def tell(self) -> None:
        """Wake all watchers, unless deaf."""
        for wake in () if self.deaf else self.watchers:
            wake()


@pytest.fixture
def log(time: Time) -> SharedLog:
    """Return an empty log that desks can share."""
    return SharedLog(time.wall)


@contextmanager
def desks(log: SharedLog, time: Time, count: int = 2) -> Iterator[list[Dispatcher]]:
    """Run desks over one log."""
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            desk = dispatcher(log, time)
            desk.start()
            stack.callback(desk.stop)
            started.append(desk)
        yield started


def outages(log: SharedLog) -> list[OutageEnded]:
    """Return the outages that the log tells of."""
    events = [decode_event(entry.payload) for entry in log.entries(0, log.head().size)]
    return [event for event in events if isinstance(event, OutageEnded)]


def test_follower_is_told_of_what_another_desk_commits(log: SharedLog, time: Time) -> None:
    """Who watches a job, or waits for work, at one desk is woken by what happens at the other."""

    async def main(here: Dispatcher, there: Dispatcher) -> None:
        feed = Feed(asyncio.get_running_loop())
        here.add_feed(feed)
        client = Client(there)
        async with feed.idling() as work:
            (job,) = await client.submit(request(1))
            await work.wait()
        held = await client.take(await client.enrol("vera"), "vera")
        async with feed.watching(job) as told:
            await client.report(held)
            await told.wait()
            shown = await here.ask(lambda view: view.job(job))
            assert shown is not None
            assert shown.decided

    with desks(log, time) as (here, there):
        run(main(here, there))


def test_follower_tells_each_event_once_and_in_order(log: SharedLog, time: Time) -> None:
    """Whether it is followed, caught up with under the lock, or decided here: the feed hears of it once."""

    class Notes(Feed):
        heard: list[AnyEvent]

        def publish(self, events: Iterable[AnyEvent], ready: int) -> None:
            self.heard.extend(events)
            super().publish((), ready)

    async def main(here: Dispatcher, there: Dispatcher) -> None:
        notes = Notes(asyncio.get_running_loop())
        notes.heard = []
        before = log.head().size
        here.add_feed(notes)
        for i in range(10):
            log.deaf = i % 3 == 0
            await Client(there).submit(request(("there", i)))
            if i % 2:
                await Client(here).submit(request(("here", i)))
        log.deaf = False
        log.tell()
        await until(lambda: len(notes.heard) == log.head().size - before)
        stored = [decode_event(entry.payload) for entry in log.entries(before, log.head().size)]
        assert notes.heard == stored

    with desks(log, time) as (here, there):
        run(main(here, there))


def test_follower_takes_no_lock(log: SharedLog, time: Time) -> None:
    """News alone cost no batch, so that followers do not stand in the way of whoever appends."""

    async def main(here: Dispatcher, there: Dispatcher) -> None:
        await here.ask(lambda _: None)
        before = log.batches
        for i in range(20):
            await Client(there).submit(request(i))
        await until(lambda: here._ledger.world.size == log.head().size)
        assert log.batches - before <= 20 + 4, "besides the submissions, only what is due every two seconds"

    with desks(log, time) as (here, there):
        run(main(here, there))


def test_command_at_one_desk_sees_what_another_decided(log: SharedLog, time: Time) -> None:
    """Enrol there, work here; the hand-out here, its result and its repeated request there; nothing is given twice."""

    async def main(here: Dispatcher, there: Dispatcher) -> None:
        log.deaf = True  # Nobody is told of anything: the lock alone must do.
        a, b = Client(here), Client(there)
        (job,) = await a.submit(request(1), key="k")
        assert await b.submit(request(1), key="k") == [job]
        vera = await b.enrol("vera")
        held = await a.take(vera, "vera", req="r")
        assert (await b.take(vera, "vera", req="r")).jti == held.jti
        (judged,) = await b.report(held)
        assert str(judged.verdict) == "valid"
        assert [one.verdict for one in await a.report(held)] == [judged.verdict]
        assert len(log.story(job_key(job))) == 4

    with desks(log, time) as (here, there):
        run(main(here, there))


def test_start_beside_a_running_desk_is_no_outage(log: SharedLog, time: Time) -> None:
    """A second process that starts, or starts again, prolongs no lease: somebody was there all the time."""

    async def main(here: Dispatcher) -> None:
        client = Client(here)
        await client.submit(request(1))
        await client.take(await client.enrol("vera"), "vera")
        for _ in range(5):
            await passes(here, time, 2)
            with desks(log, time, 1):
                pass

    with desks(log, time, 1) as (here,):
        run(main(here))
        assert outages(log) == []


def test_start_beside_dead_desks_notes_the_outage_once(log: SharedLog, time: Time) -> None:
    """When all have been away, whichever start first, the log has the outage once, though nobody knows to be alone."""

    async def before(here: Dispatcher) -> None:
        client = Client(here)
        await client.submit(request(1))
        await client.take(await client.enrol("vera"), "vera")

    with desks(log, time, 1) as (here,):
        run(before(here))
    since = log.last_pulse()
    time.later(100)
    with desks(log, time, 3):
        pass
    assert [(outage.since_ms, outage.until_ms) for outage in outages(log)] == [(since, time.wall_ms)]


def test_desk_that_stood_still_beside_a_busy_one_notes_no_outage(log: SharedLog, time: Time) -> None:
    """A process that was stopped for a minute was missed by nobody whom another one answered."""

    async def main(here: Dispatcher, there: Dispatcher) -> None:
        client = Client(there)
        await client.submit(request(1))
        await client.take(await client.enrol("vera"), "vera")
        await here.ask(lambda _: None)
        gate = threading.Event()
        stopped = asyncio.ensure_future(here.ask(lambda _: gate.wait(60)))
        await passes(there, time, 10 * OUTAGE_MS / 1000)
        time.later(1)  # The other one's pulse is never quite new.
        gate.set()
        assert await stopped
        await here.ask(lambda _: None)
        assert outages(log) == []

    with desks(log, time) as (here, there):
        run(main(here, there))


def test_follower_survives_a_store_that_is_away(log: SharedLog, time: Time) -> None:
    """While the store is away news cannot be read; when contact is back, they are."""

    async def main(here: Dispatcher, there: Dispatcher) -> None:
        log.deaf = True
        await Client(there).submit(request(1))
        log.away = True
        log.deaf = False
        log.tell()
        await until(lambda: not here._behind)
        log.away = False
        log.tell()
        await until(lambda: here._ledger.world.size == log.head().size)
        assert here.trouble() is None

    with desks(log, time) as (here, there):
        run(main(here, there))


def append_unknown(log: SharedLog, at_ms: int) -> None:
    """Append an event that this version does not know, as a newer one would."""
    payload, salt = b'{"t":"from-the-future/1"}', bytes(16)
    leaf = encode_leaf(at_ms, salt, payload)
    assert salted_digest(salt, payload)
    with log.batch() as batch:
        tree = Tree()
        for entry in batch.entries(0, batch.head().size):
            tree.append(leaf_hash(entry.leaf))
        tiles = tree.append(leaf_hash(leaf))
        note = sign_checkpoint(Checkpoint(ORIGIN, tree.size, tree.root()), KEY)
        batch.append(Append([Entry(leaf, salt, payload)], [], list(tiles), note))


@pytest.mark.parametrize("busy", [False, True])
def test_desk_that_meets_an_unknown_event_is_unready_and_decides_nothing(
    log: SharedLog, time: Time, *, busy: bool
) -> None:
    """A newer process has written what this one cannot read: it says so, and answers nothing wrong."""

    async def main(here: Dispatcher) -> None:
        await Client(here).submit(request(1))
        log.deaf = busy
        append_unknown(log, time.wall_ms)
        if busy:
            with pytest.raises(Refused) as caught:
                await here.do(Lapse())
            assert caught.value.code == "unready"
        await until(lambda: here.trouble() is not None)
        assert "from-the-future/1" in str(here.trouble())
        with pytest.raises(Refused) as caught:
            await Client(here).submit(request(2))
        assert (caught.value.code, caught.value.status) == ("unready", 503)
        assert log.head().size == size + 2

    with desks(log, time, 1) as (here,):
        size = log.head().size
        run(main(here))
