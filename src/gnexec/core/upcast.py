"""Older forms of events, and what they are today.

A log is never rewritten, so every form that was ever written is read for ever: it is upcast on reading, and no other
module knows of it. Here stand the forms that are no longer written.
"""

from __future__ import annotations

from gnexec.core.events import AnyEvent, Compared, Event, JobDecided, JobsDecided, JobState, PolicySet, ResultsCompared


class FirstPolicySet(Event, frozen=True, tag="policy-set/1"):
    """The operator's numbers, before there were limits for an owner and for silent workers; see `PolicySet`."""

    lease_s: int
    grace_s: int
    max_open: int
    distinct_owners: bool
    open: bool = False


class ComparedOne(Event, frozen=True, tag="compared/1"):
    """Two results were compared, in an entry of their own; see `Compared`."""

    job: int
    a: int
    b: int
    equal: bool
    validator: str
    why: str


class JobDecidedAlone(Event, frozen=True, tag="job-decided/1"):
    """A job was decided, in an entry of its own; see `JobDecided`."""

    job: int
    revision: int
    state: JobState
    canonical: int | None
    reason: str


OldEvent = FirstPolicySet | ComparedOne | JobDecidedAlone
"""What is read, but no longer written."""


def upcast(event: AnyEvent | OldEvent) -> AnyEvent:
    """Return what `event` is in today's form."""
    match event:
        case FirstPolicySet():
            return PolicySet(
                lease_s=event.lease_s,
                grace_s=event.grace_s,
                max_open=event.max_open,
                distinct_owners=event.distinct_owners,
                open=event.open,
            )
        case ComparedOne():
            found = Compared(event.job, event.a, event.b, event.equal, event.validator, event.why)
            return ResultsCompared(found=[found])
        case JobDecidedAlone():
            decided = JobDecided(event.job, event.revision, event.state, event.canonical, event.reason)
            return JobsDecided(decided=[decided])
        case _:
            return event
