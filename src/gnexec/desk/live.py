"""What running attempts tell of themselves: progress and output so far.

Held in memory only, bounded, and lost on a restart: the log has what counts, and the worker tells again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

MOST_OUTPUT_BYTES: Final = 1 << 20
"""Kept of one attempt's output: the newest part."""
MOST_ATTEMPTS: Final = 4096
MOST_BYTES: Final = 64 << 20
"""Kept of all attempts' output together."""


@dataclass(slots=True)
class LiveAttempt:
    """One running attempt.

    Attributes:
        progress: 0..1.
        output: the newest part of its standard output.
        offset: place of `output`'s first byte in all that was sent.
    """

    progress: float = 0.0
    cpu_ms: int = 0
    output: bytearray = field(default_factory=bytearray)
    offset: int = 0

    @property
    def end(self) -> int:
        """Bytes of output sent so far."""
        return self.offset + len(self.output)

    def write(self, data: bytes, offset: int) -> None:
        """Take output that begins at `offset`; what is there already is skipped, a gap drops what was before."""
        if offset > self.end:
            self.output, self.offset = bytearray(data), offset
        else:
            self.output += data[self.end - offset :]
        excess = len(self.output) - MOST_OUTPUT_BYTES
        if excess > 0:
            del self.output[:excess]
            self.offset += excess


class Live:
    """Running attempts by (job, attempt); the ones not heard of for longest are forgotten first."""

    def __init__(self) -> None:
        """Begin with none."""
        self._attempts: OrderedDict[tuple[int, int], LiveAttempt] = OrderedDict()
        self._bytes = 0

    def write(self, job: int, attempt: int, data: bytes, offset: int) -> None:
        """Take output of an attempt; where all together is too much, the ones not heard of for longest lose theirs."""
        live = self.touch(job, attempt)
        before = len(live.output)
        live.write(data, offset)
        self._bytes += len(live.output) - before
        for other in list(self._attempts.values()):
            if self._bytes <= MOST_BYTES:
                break
            if other is not live:
                self._bytes -= len(other.output)
                other.offset, other.output = other.end, bytearray()

    def touch(self, job: int, attempt: int) -> LiveAttempt:
        """Return the record of an attempt that was just heard of."""
        key = (job, attempt)
        live = self._attempts.setdefault(key, LiveAttempt())
        self._attempts.move_to_end(key)
        while len(self._attempts) > MOST_ATTEMPTS:
            self._bytes -= len(self._attempts.popitem(last=False)[1].output)
        return live

    def get(self, job: int, attempt: int) -> LiveAttempt | None:
        """Return the record of an attempt, or None if it never told anything."""
        return self._attempts.get((job, attempt))

    def forget(self, job: int, attempt: int) -> None:
        """Drop an attempt that has ended."""
        gone = self._attempts.pop((job, attempt), None)
        if gone is not None:
            self._bytes -= len(gone.output)
