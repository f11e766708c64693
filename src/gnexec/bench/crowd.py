"""What it costs to have much open and to wait for: memory of open jobs, and long polls that nothing happens to."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from gnexec.bench.figures import Missing, Sample
from gnexec.bench.servers import HOST, ORIGIN, access_token, gnexec_server
from gnexec.bench.stations import FEW, PER_POST, Measurement, Plan, hand_in
from gnexec.bench.volunteer import Volunteer
from gnexec.bench.wire import Wire
from gnexec.tokens.issued import Scope

SPARE_FILES = 600
AT_ONCE = 100
"""Connections that are opened at a time."""
WAIT_S = 300
SETTLED_S = 60
"""Within which all of them wait: before the first of them have waited for long enough."""


@asynccontextmanager
async def memory(plan: Plan) -> AsyncIterator[Mapping[str, Measurement]]:
    """Offer the resident memory of a server with many open jobs, and what it grew by for each."""

    async def measured() -> tuple[int, int]:
        plan.tell(f"memory with {plan.open_jobs:,} open jobs")
        data = plan.folder / "memory"
        with gnexec_server(data) as server:
            token = access_token(data, "bench", Scope.SUBMIT)
            await hand_in(server.port, token, PER_POST)
            before = server.resident_bytes()
            await hand_in(server.port, token, plan.open_jobs)
            return before, server.resident_bytes()

    taken: list[tuple[int, int]] = []

    async def growth() -> Sample:
        taken.append(await measured())
        before, after = taken[0]
        return Sample(after - before, plan.open_jobs)

    async def resident() -> Sample:
        return Sample(taken[0][1] / (1 << 20), 1)

    yield {"memory": Measurement(growth), "resident": Measurement(resident)}


@asynccontextmanager
async def idle(plan: Plan) -> AsyncIterator[Mapping[str, Measurement]]:
    """Offer the processor time and the memory that waiting long polls cost."""
    kept = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = plan.polls + SPARE_FILES
    if kept[1] != resource.RLIM_INFINITY and kept[1] < needed:
        msg = f"{plan.polls:,} connections need {needed:,} open files, {kept[1]:,} are allowed: ulimit -Hn {needed}"
        raise Missing(msg)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(kept[0], needed), kept[1]))
    data = plan.folder / "idle"
    try:
        with gnexec_server(data, "--max-per-address", str(plan.polls + SPARE_FILES)) as server:
            enrol = access_token(data, "bench", Scope.ENROL)
            volunteers = [await Volunteer.enrol(HOST, server.port, ORIGIN, enrol) for _ in range(FEW)]
            grown: list[int] = []

            async def waiting() -> Sample:
                plan.tell(f"{plan.polls:,} long polls")
                before = server.resident_bytes()
                wires = await _waiting(server.port, [each.token for each in volunteers], plan.polls)
                grown.append(server.resident_bytes() - before)
                used, began = server.cpu_s(), time.perf_counter()
                await asyncio.sleep(plan.seconds * 3)
                wall_s = time.perf_counter() - began
                used = server.cpu_s() - used
                for wire in wires:
                    wire.close()
                return Sample(100 * used, wall_s, used)

            async def memory_each() -> Sample:
                if not grown:
                    msg = "the long polls did not come to wait"
                    raise Missing(msg)
                return Sample(grown[0] / 1024, plan.polls)

            yield {"idle": Measurement(waiting, server.process.pid), "idle-memory": Measurement(memory_each)}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, kept)


async def _waiting(port: int, tokens: list[bytes], count: int) -> list[Wire]:
    """Open connections that wait for work, and return when the server has had time to see them all."""
    wires: list[Wire] = []
    while len(wires) < count:
        some = await asyncio.gather(*(Wire.open(HOST, port) for _ in range(min(AT_ONCE, count - len(wires)))))
        for wire in some:
            wire.send(b"GET", b"/jobs/next?wait=%d" % WAIT_S, tokens[len(wires) % len(tokens)])
            wires.append(wire)
    probe = await Wire.open(HOST, port)
    polls, late = -1.0, time.monotonic() + SETTLED_S
    while polls < count:
        if time.monotonic() > late:
            msg = f"of {count:,} long polls only {polls:,.0f} wait"
            raise Missing(msg)
        await asyncio.sleep(0.1)
        _, page = await probe.call(b"GET", b"/metrics")
        polls = _metric(page, b"gnexec_long_polls")
    probe.close()
    return wires


def _metric(page: bytes, name: bytes) -> float:
    for line in page.splitlines():
        if line.startswith(name + b" "):
            return float(line.rpartition(b" ")[2])
    return -1.0
