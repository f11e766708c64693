"""What an event means for single jobs: `steps(event, seq, at_ms)` takes it apart, for live use and for replay alike.

A step is raw: it says what happened to one job, not whether that was possible, nor what the job looks like afterwards.
Both are `gnexec.core.job`'s.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from gnexec.core.events import (
    AnyEvent,
    AttemptsLapsed,
    AttemptState,
    Equivocated,
    HandedOut,
    JobDecided,
    JobsDecided,
    JoinedJob,
    LeaseExtended,
    OwnerWithdrew,
    RefusalNoted,
    Reported,
    ResultsCompared,
    ResultsReported,
    Submitted,
)
from gnexec.core.terms import Terms


class Create(msgspec.Struct, frozen=True, gc=False):
    """The job was handed in.

    Attributes:
        digest: the job digest, hexadecimal. spec: salted digest of its specification, hexadecimal.
    """

    job: int
    digest: str
    spec: str
    terms: Terms
    project: str
    owner: str
    at_ms: int
    seq: int


class Join(msgspec.Struct, frozen=True, gc=False):
    """Someone else, or someone again, wants the same; the stricter redundancy holds."""

    owner: str
    terms: Terms


class Start(msgspec.Struct, frozen=True, gc=False):
    """An attempt was handed out."""

    number: int
    jti: str
    worker: str
    owner: str
    at_ms: int


class Report(msgspec.Struct, frozen=True, gc=False):
    """A worker answered for an attempt.

    Attributes:
        answer: identity of the answer, 32 bytes.
    """

    jti: str
    result: Reported
    answer: bytes
    at_ms: int
    seq: int


class Lapse(msgspec.Struct, frozen=True, gc=False):
    """An attempt ended without an answer."""

    jti: str
    attempt: int
    outcome: AttemptState
    at_ms: int


class Compare(msgspec.Struct, frozen=True, gc=False):
    """Two results were compared."""

    a: int
    b: int
    equal: bool


class Decide(msgspec.Struct, frozen=True, gc=False):
    """The job was decided."""

    decided: JobDecided
    at_ms: int
    seq: int


class Withdraw(msgspec.Struct, frozen=True, gc=False):
    """An owner wants it no longer."""

    owner: str
    at_ms: int
    seq: int


Step = Create | Join | Start | Report | Lapse | Compare | Decide | Withdraw


def steps(event: AnyEvent, seq: int, at_ms: int) -> Iterator[tuple[int, Step]]:
    """Take an event apart into what it means for each job: (job id, step), in order.

    Args:
        event: any event; one that is about no job gives nothing.
        seq: its place in the log.
        at_ms: its time.
    """
    match event:
        case Submitted():
            yield from _submitted(event, seq, at_ms)
        case HandedOut():
            for job, number in event.jobs:
                yield job, Start(number, event.jti, event.worker, event.owner, at_ms)
        case ResultsReported():
            answer = bytes.fromhex(event.answer)
            for result in event.results:
                yield result.job, Report(event.jti, result, answer, at_ms, seq)
        case ResultsCompared():
            for found in event.found:
                yield found.job, Compare(found.a, found.b, found.equal)
        case JobsDecided():
            for decided in event.decided:
                yield decided.job, Decide(decided, at_ms, seq)
        case AttemptsLapsed():
            for end in event.ends:
                yield end.job, Lapse(end.jti, end.attempt, end.outcome, at_ms)
        case OwnerWithdrew():
            for job in event.jobs:
                yield job, Withdraw(event.owner, at_ms, seq)
        case _:
            return


def steps_of(job: int, event: AnyEvent, seq: int, at_ms: int) -> Iterator[Step]:
    """Yield what an event means for one job, without taking a large submission apart for it."""
    if isinstance(event, Submitted):
        if 0 <= job - event.first < len(event.jobs):
            yield _created(event, job, seq, at_ms)
        yield from (_joined(event, joined) for joined in event.joined if joined.job == job)
    else:
        yield from (step for about, step in steps(event, seq, at_ms) if about == job)


def jobs_of(event: AnyEvent) -> set[int]:
    """Return the ids of the jobs that an event tells of."""
    match event:
        case Submitted():
            return {*range(event.first, event.first + len(event.jobs)), *(row.job for row in event.joined)}
        case HandedOut():
            return {job for job, _ in event.jobs}
        case ResultsReported():
            return {result.job for result in event.results}
        case ResultsCompared():
            return {found.job for found in event.found}
        case JobsDecided():
            return {decided.job for decided in event.decided}
        case AttemptsLapsed():
            return {end.job for end in event.ends}
        case OwnerWithdrew():
            return set(event.jobs)
        case LeaseExtended() | RefusalNoted() | Equivocated():
            return {event.job}
        case _:
            return set()


def _submitted(event: Submitted, seq: int, at_ms: int) -> Iterator[tuple[int, Step]]:
    for job in range(event.first, event.first + len(event.jobs)):
        yield job, _created(event, job, seq, at_ms)
    for joined in event.joined:
        yield joined.job, _joined(event, joined)


def _created(event: Submitted, job: int, seq: int, at_ms: int) -> Create:
    row = event.jobs[job - event.first]
    return Create(job, row.digest, row.spec, event.terms[row.terms], event.project, event.owner, at_ms, seq)


def _joined(event: Submitted, joined: JoinedJob) -> Join:
    return Join(event.owner, event.terms[joined.terms])
