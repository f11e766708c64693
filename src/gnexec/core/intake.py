"""What comes in: jobs, their cancellation, and workers."""

from __future__ import annotations

from dataclasses import replace

from gnexec.core.commands import Accepted, Answer, Cancel, Cancelled, Enrol, Enrolled, JobRequest, Submit
from gnexec.core.events import AnyEvent, JobState, JoinedJob, NewJob, OwnerWithdrew, Submitted, WorkerEnrolled
from gnexec.core.job import Job, evolve
from gnexec.core.steps import Withdraw
from gnexec.core.terms import Terms, at_least_as_strict
from gnexec.core.world import World
from gnexec.errors import Refused
from gnexec.ids import worker_id


def submit(world: World, command: Submit) -> tuple[list[AnyEvent], Answer]:
    """Take jobs in: a new id for what is new, the existing job for what is known.

    Raises:
        Refused: key_reused.
    """
    if command.repeated is not None:
        body, answer = command.repeated
        if body != command.body:
            raise Refused(
                "key_reused",
                "This idempotency key came with another request before.",
                field="Idempotency-Key",
                mend="Use a new key for a new request.",
            )
        return [], replace(answer, again=True)
    terms: dict[Terms, int] = {}
    fresh: list[NewJob] = []
    joined: list[JoinedJob] = []
    made: dict[str, int] = {}
    for position, request in enumerate(command.jobs):
        index = terms.setdefault(request.terms, len(terms))
        existing = None if request.force else made.get(request.digest)
        known = command.known.get(request.digest)
        if existing is None and known is not None and _answers(known, request):
            existing = known.id
        if existing is None:
            made[request.digest] = world.next_job + len(fresh)
            fresh.append(NewJob(request.digest, request.spec, index))
        else:
            joined.append(JoinedJob(position, existing, index))
    event = Submitted(
        first=world.next_job,
        owner=command.owner,
        project=command.project,
        key=command.key,
        body=command.body,
        terms=list(terms),
        jobs=fresh,
        joined=joined,
    )
    return [event], Accepted.of(event)


def cancel(world: World, command: Cancel, at_ms: int) -> tuple[list[AnyEvent], Answer]:
    """Withdraw an owner from jobs; the last owner's withdrawal cancels them.

    Raises:
        Refused: not_found for a job that is unknown or another's.
    """
    found: list[Job] = []
    leaving: list[int] = []
    for job_id in dict.fromkeys(command.jobs):
        job = world.jobs.get(job_id) or command.past.jobs.get(job_id)
        if job is None or command.owner not in (*job.owners, *job.former_owners):
            raise Refused("not_found", f"There is no job {job_id} of yours.")
        if job.decided or command.owner not in job.owners:
            found.append(job)
        else:
            leaving.append(job_id)
            found.append(evolve(job, Withdraw(command.owner, at_ms, world.size)))
    events: list[AnyEvent] = [OwnerWithdrew(owner=command.owner, jobs=leaving)] if leaving else []
    return events, Cancelled(tuple(found))


def enrol(world: World, command: Enrol) -> tuple[list[AnyEvent], Answer]:
    """Admit a worker, or take its new offer; nothing is entered where it says what it said before.

    Raises:
        Refused: conflict where the key is another owner's worker.
    """
    known = world.worker_by_kid.get(command.kid)
    if known is not None and world.workers[known].owner != command.owner:
        raise Refused(
            "conflict",
            "This key is enrolled for another owner.",
            field="jwk",
            mend="Make a new worker key, or enrol with the access token of its owner.",
        )
    if known is not None:
        record = world.workers[known]
        if (record.offer, record.caps) == (command.offer, command.caps):
            return [], Enrolled(known, created=False)
    worker = known or worker_id(command.draw)
    event = WorkerEnrolled(
        worker=worker, owner=command.owner, x=command.x, kid=command.kid, caps=command.caps, offer=command.offer
    )
    return [event], Enrolled(worker, known is None)


def _answers(known: Job, asked: JobRequest) -> bool:
    """Tell whether a job that exists answers a request for the same work."""
    if asked.force or known.state is JobState.CANCELLED:
        return False
    if known.state is JobState.FAILED and asked.retry_failed:
        return False
    return not known.decided or at_least_as_strict(known.terms, asked.terms)
