"""An attempt's heartbeat: tells the server how the job goes, live, and hears when it should stop.

The first beat comes early, so that a job that is under way is told from a hand-out that never arrived; the pauses then
double up to a quarter of the lease, at most ten seconds. Each beat carries progress, usage, and what standard output
has gained since the last one that arrived.

The pulse ends with an order: stop (the server does not want the result), or drop (nobody would take it: the attempt is
closed, or its deadline has passed, or its lease has and the server has not been heard of since). It never ends by
itself before that.

Progress is what the job writes: the environment variable GNEXEC_PROGRESS names a file in the work directory; the last
line of it that is a number from 0 to 1 counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import stat
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog

from gnexec.errors import Refused
from gnexec.shapes import StatusBody, UsageBody
from gnexec.worker.execute import Run
from gnexec.worker.link import Away, Link, Patience
from gnexec.worker.spool import Entry
from gnexec.worker.workdir import open_beneath

log = structlog.get_logger("gnexec.worker")

PROGRESS_FILE: Final = ".gnexec-progress"
MOST_S: Final = 10.0
"""Longest pause between two beats."""
_FIRST_S: Final = 0.5
_LEAST_S: Final = 0.1
_MOST_STDOUT: Final = 256 * 1024
_MOST_PROGRESS: Final = 4096
_CLOSED: Final = frozenset({401, 403, 404, 409, 410})


class Order(StrEnum):
    """What is to become of an attempt."""

    STOP = "stop"
    """End the job, and say so."""
    DROP = "drop"
    """End the job; nobody would take an answer."""
    LEAVE = "leave"
    """End the job, and give the attempt back: this worker is leaving."""


@dataclass(frozen=True, slots=True)
class Told:
    """An order and its reason, in words."""

    order: Order
    reason: str


class Pulse:
    """The heartbeat of one attempt."""

    def __init__(self, link: Link, entry: Entry, *, cut_off_s: float) -> None:
        """Prepare; nothing is sent.

        Args:
            link: the server.
            entry: the attempt, just handed out.
            cut_off_s: how long after the end of the lease the job goes on while the server is not heard of.
        """
        self._link = link
        self._entry = entry
        self._cut_off_s = cut_off_s
        attempt = entry.attempt
        self._deadline = time.monotonic() + attempt.exp_s - link.now_s()
        self._lease_end = self._deadline
        if attempt.work.lease_until:
            self._lease_end = time.monotonic() + attempt.work.lease_until / 1000 - link.now_s()
        self._most_s = max(_LEAST_S, min(MOST_S, (self._lease_end - time.monotonic()) / 4))
        self._read = 0  # bytes of the file, and of the text that was made of them: they differ where
        self._told = 0  # what is no UTF-8 was replaced
        self._progress: float | None = None
        self.run: Run | None = None
        """What runs, once it does."""
        self.work: Path | None = None
        """Its work directory."""

    async def watch(self) -> Told:
        """Beat until there is an order."""
        pause_s = min(_FIRST_S, self._most_s)
        patience = Patience(pause_s, self._most_s)
        while True:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._left_s()):
                    await asyncio.sleep(pause_s)
                    told, more = await self._beat()
            except TimeoutError:
                return self._cut_off()
            except Away as err:
                pause_s = patience.wait_s(err.after_s)
                continue
            except Refused as err:
                if err.status in _CLOSED:
                    return Told(Order.DROP, f"the server does not want it any more ({err.code}: {err.detail})")
                log.warning("the server did not take a status", job=self._entry.attempt.work.id, why=str(err))
                told, more = None, False
            if told is not None:
                return told
            patience.reset()
            pause_s = _LEAST_S if more else min(2 * max(pause_s, _FIRST_S), self._most_s)

    def _left_s(self) -> float:
        """Return the seconds until the attempt is not worth going on with, unless the server is heard of."""
        heard_for = max(self._lease_end, self._link.heard_s) + self._cut_off_s
        return min(self._deadline, heard_for) - time.monotonic()

    def _cut_off(self) -> Told:
        if time.monotonic() >= self._deadline:
            return Told(Order.DROP, "the attempt's deadline has passed")
        return Told(Order.DROP, "the lease has lapsed, and the server has not been heard of since")

    async def _beat(self) -> tuple[Told | None, bool]:
        """Send one status; return the order in its reply, and whether there is more output to send at once."""
        text, read, more = self._stdout()
        usage = self.run.usage() if self.run else None
        body = StatusBody(
            progress=self._read_progress(),
            usage=UsageBody(cpu_ms=usage.cpu_ms, wall_ms=usage.wall_ms, peak_rss_bytes=usage.peak_rss_bytes)
            if usage
            else None,
            stdout=text or None,
            stdout_offset=self._told,
        )
        attempt = self._entry.attempt
        reply = await self._link.status(attempt.work.id, attempt.token, body)
        self._read += read
        self._told += len(text.encode())
        self._lease_end = time.monotonic() + reply.lease_until / 1000 - self._link.now_s()
        if reply.directive == "stop":
            return Told(Order.STOP, reply.reason), False
        return None, more

    def _stdout(self) -> tuple[str, int, bool]:
        """Read what standard output has gained: as text, in bytes, and whether there is still more.

        A character of which only the first bytes are there yet is left for the next beat.
        """
        try:
            with self._entry.stdout.open("rb") as file:
                file.seek(self._read)
                data = file.read(_MOST_STDOUT)
                more = len(data) == _MOST_STDOUT
        except FileNotFoundError:
            return "", 0, False
        cut = data[: len(data) - _incomplete(data)]
        return cut.decode(errors="replace"), len(cut), more

    def _read_progress(self) -> float | None:
        if self.work is not None:
            with contextlib.suppress(OSError):
                found = progress(self.work)
                self._progress = found if found is not None else self._progress
        return self._progress


def progress(work: Path) -> float | None:
    """Read what a job says of its progress, 0..1, or None where it says nothing that can be read.

    The file is the job's: it may be a link, a pipe, or of any size and content.

    Raises:
        OSError: there is none, or it cannot be opened.
    """
    descriptor = open_beneath(work, PROGRESS_FILE, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            return None
        file.seek(max(0, info.st_size - _MOST_PROGRESS))
        words = file.read(_MOST_PROGRESS).decode("ascii", "replace").split()
    for word in reversed(words):
        with contextlib.suppress(ValueError):
            value = float(word)
            if math.isfinite(value) and 0.0 <= value <= 1.0:
                return value
    return None


def _incomplete(data: bytes) -> int:
    """Return how many bytes at the end begin a character of UTF-8 that is not complete (RFC 3629), 0..3."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return back if length > back else 0
    return 0
