"""The world: everything that decisions look at, folded from the log.

One mutable fold with a single `apply`. It holds open work, open hand-outs, workers' records, programs' statistics and
the few indexes that rules need; a job leaves it once it is decided and no attempt is open, and is then read by folding
its own entries. It can be thrown away at any time and folded anew; nothing but `apply` may change it.
"""

from __future__ import annotations

from array import array
from typing import Final, assert_never

import msgspec

from gnexec.core.events import (
    AnyEvent,
    AttemptsLapsed,
    AttemptState,
    Equivocated,
    HandedOut,
    JobsDecided,
    KeyAdded,
    KeyCurrent,
    KeyRetired,
    KeyRevoked,
    LeaseExtended,
    LogKeyAdded,
    LogKeyRetired,
    LogOpened,
    OutageEnded,
    OwnerWithdrew,
    PolicySet,
    RefusalNoted,
    ResultsCompared,
    ResultsReported,
    Submitted,
    WorkerEnrolled,
)
from gnexec.core.job import Job, evolve
from gnexec.core.keybook import KeyBook
from gnexec.core.leases import Leases
from gnexec.core.openjobs import OpenJobs
from gnexec.core.policy.prediction import Statistics
from gnexec.core.policy.redundancy import excluded_owners, replicas_needed
from gnexec.core.ready import LineKey, Ready
from gnexec.core.records import HandOut, WorkerRecord, newcomer, series
from gnexec.core.steps import Compare, Create, Join, Lapse, Report, Step, steps
from gnexec.core.terms import DataClass, Terms
from gnexec.errors import IllegalTransition
from gnexec.ids import ANONYMOUS

MOST_TERMS: Final = 16_384
"""Different terms of which one object is kept for all jobs that have them."""
MOST_SERIES: Final = 65_536
"""Series of jobs whose times are remembered."""
DEFAULT_POLICY: Final = PolicySet(lease_s=300, grace_s=60, max_open=256, distinct_owners=True)


