"""Events in a few words, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from gnexec.core.events import (
    AnyEvent,
    AttemptsLapsed,
    Compared,
    Equivocated,
    HandedOut,
    JobDecided,
    KeyAdded,
    LeaseExtended,
    LogOpened,
    OutageEnded,
    OwnerWithdrew,
    PolicySet,
    RefusalNoted,
    ResultsReported,
    Submitted,
    WorkerEnrolled,
)


def name_of(event: AnyEvent) -> str:
    """Return an event's name, without its version."""
    return str(event.__struct_config__.tag).partition("/")[0]


def about(event: AnyEvent) -> str:
    """Say in a few words what an event is about; ids are shortened."""
    match event:
        case LogOpened():
            return event.origin
        case KeyAdded():
            return f"{_id(event.kid)} signs tokens"
        case PolicySet():
            return f"lease {event.lease_s} s, grace {event.grace_s} s, quota {event.max_open}"
        case WorkerEnrolled():
            return f"{_id(event.worker)} of {_id(event.owner)}"
        case Submitted():
            return _submitted(event)
        case HandedOut():
            jobs = [f"{job}.{attempt}" for job, attempt in event.jobs]
            return f"{_list(jobs)} to {_id(event.worker)}"
        case LeaseExtended():
            return f"job {event.job} at {event.effort.progress_ppm / 10_000:.0f} %"
        case ResultsReported():
            results = [f"{result.job}.{result.attempt} {result.outcome.text}" for result in event.results]
            return f"{_list(results)} by {_id(event.worker)}"
        case Compared():
            return f"job {event.job}: attempt {event.a} {'equals' if event.equal else 'differs from'} {event.b}"
        case JobDecided():
            return f"job {event.job} {event.state} ({event.reason})"
        case AttemptsLapsed():
            return _list([f"{end.job}.{end.attempt} {end.outcome}" for end in event.ends])
        case OwnerWithdrew():
            return f"{_id(event.owner)} from {_list([str(job) for job in event.jobs])}"
        case OutageEnded():
            return f"{(event.until_ms - event.since_ms) / 1000:.1f} s without a server"
        case RefusalNoted():
            return f"job {event.job}: {event.code}"
        case Equivocated():
            return f"job {event.job}, attempt {event.attempt} by {_id(event.worker)}"
        case _:
            assert_never(event)


def _submitted(event: Submitted) -> str:
    parts = []
    if len(event.jobs) == 1:
        parts.append(f"job {event.first}")
    elif event.jobs:
        parts.append(f"jobs {event.first} to {event.first + len(event.jobs) - 1}")
    if event.joined:
        parts.append(f"{_list([str(row.job) for row in event.joined])} again")
    return f"{', '.join(parts)} by {_id(event.owner)}"


def _list(items: Sequence[str]) -> str:
    return ", ".join(items) if len(items) <= 2 else f"{items[0]} and {len(items) - 1} more"


def _id(text: str) -> str:
    return text if len(text) <= 9 else f"{text[:8]}…"
