"""The words of which events are made: their base, and the closed vocabularies and records that they share."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="t", kw_only=True):
    """Base of all events; carries the tag."""


class Word(StrEnum):
    """A word of a closed vocabulary; hashed as the text that it is, since Enum's own hash is a function in Python."""

    __hash__ = str.__hash__


class AttemptState(Word):
    """An attempt is open, or has one of these outcomes."""

    OPEN = "open"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    """Its hard deadline passed while its worker was in contact."""
    ABANDONED = "abandoned"
    """Its lease passed: the worker fell silent, or made no progress."""
    UNDELIVERED = "undelivered"
    """Its lease passed without any contact; no blame, no budget."""
    PREEMPTED = "preempted"
    """The volunteer took the machine back; no blame on the job."""
    UNNEEDED = "unneeded"
    """The job was decided without it."""
    CANCELLED = "cancelled"


class JobState(Word):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one execution ended.

    Attributes:
        exit: exit status 0..255, or None when a signal or a limit ended it.
        signal: name of the signal that ended it ("SIGSEGV"), or None.
        limit: what stopped it from outside: cpu, wall, memory, disk, processes, stopped, preempted; or None.
    """

    exit: int | None = None
    signal: str | None = None
    limit: str | None = None

    @property
    def success(self) -> bool:
        """Whether it ended by itself, with exit status 0."""
        return self.exit == 0 and self.signal is None and self.limit is None

    @property
    def text(self) -> str:
        """Say it in words: "success", "failure (exit 3)", "failure (SIGSEGV)", "limit (memory)"."""
        if self.limit is not None:
            return f"limit ({self.limit})"
        if self.signal is not None:
            return f"failure ({self.signal})"
        return "success" if self.exit == 0 else f"failure (exit {self.exit})"
