"""A log in a list, for tests of the laws: given events, when a command, then events.

It does what the desk does, the plain way and without store, tree or thread: facts are looked up by folding every entry
there is. So it also serves as the oracle for the desk's look-ups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import msgspec
import pytest

from gnexec.core.commands import (
    Accepted,
    Answer,
    Cancel,
    Cancelled,
    Command,
    Directive,
    Enrol,
    Enrolled,
    JobRequest,
    Lapse,
    NextJobs,
    NoWork,
    OpenLog,
    Past,
    Progress,
    Report,
    Submit,
    Verdict,
    Verdicts,
    Work,
)
from gnexec.core.decide import decide
from gnexec.core.events import (
    AnyEvent,
    Effort,
    HandedOut,
    Offer,
    Outcome,
    PolicySet,
    RefusalNoted,
    Reported,
    Submitted,
)
from gnexec.core.job import Job, fold
from gnexec.core.terms import Needs, Redundancy, Terms, resolve_redundancy
from gnexec.core.world import World
from gnexec.errors import Refused
from tests.core.summary import summary

START_MS: Final = 1_800_000_000_000
ORIGIN: Final = "gnexec.test/log"
VKEY: Final = "gnexec.test/log+00000000+AA"
POLICY: Final = PolicySet(lease_s=100, grace_s=10, max_open=8, distinct_owners=True)
OPEN: Final = msgspec.structs.replace(POLICY, open=True)
OFFER: Final = Offer(cores=4, memory_bytes=4 << 30, disk_bytes=4 << 30)
GOOD: Final = Outcome(exit=0)
CRASH: Final = Outcome(exit=3)
PREEMPTED: Final = Outcome(limit="preempted")
WALL_S: Final = 1000

A = TypeVar("A", bound=Answer)


def digest(of: object) -> str:
    """Return a SHA-256 (hexadecimal) that stands for `of`."""
    return hashlib.sha256(repr(of).encode()).hexdigest()


def draw(of: object) -> bytes:
    """Return 16 bytes that stand for the random draw named `of`."""
    return hashlib.sha256(repr(of).encode()).digest()[:16]


def terms(*, needs: Needs | None = None, priority: int = 0, estimate_ms: int | None = None, **rule: int) -> Terms:
    """Return terms with the redundancy `rule`, and a wall time of `WALL_S`."""
    return Terms(
        program=digest("program"),
        needs=needs or Needs(wall_s=WALL_S),
        redundancy=resolve_redundancy(Redundancy(**rule)),
        priority=priority,
        estimate_ms=estimate_ms,
    )


ONE: Final = terms()
PAIR: Final = terms(replicas=2, quorum=2)


def request(name: object, asked: Terms = ONE, *, force: bool = False, retry_failed: bool = False) -> JobRequest:
    """Return a request for the job whose digest stands for `name`."""
    return JobRequest(digest(name), digest(("spec", name)), asked, force=force, retry_failed=retry_failed)


@dataclass
class Scene:
    """A growing log, its world, and the time.

    Attributes:
        told: (at_ms, event) of every entry.
        at_ms: the time of the next entries.
        new: the events of the last command.
    """

    policy: PolicySet = POLICY
    told: list[tuple[int, AnyEvent]] = field(default_factory=list)
    world: World = field(default_factory=World)
    at_ms: int = START_MS
    new: list[AnyEvent] = field(default_factory=list)
    draws: int = 0
    vkey: str = VKEY

    def __post_init__(self) -> None:
        """Open the log."""
        if not self.told:
            self.when(OpenLog(ORIGIN, self.vkey, {"kid": "x"}, self.policy))

    # Given, when, then.

    def given(self, *events: AnyEvent) -> None:
        """Add entries that nobody decided here."""
        for event in events:
            self.world.apply(event, self.at_ms)
            self.told.append((self.at_ms, event))

    def when(self, command: Command) -> Answer:
        """Decide a command, and add what was decided; deciding itself must not change the world."""
        before = summary(self.world)
        try:
            self.new, answer = decide(self.world, self.with_facts(command), self.at_ms)
        finally:
            assert summary(self.world) == before, "deciding changed the world"
        self.given(*self.new)
        return answer

    def refused(self, command: Command) -> str:
        """Return the code with which a command is refused."""
        with pytest.raises(Refused) as caught:
            self.when(command)
        return caught.value.code

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.at_ms += round(seconds * 1000)

    def refolded(self) -> World:
        """Return a new world, folded from the entries."""
        world = World()
        for at_ms, event in self.told:
            world.apply(event, at_ms)
        return world

    # What happens, in short.

    def submit(self, *requests: JobRequest, owner: str = "olga", key: str | None = None, body: str = "") -> Accepted:
        """Hand jobs in."""
        body = body or digest(requests)
        return expect(Accepted, self.when(Submit(owner, "p", requests, body, key=key and digest((owner, key)))))

    def jobs(self, count: int, asked: Terms = ONE) -> list[int]:
        """Hand in `count` new jobs."""
        start = self.world.next_job
        return list(self.submit(*(request((start, i), asked) for i in range(count))).ids)

    def enrol(self, owner: str, name: str = "", offer: Offer = OFFER) -> str:
        """Enrol a worker of `owner`; each `name` has a key of its own."""
        name = name or owner
        command = Enrol(owner, f"x-{name}", f"kid-{name}", offer, digest(name), draw(("worker", name)))
        return expect(Enrolled, self.when(command)).worker

    def next(self, worker: str, n: int = 1, req: str | None = None) -> Work | NoWork:
        """Ask for work."""
        self.draws += 1
        owner = self.world.workers[worker].owner
        command = NextJobs(worker, owner, n, req and digest(req), draw(("attempt", self.draws)))
        answer = self.when(command)
        assert isinstance(answer, Work | NoWork)
        return answer

    def take(self, worker: str, n: int = 1, req: str | None = None) -> HandedOut:
        """Ask for work that is there."""
        return expect(Work, self.next(worker, n, req)).hand_out

    def obstacles(self, worker: str, n: int = 1) -> dict[str, int]:
        """Ask for work that is not there; return the obstacles' codes, with the numbers of jobs."""
        return {found.code: found.jobs for found in expect(NoWork, self.next(worker, n)).obstacles}

    def progress(self, held: HandedOut, ppm: int = 0, job: int | None = None) -> Directive:
        """Tell that a hand-out's first job, or `job`, is `ppm` millionths done."""
        job = job or held.jobs[0][0]
        return expect(Directive, self.when(self.progress_of(held, ppm, job)))

    def progress_of(self, held: HandedOut, ppm: int, job: int) -> Progress:
        """Return the command of `progress`."""
        return Progress(held.jti, tuple(held.jobs), job, Effort(ppm, 0, 0), held.exp_s)

    def report(
        self, held: HandedOut, say: object = "right", outcome: Outcome = GOOD, *, only: int = 0
    ) -> list[Verdict]:
        """Answer for all jobs of a hand-out (or `only` one), with the output that stands for `say`."""
        found = expect(Verdicts, self.when(self.report_of(held, say, outcome, only=only)))
        return [judged.verdict for judged in found.judged]

    def report_of(self, held: HandedOut, say: object = "right", outcome: Outcome = GOOD, *, only: int = 0) -> Report:
        """Return the command of `report`."""
        canon = digest(say) if outcome.text == "success" else None
        results = tuple(
            Reported(job, number, outcome, canon, digest(("outs", say)), 1500, 1000, 1 << 20)
            for job, number in held.jobs
            if only in (0, job)
        )
        answer = digest((held.jti, say, outcome, only))
        return Report(held.jti, tuple(held.jobs), held.worker, results, f"jws {answer}", answer, held.exp_s)

    def lapse(self) -> None:
        """Close what has lapsed."""
        self.when(Lapse())

    def cancel(self, *jobs: int, owner: str = "olga") -> tuple[Job, ...]:
        """Withdraw `owner` from jobs."""
        return expect(Cancelled, self.when(Cancel(owner, jobs))).jobs

    def job(self, job_id: int) -> Job:
        """Return a job, open or closed, folded from the entries; it must be what the world has, if it has it."""
        found = fold(job_id, self.entries())
        assert found is not None, f"there is no job {job_id}"
        assert self.world.jobs.get(job_id, found) == found
        return found

    def tally(self, worker: str) -> dict[str, int]:
        """Return a worker's outcomes."""
        return {str(what): n for what, n in self.world.workers[worker].tally.items()}

    # Facts, looked up the naive way.

    def entries(self) -> Iterator[tuple[int, int, AnyEvent]]:
        """Yield (seq, at_ms, event) of every entry."""
        return ((seq, at_ms, event) for seq, (at_ms, event) in enumerate(self.told))

    def with_facts(self, command: Command) -> Command:
        """Return the command with the facts that the desk would look up for it."""
        match command:
            case Submit():
                return replace(command, known=self._known(command.project), repeated=self._repeated(command.key))
            case Progress() | Report():
                return replace(command, past=self._past(command.jti))
            case Cancel():
                return replace(command, past=self._past(""))
            case _:
                return command

    def _past(self, jti: str) -> Past:
        noted = {event.code for _, event in self.told if isinstance(event, RefusalNoted) and event.jti == jti}
        everything = {job: fold(job, self.entries()) for job in range(1, self.world.next_job)}
        return Past(frozenset(noted), {job: found for job, found in everything.items() if found is not None})

    def _known(self, project: str) -> dict[str, Job]:
        known = {}
        for job in range(1, self.world.next_job):
            found = fold(job, self.entries())
            if found is not None and found.project == project:
                known[found.digest.hex()] = found
        return known

    def _repeated(self, key: str | None) -> tuple[str, Accepted] | None:
        for _, event in self.told:
            if key is not None and isinstance(event, Submitted) and event.key == key:
                return event.body, Accepted.of(event)
        return None


def expect(kind: type[A], answer: Any) -> A:  # noqa: ANN401 -- whatever was answered
    """Return an answer that must be of one kind."""
    assert isinstance(answer, kind), answer
    return answer


def kinds(events: list[AnyEvent]) -> list[str]:
    """Return the names of events' types, in order."""
    return [type(event).__name__ for event in events]
