"""What a desk does when its log cannot be used for a while, or hangs: pauses, cheap refusals, bounded news, an end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest
from structlog.testing import capture_logs

from gnexec.core.commands import Lapse
from gnexec.desk import dispatcher as desk_module
from gnexec.desk import folding, ledger
from gnexec.desk.clock import Clock
from gnexec.desk.dispatcher import Dispatcher
from gnexec.desk.feed import Feed
from gnexec.desk.ledger import Ledger
from gnexec.desk.requests import Request
from gnexec.desk.sealer import Sealer
from gnexec.errors import BadConfiguration, GnexecError, Refused, StoreAway
from gnexec.store.contract import Entry, Head
from gnexec.store.memory import MemoryBatch, MemoryStore
from gnexec.store.published import Published
from gnexec.tlog.checkpoint import Checkpoint, sign_checkpoint
from gnexec.wire import decode_event
from tests.core.scene import ORIGIN, request
from tests.desk.house import KEY, Time, dispatcher, opening, run, running, submission

T = TypeVar("T")


class CountingStore(MemoryStore):
    """A store in memory that notes which entries are read, and whose head can be refused."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        super().__init__(clock_ms=clock_ms)
        self.read: list[tuple[int, int]] = []
        self.troubles: Iterator[GnexecError] = iter(())

    def head(self) -> Head:
        """Return the head, once the troubles are over."""
        for trouble in self.troubles:
            raise trouble
        return super().head()

    def entries(self, start: int, stop: int) -> list[Entry]:
        """Return entries, and note which."""
        self.read.append((start, stop))
        return super().entries(start, stop)


class Impatient(threading.Condition):
    """A condition on which nobody waits; it notes for how long they would have."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float | None] = []

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Note it."""
        self.pauses.append(timeout)
        return predicate()


def new_ledger(store: MemoryStore, time: Time) -> Ledger:
    """Return a ledger that has opened the log, or folded it, and knows no news."""
    made = Ledger(store, Sealer(ORIGIN, KEY), opening(), Clock(time.steady))
    made.refold()
    made.record([Request(command=opening())])
    made.news()
    return made


def add(to: Ledger, *who: object) -> None:
    """Have jobs entered into the log, one batch each."""
    for one in who:
        asked = Request(command=submission(request(one)))
        to.record([asked])
        assert asked.error is None


# Trying again.


@pytest.mark.parametrize(
    ("kind", "pauses"),
    [
        (BadConfiguration, [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]),
        (StoreAway, [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 2.0]),
    ],
)
def test_log_that_cannot_be_used_is_tried_again_after_ever_longer_pauses(
    time: Time, kind: type[GnexecError], pauses: list[float]
) -> None:
    """The machine is not kept busy with folding, and the operator is told once of each thing that is wrong."""
    store = CountingStore(time.wall)
    store.troubles = iter([*(kind("the one") for _ in range(4)), *(kind("the other") for _ in range(4))])
    desk = dispatcher(store, time)
    desk._wake = patience = Impatient()
    with capture_logs() as told:
        assert desk._recover()
    assert patience.pauses == pytest.approx(pauses)
    assert [line["error"] for line in told if line["log_level"] == "warning"] == ["the one", "the other"]
    assert desk._failure is None


def test_store_that_tells_of_news_is_tried_again_at_once(time: Time) -> None:
    """A store that is back says so by waking; an operator's trouble is not over because others commit."""
    desk = dispatcher(MemoryStore(clock_ms=time.wall), time)
    heard: list[bool] = []

    class Woken(Impatient):
        def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
            desk._hear()
            heard.append(bool(predicate()))
            return super().wait_for(predicate, timeout)

    desk._wake = Woken()
    assert not desk._pause(1, news_end_it=True)
    assert not desk._pause(1, news_end_it=False)
    assert heard == [True, False]


