"""A desk for tests: keys, a time that tests set, and a dispatcher over any store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.core.commands import (
    Accepted,
    Answer,
    Command,
    Enrol,
    Enrolled,
    JobRequest,
    Judged,
    NextJobs,
    OpenLog,
    Report,
    Submit,
    Verdicts,
    Work,
)
from gnexec.core.events import HandedOut, Outcome, PolicySet, Reported
from gnexec.core.world import World
from gnexec.desk.clock import Clock
from gnexec.desk.dispatcher import Dispatcher, Sealed
from gnexec.desk.ledger import Ledger
from gnexec.desk.sealer import Sealer
from gnexec.errors import StoreAway
from gnexec.store.contract import Store
from gnexec.tlog.note import Verifier
from tests.core.scene import GOOD, OFFER, ORIGIN, POLICY, START_MS, digest, draw, expect

KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VERIFIER: Final = Verifier.of(ORIGIN, KEY.public_key())

A = TypeVar("A", bound=Answer)
T = TypeVar("T")


@dataclass
class Time:
    """Two clocks that tests set: the wall clock, which may jump, and the steady one, which may not."""

    wall_ms: int = START_MS
    steady_ms: int = 5_000

    def wall(self) -> int:
        """Read the wall clock."""
        return self.wall_ms

    def steady(self) -> int:
        """Read the steady clock."""
        return self.steady_ms

    def later(self, seconds: float) -> None:
        """Let time pass, on both clocks."""
        self.wall_ms += round(1000 * seconds)
        self.steady_ms += round(1000 * seconds)

    def jump(self, seconds: float) -> None:
        """Set the wall clock."""
        self.wall_ms += round(1000 * seconds)


def opening(policy: PolicySet = POLICY, *, key: Ed25519PrivateKey = KEY, origin: str = ORIGIN) -> OpenLog:
    """Return the first command of a server with these keys and numbers."""
    return OpenLog(origin, Verifier.of(origin, key.public_key()).vkey, {"kid": "x"}, policy)


def dispatcher(store: Store, time: Time, policy: PolicySet = POLICY) -> Dispatcher:
    """Return a dispatcher that has not been started."""
    return Dispatcher(store, Sealer(ORIGIN, KEY), opening(policy), Clock(time.steady))


@contextmanager
def running(store: Store, time: Time, policy: PolicySet = POLICY) -> Iterator[Dispatcher]:
    """Run a dispatcher."""
    desk = dispatcher(store, time, policy)
    desk.start()
    try:
        yield desk
    finally:
        desk.stop()


def refolded(store: Store) -> World:
    """Return the world that a new server would fold from the store, checkpoint and payloads checked."""
    ledger = Ledger(store, Sealer(ORIGIN, KEY), opening(), Clock(Time().steady))
    ledger.refold()
    return ledger.world


@dataclass
class Client:
    """Whoever asks a desk; with patience, it asks again for as long as the store is away.

    Attributes:
        again: how often it had to ask again.
    """

    desk: Dispatcher
    patient: bool = False
    again: int = 0

    async def do(self, command: Command) -> Sealed:
        """Have a command decided."""
        return await self.insist(lambda: self.desk.do(command))

    async def insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask, and ask again while the store is away."""
        while True:
            try:
                return await ask()
            except StoreAway:
                if not self.patient:
                    raise
                self.again += 1

    async def answer(self, kind: type[A], command: Command) -> A:
        """Have a command decided, and return the answer, which must be of one kind."""
        return expect(kind, (await self.do(command)).answer)

    async def submit(self, *requests: JobRequest, owner: str = "olga", key: str | None = None) -> list[int]:
        """Hand jobs in."""
        return list((await self.answer(Accepted, submission(*requests, owner=owner, key=key))).ids)

    async def enrol(self, owner: str) -> str:
        """Enrol the worker of an owner."""
        command = Enrol(owner, f"x-{owner}", f"kid-{owner}", OFFER, digest(owner), draw(("worker", owner)))
        return (await self.answer(Enrolled, command)).worker

    async def take(self, worker: str, owner: str, n: int = 1, req: str = "r") -> HandedOut:
        """Ask for work that is there."""
        command = NextJobs(worker, owner, n, digest(req), draw((worker, req)))
        return (await self.answer(Work, command)).hand_out

    async def report(self, held: HandedOut, say: object = "right", outcome: Outcome = GOOD) -> list[Judged]:
        """Answer for all jobs of a hand-out."""
        return list((await self.answer(Verdicts, report(held, say, outcome))).judged)


def submission(*requests: JobRequest, owner: str = "olga", key: str | None = None) -> Submit:
    """Return the command that hands jobs in."""
    return Submit(owner, "p", requests, digest(requests), key=key and digest((owner, key)))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something inside the desk that no event tells of."""
    while not condition():  # noqa: ASYNC110 -- the loop only yields; another thread makes the condition true
        await asyncio.sleep(0)


async def passes(desk: Dispatcher, time: Time, seconds: float) -> None:
    """Let time pass while the server is up and busy, so that it is no outage."""
    while seconds > 0:
        time.later(min(seconds, 2))
        seconds -= 2
        await desk.ask(lambda _: None)


def report(held: HandedOut, say: object = "right", outcome: Outcome = GOOD) -> Report:
    """Return the command that answers for all jobs of a hand-out."""
    canon = digest(say) if outcome is GOOD else None
    results = tuple(Reported(job, n, outcome, canon, digest(("outs", say)), 10, 9, 8) for job, n in held.jobs)
    answer = digest((held.jti, say, outcome))
    return Report(held.jti, tuple(held.jobs), held.worker, results, f"jws {answer}", answer, held.exp_s)


def about(command: Report, *jobs: int) -> Report:
    """Return a report with the results of some jobs only."""
    return replace(command, results=tuple(result for result in command.results if result.job in jobs))


def run(coroutine: Awaitable[T]) -> T:
    """Run a coroutine in an event loop of its own, and give up after a minute rather than never."""

    async def bounded() -> T:
        return await asyncio.wait_for(coroutine, 60)

    return asyncio.run(bounded())
