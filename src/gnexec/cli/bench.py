"""`gnexec bench`: the dispatcher's speed and memory, as ratios to a trivial route in the same run."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from gnexec.bench.run import Figure, run


def bench(
    *,
    rounds: int = 3,
    seconds: float = 3.0,
    open_jobs: int = 100_000,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Measure full durable signed cycles, submission and memory, beside a trivial Starlette route.

    Args:
        rounds: Rounds of each measurement; they take turns, and medians are shown.
        seconds: Length of one measurement.
        open_jobs: Jobs that wait while memory is read.
        json: Print JSON.
    """
    figures = run(rounds, seconds, open_jobs, lambda line: print(line, file=sys.stderr))
    if json:
        print(msgspec.json.encode([asdict(figure) for figure in figures]).decode())
        return
    table = Table("what", "median", "ratio to GET", "must", "goal")
    for column in table.columns[1:]:
        column.justify = "right"
    for figure in figures:
        table.add_row(*_row(figure))
    Console().print(table)


def _row(figure: Figure) -> list[str]:
    def plain(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    value = f"{figure.value:,.0f} {figure.unit}"
    return [figure.name, value, plain(figure.ratio), plain(figure.must), plain(figure.goal)]
