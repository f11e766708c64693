"""The dispatcher: one order for all decisions.

Requests wait in one queue; one thread takes whatever waits, lets the ledger decide and commit it as one batch, and then
replies. There is no timer: a batch is what came in while the last one was being written.

Rules:
- Nothing is answered before it is durable.
- Attempts that have lapsed are closed before anything else in a batch, and an outage is noted before that.
- A commit that failed, or whose fate is unknown, throws the world away and folds the log anew; what turns out to be in
  the log is answered as decided, the rest is told to come again.
- One bad request never takes others with it: a command that breaks the laws is answered as a failure of the server, and
  the rest of its batch is decided anew.
- What other processes commit is followed between batches, without the append lock, and told to the feeds like
  commits of this process: whoever waits here is woken by what happened there.
- Whoever has gone away before its turn came is not served. Nobody is left waiting: what cannot be answered is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import structlog

from gnexec.core.commands import Command, EndOutage, Lapse, OpenLog
from gnexec.core.keybook import KeyBook
from gnexec.core.world import World
from gnexec.desk import meters
from gnexec.desk.clock import Clock
from gnexec.desk.feed import Feed
from gnexec.desk.ledger import Broken, Ledger
from gnexec.desk.requests import Request, Sealed, View, reply
from gnexec.desk.sealer import Sealer
from gnexec.desk.snapshotting import Maker
from gnexec.errors import BadConfiguration, CorruptLog, Refused, StoreAway, UnknownEvent
from gnexec.store.contract import Content, Grant, Store

__all__ = ["Dispatcher", "Sealed", "View"]

T = TypeVar("T")
log = structlog.get_logger("gnexec.desk")

MOST_AT_ONCE: Final = 1024
"""Requests in one batch, at most."""
MOST_WAITING: Final = 16 * MOST_AT_ONCE
"""Requests that may wait for the writer; more are refused."""
PULSE_MS: Final = 2_000
"""How often the store is told that a server is alive."""
OUTAGE_MS: Final = 3 * PULSE_MS
"""A gap between pulses that is longer than this was an outage."""
STOPPED_WITHIN_S: Final = 5.0
"""How long the writer may take to answer what waits when it is told to stop; a store that hangs would keep it."""
RETRY_S: Final = 0.2
"""When a log that cannot be used is tried again for the first time; from then on after ever longer pauses."""
LONGEST_AWAY_S: Final = 2.0
"""The longest pause where the store is away."""
LONGEST_BAD_S: Final = 10.0
"""The longest pause where an operator is to act: to find that out may mean to fold the whole log."""


class Dispatcher:
    """Takes commands and questions from event loops, and answers them in one order."""

    def __init__(
        self, store: Store, sealer: Sealer, opening: OpenLog, clock: Clock | None = None, maker: Maker | None = None
    ) -> None:
        """Prepare; `start` opens or refolds the log.

        Args:
            store: open store.
            sealer: with the log's key.
            opening: keys and policy of this server; the first command.
            clock: watches the store's clock; None for one that is told by the machine.
            maker: of snapshots, which the fold begins with; None for none. It is not stopped here.
        """
        self._store = store
        self._opening = opening
        self._clock = clock or Clock()
        self._maker = maker
        self._ledger = Ledger(store, sealer, opening, self._clock, maker.snapshots if maker is not None else None)
        self._queue: deque[Request] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._nudging: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._feeds: list[Feed] = []
        self._pulse_ms = 0
        self._taken_s = 0.0
        self._served_ms = 0
        self._behind = False
        self._failure: str | None = None
        self._unwritten: str | None = None

    # For event loops.

    def add_feed(self, feed: Feed) -> None:
        """Tell `feed` about every commit from now on."""
        self._feeds.append(feed)

    async def do(self, command: Command, *, contents: Iterable[Content] = (), grants: Iterable[Grant] = ()) -> Sealed:
        """Decide a command and answer once it is durable.

        Args:
            command: without looked-up facts; the desk adds them.
            contents: what the command's events name by digest; kept in the same commit, if they are named.
            grants: kept in the same commit.

        Raises:
            Refused: by the rules. StoreAway: try again; most likely nothing was decided.
        """
        return await self._ask(command=command, contents=tuple(contents), grants=tuple(grants))  # type: ignore[no-any-return]

    async def ask(self, question: Callable[[View], T]) -> T:
        """Answer a question about committed state, in order with all decisions."""
        return await self._ask(question=question)  # type: ignore[no-any-return]

    async def keep(self, grants: Iterable[Grant]) -> None:
        """Keep grants, durably."""
        await self._ask(grants=tuple(grants))

    def trouble(self) -> str | None:
        """Say why the desk is not ready, or None if it is."""
        if self._failure is not None:
            return self._failure
        if self._thread is None or not self._thread.is_alive():
            return "The writer is not running."
        if self._unwritten is not None:
            return f"Nothing could be written: {self._unwritten}"
        return self._ledger.keys_missing() or self._clock.trouble

    def broken(self) -> bool:
        """Tell whether the writer has ended without having been told to: it will never answer again."""
        return self._thread is not None and not self._thread.is_alive() and not self._stopping

    def keys_missing(self) -> str | None:
        """Say which keys of the log this server has not got, or None if it has all."""
        return self._ledger.keys_missing()

    def keys(self) -> KeyBook:
        """Return the keys that the log names; a later one is another object."""
        return self._ledger.world.keys

    def waiting(self) -> tuple[int, float]:
        """Return how many requests wait for the writer, and for how long it has taken none, seconds."""
        count = len(self._queue)
        return count, time.monotonic() - self._taken_s if count else 0.0

    def now_ms(self) -> int:
        """Return the time to go by, milliseconds since 1970."""
        return self._clock.now_ms()

    def worker_key(self, worker: str) -> tuple[str, str] | None:
        """Return (kid, x) of an enrolled worker. Keys of workers never change, so no order is needed."""
        record = self._ledger.world.workers.get(worker)
        return (record.kid, record.x) if record is not None and record.kid else None

    def hint(self, look: Callable[[World], T]) -> T:
        """Look at the world as it is just now, without waiting: what is not durable yet may be seen, or only half.

        For hints, never for answers. `look` must only fetch single entries.
        """
        return look(self._ledger.world)

    def worker_kids(self) -> list[str]:
        """Return the thumbprints of all enrolled workers' keys."""
        return list(self._ledger.world.worker_by_kid)

    def worker_by_kid(self, kid: str) -> str | None:
        """Return the id of the worker that is enrolled with this key, or None."""
        return self._ledger.world.worker_by_kid.get(kid)

    async def _ask(self, **what: Any) -> Any:  # noqa: ANN401 -- the fields of Request
        loop = asyncio.get_running_loop()
        request = Request(loop.create_future(), **what)
        with self._wake:
            if self._stopping or self._failure is not None:
                raise Refused("unready", self._failure or "The server is shutting down.", mend="Try again later.")
            if len(self._queue) >= MOST_WAITING:
                raise Refused("overloaded", "Too many requests wait.", mend="Come again after Retry-After.")
            if not self._queue:
                self._taken_s = time.monotonic()
            self._queue.append(request)
            first, self._nudging = self._nudging is not loop, loop
        if first:
            # Not at once: whatever else the event loop has ready now joins the same batch.
            loop.call_soon(self._nudge)
        assert request.future is not None  # noqa: S101 -- made above
        return await request.future

    def _nudge(self) -> None:
        """Tell the writer that requests wait."""
        with self._wake:
            self._nudging = None
            self._wake.notify()

    # The server's own.

    def start(self) -> None:
        """Open or refold the log, note an outage, and begin to answer.

        Raises:
            BadConfiguration: keys or origin do not belong to this log.
            CorruptLog, ProofError: the log contradicts itself or its checkpoint.
            StoreAway: no answer.
        """
        self._ledger.refold()
        self._ledger.news()
        self._alone(self._opening)
        self._end_outage()
        self._alone(Lapse())
        self._store.watch(self._hear)
        self._thread = threading.Thread(target=self._run, name="gnexec-writer", daemon=True)
        self._thread.start()

    def stop(self) -> bool:
        """Answer what waits, then end the writer. The store stays open.

        Returns:
            Whether the writer has ended. If not, the store holds it: it is left to end with the process, and what
            waits is not answered. The store must not be closed under it.
        """
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is None:
            return True
        self._thread.join(STOPPED_WITHIN_S)
        if self._thread.is_alive():
            log.error("the store does not answer; the writer is left behind", waited_s=STOPPED_WITHIN_S)
            return False
        with contextlib.suppress(StoreAway):
            self._store.pulse(self._clock.now_ms())
        return True

    def _end_outage(self) -> None:
        """Enter into the log, at the start, for how long no server was alive; nothing where another one is."""
        pulse_ms = self._store.last_pulse() or 0
        if self._store.alone() or self._clock.now_ms() - pulse_ms > OUTAGE_MS:
            self._alone(EndOutage(pulse_ms))

    def _hear(self) -> None:
        """Take note that another process has committed something; called from a thread of the store's."""
        with self._wake:
            self._behind = True
            self._wake.notify()

    # The writer.

    def _run(self) -> None:
        while (requests := self._take()) is not None:
            try:
                now_ms = self._clock.now_ms()
                self._note_outage(now_ms)
                due = self._due(now_ms)
                if due or any(request.changes for request in requests):
                    requests = self._record(requests)
                    self._served_ms = now_ms
                else:
                    self._ledger.follow()
                self._answer(requests)
                self._tell()
                self._beat(now_ms)
                if self._maker is not None:
                    self._maker.noticed(self._ledger.world.size)
            except Exception as err:  # Whatever it was, nobody may be left waiting for ever.
                if isinstance(err, StoreAway):
                    self._unwritten = str(err)
                    log.warning("the store is away", error=str(err))
                else:
                    log.exception("the batch failed")
                self._refuse(requests, err)
                if self._ledger.stale and not self._recover():
                    return

    def _take(self) -> list[Request] | None:
        """Wait for requests, for news, for the next lease to pass, or for the next pulse; None when it is time to stop.

        Whatever is decided next catches up first, so news are followed only where nothing is to be decided.
        """
        with self._wake:
            if not self._queue and not self._stopping and not self._behind:
                self._wake.wait(self._patience_s())
            if not self._queue and not self._behind:
                self._served_ms = 0  # woken by time: a batch is due
            self._behind = False
            if not self._queue and self._stopping:
                return None
            taken = [self._queue.popleft() for _ in range(min(len(self._queue), MOST_AT_ONCE))]
            self._taken_s = time.monotonic()
        meters.QUEUE.set(len(taken))
        if taken:
            meters.BATCH.observe(len(taken))
        return [request for request in taken if not request.given_up]

    def _patience_s(self) -> float:
        until = self._ledger.world.next_lease_ms()
        if until is None or self._clock.trouble is not None:
            return PULSE_MS / 1000
        return min(max(until + 1 - self._clock.now_ms(), 5), PULSE_MS) / 1000

    def _due(self, now_ms: int) -> bool:
        """Whether the writer is to look after leases and clock, though nobody asks anything."""
        until = self._ledger.world.next_lease_ms()
        lapses = until is not None and until < now_ms and self._clock.trouble is None
        return lapses or now_ms - self._served_ms >= PULSE_MS

    def _note_outage(self, now_ms: int) -> None:
        """Enter into the log that no server was alive for a while, before anything lapses because of it."""
        gap_ms = now_ms - self._pulse_ms
        if self._pulse_ms and gap_ms > OUTAGE_MS:
            log.warning("no pulse for a while: the machine slept, or was too busy", seconds=gap_ms / 1000)
            pulse_ms = max(self._store.last_pulse() or 0, self._pulse_ms)
            if now_ms - pulse_ms > OUTAGE_MS:
                self._alone(EndOutage(pulse_ms))
            self._pulse_ms = now_ms

    def _beat(self, now_ms: int) -> None:
        """Tell the store now and then that the server is alive; at once, to see whether it takes anything again."""
        if self._unwritten is not None or now_ms - self._pulse_ms >= PULSE_MS:
            self._store.pulse(now_ms)
            self._pulse_ms = now_ms
            self._unwritten = None

    def _answer(self, requests: list[Request]) -> None:
        """Give the answers: what was decided is durable, and questions see it."""
        view = self._ledger.view()
        for request in requests:
            if request.question is not None:
                try:
                    request.answer = request.question(view)
                except Exception as err:  # noqa: BLE001 -- handed to whoever asked
                    request.error = err
            elif request.command is not None and request.error is None:
                request.answer = Sealed(request.answer, self._ledger.receipts(request.answer))
        reply(requests)

    def _tell(self) -> None:
        """Tell the feeds what was committed, here or elsewhere."""
        events = self._ledger.news()
        ready = len(self._ledger.world.ready)
        for feed in self._feeds if events is None or events else ():
            if events is None:
                feed.missed(ready)
            else:
                feed.publish(events, ready)

    def _record(self, requests: list[Request]) -> list[Request]:
        """Decide and commit; do it again without the culprit if a request breaks the laws.

        Returns:
            The requests that were decided.
        """
        batch = [Request(command=Lapse()), *requests]
        while True:
            try:
                with meters.COMMIT.time():
                    self._ledger.record(batch)
            except Broken as broken:
                log.exception("a request broke the laws")
                broken.request.error = Refused("internal", "The server failed to decide this; nothing was changed.")
                reply([broken.request])
                batch.remove(broken.request)
                self._ledger.refold()
            else:
                return batch

    def _alone(self, command: Command) -> None:
        """Decide one command of the server's own, in a batch without others.

        Raises:
            GnexecError: it was refused.
        """
        request = Request(command=command)
        try:
            self._ledger.record([request])
        except Broken as broken:
            raise CorruptLog(str(broken.__cause__)) from broken.__cause__
        if request.error is not None:
            raise request.error

    # When something went wrong.

    def _refuse(self, requests: list[Request], err: Exception) -> None:
        match err:
            case StoreAway():
                told: Exception = err
            case BadConfiguration() | UnknownEvent():
                told = Refused("unready", str(err), mend="Try again later.")
            case _:
                told = Refused("internal", "The server failed.")
        for request in requests:
            request.error = told
        reply(requests)

    def _recover(self) -> bool:
        """Fold the log anew, as often as it takes; return False if it can never succeed, or it is time to stop."""
        pause_s, told = RETRY_S, set[str]()
        while True:
            try:
                self._ledger.refold()
            except (StoreAway, BadConfiguration) as err:
                self._refuse_all(err)
                if str(err) not in told:
                    told.add(str(err))
                    log.warning("the log cannot be used, and is tried again", error=str(err))
                if self._pause(pause_s, news_end_it=isinstance(err, StoreAway)):
                    return False
                pause_s = min(2 * pause_s, LONGEST_AWAY_S if isinstance(err, StoreAway) else LONGEST_BAD_S)
            except Exception as err:
                log.exception("the log cannot be folded; nothing is answered any more")
                self._refuse_all(err)
                return False
            else:
                self._failure = None
                if told:
                    log.info("the log can be used again")
                return True

    def _pause(self, longest_s: float, *, news_end_it: bool) -> bool:
        """Wait, though no longer than until it is time to stop; return whether it is.

        Args:
            longest_s: how long.
            news_end_it: whether to go on at once when the store tells of something: it may be back.
        """
        with self._wake:
            self._behind = False  # whatever is tried next reads the newest head
            self._wake.wait_for(lambda: self._stopping or (news_end_it and self._behind), longest_s)
            return self._stopping

    def _refuse_all(self, err: Exception) -> None:
        """Take no more requests because of `err`, and send those away that wait."""
        with self._wake:
            self._failure = str(err)
            waiting = list(self._queue)
            self._queue.clear()
        self._refuse(waiting, err)
