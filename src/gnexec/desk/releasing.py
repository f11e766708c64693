"""Pages of the log for everyone, each payload shown only once it is released (`gnexec.core.release`).

Whoever asks is unknown, and a page may tell of thousands of jobs. So the writer is asked for little: how long the log
is, and, in slices, whether jobs that are closed in the store are open after all. The jobs themselves are folded from
committed entries, beside the writer, in at most `AT_ONCE` threads.

Rules:
- A job that is unknown or open, in the store or in the world, keeps all entries about it back.
- What was shown once stays shown: nobody can take it back, so it is not looked up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from gnexec.core.job import Job, fold
from gnexec.core.refs import job_key
from gnexec.core.release import released
from gnexec.core.steps import jobs_of
from gnexec.core.world import World
from gnexec.desk.dispatcher import Dispatcher, View
from gnexec.desk.facts import Facts
from gnexec.desk.recent import Recent
from gnexec.errors import Refused
from gnexec.store.contract import Entry, Store
from gnexec.wire import decode_event

AT_ONCE: Final = 2
"""Pages that are being made at a time; others wait."""
MOST_WAITING: Final = 64
"""Pages that wait, at most; whoever comes then is told to come again."""
SLICE: Final = 4096
"""Jobs that the writer is asked about at a time."""
REMEMBERED: Final = 65_536
"""Entries of which it is remembered that they were shown."""
_TOGETHER: Final = 16  # entries that share what was read for them: a submission is read once for all jobs of a hand-out


class Releases:
    """Makes pages, for one event loop."""

    def __init__(self, store: Store, desk: Dispatcher) -> None:
        """Begin with nothing shown."""
        self._store = store
        self._desk = desk
        self._free = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._shown: Recent[int, bool] = Recent(REMEMBERED)

    async def page(self, start: int, count: int, *, everything: bool) -> list[tuple[Entry, bool]]:
        """Return entries from `start` on, each with whether its payload may be shown.

        Args:
            start: first entry, 0...
            count: at most so many.
            everything: show all of them, released or not.

        Raises:
            Refused: overloaded; too many pages are asked for at once.
            StoreAway: try again.
        """
        if self._waiting >= MOST_WAITING:
            raise Refused("overloaded", "Too many ask for payloads.", mend="Come again after Retry-After.")
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self._page(start, count, everything=everything)
        finally:
            self._free.release()

    async def _page(self, start: int, count: int, *, everything: bool) -> list[tuple[Entry, bool]]:
        stop = min(start + count, await self._desk.ask(lambda view: view.world.size))
        if stop <= start:
            return []
        entries = await asyncio.to_thread(self._store.entries, start, stop)
        if everything:
            return [(entry, True) for entry in entries]
        found = await asyncio.to_thread(self._released, start, entries)
        still_open = await self._open(sorted(set().union(*found.values())))
        page = []
        for seq, entry in enumerate(entries, start):
            shown = seq in found and still_open.isdisjoint(found[seq])
            if shown:
                self._shown.put(seq, True)  # noqa: FBT003 -- a value
            page.append((entry, shown))
        return page

    def _released(self, start: int, entries: Sequence[Entry]) -> dict[int, set[int]]:
        """Return, by seq, which entries' payloads are released as far as the store tells, and what jobs to ask about.

        There are none to ask about where the payload was shown before.
        """
        jobs: dict[int, Job | None] = {}
        facts = Facts(self._store, World())
        found: dict[int, set[int]] = {}

        def job(number: int) -> Job | None:
            if number not in jobs:
                jobs[number] = fold(number, facts.story(job_key(number)))
            return jobs[number]

        for i, entry in enumerate(entries):
            if i % _TOGETHER == 0:
                facts = Facts(self._store, World())
            if self._shown.get(start + i):
                found[start + i] = set()
                continue
            event = decode_event(entry.payload)
            if released(event, job):
                found[start + i] = jobs_of(event)
        return found

    async def _open(self, jobs: Sequence[int]) -> set[int]:
        """Return those of the jobs that are open in the world."""
        found: set[int] = set()
        for first in range(0, len(jobs), SLICE):
            some = jobs[first : first + SLICE]

            def look(view: View, some: Sequence[int] = some) -> set[int]:
                return {number for number in some if number in view.world.jobs}

            found |= await self._desk.ask(look)
        return found