class World:
    """The fold of a log from its first entry to `size`."""

    def __init__(self) -> None:
        """Begin before the first entry."""
        self.size = 0
        self.at_ms = 0
        self.origin = ""
        self.vkey = ""
        self.policy = DEFAULT_POLICY
        self.keys = KeyBook()
        self.next_job = 1
        self.hand_outs: dict[str, HandOut] = {}
        self.requests: dict[tuple[str, str], str] = {}
        self.workers: dict[str, WorkerRecord] = {}
        self.worker_by_kid: dict[str, str] = {}
        self.held: dict[str, int] = {}
        self.statistics: dict[str, Statistics] = {}
        self.decided: dict[str, int] = {}
        self.ready = Ready(self._belongs)
        self._standing: dict[int, LineKey] = {}
        self._terms: dict[Terms, Terms] = {}
        self._lines: dict[Terms, Terms] = {}
        self._firsts: dict[Terms, LineKey] = {}
        self.jobs = OpenJobs(self._intern)
        self._leases = Leases()

    def apply(self, event: AnyEvent, at_ms: int) -> None:
        """Take the next entry into account.

        Args:
            event: the entry's event; its seq is the world's `size`.
            at_ms: the entry's time, not before the last one's.

        Raises:
            IllegalTransition: the event does not fit. The world may then be half changed: throw it away.
        """
        if at_ms < self.at_ms:
            msg = f"time goes back from {self.at_ms} to {at_ms}"
            raise IllegalTransition(msg)
        if (self.size == 0) != isinstance(event, LogOpened):
            msg = "a log is opened by its first entry, and only by that"
            raise IllegalTransition(msg)
        seq, self.size, self.at_ms = self.size, self.size + 1, at_ms
        self._before(event, at_ms)
        if isinstance(event, Submitted):
            self._take_in(event, seq, at_ms)
        touched: set[LineKey] = set()
        ended: dict[str, set[tuple[int, int]]] = {}
        for job_id, step in steps(event, seq, at_ms):
            if not isinstance(step, Create):  # `_take_in` has seen to new jobs, all at once.
                self._step(job_id, step, touched, ended)
        for jti, pairs in ended.items():
            self._close(jti, pairs)
        for line in touched:
            self.ready.trim(line)

    def due(self, at_ms: int) -> list[str]:
        """Return the hand-outs whose lease has passed at `at_ms`, in order of their leases; changes nothing."""
        return self._leases.passed(at_ms)

    def next_lease_ms(self) -> int | None:
        """Return when the next lease may pass, or None while nothing is handed out."""
        return self._leases.next_ms()

    def line_of(self, job: Job) -> LineKey:
        """Return the line of the queue that `job` stands in while it needs attempts."""
        excluded = excluded_owners(job, distinct_owners=self.policy.distinct_owners)
        return LineKey(self._line_terms(job.terms), excluded) if excluded else self._first_line(job.terms)

    def needed(self, job: Job) -> int:
        """Return how many attempts `job` needs now."""
        return replicas_needed(job, distinct_owners=self.policy.distinct_owners)

    def worker(self, worker_id: str) -> WorkerRecord | None:
        """Return a worker's record, or None if it is not enrolled; the anonymous worker always has one."""
        return self.workers.get(worker_id) or (newcomer(worker_id) if worker_id == ANONYMOUS else None)

    # What an event means beyond single jobs.

    def _before(self, event: AnyEvent, at_ms: int) -> None:
        match event:
            case LogOpened():
                self.origin, self.vkey = event.origin, event.vkey
                self.keys = self.keys.after(event, self.size - 1)
            case KeyRevoked():
                self.keys = self.keys.after(event, self.size - 1)
                self._excuse()
            case KeyAdded() | KeyCurrent() | KeyRetired() | LogKeyAdded() | LogKeyRetired():
                self.keys = self.keys.after(event, self.size - 1)
            case PolicySet():
                self._set_policy(event)
            case WorkerEnrolled():
                self._enrol(event, at_ms)
            case HandedOut():
                self._hand_out(event, at_ms)
            case LeaseExtended():
                self._extend(event, at_ms)
            case OutageEnded():
                self._outage(event)
            case RefusalNoted():
                hand_out = self.hand_outs.get(event.jti)
                if hand_out is not None:
                    self._keep(msgspec.structs.replace(hand_out, noted=hand_out.noted | {event.code}))
            case Equivocated():
                self._record(event.worker).count("equivocated")
            case ResultsReported():
                record = self._record(event.worker)
                record.last_ms, record.silent = at_ms, 0
                hand_out = self.hand_outs.get(event.jti)
                if hand_out is not None:
                    self._keep(msgspec.structs.replace(hand_out, contacted=True))
            case AttemptsLapsed():
                self._note_silence(event)
            case Submitted() | ResultsCompared() | JobsDecided() | OwnerWithdrew():
                pass
            case _:
                assert_never(event)

    def _take_in(self, event: Submitted, seq: int, at_ms: int) -> None:
        if event.first != self.next_job:
            msg = f"jobs begin at {event.first} instead of {self.next_job}"
            raise IllegalTransition(msg)
        self.next_job += len(event.jobs)
        in_columns = self.jobs.add(event, seq, at_ms)
        keys = [self._first_line(self._intern(terms)) for terms in event.terms]
        lines = {key: array("q") for key in keys}
        places = [lines[key] for key in keys]
        for offset, row in enumerate(event.jobs):
            places[row.terms].append(event.first + offset)
        for key, line in lines.items():
            if line:
                self.ready.extend(line, key)
            if not in_columns:
                self._standing.update(dict.fromkeys(line, key))

    def _set_policy(self, event: PolicySet) -> None:
        self.policy = event
        self.ready = Ready(self._belongs)
        self._standing.clear()
        for job in self.jobs.values():
            if self.needed(job):
                self._standing[job.id] = line = self.line_of(job)
                self.ready.add(job.id, line)

    def _enrol(self, event: WorkerEnrolled, at_ms: int) -> None:
        record = self.workers.get(event.worker)
        if record is not None and (record.owner, record.kid) != (event.owner, event.kid):
            msg = f"worker {event.worker} changes its owner or key"
            raise IllegalTransition(msg)
        if self.worker_by_kid.setdefault(event.kid, event.worker) != event.worker:
            msg = f"the key of worker {event.worker} belongs to another"
            raise IllegalTransition(msg)
        if record is None:
            record = self.workers[event.worker] = WorkerRecord(event.worker, event.owner, event.x, event.kid, None)
        record.offer, record.caps, record.last_ms = event.offer, event.caps, at_ms

    def _hand_out(self, event: HandedOut, at_ms: int) -> None:
        if event.jti in self.hand_outs:
            msg = f"hand-out {event.jti} exists"
            raise IllegalTransition(msg)
        self._keep(
            HandOut(
                event=event,
                lease_until_ms=event.lease_until_ms,
                open=frozenset((job, number) for job, number in event.jobs),
            )
        )
        if event.req is not None:
            self.requests[event.worker, event.req] = event.jti
        record = self._record(event.worker)
        record.open += len(event.jobs)
        self.held[record.owner] = self.held.get(record.owner, 0) + len(event.jobs)
        record.last_ms = at_ms

    def _extend(self, event: LeaseExtended, at_ms: int) -> None:
        hand_out = self.hand_outs.get(event.jti)
        if hand_out is None or not hand_out.lease_until_ms <= event.lease_until_ms <= hand_out.event.exp_s * 1000:
            msg = f"the lease of {event.jti} cannot be set to {event.lease_until_ms}"
            raise IllegalTransition(msg)
        record = self._record(hand_out.event.worker)
        record.last_ms, record.silent = at_ms, 0
        self._keep(
            msgspec.structs.replace(
                hand_out,
                lease_until_ms=event.lease_until_ms,
                efforts={**hand_out.efforts, event.job: event.effort},
                contacted=True,
            )
        )

    def _note_silence(self, event: AttemptsLapsed) -> None:
        """Count hand-outs after which nothing was heard of their workers."""
        for jti in {end.jti for end in event.ends if end.outcome is AttemptState.UNDELIVERED}:
            self._record(self.hand_outs[jti].event.worker).silent += 1

    def _outage(self, event: OutageEnded) -> None:
        length = event.until_ms - event.since_ms
        for hand_out in list(self.hand_outs.values()):
            if hand_out.lease_until_ms >= event.since_ms:
                until = max(hand_out.lease_until_ms, min(hand_out.lease_until_ms + length, hand_out.event.exp_s * 1000))
                self._keep(msgspec.structs.replace(hand_out, lease_until_ms=until))

    def _excuse(self) -> None:
        """Take it that nothing was heard of any open hand-out: their workers' tokens are good for nothing any more.

        It is no fault of the workers', so their silence is not held against them either.
        """
        for hand_out in list(self.hand_outs.values()):
            self._record(hand_out.event.worker).silent = 0
            if hand_out.contacted:
                self._keep(msgspec.structs.replace(hand_out, contacted=False))

    def _keep(self, hand_out: HandOut) -> None:
        """Put a hand-out in the place of what it was."""
        jti = hand_out.event.jti
        self.hand_outs[jti] = hand_out
        self._leases.set(jti, hand_out.lease_until_ms)

    def _close(self, jti: str, ended: set[tuple[int, int]]) -> None:
        """Close attempts of a hand-out, (job, number); let it go once none is open."""
        hand_out = self.hand_outs[jti]
        still = hand_out.open - ended
        if still:
            self._keep(msgspec.structs.replace(hand_out, open=still))
            return
        event = hand_out.event
        del self.hand_outs[event.jti]
        self._leases.end(event.jti)
        if event.req is not None:
            self.requests.pop((event.worker, event.req), None)

    def _record(self, worker_id: str) -> WorkerRecord:
        """Return a worker's record; that of the anonymous worker is made on first sight."""
        record = self.worker(worker_id)
        if record is None:
            msg = f"worker {worker_id} is not enrolled"
            raise IllegalTransition(msg)
        return self.workers.setdefault(worker_id, record)

    # What a step means for one job and the indexes over it.

    def _step(self, job_id: int, step: Step, touched: set[LineKey], ended: dict[str, set[tuple[int, int]]]) -> None:
        """Take one step of a job.

        Args:
            job_id: the job.
            step: what happened to it.
            touched: gets the line that it leaves.
            ended: gets the attempt that it ends, by hand-out.
        """
        before = self.jobs.find(job_id)
        if before is None:
            self._step_of_closed(job_id, step)
            return
        stood = self._standing.get(job_id)
        if stood is None and not before.attempts:
            stood = self._first_line(before.terms)  # It waits in columns: whatever moved it out gave it a standing.
        after = evolve(before, step)
        if after.terms is not before.terms:
            after = msgspec.structs.replace(after, terms=self._intern(after.terms))
        if isinstance(step, Report | Lapse):
            number = step.result.attempt if isinstance(step, Report) else step.attempt
            self._ended(after, number)
            ended.setdefault(step.jti, set()).add((job_id, number))
        stands = None if after.decided or not self.needed(after) else self.line_of(after)
        if stands != stood:
            if stood is not None:
                touched.add(stood)
            if stands is not None:
                self.ready.add(job_id, stands)
        if stands is not None:
            self._standing[job_id] = stands
        else:
            self._standing.pop(job_id, None)
        if after.decided and not before.decided:
            self.decided[after.state] = self.decided.get(after.state, 0) + 1
        if after.closed:
            del self.jobs[job_id]
        else:
            self.jobs[job_id] = after

    def _step_of_closed(self, job_id: int, step: Step) -> None:
        """Take a step of a job that has left: whoever reads it folds its own entries, this one included."""
        if not (1 <= job_id < self.next_job and isinstance(step, Join | Compare)):
            msg = f"job {job_id} is not open: {type(step).__name__} is not possible"
            raise IllegalTransition(msg)

    def _ended(self, job: Job, number: int) -> None:
        attempt = job.attempts[number - 1]
        record = self._record(attempt.worker)
        record.open -= 1
        self.held[record.owner] -= 1
        if not self.held[record.owner]:
            del self.held[record.owner]
        record.count(attempt.state)
        hand_out = self.hand_outs[attempt.jti]
        if attempt.state is AttemptState.SUCCEEDED:
            # What a submitter waits for is the whole turn, not the execution alone; of several in one hand-out, only
            # the execution can be told apart.
            alone = len(hand_out.event.jobs) == 1
            turn_ms = attempt.ended_ms - attempt.started_ms
            took_ms = turn_ms if alone else min(attempt.wall_ms, turn_ms)
            self._count_time(series(job), took_ms)

    def _count_time(self, name: str, took_ms: int) -> None:
        """Add to the statistics of a series; those that nothing was added to for longest are forgotten."""
        self.statistics[name] = self.statistics.pop(name, Statistics()).add(took_ms)
        if len(self.statistics) > MOST_SERIES:
            del self.statistics[next(iter(self.statistics))]

    def _belongs(self, job_id: int, key: LineKey) -> bool:
        return (self._standing.get(job_id) or self._unmoved(job_id)) == key

    def _unmoved(self, job_id: int) -> LineKey | None:
        """Return the line of a job to which nothing has happened and which stands in columns; None for any other."""
        terms = self.jobs.untouched(job_id)
        return None if terms is None else self._first_line(terms)

    def _first_line(self, terms: Terms) -> LineKey:
        """Return the line in which new jobs of these terms stand."""
        line = self._firsts.get(terms)
        if line is None:
            line = self._firsts[terms] = LineKey(self._line_terms(terms), frozenset())
        return line

    def _line_terms(self, terms: Terms) -> Terms:
        """Return what of the terms matters to the queue, one object for all that agree in it.

        Which program it is, how long it may take and who may see it keep no job from standing in line with others.
        """
        found = self._lines.get(terms)
        if found is None:
            plain = msgspec.structs.replace(terms, program="", estimate_ms=None, data_class=DataClass.PROJECT)
            found = self._lines[terms] = self._intern(plain)
        return found

    def _intern(self, terms: Terms) -> Terms:
        """Return one object for all terms that are equal; which one may change, and only costs memory."""
        if len(self._terms) >= MOST_TERMS:
            self._terms.clear()
            self._lines.clear()
            self._firsts.clear()
        return self._terms.setdefault(terms, terms)
