"""The dispatcher: one order for all decisions.

Requests wait in one queue; one thread takes whatever waits, and for all of it together: takes the append lock, catches up
with the log, decides in order of arrival, appends the events and the checkpoint that commits to them, commits, and then
replies. There is no timer: a batch is what came in while the last one was being written.

Rules:
- Nothing is answered before it is durable.
- A commit that failed, or whose fate is unknown, throws the world away and folds the log anew; what turns out to be in the
  log is answered as decided, the rest is told to come again. Start-up is the same path.
- One bad request never takes others with it: a command that breaks the laws is answered as a failure of the server, and the
  rest of its batch is decided anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import structlog

from gnexec.core.commands import (
    Answer,
    Command,
    EndOutage,
    Lapse,
    NextJobs,
    OpenLog,
    Verdicts,
)
from gnexec.core.decide import decide
from gnexec.core.events import AnyEvent, Submitted, WorkerEnrolled
from gnexec.core.job import Job
from gnexec.core.world import World
from gnexec.desk.clock import Clock
from gnexec.desk.facts import Facts, read
from gnexec.desk.feed import Feed
from gnexec.desk.sealer import Opened, Sealer
from gnexec.errors import BadConfiguration, Conflict, CorruptLog, GnexecError, Refused, StoreAway
from gnexec.store.contract import Append, Batch, Content, Entry, Grant, Store
from gnexec.tlog.tiles import Tree

T = TypeVar("T")
log = structlog.get_logger("gnexec.desk")

MOST_AT_ONCE: Final = 1024
"""Requests in one batch, at most."""
PULSE_MS: Final = 2_000
"""How often the store is told that a server is alive."""
OUTAGE_MS: Final = 3 * PULSE_MS
"""A gap between pulses that is longer than this was an outage."""
FOLD_CHUNK: Final = 2_000


@dataclass(frozen=True, slots=True)
class Sealed:
    """A durable answer.

    Attributes:
        opened: entries that hold the caller's results, with their receipts, by seq.
    """

    answer: Answer
    opened: dict[int, Opened] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Request:
    """Something asked of the desk: a command, a question, or content to keep."""

    future: asyncio.Future[Any] | None = None
    command: Command | None = None
    question: Callable[[View], Any] | None = None
    contents: tuple[Content, ...] = ()
    grants: tuple[Grant, ...] = ()
    answer: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class View:
    """What a question may look at: committed state, in order with all decisions. Read only."""

    world: World
    store: Store
    sealer: Sealer
    clock: Clock

    def job(self, job_id: int) -> Job | None:
        """Return a job, open or closed, or None if there never was one."""
        return Facts(self.store, self.world).job(job_id)

    def open(self, seq: int) -> Opened:
        """Open an entry, with its receipt under the newest checkpoint.

        Raises:
            Refused: not_found.
        """
        entries = self.store.entries(seq, seq + 1)
        if not entries:
            raise Refused("not_found", f"The log has no entry {seq}.")
        return self.sealer.open(seq, entries[0], self.store)


class Dispatcher:
    """Takes commands and questions from event loops, and answers them in one order."""

    def __init__(self, store: Store, sealer: Sealer, opening: OpenLog, clock: Clock | None = None) -> None:
        """Prepare; `start` opens or refolds the log.

        Args:
            store: open store.
            sealer: with the log's key.
            opening: keys and policy of this server; the first command.
            clock: for tests.
        """
        self._store = store
        self._sealer = sealer
        self._opening = opening
        self._clock = clock or Clock()
        self._world = World()
        self._queue: deque[_Request] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._feeds: list[Feed] = []
        self._pulse_ms = 0
        self._failure: GnexecError | None = None
        self._fresh: dict[int, Entry] = {}

    # For event loops.

    def add_feed(self, feed: Feed) -> None:
        """Tell `feed` about every commit from now on."""
        self._feeds.append(feed)

    async def do(
        self, command: Command, *, contents: Iterable[Content] = (), grants: Iterable[Grant] = ()
    ) -> Sealed:
        """Decide a command and answer once it is durable.

        Args:
            command: without looked-up facts; the desk adds them.
            contents: what the command's events name by digest; kept in the same commit, if they are named.
            grants: kept in the same commit.

        Raises:
            Refused: by the rules. StoreAway: try again; nothing was decided.
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
            return str(self._failure)
        if self._thread is None or not self._thread.is_alive():
            return "The writer is not running."
        return self._clock.trouble

    def worker_key(self, worker: str) -> tuple[str, str] | None:
        """Return (kid, x) of an enrolled worker. Keys of workers never change, so no order is needed."""
        record = self._world.workers.get(worker)
        return (record.kid, record.x) if record is not None and record.kid else None

    async def _ask(self, **what: Any) -> Any:  # noqa: ANN401 -- the fields of _Request
        future = asyncio.get_running_loop().create_future()
        request = _Request(future, **what)
        with self._wake:
            if self._stopping or self._failure is not None:
                raise Refused("unready", str(self._failure or "The server is shutting down."), mend="Try again later.")
            self._queue.append(request)
            self._wake.notify()
        return await future

    # The writer.

    def start(self) -> None:
        """Open or refold the log, note an outage, and begin to answer.

        Raises:
            BadConfiguration: keys or origin do not belong to this log.
            CorruptLog: the log contradicts itself.
            StoreAway: no answer.
        """
        self._refold()
        since = max(self._store.last_pulse() or 0, self._world.at_ms)
        for command in (self._opening, EndOutage(since), Lapse()):
            self._alone(command)
        self._thread = threading.Thread(target=self._run, name="gnexec-writer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Answer what waits, then end the writer. The store stays open."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
        self._store.pulse(self._world.at_ms)

    def _run(self) -> None:
        while True:
            requests = self._take()
            if requests is None:
                return
            try:
                self._serve(requests)
                self._beat()
            except GnexecError as err:
                self._fail(requests, err)
                if not self._recover():
                    return

    def _take(self) -> list[_Request] | None:
        """Wait for requests, for the next lease to pass, or for the next pulse; None when it is time to stop."""
        with self._wake:
            if not self._queue and not self._stopping:
                self._wake.wait(self._patience_s())
            if not self._queue and self._stopping:
                return None
            return [self._queue.popleft() for _ in range(min(len(self._queue), MOST_AT_ONCE))]

    def _patience_s(self) -> float:
        until = self._world.next_lease_ms()
        left_ms = PULSE_MS if until is None else until + 1 - _wall_ms()
        return min(max(left_ms, 5), PULSE_MS) / 1000

    def _serve(self, requests: list[_Request]) -> None:
        """Decide, commit and answer; redo without the culprit if one request breaks the laws."""
        while True:
            try:
                events = self._batch(requests)
                break
            except _Broken as broken:
                log.error("a request broke the laws", exc_info=broken.__cause__)
                broken.request.error = Refused("internal", "The server failed to decide this; nothing was changed.")
                self._reply([broken.request])
                requests = [r for r in requests if r is not broken.request]
                self._refold()
        self._ask_questions(requests)
        self._reply(requests)
        if events:
            ready = len(self._world.ready)
            for feed in self._feeds:
                feed.publish(events, ready)

    def _batch(self, requests: list[_Request]) -> list[AnyEvent]:
        """Decide and append in one transaction; afterwards the world is at the new head."""
        world = self._world
        told: list[tuple[int, AnyEvent]] = []
        append: Append | None = None
        try:
            with self._store.batch() as batch:
                self._catch_up(batch)
                wall_ms = batch.clock_ms()
                trusted = self._clock.watch(wall_ms)
                at_ms = max(wall_ms, world.at_ms)
                facts = Facts(batch, world)
                lapsing = [_Request(command=Lapse())] if trusted and world.due(at_ms) else []
                for request in [*lapsing, *requests]:
                    if request.command is not None:
                        self._decide(request, at_ms, facts, told)
                kept = _named([event for _, event in told], requests)
                grants = [grant for request in requests for grant in request.grants if request.error is None]
                if told:
                    append, tree = self._sealer.seal(told)
                    batch.append(append)
                if kept or grants:
                    batch.keep(kept, grants)
        except (StoreAway, Conflict) as err:
            log.warning("the commit failed or its fate is unknown", error=str(err))
            self._refold()
            if append is None or self._store.head().note != append.note:
                raise StoreAway(str(err)) from err
            return [event for _, event in told]
        if append is not None:
            self._sealer.advance(tree, append.note)
            self._fresh = dict(enumerate(append.entries, world.size - len(told)))
        return [event for _, event in told]

    def _decide(
        self, request: _Request, at_ms: int, facts: Facts, told: list[tuple[int, AnyEvent]]
    ) -> None:
        command = request.command
        assert command is not None  # noqa: S101 -- the caller picked requests with a command
        request.answer = request.error = None
        try:
            if isinstance(command, NextJobs) and self._clock.trouble is not None:
                raise Refused("unready", self._clock.trouble, mend="Try again later.")
            events, request.answer = decide(self._world, facts.with_facts(command), at_ms)
            for event in events:
                facts.note((self._world.size, at_ms, event))
                self._world.apply(event, at_ms)
                told.append((at_ms, event))
        except (Refused, BadConfiguration) as err:
            request.error = err
        except (StoreAway, Conflict):
            raise
        except Exception as err:
            raise _Broken(request) from err

    def _ask_questions(self, requests: list[_Request]) -> None:
        view = View(self._world, self._store, self._sealer, self._clock)
        for request in requests:
            if request.question is not None:
                try:
                    request.answer = request.question(view)
                except Exception as err:  # noqa: BLE001 -- handed to whoever asked
                    request.error = err

    def _reply(self, requests: list[_Request]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[_Request]] = {}
        for request in requests:
            if request.command is not None and request.error is None:
                request.answer = Sealed(request.answer, self._receipts(request.answer))
            if request.future is not None:
                by_loop.setdefault(request.future.get_loop(), []).append(request)
        for loop, some in by_loop.items():
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
                loop.call_soon_threadsafe(_resolve, some)

    def _receipts(self, answer: Answer) -> dict[int, Opened]:
        """Open the entries that hold the results a worker reported."""
        if not isinstance(answer, Verdicts):
            return {}
        opened = {}
        for seq in {judged.seq for judged in answer.judged if judged.seq >= 0}:
            entry = self._fresh.get(seq) or self._store.entries(seq, seq + 1)[0]
            opened[seq] = self._sealer.open(seq, entry, self._store)
        return opened

    def _fail(self, requests: list[_Request], err: GnexecError) -> None:
        log.error("the batch failed", error=str(err))
        for request in requests:
            request.error = err if isinstance(err, StoreAway) else Refused("internal", "The server failed.")
        self._reply(requests)

    def _recover(self) -> bool:
        """Fold the log anew; return False if that can never succeed."""
        while True:
            try:
                self._refold()
            except StoreAway as err:
                self._failure = err
                with self._wake:
                    if self._stopping:
                        return False
                    self._wake.wait(0.2)
            except GnexecError as err:
                log.critical("the log cannot be folded; nothing is answered any more", error=str(err))
                self._failure = err
                self._drain(err)
                return False
            else:
                self._failure = None
                return True

    def _drain(self, err: GnexecError) -> None:
        with self._wake:
            waiting = list(self._queue)
            self._queue.clear()
        self._fail(waiting, err)

    def _alone(self, command: Command) -> None:
        """Decide one command of the server's own, before anyone else is served.

        Raises:
            GnexecError: it was refused.
        """
        request = _Request(command=command)
        try:
            self._batch([request])
        except _Broken as broken:
            raise CorruptLog(str(broken.__cause__)) from broken.__cause__
        if request.error is not None:
            raise request.error

    def _refold(self) -> None:
        """Throw the world away and fold the log from its first entry."""
        self._world = World()
        self._sealer.tree = Tree()
        self._fresh = {}
        self._catch_up(self._store)
        self._sealer.check(self._store.head(), self._opening.vkey)

    def _catch_up(self, reader: Store | Batch) -> None:
        """Apply what was appended since; nothing where this is the only process."""
        world = self._world
        size = reader.head().size
        while world.size < size:
            for entry in reader.entries(world.size, min(size, world.size + FOLD_CHUNK)):
                _, at_ms, event = read(world.size, entry)
                self._sealer.follow(entry)
                try:
                    world.apply(event, at_ms)
                except GnexecError as err:
                    raise CorruptLog(str(err), seq=world.size) from err

    def _beat(self) -> None:
        now = _wall_ms()
        if self._pulse_ms and now - self._pulse_ms > OUTAGE_MS and self._clock.trouble is None:
            log.warning("no pulse for a while: the machine slept, or was too busy", seconds=(now - self._pulse_ms) / 1000)
            self._alone(EndOutage(self._pulse_ms))
        if now - self._pulse_ms >= PULSE_MS:
            self._store.pulse(now)
            self._pulse_ms = now


class _Broken(Exception):
    """A command made the laws raise something other than a refusal."""

    def __init__(self, request: _Request) -> None:
        super().__init__()
        self.request = request


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _named(events: list[AnyEvent], requests: list[_Request]) -> list[Content]:
    """Return the contents that the events name."""
    names: set[str] = set()
    for event in events:
        if isinstance(event, Submitted):
            names.update(row.spec for row in event.jobs)
        elif isinstance(event, WorkerEnrolled):
            names.add(event.caps)
    return [c for request in requests for c in request.contents if c.digest.hex() in names]


def _resolve(requests: list[_Request]) -> None:
    for request in requests:
        if request.future is None or request.future.done():
            continue  # The client went away.
        if request.error is not None:
            request.future.set_exception(request.error)
        else:
            request.future.set_result(request.answer)
