"""What a demo asks to be run: stages of jobs, and how their outputs become a report.

A plan is data. It submits nothing and knows no server: whoever runs it submits each stage's jobs, waits for all of
them, and hands the outputs to `combine`. Rules:
- Jobs of one stage do not depend on each other; a later stage may take outputs of an earlier one (`Produced`).
- A job's name is unique in its plan.
- A job is a plain dict of the form that `POST /v1/jobs` takes, save that an input is a local file to upload, or an
  output of an earlier job, where the request has a digest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

Outputs = Mapping[str, Mapping[str, bytes]]
"""Job name to output path to content."""


@dataclass(frozen=True, slots=True)
class Produced:
    """An input that is the output `path` of the job named `job`, of an earlier stage."""

    job: str
    path: str


class Needs(TypedDict):
    """What a job may use at most: bytes of memory and disk, seconds on the wall clock, processes at a time."""

    cores: int
    memory_bytes: int
    disk_bytes: int
    wall_s: int
    processes: int


class Redundancy(TypedDict):
    """How many results are wanted, and how many must agree."""

    replicas: int
    quorum: int


class Job(TypedDict):
    """One job; `argv` runs in a folder that holds the inputs, and leaves the outputs there."""

    name: str
    argv: list[str]
    inputs: dict[str, Path | Produced]
    outputs: list[str]
    env: dict[str, str]
    needs: Needs
    redundancy: Redundancy


@dataclass(frozen=True, slots=True)
class Stage:
    """Jobs that may run at the same time; `title` says what they do together."""

    title: str
    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it.

    Attributes:
        text: to print, lines of at most 80 columns, no newline at the end.
        coloured: the same with SGR escape sequences, for a terminal that wants them.
        facts: the same as JSON-ready data.
        files: name to content, to be written where the user wants them.
    """

    text: str
    coloured: str
    facts: Mapping[str, object]
    files: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Plan:
    """A demo as data.

    Attributes:
        title: what it does, a few words.
        stages: in order, one or more.
        combine: makes the report from the outputs of all jobs; raises ValueError where an output cannot be read.
    """

    title: str
    stages: tuple[Stage, ...]
    combine: Callable[[Outputs], Report]

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs, in order."""
        return tuple(job for stage in self.stages for job in stage.jobs)
