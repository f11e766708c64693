"""How many attempts a job needs, and when its results decide it.

Tolerance is not transitive, so agreement is not a partition of the results: the canonical result is the earliest one
with `quorum - 1` others, from other owners, that agree with *it*. Comparisons are events; this module only counts them.

Source: BOINC sched/transitioner.cpp and validate_util2.cpp (replica accounting), without its unrecorded draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gnexec.core.events import AttemptState, JobState
from gnexec.core.job import Attempt, Job

FREE_PREEMPTIONS: Final = 32
"""Attempts of a job that volunteers may give back before it costs the job anything."""
_FREE = frozenset({AttemptState.UNDELIVERED, AttemptState.PREEMPTED})
"""Outcomes that use up no budget: nobody's fault."""
_SUCCEEDED: Final = AttemptState.SUCCEEDED
_OPEN: Final = AttemptState.OPEN


@dataclass(frozen=True, slots=True)
class Decision:
    """What the results amount to.

    Attributes:
        state: succeeded or failed.
        canonical: attempt number of the accepted result, or None.
        reason: quorum, failures or attempts.
    """

    state: JobState
    canonical: int | None
    reason: str


def results(job: Job) -> list[Attempt]:
    """Return the attempts with a comparable result, in the order in which the results came."""
    found = [a for a in job.attempts if a.state is _SUCCEEDED]
    return found if len(found) < 2 else sorted(found, key=lambda a: (a.seq, a.number))


def agreeing(job: Job, number: int, *, distinct_owners: bool) -> int:
    """Count the results that agree with attempt `number`, itself included.

    Args:
        job: folded state.
        number: an attempt that has a result.
        distinct_owners: several results of one owner count once.
    """
    equal = {number}
    for a, b, same in job.comparisons:
        if same and number in (a, b):
            equal |= {a, b}
    if not distinct_owners:
        return len(equal)
    return len({job.attempts[n - 1].owner for n in equal})


def spent(job: Job) -> int:
    """Count the attempts that use up the budget `max_attempts`.

    Being preempted is nobody's fault, so it has a budget of its own; a job that is given back even more often than that
    can run nowhere, or somebody sees to it that it does not.
    """
    counted = preempted = 0
    for attempt in job.attempts:
        counted += attempt.state not in _FREE
        preempted += attempt.state is AttemptState.PREEMPTED
    return counted + max(0, preempted - FREE_PREEMPTIONS)


def replicas_needed(job: Job, *, distinct_owners: bool) -> int:
    """Count the attempts to start now so that `job` can still be decided well.

    Args:
        job: folded state.
        distinct_owners: as in the policy in force.

    Returns:
        0..64; 0 once it is decided or its budget is used up.

    Source: BOINC sched/transitioner.cpp.
    """
    if job.decided:
        return 0
    rule = job.terms.redundancy
    if not job.attempts:
        return rule.replicas
    have = waiting = 0
    for attempt in job.attempts:
        have += attempt.state is _SUCCEEDED
        waiting += attempt.state is _OPEN
    best = min(have, 1)
    if job.comparisons:
        best = max(agreeing(job, a.number, distinct_owners=distinct_owners) for a in results(job))
    wanted = max(rule.replicas - have, rule.quorum - best) - waiting
    return max(0, min(wanted, rule.max_attempts - spent(job))) if wanted > 0 else 0


def decision(job: Job, *, distinct_owners: bool) -> Decision | None:
    """Return what the results amount to, or None while more are to be waited for.

    Args:
        job: folded state, not yet decided, all pairs of its results compared.
        distinct_owners: as in the policy in force.
    """
    rule = job.terms.redundancy
    for result in results(job):
        if rule.quorum == 1 or agreeing(job, result.number, distinct_owners=distinct_owners) >= rule.quorum:
            return Decision(JobState.SUCCEEDED, result.number, "quorum")
    if sum(a.state is AttemptState.FAILED for a in job.attempts) >= rule.max_failures:
        return Decision(JobState.FAILED, None, "failures")
    if job.open_attempts == 0 and spent(job) >= rule.max_attempts:
        return Decision(JobState.FAILED, None, "attempts")
    return None


def excluded_owners(job: Job, *, distinct_owners: bool) -> frozenset[str]:
    """Return the owners that may not be given this job (again).

    Where several owners must agree, each has one say: an open attempt or an answer uses it up. Where one result is
    enough, anyone may try again.
    """
    if not distinct_owners or job.terms.redundancy.quorum == 1 or not job.attempts:
        return frozenset()
    used = (AttemptState.OPEN, AttemptState.SUCCEEDED, AttemptState.FAILED)
    return frozenset(a.owner for a in job.attempts if a.state in used)
