"""Who waits for what: tells waiting requests, in their event loop, that something was committed.

Waiting is only a hint to look again; whoever is woken asks the desk anew. So a lost or needless wake-up costs time,
never truth. Everything here runs in the event loop's thread, except `publish`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterable

from gnexec.core.events import AnyEvent
from gnexec.core.refs import job_key, refs


class Feed:
    """Wakes those who wait for a job to change, and those who wait for work."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin with nobody waiting."""
        self._loop = loop
        self._watchers: dict[bytes, set[asyncio.Event]] = {}
        self._idle: deque[asyncio.Event] = deque()
        self.closing = False

    def publish(self, events: Iterable[AnyEvent], ready: int) -> None:
        """Tell what was committed; called from the writer's thread.

        Args:
            events: the new events.
            ready: how many jobs wait for a worker now.
        """
        keys = {key for event in events for key in refs(event)} if self._watchers else set()
        if keys or (ready and self._idle):
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
                self._loop.call_soon_threadsafe(self._wake, keys, ready)

    @contextlib.asynccontextmanager
    async def watching(self, job: int) -> AsyncIterator[asyncio.Event]:
        """Give an event that is set whenever something about the job is committed."""
        event = asyncio.Event()
        key = job_key(job)
        self._watchers.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            watchers = self._watchers[key]
            watchers.discard(event)
            if not watchers:
                del self._watchers[key]

    @contextlib.asynccontextmanager
    async def idling(self) -> AsyncIterator[asyncio.Event]:
        """Give an event that is set when there may be work: the longest waiting is woken first.

        Whoever is woken clears the event, asks the desk, and passes on if there was nothing for it. Were it cleared
        after asking, a wake-up that came in between would be lost.
        """
        event = asyncio.Event()
        self._idle.append(event)
        try:
            yield event
        finally:
            if event.is_set():
                self.pass_on(event)
            self._idle.remove(event)

    def pass_on(self, event: asyncio.Event) -> None:
        """Wake the next in line behind `event`, whose owner was woken and leaves work to others."""
        line = iter(self._idle)
        for waiting in line:
            if waiting is event:
                break
        for waiting in line:
            if not waiting.is_set():
                waiting.set()
                return

    def wake_all(self) -> None:
        """Wake everybody: the server is shutting down, and waiting is over."""
        self.closing = True
        for event in [*self._idle, *(event for events in self._watchers.values() for event in events)]:
            event.set()

    def _wake(self, keys: set[bytes], ready: int) -> None:
        for key in keys:
            for event in self._watchers.get(key, ()):
                event.set()
        for event in self._idle:
            if ready <= 0:
                break
            if not event.is_set():
                event.set()
                ready -= 1
