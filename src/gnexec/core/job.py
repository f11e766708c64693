"""A job's state machine, as one table, and `evolve`: everything that changes a job is in this file.

A job's record is frozen; `evolve(job, step)` returns the next one, or raises `IllegalTransition` and changes nothing.
What an event means for one job is `gnexec.core.steps`'; which jobs are open, and for whom, is `gnexec.core.world`'s;
what ought to happen is `gnexec.core.decide`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NoReturn, assert_never

import msgspec

from gnexec.core.events import AnyEvent, AttemptState, JobState, Outcome, Word
from gnexec.core.steps import Compare, Create, Decide, Join, Lapse, Report, Start, Step, Withdraw, steps_of
from gnexec.core.terms import DataClass, Terms
from gnexec.errors import IllegalTransition

BLAMELESS: Final = frozenset({"preempted", "stopped"})
"""Limits of an outcome that are no fault of the job: the volunteer, or the server, stopped it."""

SILENT: Final = frozenset(
    {
        AttemptState.EXPIRED,
        AttemptState.ABANDONED,
        AttemptState.UNDELIVERED,
        AttemptState.UNNEEDED,
        AttemptState.CANCELLED,
    }
)
"""How an attempt may end without an answer."""


_OPEN: Final = AttemptState.OPEN
_SUCCEEDED: Final = AttemptState.SUCCEEDED
_UNDECIDED: Final = (JobState.RUNNING, JobState.QUEUED)
# Constants, since in Python 3.11 each look at a member of an enumeration costs as much as a comparison.


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One hand-out of a job to one worker.

    Attributes:
        number: 1.., the fencing number.
        owner: the owner its result counts for.
        ended_ms: when it was closed; 0 while open.
        answer: identity of the worker's answer, 32 bytes; b"" without one.
        canon: what is compared, 32 bytes; None unless it exited 0.
        outs: digest of its manifest, 32 bytes, or None.
        seq: log entry of its report, or -1.
    """

    number: int
    jti: str
    worker: str
    owner: str
    started_ms: int
    state: AttemptState = AttemptState.OPEN
    ended_ms: int = 0
    answer: bytes = b""
    outcome: Outcome | None = None
    canon: bytes | None = None
    outs: bytes | None = None
    wall_ms: int = 0
    cpu_ms: int = 0
    peak_rss_bytes: int = 0
    seq: int = -1


