"""Judging results: which are taken, which come too late, and what they decide.

A result is judged in this order: answered before (same claims: the current verdict; others: equivocation) · deadline
passed or attempt closed (too late) · job decided or cancelled (unneeded) · else it is recorded, compared and counted.
Signatures, audiences and paths were checked before a command reaches this module.
"""

from __future__ import annotations

from typing import Final

from gnexec.core.commands import Answer, Judged, Report, Verdict, Verdicts
from gnexec.core.events import (
    AnyEvent,
    AttemptState,
    Compared,
    Equivocated,
    JobDecided,
    JobsDecided,
    JobState,
    RefusalNoted,
    Reported,
    ResultsCompared,
    ResultsReported,
)
from gnexec.core.job import Attempt, Job, evolve
from gnexec.core.policy.redundancy import decision
from gnexec.core.policy.validation import missing_comparisons
from gnexec.core.steps import Compare, Decide, steps
from gnexec.core.world import World
from gnexec.errors import Refused

_FIXED: Final = {
    AttemptState.UNNEEDED: Verdict.UNNEEDED,
    AttemptState.CANCELLED: Verdict.UNNEEDED,
    AttemptState.PREEMPTED: Verdict.UNNEEDED,
    AttemptState.EXPIRED: Verdict.TOO_LATE,
    AttemptState.ABANDONED: Verdict.TOO_LATE,
    AttemptState.UNDELIVERED: Verdict.TOO_LATE,
}
"""Attempts that are worth nothing, whatever becomes of their job."""
_SUCCEEDED: Final = JobState.SUCCEEDED


def report(world: World, command: Report, at_ms: int) -> tuple[list[AnyEvent], Answer]:
    """Judge the results of a report; each gets a verdict, in the order given.

    Raises:
        Refused: invalid where a job is named twice, or a claim that only matters now is wrong; nothing is recorded.
    """
    if len({result.job for result in command.results}) != len(command.results):
        raise Refused("invalid", "A job is named twice in one report.", field="results")
    if command.statement is None and not world.policy.open:
        raise Refused("invalid", "A result needs the worker's signed statement here.", field="statement")
    judged: dict[int, Judged] = {}
    taken: list[Reported] = []
    noted: list[AnyEvent] = []
    for result in command.results:
        job = world.jobs.get(result.job) or command.past.jobs.get(result.job)
        attempt = job.attempt(result.attempt) if job is not None else None
        if job is None or attempt is None or attempt.jti != command.jti:
            judged[result.job] = _refused(result, Verdict.TOO_LATE)
        elif attempt.answer and attempt.answer.hex() == command.answer:
            judged[result.job] = Judged(job.id, attempt.number, verdict(job, attempt), attempt.seq)
        elif attempt.answer:
            judged[result.job] = _refused(result, Verdict.EQUIVOCATION)
            noted.extend(_equivocation(world, command, result))
        elif at_ms > command.exp_s * 1000 or attempt.state is not AttemptState.OPEN:
            judged[result.job] = _refused(result, Verdict.TOO_LATE)
            noted.extend(_refusal(world, command, Verdict.TOO_LATE))
        else:
            _check_claims(command, job)
            taken.append(result)
    events = list(dict.fromkeys(noted))
    if taken:
        events.extend(_take(world, command, taken, (world.size + len(events), at_ms), judged))
    return events, Verdicts(tuple(judged[result.job] for result in command.results))


