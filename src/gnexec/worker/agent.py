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
- A spool belongs to one server: its job tokens are sent to no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, TypeVar

import structlog

from gnexec.core.events import Offer
from gnexec.errors import BadConfiguration, GnexecError, Refused
from gnexec.shapes import MAX_BATCH, ManyJobWork
from gnexec.tokens.issued import JobClaims
from gnexec.tokens.jws import unseal
from gnexec.tokens.strict import read_json
from gnexec.worker.answer import Signer, environment
from gnexec.worker.identity import Description, Identity
from gnexec.worker.inputs import Inputs
from gnexec.worker.job import Bench, give_back, perform
from gnexec.worker.link import Away, Link, NoWork, Patience
from gnexec.worker.report import deliver
from gnexec.worker.sandbox import Kind, Sandbox
from gnexec.worker.slots import Slots
from gnexec.worker.spool import Asking, Attempt, Entry, Spool
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
    REFUSED = 1
    TRY_LATER = 75


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the volunteer wants.

    Attributes:
        url: the server. slots: attempts at a time. offer: what they may use together.
        sandbox: how jobs are kept apart.
        description: what the worker tells of itself when it enrols.
        access_token: with the scope enrol, or None.
        wait_s: how long the server may hold a request for work, seconds.
        drain_s: how long jobs may run on after the first signal, seconds.
        grace_s: seconds between SIGTERM and SIGKILL for a job that is to stop.
        cut_off_s: how long a job goes on after its lease while the server is not heard of, seconds.
        once: do what is there, then end.
        idle_exit_s: end after so many seconds without work; None for never.
    """

    url: str
    slots: int
    offer: Offer
    sandbox: Sandbox
    description: Description = field(default_factory=dict)
    access_token: str | None = field(default=None, repr=False)
    wait_s: int = 30
    drain_s: float = 60.0
    grace_s: float = 10.0
    cut_off_s: float = 300.0
    once: bool = False
    idle_exit_s: float | None = None


class Agent:
    """One worker process."""

    def __init__(self, plan: Plan, state: StateDir, link: Link | None = None) -> None:
        """Prepare; nothing is sent.

        Args:
            plan: what the volunteer wants.
            state: the locked state directory.
            link: another way to the server, for tests.
        """
        self._plan = plan
        self._state = state
        self._link = link or Link(plan.url)
        self._slots = Slots(plan.slots, plan.offer)
        self._identity: Identity | None = None
        self._draining = asyncio.Event()
        self._leave = asyncio.Event()
        self._changed = asyncio.Event()
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
        self._changed.set()

    async def run(self) -> Exit:
        """Work until told to end, or until there is nothing to do where the plan says so.

        Raises:
            BadConfiguration: the state cannot be used, or there is no way to enrol.
            Refused: the server does not admit this worker.
            OSError: the state's disk does not answer.
        """
        async with self._link:
            origin = await self._greet()
            if origin is None:
                return Exit.OK if self._draining.is_set() else Exit.TRY_LATER
            spool = self._open_spool(origin)
            bench = Bench(
                link=self._link,
                inputs=Inputs(self._state.cache, self._link),
                slots=self._slots,
                sandbox=self._plan.sandbox,
                jobs=self._state.jobs,
                signer=self._signer(),
                grace_s=self._plan.grace_s,
                cut_off_s=self._plan.cut_off_s,
            )
            self._recover(spool, bench)
            try:
                ended = await self._ask_on(spool, bench, origin)
            except GnexecError:
                self._draining.set()
                await self._settle()
                raise
            await self._settle()
            if self._reporting:
                log.warning("results are kept for the next start", results=len(self._reporting))
                ended = Exit.TRY_LATER
            for task in self._reporting:
                task.cancel()
            return ended

    async def _greet(self) -> str | None:
        """Find out who the server is, and enrol there; None where it cannot be reached and there is no time to wait."""
        patience, began = Patience(), time.monotonic()
        while not self._draining.is_set():
            try:
                hey = await self._link.hey()
                if not hey.open:
                    self._identity = self._identity or Identity.load(
                        hey.origin, self._state.key, self._state.enrolment, self._plan.access_token
                    )
                    await self._enrol_if_due(self._identity)
            except Away as err:
                if self._plan.once and time.monotonic() - began > AWAY_S:
                    log.warning("giving up", url=self._plan.url, why=str(err))
                    return None
                wait_s = patience.wait_s(err.after_s)
                log.warning("waiting for the server", url=self._plan.url, why=str(err), again_s=round(wait_s, 1))
                await self._unless_draining(asyncio.sleep(wait_s))
            else:
                log.info("connected", server=hey.origin, open=hey.open, slots=self._plan.slots)
                return hey.origin
        return None

    def _open_spool(self, origin: str) -> Spool:
        spool = Spool(self._state.spool)
        strange = {entry.attempt.origin for entry in spool.entries()} - {origin}
        if strange:
            msg = (
                f"{self._state.path} holds results for {strange.pop()}, and {self._plan.url} is {origin}: start the "
                f"worker with the other server's address, or give this one another directory with --state"
            )
            raise BadConfiguration(msg)
        return spool

    async def _enrol_if_due(self, identity: Identity, *, anew: bool = False) -> None:
        if anew or identity.due(self._link.now_s(), self._plan.offer, self._plan.description):
            await identity.enrol(self._link, self._plan.offer, self._plan.description)
            log.info("enrolled", worker=identity.worker)

    def _signer(self) -> Signer | None:
        if self._identity is None:
            return None
        kind = self._plan.sandbox.kind
        where = environment("none" if kind is Kind.PLAIN else kind.value)
        return Signer(self._identity.worker, self._identity.origin, self._identity.key, where)

    def _recover(self, spool: Spool, bench: Bench) -> None:
        """Take up what an earlier process has left: send results, give interrupted attempts back."""
        for entry in spool.entries():
            if entry.finished is None:
                log.info("giving an interrupted attempt back", job=entry.attempt.work.id)
                give_back(entry, bench, "the worker was interrupted")
            else:
                log.info("sending a result from before", job=entry.attempt.work.id)
            self._report(entry)

    async def _ask_on(self, spool: Spool, bench: Bench, origin: str) -> Exit:
        """Ask for work as long as there are free slots; return when there is a reason to end."""
        refused, patience = False, Patience()
        while not self._draining.is_set():
            self._changed.clear()
            pause_s = self._not_before - time.monotonic()
            if not self._slots.free or pause_s > 0:
                await self._pause(pause_s if pause_s > 0 else None)
                continue
            try:
                reply = await self._unless_draining(self._ask(spool, origin))
                refused = False
            except Away as err:
                if self._plan.once and time.monotonic() - self._link.heard_s > AWAY_S:
                    return Exit.TRY_LATER
                wait_s = patience.wait_s(err.after_s)
                log.warning("no answer", why=str(err), again_s=round(wait_s, 1))
                await self._unless_draining(asyncio.sleep(wait_s))
                continue
            except OSError as err:
                wait_s = self._troubles.wait_s()
                log.warning("the state's disk fails", why=str(err), again_s=round(wait_s, 1))
                await self._unless_draining(asyncio.sleep(wait_s))
                continue
            except Refused as err:
                if err.status != 401 or self._identity is None or refused:
                    raise
                log.warning("the enrolment is not accepted: enrolling again", code=err.code)
                refused = True
                await self._unless_draining(self._enrol_anew(bench))
                continue
            patience.reset()
            if isinstance(reply, list):
                for entry in reply:
                    self._start(entry, bench)
            elif isinstance(reply, NoWork) and await self._is_done(reply):
                break
        return Exit.OK

    async def _ask(self, spool: Spool, origin: str) -> list[Entry] | NoWork:
        """Ask once, by the request that has no reply yet if there is one; keep what it brings."""
        if self._identity is not None:
            await self._enrol_if_due(self._identity)
        asking = spool.asking()
        if asking is None:
            asking = Asking(req=secrets.token_urlsafe(16), n=min(self._slots.free, MAX_BATCH))
            spool.ask(asking)
        token = self._identity.token if self._identity is not None else None
        wait_s = 0 if self._plan.once else self._plan.wait_s
        if self._plan.idle_exit_s is not None:
            wait_s = min(wait_s, math.ceil(self._plan.idle_exit_s))
        began = time.monotonic()
        reply = await self._link.next_jobs(token, n=asking.n, wait_s=wait_s, req=asking.req)
        if isinstance(reply, NoWork):
            spool.answered()
            # The time that the server has let us wait counts towards the time that it wants between two requests.
            return NoWork(reply.after_s - (time.monotonic() - began))
        return spool.answered(_attempts(reply, origin))

    async def _enrol_anew(self, bench: Bench) -> None:
        if self._identity is not None:
            await self._enrol_if_due(self._identity, anew=True)
            bench.signer = self._signer()

    async def _is_done(self, reply: NoWork) -> bool:
        """After an empty reply: tell whether to end, else wait before the next request."""
        if self._plan.once:
            if not self._running and not self._reporting:
                return True
            await self._pause(AWAY_S)
            return False
        pause_s = Patience(1.0).wait_s(reply.after_s if reply.after_s > 0 else None)
        if self._running:
            self._busy_at = time.monotonic()
        elif self._plan.idle_exit_s is not None:
            left_s = self._busy_at + self._plan.idle_exit_s - time.monotonic()
            if left_s <= 0:
                log.info("no work came", idle_s=round(self._plan.idle_exit_s - left_s))
                return True
            pause_s = min(pause_s, left_s)
        await self._pause(pause_s)
        return False

    def _start(self, entry: Entry, bench: Bench) -> None:
        self._slots.busy += 1
        self._spawn(self._running, self._perform(entry, bench))

    async def _perform(self, entry: Entry, bench: Bench) -> None:
        try:
            if await perform(entry, bench, self._leave):
                self._troubles.reset()
            else:
                self._not_before = time.monotonic() + self._troubles.wait_s()
            self._report(entry)
        except Exception:  # one attempt's trouble is not the others'; its lease lapses
            log.exception("an attempt failed here", job=entry.attempt.work.id)
            self._not_before = time.monotonic() + self._troubles.wait_s()
        finally:
            self._slots.busy -= 1
            self._busy_at = time.monotonic()

    def _report(self, entry: Entry) -> None:
        if entry.finished is not None:
            self._spawn(self._reporting, self._deliver(entry))

    async def _deliver(self, entry: Entry) -> None:
        if entry.finished is not None:
            try:
                await deliver(entry, entry.finished, self._link)
            except (OSError, GnexecError) as err:
                log.exception("a result could not be sent", job=entry.attempt.work.id, why=str(err))

    async def _settle(self) -> None:
        """Let jobs end and results be sent, within the time that there is."""
        if self._running:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._plan.drain_s if self._draining.is_set() else None):
                    await self._until_ended_or_left()
            self._leave.set()
            while self._running:
                await asyncio.wait(self._running)
        if self._reporting:
            await asyncio.wait(set(self._reporting), timeout=_FLUSH_S)

    async def _until_ended_or_left(self) -> None:
        while self._running and not self._leave.is_set():
            self._changed.clear()
            await self._changed.wait()

    async def _pause(self, seconds: float | None) -> None:
        """Wait until something changes, at most so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _unless_draining(self, doing: Coroutine[Any, Any, T]) -> T | None:
        """Do something, or leave it when the worker is to end."""
        task, ending = asyncio.create_task(doing), asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait({task, ending}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            ending.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    def _spawn(self, among: set[asyncio.Task[None]], doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(doing)
        among.add(task)

        def ended(_: asyncio.Task[None]) -> None:
            among.discard(task)
            self._changed.set()

        task.add_done_callback(ended)


def _attempts(reply: ManyJobWork, origin: str) -> list[Attempt]:
    """Read a hand-out: the numbers that count are those of its job token.

    The signature is not looked at: the token is a secret that the server will want back, not a message to us.

    Raises:
        Away: the token is not one, or it does not name a job of the hand-out.
    """
    try:
        claims = read_json(unseal(reply.token, typ=JobClaims.TYP, max_chars=JobClaims.MAX_CHARS).payload, JobClaims)
        numbers = dict(claims.pairs)
        return [
            Attempt(
                origin=origin,
                work=work,
                number=numbers[work.id],
                jti=claims.jti,
                token=reply.token,
                exp_s=claims.exp,
            )
            for work in reply.jobs
        ]
    except (Refused, KeyError) as err:
        msg = "the server's hand-out cannot be read"
        raise Away(msg) from err
