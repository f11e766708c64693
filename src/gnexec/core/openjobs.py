"""Open jobs by id, small in memory while they wait.

A job that nothing has happened to since it was handed in is not kept as a record of its own: it stands as a row in the
columns of its submission, 66 bytes, and its record is made whenever it is asked for. The first thing that happens to it
moves it out. So a large submission costs little more than its digests until its jobs are taken up.

What a record says never depends on where it is kept: a test holds a row's record against that of `evolve`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Self

import msgspec

from gnexec.core.events import JobState, Submitted
from gnexec.core.job import Job
from gnexec.core.terms import Terms

FEW = 8
"""A submission of fewer new jobs than this is not worth columns."""


class SavedColumns(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """The waiting jobs of one submission, as a snapshot keeps them; columns of n rows, one behind the other.

    Attributes:
        terms: numbers of the submission's terms in the snapshot.
        digests: 32 n bytes. specs: 32 n bytes. indexes: 2 n bytes, into `terms`. gone: n bytes, 1 for those that left.
    """

    first: int
    owner: str
    project: str
    seq: int
    at_ms: int
    terms: list[int]
    digests: bytes
    specs: bytes
    indexes: bytes
    gone: bytes


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

    def add(self, event: Submitted, seq: int, at_ms: int) -> bool:
        """Take in the new jobs of a submission; return whether they stand in columns.

        Args:
            event: its jobs are new, and their ids are higher than all before.
            seq: the entry's place.
            at_ms: the entry's time.
        """
        columns = _Columns.of(event, [self._intern(terms) for terms in event.terms], seq, at_ms)
        if len(event.jobs) < FEW:
            for job_id in columns.ids():
                self[job_id] = columns.record(job_id)
            return False
        self._firsts.append(event.first)
        self._columns.append(columns)
        self._states[JobState.QUEUED] += len(event.jobs)
        return True

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
        record = self.find(job_id)
        if record is None:
            raise KeyError(job_id)
        return record

    def find(self, job_id: int) -> Job | None:
        """Return an open job, or None."""
        record = self._records.get(job_id)
        if record is None:
            columns = self._waiting(job_id)
            record = None if columns is None else columns.record(job_id)
        return record

    def __setitem__(self, job_id: int, job: Job) -> None:
        """Keep the newest record of a job; its terms are those that `intern` returns."""
        before = self._records.get(job_id)
        if before is not None:
            self._states[before.state] -= 1
        else:
            self._take(job_id)
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

    def records(self) -> Iterable[Job]:
        """Return the jobs that have a record of their own."""
        return self._records.values()

    def columns(self, number: Callable[[Terms], int]) -> Iterator[SavedColumns]:
        """Yield the jobs that stand in columns, for a snapshot.

        Args:
            number: gives equal terms one number.
        """
        return (columns.saved(number) for columns in self._columns)

    def put_back(self, columns: Iterable[SavedColumns], terms: Sequence[Terms], records: Iterable[Job]) -> None:
        """Take in what `columns` and `records` gave; this must hold no job yet.

        Args:
            columns: in the order given.
            terms: by their numbers.
            records: with terms that are interned.

        Raises:
            ValueError, LookupError: columns of unequal length, or terms without a number.
        """
        for saved in columns:
            restored = _Columns(saved, [terms[number] for number in saved.terms])
            self._firsts.append(saved.first)
            self._columns.append(restored)
            self._states[JobState.QUEUED] += restored.left
        for job in records:
            self._records[job.id] = job
            self._states[job.state] += 1

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
        *("_at_ms", "_digests", "_first", "_gone", "_indexes", "_owners", "_project", "_seq", "_specs", "_terms"),
        "left",
    )

    def __init__(self, saved: SavedColumns, terms: list[Terms]) -> None:
        """Take over what is in columns, under the terms of their submission."""
        self._first, self._owners, self._project = saved.first, (saved.owner,), saved.project
        self._seq, self._at_ms = saved.seq, saved.at_ms
        self._terms = terms
        self._digests, self._specs = saved.digests, saved.specs
        self._indexes = array("H", saved.indexes)
        self._gone = bytearray(saved.gone)
        self.left = saved.gone.count(0)
        rows = len(saved.gone)
        if (len(saved.digests), len(saved.specs), len(self._indexes)) != (32 * rows, 32 * rows, rows):
            msg = "columns of unequal length"
            raise ValueError(msg)

    @classmethod
    def of(cls, event: Submitted, terms: list[Terms], seq: int, at_ms: int) -> Self:
        digests = bytes.fromhex("".join(row.digest for row in event.jobs))
        specs = bytes.fromhex("".join(row.spec for row in event.jobs))
        indexes = array("H", (row.terms for row in event.jobs)).tobytes()
        gone = bytes(len(event.jobs))
        fresh = SavedColumns(event.first, event.owner, event.project, seq, at_ms, [], digests, specs, indexes, gone)
        return cls(fresh, terms)

    def saved(self, number: Callable[[Terms], int]) -> SavedColumns:
        return SavedColumns(
            self._first,
            self._owners[0],
            self._project,
            self._seq,
            self._at_ms,
            [number(terms) for terms in self._terms],
            self._digests,
            self._specs,
            self._indexes.tobytes(),
            bytes(self._gone),
        )

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
        return Job(
            id=job_id,
            digest=self._digests[32 * at : 32 * at + 32],
            spec=self._specs[32 * at : 32 * at + 32],
            terms=self._terms[self._indexes[at]],
            project=self._project,
            owners=self._owners,
            submitted_ms=self._at_ms,
            seq=self._seq,
        )