class Job(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A job, folded from its events.

    Attributes:
        digest: the job digest, 32 bytes. spec: salted digest of its specification, 32 bytes.
        owners: who wants it; never empty unless cancelled. former_owners: who withdrew; may still read it.
        attempts: by number: attempts[n - 1] is attempt n.
        comparisons: (a, b, equal) for pairs of attempt numbers.
        canonical: attempt number of the accepted result, or None.
        decided_seq: log entry of the newest decision, or -1.
    """

    id: int
    digest: bytes
    spec: bytes
    terms: Terms
    project: str
    owners: tuple[str, ...]
    submitted_ms: int
    seq: int
    former_owners: tuple[str, ...] = ()
    state: JobState = JobState.QUEUED
    attempts: tuple[Attempt, ...] = ()
    comparisons: tuple[tuple[int, int, bool], ...] = ()
    revision: int = 0
    canonical: int | None = None
    reason: str = ""
    decided_ms: int = 0
    decided_seq: int = -1

    @property
    def decided(self) -> bool:
        """Whether nothing more is wanted: succeeded, failed or cancelled."""
        return self.state not in _UNDECIDED

    @property
    def open_attempts(self) -> int:
        """Number of attempts that may still be answered."""
        return sum([a.state is _OPEN for a in self.attempts])

    @property
    def closed(self) -> bool:
        """Whether it may leave the world: decided, and no attempt is open."""
        return self.decided and self.open_attempts == 0

    def attempt(self, number: int) -> Attempt | None:
        """Return the attempt with that number, or None."""
        return self.attempts[number - 1] if 1 <= number <= len(self.attempts) else None


class Trigger(Word):
    """What can happen to a job, as far as its state is concerned."""

    JOIN = "join"
    START = "start"
    COMPARE = "compare"
    END = "end"
    """An attempt ended; others are open."""
    DRAIN = "drain"
    """The last open attempt ended."""
    SUCCEED = "succeed"
    FAIL = "fail"
    WITHDRAW = "withdraw"
    """An owner left; others remain."""
    CANCEL = "cancel"
    """The last owner left."""


_Q, _R, _S, _F, _C = JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED
_T = Trigger

TRANSITIONS: Final[dict[tuple[JobState, Trigger], JobState]] = {
    (_Q, _T.JOIN): _Q,
    (_R, _T.JOIN): _R,
    (_S, _T.JOIN): _S,
    (_F, _T.JOIN): _F,
    (_Q, _T.START): _R,
    (_R, _T.START): _R,
    (_R, _T.COMPARE): _R,
    (_Q, _T.COMPARE): _Q,
    (_S, _T.COMPARE): _S,
    (_F, _T.COMPARE): _F,
    (_R, _T.END): _R,
    (_R, _T.DRAIN): _Q,
    (_S, _T.END): _S,
    (_S, _T.DRAIN): _S,
    (_F, _T.END): _F,
    (_F, _T.DRAIN): _F,
    (_C, _T.END): _C,
    (_C, _T.DRAIN): _C,
    (_Q, _T.SUCCEED): _S,
    (_R, _T.SUCCEED): _S,
    (_Q, _T.FAIL): _F,
    (_R, _T.FAIL): _F,
    (_Q, _T.WITHDRAW): _Q,
    (_R, _T.WITHDRAW): _R,
    (_Q, _T.CANCEL): _C,
    (_R, _T.CANCEL): _C,
}
"""The whole machine: what is not in this table cannot happen."""

_DECISIONS: Final = {_S: _T.SUCCEED, _F: _T.FAIL}


def evolve(job: Job | None, step: Step) -> Job:
    """Return the job after `step`; the same for live operation and for replay.

    Args:
        job: the job before, or None only for `Create`.
        step: one of the steps of `steps`.

    Raises:
        IllegalTransition: the step does not fit; `job` is as it was.
    """
    if job is None:
        if isinstance(step, Create):
            return _create(step)
        msg = f"{type(step).__name__} for a job that does not exist"
        raise IllegalTransition(msg)
    match step:  # what happens most stands first
        case Start():
            return _start(job, step)
        case Report():
            return _report(job, step)
        case Decide():
            return _decide(job, step)
        case Compare():
            return _compare(job, step)
        case Lapse():
            return _lapse(job, step)
        case Join():
            return _join(job, step)
        case Create():
            return _illegal(job, "it was handed in already")
        case Withdraw():
            return _withdraw(job, step)
        case _:
            assert_never(step)


def fold(job_id: int, events: Iterable[tuple[int, int, AnyEvent]]) -> Job | None:
    """Fold one job from (seq, at_ms, event) triples, in order; events about other jobs do no harm."""
    job: Job | None = None
    for seq, at_ms, event in events:
        for step in steps_of(job_id, event, seq, at_ms):
            job = evolve(job, step)
    return job


def outcome_state(job: Job, outcome: Outcome) -> AttemptState:
    """Return how an attempt of `job` ends when its worker reports `outcome` now."""
    if job.decided:
        return AttemptState.CANCELLED if job.state is _C else AttemptState.UNNEEDED
    if outcome.success:
        return _SUCCEEDED
    return AttemptState.PREEMPTED if outcome.limit in BLAMELESS else AttemptState.FAILED


def stricter(a: Terms, b: Terms) -> Terms:
    """Return `a` with the larger of each redundancy number, the higher priority, and the closer class of the two."""
    if a is b or a == b:
        return a
    both = a.redundancy, b.redundancy
    return msgspec.structs.replace(
        a,
        priority=max(a.priority, b.priority),
        data_class=DataClass.PROJECT if DataClass.PROJECT in (a.data_class, b.data_class) else DataClass.PUBLIC,
        redundancy=msgspec.structs.replace(
            a.redundancy,
            replicas=max(r.replicas for r in both),
            quorum=max(r.quorum for r in both),
            max_attempts=max(r.max_attempts for r in both),
            max_failures=max(r.max_failures for r in both),
        ),
    )


def _illegal(job: Job, why: str) -> NoReturn:
    msg = f"job {job.id} ({job.state}, {len(job.attempts)} attempts): {why}"
    raise IllegalTransition(msg)


def _next(job: Job, trigger: Trigger) -> JobState:
    after = TRANSITIONS.get((job.state, trigger))
    if after is None:
        _illegal(job, f"{trigger} is not possible")
    return after


def _open(job: Job, number: int, jti: str) -> Attempt:
    attempt = job.attempt(number)
    if attempt is None:
        _illegal(job, f"there is no attempt {number}")
    if attempt.state is not _OPEN:
        _illegal(job, f"attempt {number} is {attempt.state} already")
    if attempt.jti != jti:
        _illegal(job, f"attempt {number} belongs to another hand-out than {jti}")
    return attempt


def _create(step: Create) -> Job:
    return Job(
        id=step.job,
        digest=bytes.fromhex(step.digest),
        spec=bytes.fromhex(step.spec),
        terms=step.terms,
        project=step.project,
        owners=(step.owner,),
        submitted_ms=step.at_ms,
        seq=step.seq,
    )


def _start(job: Job, step: Start) -> Job:
    if step.number != len(job.attempts) + 1:
        _illegal(job, f"attempt {step.number} is not the next one")
    attempt = Attempt(number=step.number, jti=step.jti, worker=step.worker, owner=step.owner, started_ms=step.at_ms)
    return msgspec.structs.replace(job, state=_next(job, Trigger.START), attempts=(*job.attempts, attempt))


def _end(job: Job, ended: Attempt) -> Job:
    index = ended.number - 1
    attempts = (*job.attempts[:index], ended, *job.attempts[index + 1 :])
    still_open = len(attempts) > 1 and any(a.state is _OPEN for a in attempts)
    return msgspec.structs.replace(
        job, state=_next(job, Trigger.END if still_open else Trigger.DRAIN), attempts=attempts
    )


def _join(job: Job, step: Join) -> Job:
    return msgspec.structs.replace(
        job,
        state=_next(job, Trigger.JOIN),
        owners=job.owners if step.owner in job.owners else (*job.owners, step.owner),
        former_owners=tuple(o for o in job.former_owners if o != step.owner),
        terms=job.terms if job.decided else stricter(job.terms, step.terms),
    )


def _report(job: Job, step: Report) -> Job:
    result = step.result
    attempt = _open(job, result.attempt, step.jti)
    return _end(
        job,
        msgspec.structs.replace(
            attempt,
            state=outcome_state(job, result.outcome),
            ended_ms=step.at_ms,
            answer=step.answer,
            outcome=result.outcome,
            canon=bytes.fromhex(result.canon) if result.canon is not None else None,
            outs=bytes.fromhex(result.outs) if result.outs is not None else None,
            wall_ms=result.wall_ms,
            cpu_ms=result.cpu_ms,
            peak_rss_bytes=result.peak_rss_bytes,
            seq=step.seq,
        ),
    )


def _lapse(job: Job, step: Lapse) -> Job:
    attempt = _open(job, step.attempt, step.jti)
    if step.outcome not in SILENT:
        _illegal(job, f"attempt {step.attempt} cannot be {step.outcome} without an answer")
    return _end(job, msgspec.structs.replace(attempt, state=step.outcome, ended_ms=step.at_ms))


def _compare(job: Job, step: Compare) -> Job:
    if step.a == step.b:
        _illegal(job, f"attempt {step.a} is compared with itself")
    _with_result(job, step.a)
    _with_result(job, step.b)
    return msgspec.structs.replace(
        job,
        state=_next(job, Trigger.COMPARE),
        comparisons=(*job.comparisons, (step.a, step.b, step.equal)),
    )


def _decide(job: Job, step: Decide) -> Job:
    event = step.decided
    if event.revision != job.revision + 1:
        _illegal(job, f"revision {event.revision} does not follow {job.revision}")
    trigger = _DECISIONS.get(event.state)
    if trigger is None:
        _illegal(job, f"it cannot be decided as {event.state}")
    if (event.canonical is not None) != (trigger is Trigger.SUCCEED):
        _illegal(job, "a decision has a canonical result if and only if it is a success")
    if event.canonical is not None:
        _with_result(job, event.canonical)
    return msgspec.structs.replace(
        job,
        state=_next(job, trigger),
        revision=event.revision,
        canonical=event.canonical,
        reason=event.reason,
        decided_ms=step.at_ms,
        decided_seq=step.seq,
    )


def _with_result(job: Job, number: int) -> None:
    attempt = job.attempt(number)
    if attempt is None or attempt.state is not _SUCCEEDED:
        _illegal(job, f"attempt {number} has no result")


def _withdraw(job: Job, step: Withdraw) -> Job:
    if step.owner not in job.owners:
        _illegal(job, f"{step.owner} is not one of its owners")
    owners = tuple(o for o in job.owners if o != step.owner)
    former = (*job.former_owners, step.owner)
    if owners:
        return msgspec.structs.replace(job, state=_next(job, Trigger.WITHDRAW), owners=owners, former_owners=former)
    return msgspec.structs.replace(
        job,
        state=_next(job, Trigger.CANCEL),
        owners=(),
        former_owners=former,
        reason="cancelled",
        decided_ms=step.at_ms,
        decided_seq=step.seq,
    )
