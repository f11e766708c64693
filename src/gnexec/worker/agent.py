"""The worker: asks for work while it has free slots, runs it, reports it, and leaves cleanly.

One request for work is under way at a time; attempts run side by side, each in `gnexec.worker.job`; results are sent by
`gnexec.worker.report` while the next attempts already run. What was found in the spool at the start goes first: results
are sent, interrupted attempts are given back.

Rules:
- A request is in the spool before it is sent, a hand-out before it runs, a result before it is sent.
- A slot is free again when the answer is in the spool; whoever cannot report cannot get work either: this is bounded.
- An attempt that could not be run is given back, and the next request waits, longer each time: no busy loop.
- First signal: no more work is asked for; what runs may end, for a time, and is then given back. Second signal: what
  runs is given back now. Results that could not be sent stay in the spool for the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Coroutine
from enum import IntEnum
from typing import Any, Final, TypeVar

import structlog

from gnexec.errors import GnexecError
from gnexec.shapes import MAX_BATCH
from gnexec.worker.contact import Contact, Plan
from gnexec.worker.inputs import Inputs
from gnexec.worker.job import Bench, give_back, perform
from gnexec.worker.link import Away, Link, NoWork, Patience
from gnexec.worker.report import deliver
from gnexec.worker.slots import Slots
from gnexec.worker.spool import Entry
from gnexec.worker.statedir import StateDir

T = TypeVar("T")
log = structlog.get_logger("gnexec.worker")

AWAY_S: Final = 60.0
"""How long a worker that is to work once tries to reach its server, seconds."""
_FLUSH_S: Final = 10.0
_PAUSE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 300.0


class Exit(IntEnum):
    """How the worker ended, as an exit status."""

    OK = 0
    TRY_LATER = 75


class Agent:
    """One worker process."""

    def __init__(self, plan: Plan, state: StateDir) -> None:
        """Prepare; nothing is sent.

        Args:
            plan: what the volunteer wants.
            state: the locked state directory.
        """
        self._plan = plan
        self._state = state
        self._slots = Slots(plan.slots, plan.offer)
        self._draining = asyncio.Event()
        self._leave = asyncio.Event()
        self._changed = asyncio.Event()
        self._halted = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._reporting: set[asyncio.Task[None]] = set()
        self._troubles = Patience(_PAUSE_S, _LONGEST_PAUSE_S)
        self._not_before = 0.0
        self._busy_at = time.monotonic()

    def interrupt(self) -> None:
        """Take a signal: the first time stop asking for work, the second time stop the jobs."""
        if self._draining.is_set():
            log.warning("stopping the jobs now; they are given back", running=len(self._running))
            self._leave.set()
        else:
            log.info("no more work is asked for", running=len(self._running), drain_s=self._plan.drain_s)
            self._draining.set()
        self._halted.set()
        self._changed.set()

    async def run(self) -> Exit:
        """Work until told to end, or until there is nothing to do where the plan says so.

        Raises:
            BadConfiguration: the state cannot be used, or there is no way to enrol.
            Refused: the server does not admit this worker.
            OSError: the state's disk does not answer.
        """
        async with Link(self._plan.url) as link:
            contact = Contact(self._plan, self._state, link)
            if not await self._greet(contact):
                return Exit.OK if self._draining.is_set() else Exit.TRY_LATER
            bench = Bench(
                link=link,
                inputs=Inputs(self._state.cache, link),
                slots=self._slots,
                sandbox=self._plan.sandbox,
                state=self._state,
                signer=contact.signer,
                grace_s=self._plan.grace_s,
                cut_off_s=self._plan.cut_off_s,
            )
            self._recover(contact, bench)
            try:
                ended = await self._work(contact, bench)
            except GnexecError:
                self._draining.set()
                await self._settle()
                raise
            await self._settle()
            if self._reporting:
                log.warning("results are kept for the next start", results=len(self._reporting))
                return Exit.TRY_LATER
            return ended

    async def _greet(self, contact: Contact) -> bool:
        """Reach the server, however long it takes; False where there is no time to wait."""
        patience, began = Patience(), time.monotonic()
        while not self._draining.is_set():
            try:
                await contact.greet()
            except Away as err:
                if self._plan.once and time.monotonic() - began > AWAY_S:
                    log.warning("giving up", url=self._plan.url, why=str(err))
                    return False
                wait_s = patience.wait_s(err.after_s)
                log.warning("waiting for the server", url=self._plan.url, why=str(err), again_s=round(wait_s, 1))
                await self._unless_halted(asyncio.sleep(wait_s))
            else:
                return True
        return False

    def _recover(self, contact: Contact, bench: Bench) -> None:
        """Take up what an earlier process has left: send results, give interrupted attempts back."""
        for entry in contact.spool.entries():
            if entry.finished is None:
                log.info("giving an interrupted attempt back", job=entry.attempt.work.id)
                give_back(entry, bench, "the worker was interrupted")
            else:
                log.info("sending a result from before", job=entry.attempt.work.id)
            self._report(entry, bench.link)

    async def _work(self, contact: Contact, bench: Bench) -> Exit:
        """Ask for work as long as there are free slots; return when there is a reason to end."""
        patience = Patience()
        while not self._draining.is_set():
            self._halted.clear()
            self._changed.clear()
            if pause_s := self._hindered_s():
                await self._pause(pause_s)
                continue
            idle = not self._running and not self._reporting
            try:
                found = await self._unless_halted(contact.ask(min(self._slots.free, MAX_BATCH), self._longest_poll_s()))
            except (Away, OSError) as err:
                if self._plan.once and time.monotonic() - contact.link.heard_s > AWAY_S:
                    return Exit.TRY_LATER
                wait_s = patience.wait_s(err.after_s if isinstance(err, Away) else None)
                log.warning("could not ask for work", why=str(err), again_s=round(wait_s, 1))
                await self._unless_halted(asyncio.sleep(wait_s))
                continue
            patience.reset()
            bench.signer = contact.signer
            if isinstance(found, NoWork):
                if await self._is_done(found, idle=idle):
                    break
            elif found is not None:
                for entry in found:
                    self._slots.busy += 1
                    self._spawn(self._running, self._perform(entry, bench))
        return Exit.OK

    def _hindered_s(self) -> float:
        """Return how long nothing may be asked for: 0 where there is no hindrance, infinity until a slot is free."""
        if not self._slots.free:
            return math.inf
        return max(0.0, self._not_before - time.monotonic())

    def _longest_poll_s(self) -> float:
        if self._plan.once:
            return 0.0
        return min(self._plan.wait_s, math.inf if self._plan.idle_exit_s is None else self._plan.idle_exit_s)

    async def _is_done(self, found: NoWork, *, idle: bool) -> bool:
        """After an empty reply: tell whether to end, else wait before the next request.

        Args:
            found: the reply.
            idle: nothing ran and nothing was being reported when it was asked for.
        """
        if self._plan.once:
            if not idle:
                await self._pause(AWAY_S if self._running or self._reporting else 0)
            return idle
        pause_s = Patience(1.0).wait_s(found.after_s or None)
        if not idle:
            self._busy_at = time.monotonic()
        elif self._plan.idle_exit_s is not None:
            left_s = self._busy_at + self._plan.idle_exit_s - time.monotonic()
            if left_s <= 0:
                log.info("no work came", idle_s=round(self._plan.idle_exit_s - left_s))
                return True
            pause_s = min(pause_s, left_s)
        await self._pause(pause_s)
        return False

    async def _perform(self, entry: Entry, bench: Bench) -> None:
        fine = False
        try:
            fine = await perform(entry, bench, self._leave)
            self._report(entry, bench.link)
        except Exception:  # one attempt's trouble is not the others'; its lease lapses
            log.exception("an attempt failed here", job=entry.attempt.work.id)
        finally:
            self._slots.busy -= 1
            self._busy_at = time.monotonic()
            if fine:
                self._troubles.reset()
            else:
                # A request that the server holds would bring the same job back at once: it is asked again later.
                wait_s = self._troubles.wait_s()
                log.info("asking for work again later", again_s=round(wait_s, 1))
                self._not_before = time.monotonic() + wait_s
                self._halted.set()

    def _report(self, entry: Entry, link: Link) -> None:
        if entry.finished is not None:
            self._spawn(self._reporting, deliver(entry, entry.finished, link))

    async def _settle(self) -> None:
        """Let jobs end and results be sent, within the time that there is."""
        if self._running:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._plan.drain_s):
                    while self._running and not self._leave.is_set():
                        self._changed.clear()
                        await self._changed.wait()
            self._leave.set()
            while self._running:
                await asyncio.wait(self._running)
        if self._reporting:
            await asyncio.wait(set(self._reporting), timeout=_FLUSH_S)

    async def _pause(self, seconds: float) -> None:
        """Wait until something changes, at most so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds if math.isfinite(seconds) else None):
                await self._changed.wait()

    async def _unless_halted(self, doing: Coroutine[Any, Any, T]) -> T | None:
        """Do something, or leave it unfinished, with None, when it is time for something else."""
        task, halting = asyncio.create_task(doing), asyncio.create_task(self._halted.wait())
        try:
            await asyncio.wait({task, halting}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            halting.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    def _spawn(self, among: set[asyncio.Task[None]], doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(doing)
        among.add(task)

        def ended(_: asyncio.Task[None]) -> None:
            among.discard(task)
            self._changed.set()
            if not task.cancelled() and task.exception() is not None:
                log.error("a result could not be sent", exc_info=task.exception())

        task.add_done_callback(ended)
