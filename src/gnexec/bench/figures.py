"""What was measured, and the arithmetic on it: counts over seconds, medians over rounds, ratios within a round.

Nothing here measures. A ratio is taken between two samples of the same round, and the median over the rounds is what
counts: a machine that slows down for a minute slows both down.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Missing(Exception):
    """Something cannot be measured here; the text says why, and how to mend it."""


class Met(StrEnum):
    """How a figure stands to what was asked of it."""

    GOAL = "goal"
    MUST = "must"
    NO = "no"
    NOTHING = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement.

    Attributes:
        count: operations that were done, or bytes, or whatever is counted; 0..
        wall_s: for how long, above 0; 1 for what is no rate.
        cpu_s: processor time of the server's process meanwhile, user and system; None where there is no server.
    """

    count: float
    wall_s: float
    cpu_s: float | None = None

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.count / self.wall_s

    @property
    def cpu_us(self) -> float | None:
        """Processor time of one operation, microseconds; None if nothing was done, or there is no server."""
        return None if self.cpu_s is None or not self.count else self.cpu_s / self.count * 1e6


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report: a measurement, alone or over another one.

    Attributes:
        topic: of those that `--only` chooses from.
        what: in words.
        of, over: names of measurements; without `over` the value itself is what must and goal are about.
        unit: of the value.
        must, goal: asked of the ratio, or of the value; None where nothing is.
        less: less is better.
        inverse: the ratio is that of durations, so that the rates are divided the other way round.
    """

    topic: str
    what: str
    of: str
    over: str | None = None
    unit: str = "/s"
    must: float | None = None
    goal: float | None = None
    less: bool = False
    inverse: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the report.

    Attributes:
        name: of the measurement. what: in words. unit: of the value.
        value: median over the rounds; None if it is missing. low, high: the least and the most of them.
        cpu_us: processor time of the server for one operation, microseconds, median; None where there is no server.
        busy: share of the time in which the server's process ran, median; well below 1, it was not the limit.
        ratio: to `over` in the same round, median; None where it is compared with nothing.
        cpu_ratio: the same by the server's processor time, which other work on the machine disturbs less.
        over: name of the measurement it is compared with.
        must, goal: what is asked of the ratio; of the value where there is no ratio. less: less is better.
        met: how it stands to them.
        samples: rounds. missing: why there is no value.
    """

    topic: str
    name: str
    what: str
    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    cpu_us: float | None = None
    busy: float | None = None
    ratio: float | None = None
    cpu_ratio: float | None = None
    over: str | None = None
    must: float | None = None
    goal: float | None = None
    less: bool = False
    met: Met = Met.NOTHING
    samples: int = 0
    missing: str | None = None


def figure(row: Row, samples: Mapping[str, Sequence[Sample]], missing: Mapping[str, str]) -> Figure:
    """Work a row's figure out.

    Args:
        row: what is reported.
        samples: by measurement, in order of rounds.
        missing: why measurements are not there.
    """
    mine = samples.get(row.of, ())
    if not mine:
        why = missing.get(row.of, "not measured")
        return Figure(row.topic, row.of, row.what, row.unit, must=row.must, goal=row.goal, less=row.less, missing=why)
    rates = [each.rate for each in mine]
    cpu = [each.cpu_us for each in mine if each.cpu_us is not None]
    busy = [each.cpu_s / each.wall_s for each in mine if each.cpu_s is not None]
    others = samples.get(row.over, ()) if row.over is not None else ()
    ratio = _ratio(mine, others, inverse=row.inverse)
    value = statistics.median(rates)
    return Figure(
        topic=row.topic,
        name=row.of,
        what=row.what,
        unit=row.unit,
        value=value,
        low=min(rates),
        high=max(rates),
        cpu_us=statistics.median(cpu) if cpu else None,
        busy=statistics.median(busy) if busy else None,
        ratio=ratio,
        cpu_ratio=_cpu_ratio(mine, others),
        over=row.over,
        must=row.must,
        goal=row.goal,
        less=row.less,
        met=_met(value if row.over is None else ratio, row),
        samples=len(mine),
        missing=missing.get(row.over, "not measured") if row.over is not None and not others else None,
    )


def _ratio(mine: Sequence[Sample], others: Sequence[Sample], *, inverse: bool) -> float | None:
    pairs = [(a.rate, b.rate) for a, b in zip(mine, others, strict=False)]
    if not pairs:
        return None
    return statistics.median(b / a if inverse else a / b for a, b in pairs)


def _cpu_ratio(mine: Sequence[Sample], others: Sequence[Sample]) -> float | None:
    ratios = [b.cpu_us / a.cpu_us for a, b in zip(mine, others, strict=False) if a.cpu_us and b.cpu_us]
    return statistics.median(ratios) if ratios else None


def _met(reached: float | None, row: Row) -> Met:
    if reached is None or row.must is None or row.goal is None:
        return Met.NOTHING
    sign = -1 if row.less else 1
    if sign * reached >= sign * row.goal:
        return Met.GOAL
    return Met.MUST if sign * reached >= sign * row.must else Met.NO