def test_log_that_became_too_short_is_refused_before_it_is_folded(time: Time, tmp_path: Path) -> None:
    """A running server whose log fell back behind what it has published does not read it over and over."""
    store = CountingStore(time.wall)
    mine = new_ledger(store, time)
    add(mine, 1, 2)
    with closing(Published(tmp_path / "published")) as published:
        mine._sealer.published = published
        published.keep(sign_checkpoint(Checkpoint(ORIGIN, mine.world.size + 1, bytes(32)), KEY))
        store.read.clear()
        with pytest.raises(BadConfiguration, match=rf"has {mine.world.size} entries, and a checkpoint of"):
            mine.refold()
        assert store.read == []


# News that were missed.


def test_missed_news_are_read_some_at_a_time(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, memory for a few is enough; each is told once, in order."""
    for module in (folding, ledger):
        monkeypatch.setattr(module, "FOLD_CHUNK", 2)
    store = CountingStore(time.wall)
    here, there = new_ledger(store, time), new_ledger(store, time)
    size = store.head().size
    add(there, *range(5))
    store.read.clear()
    here.refold()
    assert max(stop - start for start, stop in store.read) == 2
    assert here.news() == [decode_event(entry.payload) for entry in store.entries(size, size + 5)]
    assert here.news() == []


@pytest.mark.parametrize("anew", [True, False])
def test_too_many_missed_news_are_not_told_one_by_one(
    time: Time, monkeypatch: pytest.MonkeyPatch, *, anew: bool
) -> None:
    """Whether the log was folded anew or followed: that there were many is told once, and what comes then as ever."""
    monkeypatch.setattr(ledger, "MOST_NEWS", 3)
    store = MemoryStore(clock_ms=time.wall)
    here, there = new_ledger(store, time), new_ledger(store, time)
    add(there, *range(4))
    if anew:
        here.refold()
    else:
        here.follow()
    assert here._news == []
    assert here.news() is None
    add(there, "later")
    here.follow()
    assert here.news() == [decode_event(store.entries(here.world.size - 1, here.world.size)[0].payload)]


def test_feed_is_told_that_much_was_missed(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits at a desk that missed too much looks again, and finds what there is."""
    monkeypatch.setattr(ledger, "MOST_NEWS", 0)
    store = MemoryStore(clock_ms=time.wall)

    async def main(here: Dispatcher) -> None:
        other = new_ledger(store, time)
        feed = Feed(asyncio.get_running_loop())
        here.add_feed(feed)
        async with feed.watching(7) as told, feed.idling() as work:
            add(other, 1)
            here._hear()
            await asyncio.gather(told.wait(), work.wait())
            assert not feed.closing
            assert feed.ready == 1

    with running(store, time) as desk:
        run(main(desk))


# The end.


class HangingStore(MemoryStore):
    """A store in memory whose commits hang when they are told to."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        super().__init__(clock_ms=clock_ms)
        self.answers = threading.Event()
        self.answers.set()
        self.hangs = threading.Event()

    def _commit(self, batch: MemoryBatch) -> None:
        if not self.answers.is_set():
            self.hangs.set()
            self.answers.wait(60)
        super()._commit(batch)


def test_stop_does_not_wait_for_a_store_that_hangs(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is left behind, which is told; a store that answers after all is stopped as ever."""
    monkeypatch.setattr(desk_module, "STOPPED_WITHIN_S", 0.05)

    async def main(desk: Dispatcher, store: HangingStore) -> None:
        store.answers.clear()
        asked = asyncio.ensure_future(desk.do(Lapse()))
        await asyncio.to_thread(store.hangs.wait, 60)
        assert not await asyncio.to_thread(desk.stop)
        with pytest.raises(Refused):
            await desk.do(Lapse())
        store.answers.set()
        await asked
        monkeypatch.setattr(desk_module, "STOPPED_WITHIN_S", 60)
        assert await asyncio.to_thread(desk.stop)

    store = HangingStore(time.wall)
    desk = dispatcher(store, time)
    desk.start()
    with capture_logs() as told:
        run(main(desk, store))
    assert [line["event"] for line in told] == ["the store does not answer; the writer is left behind"]
