"""Judging results: which are taken, which come too late, and what they decide.

A result is judged in this order: answered before (same claims: the current verdict; others: equivocation) · deadline
passed or attempt closed (too late) · job decided or cancelled (unneeded) · else it is recorded, compared and counted.
Signatures, audiences and paths were checked before a command reaches this module.
"""

from __future__ import annotations

from gnexec.core.commands import Answer, Judged, Report, Verdict, Verdicts
from gnexec.core.events import (
    AnyEvent,
    AttemptState,
    Equivocated,
    JobDecided,
    JobState,
    RefusalNoted,
    Reported,
    ResultsReported,
)
from gnexec.core.job import Attempt, Compare, Job, evolve, steps
from gnexec.core.policy.redundancy import decision
from gnexec.core.policy.validation import missing_comparisons
from gnexec.core.world import World
from gnexec.errors import Refused


def report(world: World, command: Report, at_ms: int) -> tuple[list[AnyEvent], Answer]:
    """Judge the results of a report; each gets a verdict, in the order given."""
    if len({result.job for result in command.results}) != len(command.results):
        raise Refused("invalid", "A job is named twice in one report.", field="results")
    refused: dict[int, Verdict] = {}
    answered: dict[int, Judged] = {}
    taken: list[Reported] = []
    events: list[AnyEvent] = []
    for result in command.results:
        job = world.jobs.get(result.job) or command.past.jobs.get(result.job)
        attempt = job.attempt(result.attempt) if job is not None else None
        if job is None or attempt is None or attempt.jti != command.jti:
            refused[result.job] = Verdict.TOO_LATE
        elif attempt.answer:
            if attempt.answer.hex() == command.answer:
                answered[result.job] = Judged(job.id, attempt.number, verdict(world, job, attempt), attempt.seq)
            else:
                refused[result.job] = Verdict.EQUIVOCATION
                events.extend(_equivocation(world, command, result))
        elif at_ms > command.exp_s * 1000 or attempt.state is not AttemptState.OPEN:
            refused[result.job] = Verdict.TOO_LATE
            events.extend(_refusal(world, command, Verdict.TOO_LATE))
        else:
            taken.append(result)
    events = list(dict.fromkeys(events))
    seq = world.size + len(events)
    verdicts: dict[int, Judged] = {}
    if taken:
        event = ResultsReported(
            jti=command.jti,
            worker=command.worker,
            statement=command.statement,
            answer=command.answer,
            results=taken,
        )
        events.append(event)
        for job_id, step in steps(event, seq, at_ms):
            after = evolve(world.jobs[job_id], step)
            follow = settle(world, after)
            events.extend(follow)
            for further in follow:
                for about, next_step in steps(further, seq, at_ms):
                    after = evolve(after, next_step) if about == job_id else after
            attempt = after.attempts[step.result.attempt - 1]  # type: ignore[union-attr]
            verdicts[job_id] = Judged(job_id, attempt.number, verdict(world, after, attempt), seq)
    judged = []
    for result in command.results:
        found = verdicts.get(result.job) or answered.get(result.job)
        judged.append(found or Judged(result.job, result.attempt, refused[result.job], -1))
    return events, Verdicts(tuple(judged))


def settle(world: World, job: Job) -> list[AnyEvent]:
    """Return what follows for a job from its results: missing comparisons, and a decision if they amount to one.

    Args:
        world: for the policy in force.
        job: with the newest result or lapse in it.
    """
    if job.decided:
        return []
    events: list[AnyEvent] = []
    if job.terms.redundancy.quorum > 1:
        for compared in missing_comparisons(job):
            events.append(compared)
            job = evolve(job, Compare(compared.a, compared.b, compared.equal))
    found = decision(job, distinct_owners=world.policy.distinct_owners)
    if found is not None:
        events.append(
            JobDecided(
                job=job.id,
                revision=job.revision + 1,
                state=found.state,
                canonical=found.canonical,
                reason=found.reason,
            )
        )
    return events


def verdict(world: World, job: Job, attempt: Attempt) -> Verdict:
    """Return what an answered or closed attempt is worth now."""
    match attempt.state:
        case AttemptState.UNNEEDED | AttemptState.CANCELLED | AttemptState.PREEMPTED:
            return Verdict.UNNEEDED
        case AttemptState.EXPIRED | AttemptState.ABANDONED | AttemptState.UNDELIVERED:
            return Verdict.TOO_LATE
        case AttemptState.FAILED | AttemptState.SUCCEEDED | AttemptState.OPEN:
            pass
    if not job.decided:
        return Verdict.PENDING
    if job.state is JobState.CANCELLED:
        return Verdict.UNNEEDED
    if job.state is JobState.FAILED:
        failed = attempt.state is AttemptState.FAILED
        return Verdict.VALID if failed and job.reason == "failures" else Verdict.INCONCLUSIVE
    return Verdict.VALID if _agrees(job, attempt) else Verdict.INVALID


def _agrees(job: Job, attempt: Attempt) -> bool:
    if attempt.number == job.canonical:
        return True
    return any(same and {a, b} == {attempt.number, job.canonical} for a, b, same in job.comparisons)


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

