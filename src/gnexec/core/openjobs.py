"""Open jobs by id, small in memory while they wait.

A job that nothing has happened to since it was handed in is not kept as a record of its own: it stands as a row in the
columns of its submission, 66 bytes, and its record is made whenever it is asked for. The first thing that happens to it
moves it out. So a large submission costs little more than its digests until its jobs are taken up.

What a record says never depends on where it is kept: a row becomes a record by `evolve`, as on replay.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, MutableMapping

import msgspec

from gnexec.core.events import JobState, Submitted
from gnexec.core.job import Job, evolve
from gnexec.core.steps import Create
from gnexec.core.terms import Terms

FEW = 8
"""A submission of fewer new jobs than this is not worth columns."""


class OpenJobs(MutableMapping[int, Job]):
    """Jobs by id; setting one moves it out of its submission's columns."""

    def __init__(self, intern: Callable[[Terms], Terms]) -> None:
        """Begin with none.

        Args:
            intern: returns the one object that stands for equal terms.
        """
        self._intern = intern
        self._records: dict[int, Job] = {}
        self._firsts: list[int] = []
        self._columns: list[_Columns] = []
        self._states: dict[JobState, int] = dict.fromkeys(JobState, 0)

    def add(self, event: Submitted, seq: int, at_ms: int) -> None:
        """Take in the new jobs of a submission.

        Args:
            event: its jobs are new, and their ids are higher than all before.
            seq: the entry's place.
            at_ms: the entry's time.
        """
        columns = _Columns(event, [self._intern(terms) for terms in event.terms], seq, at_ms)
        if len(event.jobs) < FEW:
            for job_id in columns.ids():
                self[job_id] = columns.record(job_id)
        else:
            self._firsts.append(event.first)
            self._columns.append(columns)
            self._states[JobState.QUEUED] += len(event.jobs)

    def count(self, state: JobState) -> int:
        """Return how many open jobs are in `state`."""
        return self._states[state]

    def untouched(self, job_id: int) -> Terms | None:
        """Return the terms of a job that nothing has happened to and that stands in columns, without its record."""
        columns = None if job_id in self._records else self._waiting(job_id)
        return None if columns is None else columns.terms(job_id)

    def __getitem__(self, job_id: int) -> Job:
        """Return an open job.

        Raises:
            KeyError: it is not open.
        """
        record = self._records.get(job_id)
        if record is not None:
            return record
        columns = self._waiting(job_id)
        if columns is None:
            raise KeyError(job_id)
        return columns.record(job_id)

    def __setitem__(self, job_id: int, job: Job) -> None:
        """Keep the newest record of a job."""
        before = self._records.get(job_id)
        if before is not None:
            self._states[before.state] -= 1
        else:
            self._take(job_id)
        if before is None or job.terms is not before.terms:
            job = msgspec.structs.replace(job, terms=self._intern(job.terms))
        self._records[job_id] = job
        self._states[job.state] += 1

    def __delitem__(self, job_id: int) -> None:
        """Let a job go.

        Raises:
            KeyError: it is not open.
        """
        before = self._records.pop(job_id, None)
        if before is not None:
            self._states[before.state] -= 1
        elif not self._take(job_id):
            raise KeyError(job_id)

    def __contains__(self, job_id: object) -> bool:
        """Whether the job is open."""
        return job_id in self._records or (isinstance(job_id, int) and self._waiting(job_id) is not None)

    def __iter__(self) -> Iterator[int]:
        """Yield the ids of all open jobs, in no particular order."""
        yield from self._records
        for columns in self._columns:
            yield from columns.ids()

    def __len__(self) -> int:
        """Count the open jobs."""
        return len(self._records) + sum(columns.left for columns in self._columns)

    def _waiting(self, job_id: int) -> _Columns | None:
        """Return the columns in which a job stands, or None."""
        index = bisect_right(self._firsts, job_id) - 1
        if index < 0:
            return None
        columns = self._columns[index]
        return columns if columns.has(job_id) else None

    def _take(self, job_id: int) -> bool:
        """Strike a job out of its columns, and drop the columns with their last; return whether it stood there."""
        columns = self._waiting(job_id)
        if columns is None:
            return False
        columns.strike(job_id)
        self._states[JobState.QUEUED] -= 1
        if not columns.left:
            index = bisect_right(self._firsts, job_id) - 1
            del self._firsts[index], self._columns[index]
        return True


class _Columns:
    """The new jobs of one submission, as columns of equal length n."""

    __slots__ = (
        *("_at_ms", "_digests", "_first", "_gone", "_indexes", "_owner", "_project", "_seq", "_specs", "_terms"),
        "left",
    )

    def __init__(self, event: Submitted, terms: list[Terms], seq: int, at_ms: int) -> None:
        self._first = event.first
        self._owner = event.owner
        self._project = event.project
        self._seq = seq
        self._at_ms = at_ms
        self._terms = terms
        self._digests = bytes.fromhex("".join(row.digest for row in event.jobs))
        self._specs = bytes.fromhex("".join(row.spec for row in event.jobs))
        self._indexes = array("H", (row.terms for row in event.jobs))
        self._gone = bytearray(len(event.jobs))
        self.left = len(event.jobs)

    def has(self, job_id: int) -> bool:
        at = job_id - self._first
        return 0 <= at < len(self._gone) and not self._gone[at]

    def ids(self) -> Iterator[int]:
        return (self._first + at for at, gone in enumerate(self._gone) if not gone)

    def strike(self, job_id: int) -> None:
        self._gone[job_id - self._first] = 1
        self.left -= 1

    def terms(self, job_id: int) -> Terms:
        return self._terms[self._indexes[job_id - self._first]]

    def record(self, job_id: int) -> Job:
        at = job_id - self._first
        return evolve(
            None,
            Create(
                job=job_id,
                digest=self._digests[32 * at : 32 * at + 32].hex(),
                spec=self._specs[32 * at : 32 * at + 32].hex(),
                terms=self._terms[self._indexes[at]],
                project=self._project,
                owner=self._owner,
                at_ms=self._at_ms,
                seq=self._seq,
            ),
        )
