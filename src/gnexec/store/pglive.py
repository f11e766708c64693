"""What running attempts tell of themselves, shared by all servers over one PostgreSQL: see `gnexec.store.live`.

Two unlogged tables, which a crash of the database empties. Every change is one statement that needs to know nothing of
what is there, so servers never wait for each other: output is kept in parts as it came, and put together by whoever
reads it.

Rules:
- One thread with one connection does everything, many messages in one round trip; the event loop waits for none of it.
- Nothing is raised: a database that is away is told of once, and what was told meanwhile is lost.
- Bounded: the same limits as in memory, kept now and then, so a little more may be there for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from psycopg.pq.abc import PGresult

from gnexec.errors import GnexecError
from gnexec.store.live import MOST_ATTEMPTS, MOST_BYTES, MOST_OUTPUT_BYTES, Heard, Tail, Told
from gnexec.store.pgaddress import PgAddress
from gnexec.store.pglink import Call, Link, Statement
from gnexec.store.pgsession import open_session
from gnexec.store.pgvalues import from_int8, int8, int8_array

Rows = list[tuple[bytes | None, ...]]
log = structlog.get_logger("gnexec.store")

MOST_WAITING: Final = 4096
"""Messages that may wait for the database; more are dropped."""
AT_ONCE: Final = 64
FORGET_S: Final = 1.0
"""How soon what has ended is dropped."""
SWEEP_S: Final = 10.0
"""How often the limits are seen to."""
PART_COSTS: Final = 256
"""Bytes that a part of an output is counted for beside its own, so that tiny ones are not for nothing."""
CLOSE_S: Final = 2.0

_NOW: Final = b"(extract(epoch from clock_timestamp()) * 1000)::bigint"
_ASYNC: Final = Statement(b"live_async", b"SET synchronous_commit = off")
_TELL: Final = Statement(
    b"live_tell",
    b"INSERT INTO live AS l (job, attempt, progress_ppm, cpu_ms, heard_ms) VALUES ($1, $2, $3, $4, " + _NOW + b") "
    b"ON CONFLICT (job, attempt) DO UPDATE SET heard_ms = excluded.heard_ms, "
    b"cpu_ms = greatest(l.cpu_ms, excluded.cpu_ms), "
    b"progress_ppm = CASE WHEN excluded.progress_ppm < 0 THEN l.progress_ppm ELSE excluded.progress_ppm END",
)
_WRITE: Final = Statement(
    b"live_write",
    b"INSERT INTO live_output AS o (job, attempt, start, heard_ms, data) VALUES ($1, $2, $3, " + _NOW + b", $4) "
    b"ON CONFLICT (job, attempt, start) DO UPDATE SET data = excluded.data, heard_ms = excluded.heard_ms "
    b"WHERE octet_length(excluded.data) > octet_length(o.data)",
)
_TRIM: Final = Statement(
    b"live_trim", b"DELETE FROM live_output WHERE job = $1 AND attempt = $2 AND start + octet_length(data) <= $3"
)
_HEARD: Final = Statement(b"live_heard", b"SELECT attempt, progress_ppm, cpu_ms FROM live WHERE job = $1")
_OUTPUT: Final = Statement(
    b"live_output", b"SELECT attempt, start, data FROM live_output WHERE job = $1 ORDER BY attempt, start"
)
_FORGET: Final = tuple(
    Statement(
        b"live_forget_" + table,
        b"DELETE FROM " + table + b" WHERE (job, attempt) IN (SELECT unnest($1::bigint[]), unnest($2::bigint[]))",
    )
    for table in (b"live", b"live_output")
)


def sweep(attempts: int, size: int) -> tuple[Statement, ...]:
    """Return what drops those not heard of for longest.

    Args:
        attempts: kept at most.
        size: bytes of output kept at most, with `PART_COSTS` for each part.
    """
    return (
        Statement(
            b"live_sweep",
            b"DELETE FROM live WHERE (job, attempt) IN "
            b"(SELECT job, attempt FROM live ORDER BY heard_ms DESC, job DESC OFFSET %d)" % attempts,
        ),
        Statement(
            b"live_sweep_output",
            b"DELETE FROM live_output WHERE (job, attempt, start) IN (SELECT job, attempt, start FROM (SELECT job, "
            b"attempt, start, sum(octet_length(data) + %d) OVER (ORDER BY heard_ms DESC, job DESC, start DESC) AS held "
            b"FROM live_output) AS parts WHERE held > %d)" % (PART_COSTS, size),
        ),
    )


_SWEEP: Final = sweep(MOST_ATTEMPTS, MOST_BYTES)


@dataclass(slots=True, eq=False)
class _Asked:
    """Statements to run, and who waits for the rows of the first."""

    calls: tuple[Call, ...]
    future: asyncio.Future[Rows]


class PostgresLive:
    """Running attempts in PostgreSQL."""

    def __init__(self, address: PgAddress, revision: str) -> None:
        """Begin; nothing is connected before it is needed.

        Args:
            address: of the database.
            revision: of the schema that this program needs.
        """
        self._address = address
        self._revision = revision
        self._queue: deque[_Asked] = deque()
        self._ended: list[tuple[int, int]] = []
        self._wake = threading.Condition()
        self._closed = False
        self._well = True
        self._thread: threading.Thread | None = None

    async def tell(self, told: Told) -> None:
        """Keep what an attempt told."""
        job, attempt = int8(told.job), int8(told.attempt)
        progress = -1 if told.progress is None else round(told.progress * 1_000_000)
        calls = [Call(_TELL, (job, attempt, int8(progress), int8(told.cpu_ms)))]
        if told.output:
            calls.append(Call(_WRITE, (job, attempt, int8(told.offset), told.output)))
            too_old = told.offset + len(told.output) - MOST_OUTPUT_BYTES
            if too_old > 0:
                calls.append(Call(_TRIM, (job, attempt, int8(too_old))))
        await self._ask(*calls)

    async def heard(self, job: int) -> dict[int, Heard]:
        """Return how the attempts of a job go."""
        rows = await self._ask(Call(_HEARD, (int8(job),)))
        return {
            from_int8(attempt): Heard(max(from_int8(ppm), 0) / 1_000_000, from_int8(cpu)) for attempt, ppm, cpu in rows
        }

    async def output(self, job: int) -> bytes:
        """Return the newest part of what a job's attempts wrote."""
        tails: dict[int, Tail] = {}
        for attempt, start, data in await self._ask(Call(_OUTPUT, (int8(job),))):
            tails.setdefault(from_int8(attempt), Tail()).write(data or b"", from_int8(start))
        return bytes(max((tail.data for tail in tails.values()), key=len, default=b""))

    def forget(self, attempts: Iterable[tuple[int, int]]) -> None:
        """Drop attempts that have ended, many at a time."""
        with self._wake:
            self._ended.extend(attempts)
            self._run()

    def close(self) -> None:
        """End the thread; who waits is told nothing."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    async def _ask(self, *calls: Call) -> Rows:
        """Have statements run; return the rows of the first, none where the database is away."""
        asked = _Asked(calls, asyncio.get_running_loop().create_future())
        with self._wake:
            if self._closed or len(self._queue) >= MOST_WAITING:
                return []
            self._queue.append(asked)
            self._run()
            self._wake.notify()
        return await asked.future

    def _run(self) -> None:
        """Begin to work, when there is something to do for the first time."""
        if self._thread is None:
            # A daemon: a database that does not answer holds up nobody's end.
            self._thread = threading.Thread(target=self._work, name="gnexec-live", daemon=True)
            self._thread.start()

    # The thread.

    def _work(self) -> None:
        link: Link | None = None
        forget_at = sweep_at = time.monotonic()
        while True:
            with self._wake:
                if not self._queue and not self._closed:
                    self._wake.wait(FORGET_S if self._ended else SWEEP_S)
                if self._closed:
                    break
                asked = [self._queue.popleft() for _ in range(min(len(self._queue), AT_ONCE))]
                now = time.monotonic()
                ended: list[tuple[int, int]] = []
                if now >= forget_at:
                    ended, self._ended = self._ended, []
                    forget_at = now + FORGET_S
            link, rows = self._do(link, [call for each in asked for call in each.calls])
            _answer(asked, rows)
            if ended:
                columns = int8_array([job for job, _ in ended]), int8_array([number for _, number in ended])
                link, _ = self._do(link, [Call(statement, columns) for statement in _FORGET])
            if now >= sweep_at and any(each.calls[0].statement is _TELL for each in asked):
                link, _ = self._do(link, [Call(statement) for statement in _SWEEP])
                sweep_at = now + SWEEP_S
        if link is not None:
            link.close()
        _answer(list(self._queue), [])

    def _do(self, link: Link | None, calls: Sequence[Call]) -> tuple[Link | None, list[Rows]]:
        """Run statements, over a new connection where the last one is gone; return their rows, none for a failure."""
        if not calls:
            return link, []
        try:
            if link is None or link.lost:
                link, _ = open_session(self._address, self._revision, writes=True, present=False)
                link.ask(Call(_ASYNC))
            results = link.ask(*calls)
            rows = [_rows(result) for result in results]
        except GnexecError as err:
            if self._well:
                log.warning("what running jobs tell cannot be kept just now", error=str(err))
            self._well = False
            return link, []
        self._well = True
        return link, rows


def _rows(result: PGresult) -> Rows:
    return [tuple(result.get_value(i, j) for j in range(result.nfields)) for i in range(result.ntuples)]


def _answer(asked: Iterable[_Asked], rows: list[Rows]) -> None:
    """Give each the rows of its first statement, in the event loop that waits for it."""
    place = 0
    by_loop: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}
    for each in asked:
        found = rows[place] if rows else []
        place += len(each.calls)
        by_loop.setdefault(each.future.get_loop(), []).append(_teller(each.future, found))
    for loop, tellers in by_loop.items():
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(_all, tellers)


def _teller(future: asyncio.Future[Rows], rows: Rows) -> Callable[[], None]:
    def tell() -> None:
        if not future.done():
            future.set_result(rows)

    return tell


def _all(tellers: list[Callable[[], None]]) -> None:
    for tell in tellers:
        tell()
