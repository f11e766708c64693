"""Handing attempts out, keeping their leases, and closing those that lapsed."""

from __future__ import annotations

from typing import Final

from gnexec.core.commands import Answer, Directive, Done, EndOutage, NextJobs, NoWork, Progress, Work
from gnexec.core.events import (
    AnyEvent,
    AttemptsLapsed,
    AttemptState,
    Effort,
    HandedOut,
    JobState,
    LapsedAttempt,
    LeaseExtended,
    OutageEnded,
)
from gnexec.core.job import Job, evolve
from gnexec.core.judge import Outfall
from gnexec.core.policy.matching import choose, explain
from gnexec.core.policy.prediction import attempt_ms
from gnexec.core.records import HandOut, WorkerRecord, series
from gnexec.core.steps import steps
from gnexec.core.world import World
from gnexec.errors import Refused
from gnexec.ids import ANONYMOUS, attempt_id

LONGEST_S: Final = 365 * 24 * 3600
"""A hand-out's deadline is never further away than this, however many long jobs it holds."""


def next_jobs(world: World, command: NextJobs, at_ms: int) -> tuple[list[AnyEvent], Answer]:
    """Hand out up to n attempts, as one event; a repeated request gets the same ones again.

    Raises:
        Refused: unknown_key for a worker that is not enrolled, or not for that owner.
    """
    if command.req is not None:
        jti = world.requests.get((command.worker, command.req))
        if jti is not None:
            return [], _again(world, world.hand_outs[jti])
    record = asking(world, command.worker, command.owner)
    owner = record.owner
    jti = attempt_id(command.draw)
    if not world.policy.distinct_owners:
        owner = f"{owner}#{jti}"  # All volunteers are trusted: each hand-out counts as an owner of its own.
    chosen = [world.jobs[job] for job in choose(world, record, owner, command.n)]
    if not chosen:
        return [], NoWork(explain(world, record, owner))
    wall_s = min(sum(job.terms.needs.wall_s for job in chosen), LONGEST_S)
    deadline_ms = at_ms + 1000 * (wall_s + world.policy.grace_s)
    exp_s = -(-deadline_ms // 1000)
    event = HandedOut(
        jti=jti,
        worker=command.worker,
        owner=owner,
        req=command.req,
        jobs=[(job.id, len(job.attempts) + 1) for job in chosen],
        lease_until_ms=min(at_ms + 1000 * world.policy.lease_s, exp_s * 1000),
        exp_s=exp_s,
        est_s=_predicted_s(world, chosen),
    )
    jobs = tuple((job, len(job.attempts) + 1) for job in chosen)
    return [event], Work(event, jobs, event.lease_until_ms, at_ms)


def asking(world: World, worker: str, owner: str) -> WorkerRecord:
    """Return the record of the worker that asks for work.

    Raises:
        Refused: unknown_key for a worker that is not enrolled, or not for that owner.
    """
    record = world.worker(worker)
    if record is None or record.owner != owner or (worker == ANONYMOUS and not world.policy.open):
        raise Refused("unknown_key", "This worker is not enrolled here for this owner.", mend="Enrol it again.")
    return record


def progress(world: World, command: Progress, at_ms: int) -> tuple[list[AnyEvent], Answer]:
    """Take note of how a job goes: extend its lease on real progress, tell the worker to go on or to stop.

    Raises:
        Refused: too_late when the attempt is closed or past its deadline.
    """
    attempt_number = dict(command.pairs)[command.job]
    hand_out = world.hand_outs.get(command.jti)
    job = world.jobs.get(command.job) or command.past.jobs.get(command.job)
    attempt = job.attempt(attempt_number) if job is not None else None
    if job is None or attempt is None or attempt.jti != command.jti:
        raise Refused("too_late", "This attempt is not known to the log.", mend="Ask for new work.")
    if attempt.state is not AttemptState.OPEN or hand_out is None:
        raise Refused("too_late", f"The attempt is {attempt.state}.", mend="Stop it, and ask for new work.")
    if at_ms > command.exp_s * 1000:
        raise Refused("too_late", "The attempt's deadline has passed.", mend="Stop it, and ask for new work.")
    if job.decided:
        return [], Directive(stop=True, reason=_stop_reason(job), lease_until_ms=hand_out.lease_until_ms)
    event = _extension(world, hand_out, command, at_ms)
    if event is None:
        return [], Directive(stop=False, reason="", lease_until_ms=hand_out.lease_until_ms)
    return [event], Directive(stop=False, reason="", lease_until_ms=event.lease_until_ms)


def lapse(world: World, at_ms: int) -> tuple[list[AnyEvent], Answer]:
    """Close the attempts whose lease has passed, and decide what follows for their jobs."""
    ends: list[LapsedAttempt] = []
    for jti in world.due(at_ms):
        hand_out = world.hand_outs[jti]
        ends.extend(
            LapsedAttempt(jti, job, number, _lapsed(world.jobs[job], hand_out)) for job, number in sorted(hand_out.open)
        )
    if not ends:
        return [], Done()
    event = AttemptsLapsed(ends=ends)
    after = {job: world.jobs[job] for job in {end.job for end in ends}}
    for job, step in steps(event, world.size, at_ms):
        after[job] = evolve(after[job], step)
    outfall = Outfall(world, world.size, at_ms)
    for job_id in sorted(after):
        outfall.settle(after[job_id])
    return [event, *outfall.events], Done()


def end_outage(world: World, command: EndOutage, at_ms: int) -> tuple[list[AnyEvent], Answer]:
    """Prolong open leases by the time in which no server could be told anything."""
    since = max(command.since_ms, world.at_ms)
    if not world.hand_outs or at_ms <= since:
        return [], Done()
    return [OutageEnded(since_ms=since, until_ms=at_ms)], Done()


def _predicted_s(world: World, jobs: list[Job]) -> int | None:
    each = [attempt_ms(world.statistics.get(series(job)), job.terms.estimate_ms) for job in jobs]
    known = [ms for ms in each if ms is not None]
    return -(-sum(known) // 1000) if len(known) == len(each) else None


def _again(world: World, hand_out: HandOut) -> Work:
    jobs = tuple((world.jobs[job], number) for job, number in hand_out.event.jobs if (job, number) in hand_out.open)
    first = jobs[0][0].attempts[jobs[0][1] - 1]
    return Work(hand_out.event, jobs, hand_out.lease_until_ms, first.started_ms)


def _extension(world: World, hand_out: HandOut, command: Progress, at_ms: int) -> LeaseExtended | None:
    """Return the event that this report of progress is worth, if any.

    The first contact is always worth one (it tells a silent worker from an undelivered hand-out); later ones only when
    the job has more to show than at the last extension and less than half of the lease remains.
    """
    shown = hand_out.efforts.get(command.job, Effort())
    now = command.effort
    grown = now.progress_ppm > shown.progress_ppm or now.cpu_ms > shown.cpu_ms or now.stdout_bytes > shown.stdout_bytes
    lease_ms = 1000 * world.policy.lease_s
    short = hand_out.lease_until_ms - at_ms < lease_ms / 2
    if hand_out.contacted and not (grown and short):
        return None
    until = hand_out.lease_until_ms
    if grown and short:
        until = max(until, min(at_ms + lease_ms, hand_out.event.exp_s * 1000))
    if hand_out.contacted and until == hand_out.lease_until_ms:
        return None
    return LeaseExtended(jti=command.jti, job=command.job, effort=now, lease_until_ms=until)


def _lapsed(job: Job, hand_out: HandOut) -> AttemptState:
    if job.state is JobState.CANCELLED:
        return AttemptState.CANCELLED
    if job.decided:
        return AttemptState.UNNEEDED
    if not hand_out.contacted:
        return AttemptState.UNDELIVERED
    if hand_out.lease_until_ms >= hand_out.event.exp_s * 1000:
        return AttemptState.EXPIRED
    return AttemptState.ABANDONED


def _stop_reason(job: Job) -> str:
    return "cancelled" if job.state is JobState.CANCELLED else "the job is decided"
