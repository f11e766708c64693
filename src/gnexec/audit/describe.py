"""Entries and events in a few words, for people; and entries as plain values, for programs. Nothing is verified."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, assert_never

import msgspec

from gnexec.audit.lines import Record, Seal
from gnexec.core.events import (
    AnyEvent,
    AttemptsLapsed,
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
from gnexec.core.steps import jobs_of
from gnexec.wire import decode_event, decode_leaf

_KEYS: Final[dict[type[AnyEvent], str]] = {
    KeyAdded: "is announced",
    KeyCurrent: "signs tokens",
    KeyRetired: "has no token left",
    KeyRevoked: "was stolen: no token under it is good",
    LogKeyAdded: "signs checkpoints",
    LogKeyRetired: "signs no more",
}
"""What happens to a key."""


class Summary(NamedTuple):
    """An entry in one row; `about` is empty where the payload is withheld."""

    seq: int
    at_ms: int
    event: str
    about: str


def entries(items: Iterable[Record | Seal]) -> Iterator[Record]:
    """Yield the entries among a log's items."""
    return (item for item in items if isinstance(item, Record))


def summary(record: Record) -> Summary:
    """Return an entry in one row.

    Raises:
        CorruptLog: it cannot be read.
    """
    at_ms = decode_leaf(record.leaf).at
    if record.payload is None:
        return Summary(record.seq, at_ms, "(withheld)", "")
    event = decode_event(record.payload)
    return Summary(record.seq, at_ms, name_of(event), about(event))


def told(record: Record) -> dict[str, Any]:
    """Return an entry as values for JSON.

    Raises:
        CorruptLog: it cannot be read.
    """
    at_ms = decode_leaf(record.leaf).at
    if record.payload is None:
        return {"seq": record.seq, "at": at_ms, "leaf": record.leaf.decode(), "withheld": True}
    event = msgspec.to_builtins(decode_event(record.payload))
    return {"seq": record.seq, "at": at_ms, "leaf": record.leaf.decode(), "event": event}


def jobs(record: Record) -> set[int]:
    """Return the jobs that an entry tells of; none where the payload is withheld.

    Raises:
        CorruptLog: it cannot be read.
    """
    return jobs_of(decode_event(record.payload)) if record.payload is not None else set()


def name_of(event: AnyEvent) -> str:
    """Return an event's name, without its version."""
    return str(event.__struct_config__.tag).partition("/")[0]


def about(event: AnyEvent) -> str:
    """Say in a few words what an event is about; ids are shortened."""
    match event:
        case LogOpened():
            return event.origin
        case KeyAdded() | KeyCurrent() | KeyRetired() | KeyRevoked() | LogKeyAdded() | LogKeyRetired():
            key = event.vkey.partition("+")[2] if isinstance(event, LogKeyAdded | LogKeyRetired) else event.kid
            return f"{_id(key)} {_KEYS[type(event)]}"
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
        case ResultsCompared():
            words = {True: "equals", False: "differs from"}
            return _list([f"{each.job}.{each.a} {words[each.equal]} {each.job}.{each.b}" for each in event.found])
        case JobsDecided():
            return _list([f"job {each.job} {each.state} ({each.reason})" for each in event.decided])
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
    told = ", ".join(items)
    return told if len(items) == 1 or (len(items) == 2 and len(told) <= 36) else f"{items[0]} and {len(items) - 1} more"


def _id(text: str) -> str:
    return text if len(text) <= 9 else f"{text[:8]}…"
