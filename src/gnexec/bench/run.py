"""The benchmark: rounds that take turns, medians, and ratios to the trivial route of the same run."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gnexec.bench.servers import HOST, ORIGIN, access_token, gnexec_server, trivial_server
from gnexec.bench.volunteer import Volunteer, cycles_per_second, gets_per_second
from gnexec.bench.wire import Wire
from gnexec.tokens.issued import Scope

PER_POST = 1000
JOB = {"argv": ["true"], "force_recompute": True}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure.

    Attributes:
        value: median over the rounds. unit: of the value.
        ratio: to the trivial route in the same rounds, or None where it makes no sense.
        must, goal: ratios that PERFORMANCE goals ask for, or None.
    """

    name: str
    value: float
    unit: str
    ratio: float | None = None
    must: float | None = None
    goal: float | None = None


def run(rounds: int, seconds: float, open_jobs: int, tell: Callable[[str], None]) -> list[Figure]:
    """Measure everything.

    Args:
        rounds: rounds of each measurement, taking turns; 1..
        seconds: length of one measurement.
        open_jobs: jobs that wait while memory is read.
        tell: called with a line before each step.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, set(cores[1:]))
    try:
        return asyncio.run(_run(rounds, seconds, open_jobs, tell))
    finally:
        os.sched_setaffinity(0, set(cores))


async def _run(rounds: int, seconds: float, open_jobs: int, tell: Callable[[str], None]) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="gnexec-bench-") as folder:
        data = Path(folder)
        with trivial_server() as trivial, gnexec_server(data) as server:
            submit = access_token(data, "bench", Scope.SUBMIT)
            enrol = access_token(data, "bench", Scope.ENROL)
            volunteers = [await Volunteer.enrol(HOST, server.port, ORIGIN, enrol) for _ in range(32)]
            figures: dict[str, list[float]] = {}
            for number in range(rounds):
                tell(f"round {number + 1} of {rounds}")
                figures.setdefault("GET, 32 connections", []).append(
                    await gets_per_second(HOST, trivial.port, 32, seconds)
                )
                figures.setdefault("submit", []).append(await _submit(server.port, submit, 30_000))
                figures.setdefault("n=1", []).append(await cycles_per_second(volunteers, 1, seconds))
                figures.setdefault("GET, 8 connections", []).append(
                    await gets_per_second(HOST, trivial.port, 8, seconds)
                )
                figures.setdefault("n=64", []).append(await cycles_per_second(volunteers[:8], 64, seconds))
            memory = await _memory(submit, open_jobs, tell)
    return _figures(figures, memory, open_jobs)


def _figures(rates: dict[str, list[float]], memory: tuple[int, int], open_jobs: int) -> list[Figure]:
    many, few = rates["GET, 32 connections"], rates["GET, 8 connections"]

    def figure(name: str, key: str, base: list[float], must: float | None, goal: float | None) -> Figure:
        ratio = statistics.median(a / b for a, b in zip(rates[key], base, strict=True))
        return Figure(name, statistics.median(rates[key]), "/s", ratio, must, goal)

    resident, growth = memory
    return [
        figure("trivial Starlette GET, 32 connections", "GET, 32 connections", many, None, None),
        figure("durable signed cycle, one job a request, 32 connections", "n=1", many, 0.09, 0.15),
        figure("trivial Starlette GET, 8 connections", "GET, 8 connections", few, None, None),
        figure("durable signed cycle, n=64, 8 connections", "n=64", few, 1.9, 4.0),
        figure("submit, 1,000 jobs a POST", "submit", many, 3.0, 15.0),
        Figure(f"resident memory with {open_jobs:,} open jobs", resident / (1 << 20), "MiB"),
        Figure("memory for each open job", growth / open_jobs, "B"),
    ]


async def _submit(port: int, token: str, jobs: int) -> float:
    """Hand in jobs, 1,000 a request; return jobs per second."""
    body = msgspec.json.encode({"jobs": [JOB] * PER_POST})
    wire = await Wire.open(HOST, port)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(-(-jobs // PER_POST)):
        status, answer = await wire.call(b"POST", b"/v1/jobs", token.encode(), body)
        if status != 201:
            raise ConnectionError(answer.decode())
    wire.close()
    return jobs / (loop.time() - began)


async def _memory(_: str, open_jobs: int, tell: Callable[[str], None]) -> tuple[int, int]:
    """Return resident bytes of a fresh server with that many open jobs, and by how much it grew."""
    tell(f"memory with {open_jobs:,} open jobs")
    with tempfile.TemporaryDirectory(prefix="gnexec-bench-") as folder:
        data = Path(folder)
        with gnexec_server(data) as server:
            token = access_token(data, "bench", Scope.SUBMIT)
            await _submit(server.port, token, PER_POST)
            before = server.resident_bytes()
            await _submit(server.port, token, open_jobs - PER_POST)
            after = server.resident_bytes()
            return after, after - before
