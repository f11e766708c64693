"""What is measured, and over which server: each station opens what it needs and offers measurements by name.

A station is opened once for a run, so that all its measurements can take turns with those of the others.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gnexec.bench import databases
from gnexec.bench.figures import Sample
from gnexec.bench.servers import HOST, ORIGIN, Server, access_token, gnexec_server, trivial_server
from gnexec.bench.volunteer import Volunteer, cycles, gets
from gnexec.bench.wire import Wire
from gnexec.tokens.issued import Scope

MANY = 32
"""Connections, where requests are to share commits."""
FEW = 8
WARMING_S = 0.5
"""For how long a new server works before anything is measured."""
PER_POST = 1_000
"""Jobs of one submission."""
JOB = {"argv": ["true"], "force_recompute": True}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is to be measured.

    Attributes:
        folder: empty; everything made goes into it.
        seconds: length of one measurement that has no size of its own, above 0.
        submissions: jobs handed in by one measurement of submission.
        events: entries of the log that is read and folded. entries: of the one that a server starts over.
        growth: sizes of the log between which appending is compared, the smaller first.
        open_jobs: jobs that wait while memory is read.
        polls: long polls that wait at a time.
        database: address of a PostgreSQL server; None for one of our own.
        tell: called with a line before what takes long.
    """

    folder: Path
    seconds: float
    submissions: int
    events: int
    entries: int
    growth: tuple[int, int]
    open_jobs: int
    polls: int
    database: str | None
    tell: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One thing that can be measured, again and again.

    Attributes:
        act: measures it once; raises `Missing` where it cannot be done.
        pid: of the process that is at work meanwhile, a server mostly; None where it is none in particular.
    """

    act: Callable[[], Awaitable[Sample]]
    pid: int | None = None


Station = Callable[[Plan], AbstractAsyncContextManager[Mapping[str, Measurement]]]


class Counter:
    """A gnexec server, with volunteers and a submitter before it."""

    def __init__(self, server: Server, submit: str, volunteers: list[Volunteer], plan: Plan) -> None:
        """Begin without jobs."""
        self.server = server
        self._submit = submit
        self.volunteers = volunteers
        self._plan = plan
        self._waiting = 0
        self._fastest: dict[int, float] = {}

    @classmethod
    async def open(cls, server: Server, data: Path, plan: Plan) -> Counter:
        """Enrol the volunteers of a server over `data`, and let each do something."""
        enrol = access_token(data, "bench", Scope.ENROL)
        volunteers = [await Volunteer.enrol(HOST, server.port, ORIGIN, enrol) for _ in range(MANY)]
        counter = cls(server, access_token(data, "bench", Scope.SUBMIT), volunteers, plan)
        await counter._hand_in(PER_POST)
        counter._waiting -= int((await cycles(volunteers, 1, WARMING_S)).count)
        return counter

    def submitting(self) -> Measurement:
        """Return the measurement of `submit`."""
        return Measurement(self.submit, self.server.process.pid)

    def working(self, n: int, connections: int) -> Measurement:
        """Return the measurement of `work`."""
        return Measurement(lambda: self.work(n, connections), self.server.process.pid)

    async def submit(self) -> Sample:
        """Hand in jobs, `PER_POST` a request."""
        return await self._measured(self._hand_in(self._plan.submissions))

    async def work(self, n: int, connections: int) -> Sample:
        """Let volunteers take `n` jobs a request and answer for them, for as long as planned, or as there are jobs."""
        wanted = int(self._fastest.get(n, 2_500 * n**0.5) * self._plan.seconds * 1.5) + connections * n
        if wanted > self._waiting:
            await self._hand_in(wanted - self._waiting)
        done = await self._measured(cycles(self.volunteers[:connections], n, self._plan.seconds))
        self._waiting -= int(done.count)
        self._fastest[n] = max(self._fastest.get(n, 0), done.rate)
        return done

    async def _hand_in(self, jobs: int) -> Sample:
        sample = await hand_in(self.server.port, self._submit, jobs)
        self._waiting += int(sample.count)
        return sample

    async def _measured(self, load: Awaitable[Sample]) -> Sample:
        before = self.server.cpu_s()
        sample = await load
        return Sample(sample.count, sample.wall_s, self.server.cpu_s() - before)


async def hand_in(port: int, token: str, jobs: int) -> Sample:
    """Hand in at least `jobs` jobs over one connection.

    Raises:
        ConnectionError: the server refuses.
    """
    wire = await Wire.open(HOST, port)
    body = msgspec.json.encode({"jobs": [JOB] * PER_POST})
    posts = -(-jobs // PER_POST)
    began = time.perf_counter()
    for _ in range(posts):
        status, answer = await wire.call(b"POST", b"/v1/jobs", token.encode(), body)
        if status != 201:
            raise ConnectionError(answer.decode())
    wall_s = time.perf_counter() - began
    wire.close()
    return Sample(posts * PER_POST, wall_s)


@asynccontextmanager
async def trivial(plan: Plan) -> AsyncIterator[Mapping[str, Measurement]]:
    """Offer the trivial route of Starlette."""
    with trivial_server() as server:

        async def fetch(connections: int) -> Sample:
            before = server.cpu_s()
            sample = await gets(HOST, server.port, connections, plan.seconds)
            return Sample(sample.count, sample.wall_s, server.cpu_s() - before)

        yield {
            "get": Measurement(lambda: fetch(MANY), server.process.pid),
            "get-8": Measurement(lambda: fetch(FEW), server.process.pid),
        }


@asynccontextmanager
async def sqlite(plan: Plan) -> AsyncIterator[Mapping[str, Measurement]]:
    """Offer the work of a server over SQLite."""
    data = plan.folder / "sqlite"
    with gnexec_server(data) as server:
        counter = await Counter.open(server, data, plan)
        yield {
            "submit": counter.submitting(),
            "cycle": counter.working(1, MANY),
            "cycle-8": counter.working(1, FEW),
            "n16": counter.working(16, FEW),
            "n64": counter.working(64, FEW),
        }


@asynccontextmanager
async def single(plan: Plan) -> AsyncIterator[Mapping[str, Measurement]]:
    """Offer the same where each request is a transaction of its own."""
    data = plan.folder / "single"
    with gnexec_server(data, program="gnexec.bench.single") as server:
        counter = await Counter.open(server, data, plan)
        yield {"single": counter.working(1, MANY)}


@asynccontextmanager
async def postgresql(plan: Plan) -> AsyncIterator[Mapping[str, Measurement]]:
    """Offer the same over PostgreSQL."""
    data = plan.folder / "postgresql"
    with databases.postgres(plan.database) as url, gnexec_server(data, "--database", url) as server:
        counter = await Counter.open(server, data, plan)
        yield {
            "pg-submit": counter.submitting(),
            "pg-cycle": counter.working(1, MANY),
            "pg-n64": counter.working(64, FEW),
        }