class Outfall:
    """What follows for jobs from their newest results or lapses, gathered over one event: findings, and decisions."""

    def __init__(self, world: World, seq: int, at_ms: int) -> None:
        """Begin with nothing.

        Args:
            world: for the policy in force.
            seq: the entry that it follows from.
            at_ms: the time of the entries to come.
        """
        self._world = world
        self._seq = seq
        self._at_ms = at_ms
        self._found: list[Compared] = []
        self._decided: list[JobDecided] = []

    def settle(self, job: Job) -> Job:
        """Compare what is not compared yet, decide the job if its results amount to that; return it as it is then.

        Args:
            job: with the newest result or lapse in it.
        """
        if job.decided:
            return job
        if job.terms.redundancy.quorum > 1:
            for compared in missing_comparisons(job):
                self._found.append(compared)
                job = evolve(job, Compare(compared.a, compared.b, compared.equal))
        found = decision(job, distinct_owners=self._world.policy.distinct_owners)
        if found is None:
            return job
        decided = JobDecided(job.id, job.revision + 1, found.state, found.canonical, found.reason)
        self._decided.append(decided)
        return evolve(job, Decide(decided, self._at_ms, self._seq))

    @property
    def events(self) -> list[AnyEvent]:
        """The events that say so; none where nothing follows."""
        events: list[AnyEvent] = []
        if self._found:
            events.append(ResultsCompared(found=self._found))
        if self._decided:
            events.append(JobsDecided(decided=self._decided))
        return events


def verdict(job: Job, attempt: Attempt) -> Verdict:
    """Return what an answered or closed attempt is worth now."""
    fixed = _FIXED.get(attempt.state)
    if fixed is not None:
        return fixed
    if job.state is _SUCCEEDED:
        return Verdict.VALID if _agrees(job, attempt) else Verdict.INVALID
    if job.state is JobState.CANCELLED:
        return Verdict.UNNEEDED
    if job.state is JobState.FAILED:
        failed = attempt.state is AttemptState.FAILED
        return Verdict.VALID if failed and job.reason == "failures" else Verdict.INCONCLUSIVE
    return Verdict.PENDING


def _agrees(job: Job, attempt: Attempt) -> bool:
    if attempt.number == job.canonical:
        return True
    return any(same and {a, b} == {attempt.number, job.canonical} for a, b, same in job.comparisons)


def _check_claims(command: Report, job: Job) -> None:
    """Refuse what only matters for a result that would be taken.

    Raises:
        Refused: invalid; nothing of the whole report is recorded.
    """
    if command.digests.get(job.id, job.digest.hex()) != job.digest.hex():
        raise Refused("invalid", f"The statement names another digest than that of job {job.id}.", field="dig")
    if job.id in command.flaws:
        raise command.flaws[job.id]


def _take(
    world: World, command: Report, taken: list[Reported], where: tuple[int, int], judged: dict[int, Judged]
) -> list[AnyEvent]:
    """Record results and what follows from them; add their verdicts to `judged`."""
    seq, at_ms = where
    event = ResultsReported(
        jti=command.jti, worker=command.worker, statement=command.statement, answer=command.answer, results=taken
    )
    outfall = Outfall(world, seq, at_ms)
    for result, (job_id, step) in zip(taken, steps(event, seq, at_ms), strict=True):
        job = outfall.settle(evolve(world.jobs[job_id], step))
        judged[job_id] = Judged(job_id, result.attempt, verdict(job, job.attempts[result.attempt - 1]), seq)
    return [event, *outfall.events]


def _refused(result: Reported, code: Verdict) -> Judged:
    return Judged(result.job, result.attempt, code, -1)


def _refusal(world: World, command: Report, code: Verdict) -> list[AnyEvent]:
    hand_out = world.hand_outs.get(command.jti)
    noted = hand_out.noted if hand_out is not None else command.past.noted
    if code in noted:
        return []
    return [RefusalNoted(jti=command.jti, job=command.pairs[0][0], code=code)]


def _equivocation(world: World, command: Report, result: Reported) -> list[AnyEvent]:
    if not _refusal(world, command, Verdict.EQUIVOCATION):
        return []
    return [
        Equivocated(
            jti=command.jti,
            worker=command.worker,
            job=result.job,
            attempt=result.attempt,
            statement=command.statement,
            answer=command.answer,
        ),
        *_refusal(world, command, Verdict.EQUIVOCATION),
    ]
