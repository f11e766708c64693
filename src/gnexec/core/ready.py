"""The queue of jobs that need attempts, so that finding the next one does not walk over all of them.

Jobs that the same workers may run stand in one line: same terms, same owners excluded. A line is ordered by job id
(first come, first served); among lines the higher priority goes first, then the older job. A line may hold ids that
have left it in the meantime: whether an id still belongs is asked of the job itself, and stale ones are dropped when
they reach the front.

This is an index of the world: it holds no truth of its own, and can be rebuilt from the jobs.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from gnexec.core.terms import Terms

_SLACK: Final = 1024
"""Dropped ids that a line may keep, beyond as many as it has left, before they are cleared away."""


class LineKey(NamedTuple):
    """What the jobs of a line have in common."""

    terms: Terms
    excluded: frozenset[str]


class Ready:
    """Lines of job ids, by `LineKey`."""

    def __init__(self, still: Callable[[int, LineKey], bool]) -> None:
        """Begin empty.

        Args:
            still: tells whether a job still belongs in a line.
        """
        self._still = still
        self._lines: dict[LineKey, _Line] = {}

    def add(self, job: int, key: LineKey) -> None:
        """Put a job into its line; harmless if it stands there already."""
        line = self._lines.get(key)
        if line is None:
            self._lines[key] = _Line(array("q", (job,)))
        else:
            line.add(job)

    def extend(self, jobs: array[int], key: LineKey) -> None:
        """Put jobs into a line that are younger than all that stand in it; ascending."""
        line = self._lines.get(key)
        if line is None:
            self._lines[key] = _Line(jobs)
        else:
            line.ids.extend(jobs)

    def trim(self, key: LineKey) -> None:
        """Drop the jobs at the front of a line that no longer belong there."""
        line = self._lines.get(key)
        if line is None:
            return
        while len(line) and not self._still(line.ids[line.front], key):
            line.drop()
        if not len(line):
            del self._lines[key]

    def lines(self) -> list[LineKey]:
        """Return the keys of all lines."""
        return list(self._lines)

    def jobs(self, key: LineKey) -> Iterator[int]:
        """Yield the jobs that stand in a line, oldest first."""
        line = self._lines.get(key)
        return (job for job in (line or ()) if self._still(job, key))

    def standing(self, key: LineKey) -> array[int]:
        """Return the ids in a line as they stand, with those that left it unseen: what `extend` takes."""
        line = self._lines[key]
        return line.ids[line.front :]

    def count(self, key: LineKey, exactly: int) -> int:
        """Count the jobs in a line, cheaply: right up to `exactly`, an upper bound where there are more."""
        found = sum(1 for _ in islice(self.jobs(key), exactly + 1))
        return found if found <= exactly else len(self._lines[key])

    def best_first(self, eligible: Callable[[LineKey], bool]) -> Iterator[int]:
        """Yield jobs of the eligible lines: higher priority first, then older.

        The lines must not change while this is read.
        """
        by_priority: dict[int, list[LineKey]] = {}
        for key in self._lines:
            if eligible(key):
                by_priority.setdefault(key.terms.priority, []).append(key)
        for priority in sorted(by_priority, reverse=True):
            yield from _merge([self.jobs(key) for key in by_priority[priority]])

    def ahead(self, job: int, key: LineKey) -> tuple[int, int]:
        """Count what goes before a job of the line `key`: of higher priority, or as high and older.

        Returns:
            (jobs, attempts that they need): both upper bounds.
        """
        jobs = attempts = 0
        for other, line in self._lines.items():
            if other.terms.priority > key.terms.priority:
                count = len(line)
            elif other.terms.priority == key.terms.priority:
                count = line.before(job)
            else:
                continue
            jobs += count
            attempts += count * max(1, other.terms.redundancy.replicas - len(other.excluded))
        return jobs, attempts

    def __len__(self) -> int:
        """Return an upper bound of the jobs in all lines."""
        return sum(map(len, self._lines.values()))


class _Line:
    """Ascending job ids; those in front of `front` have been dropped, and are cleared away now and then."""

    __slots__ = ("front", "ids")

    def __init__(self, ids: array[int]) -> None:
        self.ids = ids
        self.front = 0

    def add(self, job: int) -> None:
        if self.ids[-1] < job:
            self.ids.append(job)
        elif self.ids[at := bisect_left(self.ids, job, self.front)] != job:
            self.ids.insert(at, job)

    def drop(self) -> None:
        self.front += 1
        if self.front * 2 > len(self.ids) + _SLACK:
            del self.ids[: self.front]
            self.front = 0

    def before(self, job: int) -> int:
        return bisect_left(self.ids, job, self.front) - self.front

    def __iter__(self) -> Iterator[int]:
        return (self.ids[at] for at in range(self.front, len(self.ids)))

    def __len__(self) -> int:
        return len(self.ids) - self.front


def _merge(streams: list[Iterator[int]]) -> Iterator[int]:
    return streams[0] if len(streams) == 1 else heapq.merge(*streams)
