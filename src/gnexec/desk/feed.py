"""Who waits for what: tells waiting requests, in their event loop, that something was committed.

Waiting is only a hint to look again; whoever is woken asks the desk anew. So a lost or needless wake-up costs time,
never truth. Everything here runs in the event loop's thread, except `publish` and `missed`.

Of ten thousand who wait for work, as many are woken as there is new work for, the longest waiting first. Whoever finds
nothing passes the call on, once through the line, and leaves out those who would find nothing either.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from gnexec.core.events import (
    AnyEvent,
    AttemptsLapsed,
    Equivocated,
    HandedOut,
    JobsDecided,
    KeyAdded,
    LeaseExtended,
    LogOpened,
    OutageEnded,
    OwnerWithdrew,
    RefusalNoted,
    ResultsReported,
    Submitted,
)
from gnexec.core.steps import jobs_of

_QUIET = (
    LogOpened,
    KeyAdded,
    HandedOut,
    LeaseExtended,
    JobsDecided,
    OwnerWithdrew,
    OutageEnded,
    RefusalNoted,
    Equivocated,
)
"""Events after which nobody can be given anything that could not be given before."""


class Signal:
    """What one waits for; as `asyncio.Event`, for a single waiter, who can also be stirred without the event."""

    __slots__ = ("_future", "_set")

    def __init__(self) -> None:
        """Begin with nothing to tell."""
        self._set = False
        self._future: asyncio.Future[None] | None = None

    def is_set(self) -> bool:
        """Tell whether it has happened."""
        return self._set

    def set(self) -> None:
        """It has happened."""
        self._set = True
        self.stir()

    def clear(self) -> None:
        """Wait for the next time."""
        self._set = False

    def stir(self) -> None:
        """End the wait, though nothing may have happened."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        """Wait until it happens, or until stirred."""
        if not self._set:
            self._future = asyncio.get_running_loop().create_future()
            try:
                await self._future
            finally:
                self._future = None


class Call(Signal):
    """The wait of one who wants work.

    Attributes:
        kind: equal for those of whom one cannot be given anything that the others could not.
        n: attempts wanted.
    """

    __slots__ = ("kind", "n", "round")

    def __init__(self, kind: Hashable, n: int) -> None:
        """Begin to wait."""
        super().__init__()
        self.kind = kind
        self.n = n
        self.round: _Round | None = None


@dataclass(slots=True)
class _Round:
    """One way of the news of some work through the line of those who waited when it came."""

    line: Iterator[Call]
    waiting: dict[Call, None]
    hopeless: set[Hashable] = field(default_factory=set)

    def wake_next(self) -> int:
        """Wake the next for whom there is hope; return how many attempts it wants, 0 at the end of the line."""
        for call in self.line:
            if call in self.waiting and not call.is_set() and call.kind not in self.hopeless:
                call.round = self
                call.set()
                return call.n
        return 0


class Feed:
    """Wakes those who wait for a job to change, and those who wait for work.

    Attributes:
        ready: how many jobs wait for a worker, as far as this loop was told; None until it was.
        closing: whether waiting is over.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin with nobody waiting."""
        self._loop = loop
        self._watchers: dict[int, set[Signal]] = {}
        self._idle: dict[Call, None] = {}
        self._told: int | None = None
        self._turns: dict[int, int] = {}
        self._last_turn = 0
        self.ready: int | None = None
        self.closing = False

    def publish(self, events: Iterable[AnyEvent], ready: int) -> None:
        """Tell what was committed; called from the writer's thread.

        Args:
            events: the new events.
            ready: how many jobs wait for a worker now.
        """
        jobs: set[int] = set()
        fresh = 0
        for event in events:
            if self._watchers:
                jobs.update(jobs_of(event))
            fresh += _new_work(event)
        fresh = fresh if ready else 0
        if jobs or fresh or ready != self._told:
            self._told = ready
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
                self._loop.call_soon_threadsafe(self._wake, jobs, fresh, ready)

    def missed(self, ready: int) -> None:
        """Tell that much was committed, and not what: everybody is to look again. Called from the writer's thread.

        Args:
            ready: how many jobs wait for a worker now.
        """
        self._told = ready
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            self._loop.call_soon_threadsafe(self._wake_all, ready)

    @contextlib.asynccontextmanager
    async def watching(self, job: int) -> AsyncIterator[Signal]:
        """Give a signal that is set whenever something about the job is committed."""
        signal = Signal()
        self._watchers.setdefault(job, set()).add(signal)
        self._turns.setdefault(job, self._next_turn())
        try:
            yield signal
        finally:
            watchers = self._watchers[job]
            watchers.discard(signal)
            if not watchers:
                del self._watchers[job]
                del self._turns[job]

    def turn(self, job: int) -> int:
        """Return a number that changes whenever those who watch a job are told something."""
        return self._turns[job]

    @contextlib.asynccontextmanager
    async def idling(self, kind: Hashable = None, n: int = 1) -> AsyncIterator[Call]:
        """Give a signal that is set when there may be work: the longest waiting is woken first.

        Whoever is woken clears the signal, asks the desk, and passes on if there was nothing for it, or less than it
        wanted. Were it cleared after asking, a wake-up that came in between would be lost.

        Args:
            kind: see `Call`; None for one of its own.
            n: attempts wanted.
        """
        call = Call(object() if kind is None else kind, n)
        self._idle[call] = None
        try:
            yield call
        finally:
            if call.is_set():
                self.pass_on(call)
            del self._idle[call]

    def pass_on(self, call: Call, hopeless: Hashable = None) -> None:
        """Wake the next in line behind `call`, whose owner was woken and leaves work to others.

        Args:
            call: who was woken.
            hopeless: the kind of those for whom there is nothing, so that they are not woken for this; or None.
        """
        if call.round is None:
            call.round = self._round(call)
        if hopeless is not None:
            call.round.hopeless.add(hopeless)
        call.round.wake_next()

    def wake_all(self) -> None:
        """Wake everybody: the server is shutting down, and waiting is over."""
        self.closing = True
        for signal in [*self._idle, *(signal for signals in self._watchers.values() for signal in signals)]:
            signal.set()

    def _round(self, behind: Call | None = None) -> _Round:
        """Begin a round, at the front of the line or behind somebody who stands in it."""
        line = iter(tuple(self._idle))
        if behind is not None and behind in self._idle:
            for call in line:
                if call is behind:
                    break
        return _Round(line, self._idle)

    def _next_turn(self) -> int:
        self._last_turn += 1
        return self._last_turn

    def _wake_all(self, ready: int) -> None:
        self._wake(set(self._watchers), sys.maxsize if ready else 0, ready)

    def _wake(self, jobs: set[int], fresh: int, ready: int) -> None:
        self.ready = ready
        for job in jobs & self._watchers.keys():
            self._turns[job] = self._next_turn()
            for signal in self._watchers[job]:
                signal.set()
        if fresh and self._idle:
            news = self._round()
            while fresh > 0 and (taken := news.wake_next()):
                fresh -= taken


def _new_work(event: AnyEvent) -> int:
    """Return how many attempts an event may have made possible: an upper bound."""
    match event:
        case Submitted():
            return sum(event.terms[row.terms].redundancy.replicas for row in event.jobs) + len(event.joined)
        case ResultsReported():
            return len(event.results)
        case AttemptsLapsed():
            return len(event.ends)
        case _:
            return 0 if isinstance(event, _QUIET) else 1
