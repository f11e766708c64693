"""What running attempts tell of themselves, progress and output so far: one contract, and a store of it in memory.

It is no part of the log, which has what counts. It is bounded and may be lost at any time: the worker tells again.
Several processes share theirs through PostgreSQL (`gnexec.store.pglive`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

MOST_OUTPUT_BYTES: Final = 1 << 20
"""Kept of one attempt's output: the newest part."""
MOST_ATTEMPTS: Final = 4096
MOST_BYTES: Final = 64 << 20
"""Kept of all attempts' output together."""


@dataclass(frozen=True, slots=True)
class Told:
    """What one message of a worker tells of an attempt.

    Attributes:
        progress: 0..1, or None where it does not say.
        cpu_ms: used so far; 0 where it does not say.
        output: a part of its standard output; offset: place of its first byte in all that was sent.
    """

    job: int
    attempt: int
    progress: float | None = None
    cpu_ms: int = 0
    output: bytes = b""
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Heard:
    """How an attempt goes, as far as it told: the last progress, the most processor time."""

    progress: float
    cpu_ms: int


class Live(Protocol):
    """Keeps what attempts tell. Nothing here fails: what cannot be kept is lost, what cannot be had is not known."""

    async def tell(self, told: Told) -> None:
        """Keep what an attempt told; others see it once this returns."""
        ...

    async def heard(self, job: int) -> Mapping[int, Heard]:
        """Return how the attempts of a job go, by their numbers; those that never told anything are absent."""
        ...

    async def output(self, job: int) -> bytes:
        """Return the newest part of what a job's attempts wrote, of the one that wrote most; b"" for nothing."""
        ...

    def forget(self, attempts: Iterable[tuple[int, int]]) -> None:
        """Drop attempts, (job, number), that have ended; takes effect soon."""
        ...

    def close(self) -> None:
        """Keep nothing any more; harmless when done twice."""
        ...


@dataclass(slots=True)
class Tail:
    """The newest part of an output, put together from parts.

    Attributes:
        offset: place of `data`'s first byte in all that was sent.
    """

    data: bytearray = field(default_factory=bytearray)
    offset: int = 0

    @property
    def end(self) -> int:
        """Bytes of output sent so far."""
        return self.offset + len(self.data)

    def write(self, data: bytes, offset: int) -> None:
        """Take output that begins at `offset`; what is there already is skipped, a gap drops what was before."""
        if offset > self.end:
            self.data, self.offset = bytearray(data), offset
        else:
            self.data += data[self.end - offset :]
        excess = len(self.data) - MOST_OUTPUT_BYTES
        if excess > 0:
            del self.data[:excess]
            self.offset += excess


@dataclass(slots=True)
class _Attempt:
    progress: float = 0.0
    cpu_ms: int = 0
    tail: Tail = field(default_factory=Tail)


class MemoryLive:
    """Running attempts in this process's memory; those not heard of for longest are forgotten first."""

    def __init__(self) -> None:
        """Begin with none."""
        self._attempts: OrderedDict[tuple[int, int], _Attempt] = OrderedDict()
        self._bytes = 0

    async def tell(self, told: Told) -> None:
        """Keep what an attempt told."""
        attempt = self._touch(told.job, told.attempt)
        if told.progress is not None:
            attempt.progress = told.progress
        attempt.cpu_ms = max(attempt.cpu_ms, told.cpu_ms)
        if told.output:
            self._write(attempt, told.output, told.offset)

    async def heard(self, job: int) -> dict[int, Heard]:
        """Return how the attempts of a job go."""
        return {n: Heard(a.progress, a.cpu_ms) for (about, n), a in self._attempts.items() if about == job}

    async def output(self, job: int) -> bytes:
        """Return the newest part of what a job's attempts wrote."""
        tails = (attempt.tail.data for (about, _), attempt in self._attempts.items() if about == job)
        return bytes(max(tails, key=len, default=b""))

    def forget(self, attempts: Iterable[tuple[int, int]]) -> None:
        """Drop attempts that have ended."""
        for key in attempts:
            gone = self._attempts.pop(key, None)
            if gone is not None:
                self._bytes -= len(gone.tail.data)

    def close(self) -> None:
        """Drop everything."""
        self._attempts.clear()
        self._bytes = 0

    def _write(self, attempt: _Attempt, data: bytes, offset: int) -> None:
        """Take output; where all together is too much, the ones not heard of for longest lose theirs."""
        before = len(attempt.tail.data)
        attempt.tail.write(data, offset)
        self._bytes += len(attempt.tail.data) - before
        for other in self._attempts.values():
            if self._bytes <= MOST_BYTES:
                break
            if other is not attempt:
                self._bytes -= len(other.tail.data)
                other.tail.offset, other.tail.data = other.tail.end, bytearray()

    def _touch(self, job: int, number: int) -> _Attempt:
        """Return the record of an attempt that was just heard of."""
        key = (job, number)
        attempt = self._attempts.setdefault(key, _Attempt())
        self._attempts.move_to_end(key)
        while len(self._attempts) > MOST_ATTEMPTS:
            self._bytes -= len(self._attempts.popitem(last=False)[1].tail.data)
        return attempt
