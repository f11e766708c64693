"""`gnexec bench`: the dispatcher's speed and memory, as ratios to a trivial route in the same run."""

from __future__ import annotations

from dataclasses import asdict

from gnexec.bench.run import Figure, run
from gnexec.cli.output import Json, json_line, say, table


def bench(
    *,
    rounds: int = 3,
    seconds: float = 3.0,
    open_jobs: int = 100_000,
    json: Json = False,
) -> None:
    """Measure full durable signed cycles, submission and memory, beside a trivial Starlette route.

    Args:
        rounds: Rounds of each measurement; they take turns, and medians are shown.
        seconds: Length of one measurement.
        open_jobs: Jobs that wait while memory is read.
        json: see `Json`.
    """
    figures = run(rounds, seconds, open_jobs, say)
    if json:
        for figure in figures:
            json_line(asdict(figure))
        return
    columns = ("median", "ratio", "must", "goal", "what (ratio: to the trivial GET)")
    table(columns, (_row(figure) for figure in figures), right=columns[:4])


def _row(figure: Figure) -> list[str]:
    def plain(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    value = f"{figure.value:,.0f} {figure.unit}"
    return [value, plain(figure.ratio), plain(figure.must), plain(figure.goal), figure.name]
