"""The benchmark: what is asked for is opened, measured in rounds that take turns, and reported."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from gnexec.bench import crowd, history, local, stations
from gnexec.bench.cores import beside_the_server
from gnexec.bench.figures import Figure, Missing, Row, Sample, figure
from gnexec.bench.goals import GROUPS, ROWS
from gnexec.bench.profiling import Spent, find_spy, watched
from gnexec.bench.stations import Measurement, Plan, Station

T = TypeVar("T")

STATIONS: Final[tuple[tuple[Station, frozenset[str]], ...]] = (
    (stations.trivial, frozenset({"get", "get-8"})),
    (stations.sqlite, frozenset({"submit", "cycle", "cycle-8", "n16", "n64"})),
    (stations.single, frozenset({"single"})),
    (stations.postgresql, frozenset({"pg-submit", "pg-cycle", "pg-n64"})),
    (local.sqlite_appends, frozenset(f"sqlite-{way}-{group}" for way in ("raw", "store") for group in GROUPS)),
    (local.postgres_appends, frozenset(f"pg-{way}-{group}" for way in ("raw", "store") for group in GROUPS)),
    (local.signatures, frozenset({"openssl-sign", "sign", "openssl-verify", "verify"})),
    (history.replay, frozenset({"read", "fold"})),
    (local.growth, frozenset({"append-small", "append-large"})),
    (crowd.memory, frozenset({"memory", "resident"})),
    (history.restart, frozenset({"restart", "restart-cpu", "restart-cold"})),
    (crowd.idle, frozenset({"idle", "idle-memory"})),
)
"""In the order in which they take turns, with the names of what each of them measures."""
NAMES: Final = frozenset[str]().union(*(names for _, names in STATIONS))
ONCE: Final = frozenset(
    {
        "append-small",
        "append-large",
        "memory",
        "resident",
        "restart",
        "restart-cpu",
        "restart-cold",
        "idle",
        "idle-memory",
    }
)
"""What is measured in the first round only."""


def run(plan: Plan, topics: Sequence[str], rounds: int) -> list[Figure]:
    """Measure, and work the figures out.

    Args:
        plan: how much; its folder is replaced by one that is removed again.
        topics: some of `TOPICS`, or none for all.
        rounds: of each measurement, 1...
    """
    rows = [row for row in ROWS if not topics or row.topic in topics]
    with tempfile.TemporaryDirectory(prefix="gnexec-bench-") as folder, beside_the_server():
        work = _measure(replace(plan, folder=Path(folder)), _wanted(rows), rounds)
        samples, missing = _looped(work)
    return [figure(_worded(row, plan), samples, missing) for row in rows]


def profile(plan: Plan, name: str, to: Path) -> list[Spent]:
    """Measure one thing while the server under it is watched by py-spy.

    Args:
        plan: how much.
        name: of a measurement with a server.
        to: a folder; `profile-NAME.svg` (flame graph) and `profile-NAME.txt` (stacks with counts) are made in it.

    Returns:
        The functions in which the server was, most first.

    Raises:
        Missing: there is no py-spy, it may not look, or nothing of that name has a server.
    """
    station = next((station for station, names in STATIONS if name in names), None)
    if station is None:
        msg = f"nothing is called {name!r} here; take one of: {', '.join(sorted(NAMES))}"
        raise Missing(msg)

    spy = find_spy()

    async def work(at: Plan) -> list[Spent]:
        async with station(at) as offered:
            await offered[name].act()  # what is made on first use is not what takes the time
            return await watched(spy, offered[name], to / f"profile-{name}", plan.seconds)

    with tempfile.TemporaryDirectory(prefix="gnexec-bench-") as folder, beside_the_server():
        return _looped(work(replace(plan, folder=Path(folder))))


def _looped(work: Coroutine[Any, Any, T]) -> T:
    """Run in the fastest event loop, or the load would be the limit."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _wanted(rows: Sequence[Row]) -> frozenset[str]:
    return frozenset(name for row in rows for name in (row.of, row.over) if name is not None)


async def _measure(
    plan: Plan, wanted: frozenset[str], rounds: int
) -> tuple[Mapping[str, list[Sample]], Mapping[str, str]]:
    """Open the stations that are needed, and let what is wanted of them take turns."""
    samples: dict[str, list[Sample]] = {}
    missing: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        offered: dict[str, Measurement] = {}
        for station, names in STATIONS:
            if names & wanted:
                try:
                    offered |= await stack.enter_async_context(station(plan))
                except Missing as err:
                    missing |= dict.fromkeys(names, str(err))
        for number in range(rounds):
            plan.tell(f"round {number + 1} of {rounds}")
            for name, measure in offered.items():
                if name in wanted and name not in missing and not (number and name in ONCE):
                    try:
                        samples.setdefault(name, []).append(await measure.act())
                    except Missing as err:
                        missing[name] = str(err)
    return samples, missing


def _worded(row: Row, plan: Plan) -> Row:
    small, large = plan.growth
    sizes = {"events": plan.events, "entries": plan.entries, "open_jobs": plan.open_jobs, "polls": plan.polls}
    words = {name: f"{size:,}" for name, size in (sizes | {"small": small, "large": large}).items()}
    return replace(row, what=row.what.format_map(words))
