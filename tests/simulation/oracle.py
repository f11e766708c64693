"""What may stand in a log, in the plainest words: a reader of events that shares no rule with the core.

It keeps, for each job, what was handed out and answered, and reads the rules of DESIGN.md, section 3, off that. So it
sees what the core's own audit cannot: a core that breaks a rule decides the same wrong thing again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gnexec.core.commands import Verdict
from gnexec.core.events import (
    AnyEvent,
    AttemptsLapsed,
    Equivocated,
    HandedOut,
    JobsDecided,
    LeaseExtended,
    OutageEnded,
    OwnerWithdrew,
    PolicySet,
    RefusalNoted,
    ResultsCompared,
    ResultsReported,
    Submitted,
    WorkerEnrolled,
)
from gnexec.core.policy.redundancy import FREE_PREEMPTIONS


@dataclass
class Attempt:
    """One hand-out of a job.

    Attributes:
        fate: "open", or how it ended.
        said: what is voted on, where it succeeded; answer: identity of the answer.
    """

    jti: str
    worker: str
    owner: str
    fate: str = "open"
    said: str | None = None
    answer: str = ""
    turn: tuple[int, int] = (0, 0)


@dataclass
class Case:
    """A job."""

    digest: str
    project: str
    owners: set[str]
    replicas: int
    quorum: int
    most: int
    failures: int
    wall_s: int
    state: str = "open"
    canonical: int | None = None
    attempts: list[Attempt] = field(default_factory=list)

    def count(self, *fates: str) -> int:
        """Count attempts by how they ended."""
        return sum(attempt.fate in fates for attempt in self.attempts)

    @property
    def spent(self) -> int:
        """Attempts that used up the budget."""
        given_back = self.count("preempted")
        return len(self.attempts) - self.count("undelivered") - given_back + max(0, given_back - FREE_PREEMPTIONS)

    @property
    def voices(self) -> dict[str, list[tuple[tuple[int, int], int, str]]]:
        """Who said what: by voted digest, (when, attempt number, owner)."""
        found: dict[str, list[tuple[tuple[int, int], int, str]]] = {}
        for number, attempt in enumerate(self.attempts, 1):
            if attempt.fate == "succeeded" and attempt.said is not None:
                found.setdefault(attempt.said, []).append((attempt.turn, number, attempt.owner))
        return found

    @property
    def winner(self) -> int | None:
        """Number of the earliest result that enough owners agree with, or None."""
        agreed = [
            min(voices)[:2] for voices in self.voices.values() if len({owner for *_, owner in voices}) >= self.quorum
        ]
        return min(agreed)[1] if agreed else None

    @property
    def failed(self) -> bool:
        """Whether nothing can come of it any more."""
        return self.count("failed") >= self.failures or (self.count("open") == 0 and self.spent >= self.most)

    @property
    def wanted(self) -> int:
        """How many attempts it needs now."""
        if self.state != "open":
            return 0
        have, running = self.count("succeeded"), self.count("open")
        best = max((len({owner for *_, owner in voices}) for voices in self.voices.values()), default=0)
        return max(0, min(max(self.replicas - have - running, self.quorum - best - running), self.most - self.spent))

    def verdict(self, number: int) -> Verdict:
        """Say what the answer of an attempt is worth now."""
        attempt = self.attempts[number - 1]
        if attempt.fate in ("unneeded", "cancelled", "preempted") or self.state == "cancelled":
            return Verdict.UNNEEDED
        if self.state == "open":
            return Verdict.PENDING
        if self.state == "failed":
            sure = attempt.fate == "failed" and self.count("failed") >= self.failures
            return Verdict.VALID if sure else Verdict.INCONCLUSIVE
        agrees = self.canonical is not None and attempt.said == self.attempts[self.canonical - 1].said
        return Verdict.VALID if agrees and attempt.fate == "succeeded" else Verdict.INVALID


@dataclass
class Held:
    """A hand-out."""

    event: HandedOut
    lease_ms: int
    contacted: bool = False
    open: set[tuple[int, int]] = field(default_factory=set)


class Oracle:
    """Reads a log, entry by entry, and says what is wrong with it."""

    def __init__(self) -> None:
        self.size = 0
        self.at_ms = 0
        self.jobs: dict[int, Case] = {}
        self.held: dict[str, Held] = {}
        self.workers: dict[str, str] = {}
        self.open_by_worker: dict[str, int] = {}
        self._requests: dict[tuple[str, str], str] = {}
        self._keys: set[str] = set()
        self._noted: set[tuple[str, str]] = set()
        self._policy = PolicySet(lease_s=1, grace_s=0, max_open=1, distinct_owners=True)

    def read(self, event: AnyEvent, at_ms: int) -> None:
        """Take the next entry.

        Raises:
            AssertionError: it may not stand here.
        """
        seq, self.size = self.size, self.size + 1
        assert at_ms >= self.at_ms, "time goes back"
        self.at_ms = at_ms
        match event:
            case PolicySet():
                self._policy = event
            case WorkerEnrolled():
                assert self.workers.setdefault(event.worker, event.owner) == event.owner, "a worker changes hands"
            case Submitted():
                self._submitted(event)
            case HandedOut():
                self._handed_out(event)
            case LeaseExtended():
                self._extended(event)
            case ResultsReported():
                self._reported(event, seq)
            case ResultsCompared():
                self._compared(event)
            case JobsDecided():
                self._decided(event)
            case AttemptsLapsed():
                self._lapsed(event)
            case OwnerWithdrew():
                self._withdrew(event)
            case OutageEnded():
                self._outage(event)
            case RefusalNoted():
                assert (event.jti, event.code) not in self._noted, "a refusal is noted twice"
                self._noted.add((event.jti, event.code))
            case Equivocated():
                attempt = self.jobs[event.job].attempts[event.attempt - 1]
                assert attempt.jti == event.jti, "somebody else's attempt"
                assert attempt.answer not in ("", event.answer), "it said the same, or nothing"
            case _:
                pass

    def settled(self, *, lapsed_closed: bool) -> None:
        """Check what must hold when a batch has ended.

        Args:
            lapsed_closed: whether the server that ended it has looked after leases: not with a clock that it distrusts.

        Raises:
            AssertionError: it does not hold.
        """
        for number, case in self.jobs.items():
            assert case.state != "open" or (case.winner is None and not case.failed), f"job {number} is due"
        for jti, held in self.held.items():
            lapsed = held.open and held.lease_ms < self.at_ms
            assert not (lapsed_closed and lapsed), f"the lease of {jti} has passed, and it was not closed"

    def _submitted(self, event: Submitted) -> None:
        assert event.first == len(self.jobs) + 1, "ids are not consecutive"
        assert event.key is None or event.key not in self._keys, "an idempotency key is used twice"
        if event.key is not None:
            self._keys.add(event.key)
        for place, row in enumerate(event.jobs):
            terms = event.terms[row.terms]
            rule = terms.redundancy
            self.jobs[event.first + place] = Case(
                row.digest,
                event.project,
                {event.owner},
                rule.replicas,
                rule.quorum,
                rule.max_attempts,
                rule.max_failures,
                terms.needs.wall_s,
            )
        for joined in event.joined:
            case, rule = self.jobs[joined.job], event.terms[joined.terms].redundancy
            assert case.project == event.project, "somebody joins another project's job"
            assert case.state != "cancelled", "somebody joins a cancelled job"
            case.owners.add(event.owner)
            if case.state == "open":
                case.replicas, case.quorum = max(case.replicas, rule.replicas), max(case.quorum, rule.quorum)
                case.most, case.failures = max(case.most, rule.max_attempts), max(case.failures, rule.max_failures)

    def _handed_out(self, event: HandedOut) -> None:
        assert event.jti not in self.held, "a hand-out's id comes twice"
        assert self.workers[event.worker] == event.owner, "another owner's worker"
        if event.req is not None:
            before = self._requests.get((event.worker, event.req))
            assert before is None or not self.held[before].open, "a repeated request gets other work"
            self._requests[event.worker, event.req] = event.jti
        wall_s = 0
        for number, attempt in event.jobs:
            case = self.jobs[number]
            assert case.wanted > 0, f"job {number} needs no attempt"
            used = {one.owner for one in case.attempts if one.fate in ("open", "succeeded", "failed")}
            assert case.quorum == 1 or event.owner not in used, f"an owner has two says on job {number}"
            case.attempts.append(Attempt(event.jti, event.worker, event.owner))
            assert attempt == len(case.attempts), "not the next attempt number"
            wall_s += case.wall_s
        self.held[event.jti] = Held(event, event.lease_until_ms, open=set(event.jobs))
        self.open_by_worker[event.worker] = self.open_by_worker.get(event.worker, 0) + len(event.jobs)
        assert self.open_by_worker[event.worker] <= self._policy.max_open, "more than it may hold"
        assert event.exp_s == -(-(self.at_ms + 1000 * (wall_s + self._policy.grace_s)) // 1000), "another deadline"
        assert event.lease_until_ms == min(self.at_ms + 1000 * self._policy.lease_s, event.exp_s * 1000)

    def _reported(self, event: ResultsReported, seq: int) -> None:
        held = self.held[event.jti]
        assert held.event.worker == event.worker, "another worker answers"
        assert self.at_ms <= held.event.exp_s * 1000, "a result is taken after its deadline"
        for place, result in enumerate(event.results):
            case = self.jobs[result.job]
            attempt = case.attempts[result.attempt - 1]
            assert attempt.fate == "open", f"a result is taken for an attempt that is {attempt.fate}"
            good = result.outcome.text == "success"
            fate = "succeeded" if good else "preempted" if result.outcome.limit == "preempted" else "failed"
            if case.state != "open":
                fate = "cancelled" if case.state == "cancelled" else "unneeded"
            attempt.answer, attempt.turn = event.answer, (seq, place)
            attempt.said = result.canon if good else None
            self._close(held, result.job, result.attempt, fate)
        held.contacted = True

    def _lapsed(self, event: AttemptsLapsed) -> None:
        for end in event.ends:
            held = self.held[end.jti]
            assert held.lease_ms < self.at_ms, "an attempt is closed before its lease has passed"
            case = self.jobs[end.job]
            if case.state != "open":
                fate = "cancelled" if case.state == "cancelled" else "unneeded"
            elif not held.contacted:
                fate = "undelivered"
            else:
                fate = "expired" if held.lease_ms >= held.event.exp_s * 1000 else "abandoned"
            assert end.outcome == fate, f"an attempt is {end.outcome} that is {fate}"
            self._close(held, end.job, end.attempt, fate)

    def _extended(self, event: LeaseExtended) -> None:
        held = self.held[event.jti]
        assert held.open, "a closed hand-out gets more time"
        assert held.lease_ms <= event.lease_until_ms <= held.event.exp_s * 1000, "no such lease"
        assert event.lease_until_ms <= max(held.lease_ms, self.at_ms + 1000 * self._policy.lease_s), "a long lease"
        held.lease_ms, held.contacted = event.lease_until_ms, True

    def _compared(self, event: ResultsCompared) -> None:
        for found in event.found:
            a, b = (self.jobs[found.job].attempts[number - 1] for number in (found.a, found.b))
            assert a.fate == b.fate == "succeeded", "what is no result is compared"
            assert found.equal == (a.said == b.said), "a wrong comparison"

    def _decided(self, event: JobsDecided) -> None:
        for decided in event.decided:
            case = self.jobs[decided.job]
            assert case.state == "open", f"job {decided.job} is decided again"
            state = "succeeded" if case.winner else "failed" if case.failed else "open"
            assert (str(decided.state), decided.canonical) == (state, case.winner), f"job {decided.job} is {state}"
            case.state, case.canonical = state, case.winner

    def _withdrew(self, event: OwnerWithdrew) -> None:
        for job in event.jobs:
            case = self.jobs[job]
            assert case.state == "open", f"job {job} is cancelled after it was decided"
            case.owners.remove(event.owner)
            case.state = case.state if case.owners else "cancelled"

    def _outage(self, event: OutageEnded) -> None:
        assert event.since_ms <= event.until_ms <= self.at_ms, "an outage that is not over"
        for held in self.held.values():
            if held.open and held.lease_ms >= event.since_ms:
                more = held.lease_ms + event.until_ms - event.since_ms
                held.lease_ms = max(held.lease_ms, min(more, held.event.exp_s * 1000))

    def _close(self, held: Held, job: int, number: int, fate: str) -> None:
        held.open.remove((job, number))
        self.jobs[job].attempts[number - 1].fate = fate
        self.open_by_worker[held.event.worker] -= 1
