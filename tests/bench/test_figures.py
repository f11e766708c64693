"""What is reported is arithmetic on what was counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gnexec.bench.figures import Met, Row, Sample, figure
from gnexec.bench.goals import ROWS, TOPICS
from gnexec.bench.profiling import Spent, spent
from gnexec.bench.run import NAMES, ONCE

ROW = Row("topic", "a ÷ b", "a", "b", must=2.0, goal=3.0)


def test_ratio_is_the_median_of_the_ratios_within_the_rounds() -> None:
    """Not the ratio of the medians: a slow round is slow for both, and counts once."""
    a = [Sample(100, 1.0), Sample(30, 1.0), Sample(90, 0.5)]
    b = [Sample(50, 1.0), Sample(10, 1.0), Sample(18, 0.2)]
    found = figure(ROW, {"a": a, "b": b}, {})
    assert (found.value, found.low, found.high, found.samples) == (100, 30, 180, 3)
    assert found.ratio == 2.0
    assert found.met is Met.MUST


def test_processor_time_is_per_operation() -> None:
    """The time of the server is divided by what was done, and the ratio is of the other's to one's own."""
    found = figure(ROW, {"a": [Sample(1_000, 2.0, 0.5)], "b": [Sample(500, 1.0, 1.0)]}, {})
    assert found.cpu_us == 500
    assert found.busy == 0.25
    assert found.cpu_ratio == 4.0


@pytest.mark.parametrize(
    ("row", "mine", "other", "met"),
    [
        (ROW, 30.0, 10.0, Met.GOAL),
        (ROW, 29.0, 10.0, Met.MUST),
        (ROW, 20.0, 10.0, Met.MUST),
        (ROW, 19.0, 10.0, Met.NO),
        (replace(ROW, less=True, inverse=True, must=2.0, goal=1.5), 10.0, 15.0, Met.GOAL),
        (replace(ROW, less=True, inverse=True, must=2.0, goal=1.5), 10.0, 20.0, Met.MUST),
        (replace(ROW, less=True, inverse=True, must=2.0, goal=1.5), 10.0, 21.0, Met.NO),
        (replace(ROW, over=None, less=True, must=10.0, goal=2.0), 2.0, 1.0, Met.GOAL),
        (replace(ROW, over=None, less=True, must=10.0, goal=2.0), 11.0, 1.0, Met.NO),
        (replace(ROW, must=None, goal=None), 1.0, 1.0, Met.NOTHING),
    ],
)
def test_goal_is_met_from_its_own_value_on(row: Row, mine: float, other: float, met: Met) -> None:
    """Goal and must are themselves enough; what is less than the must is missed."""
    assert figure(row, {"a": [Sample(mine, 1.0)], "b": [Sample(other, 1.0)]}, {}).met is met


def test_figure_that_is_missing_says_why_and_meets_nothing() -> None:
    """What was not measured has no value, no ratio, and a reason; so has a ratio to what was not measured."""
    absent = figure(ROW, {"b": [Sample(1, 1)]}, {"a": "no a here"})
    assert (absent.value, absent.ratio, absent.met, absent.missing) == (None, None, Met.NOTHING, "no a here")
    alone = figure(ROW, {"a": [Sample(7, 1)]}, {"b": "no b here"})
    assert (alone.value, alone.ratio, alone.met, alone.missing) == (7, None, Met.NOTHING, "no b here")


def test_nothing_done_has_a_rate_of_zero_and_no_time_for_each() -> None:
    """A server that did nothing is not divided by."""
    found = figure(ROW, {"a": [Sample(0, 1.0, 0.1)], "b": [Sample(5, 1.0, 0.1)]}, {})
    assert (found.value, found.cpu_us, found.cpu_ratio, found.met) == (0, None, None, Met.NO)


def test_every_line_of_the_report_is_measured_somewhere() -> None:
    """The table of goals and that of the stations agree, and nothing is measured for no line."""
    reported = {name for row in ROWS for name in (row.of, row.over) if name is not None}
    assert reported == NAMES
    assert ONCE < NAMES
    assert tuple(dict.fromkeys(row.topic for row in ROWS)) == TOPICS


def test_lines_of_the_report_fit_a_terminal() -> None:
    """Forty columns are for numbers."""
    assert max(len(row.what) for row in ROWS) <= 40


def test_profile_counts_own_and_total_time_of_functions() -> None:
    """Lines of one function count together, and recursion once."""
    stacks = "main (a.py:1);work (a.py:5) 6\nmain (a.py:1);work (a.py:9);work (a.py:5) 2\nmain (a.py:2) 2\n"
    assert spent(stacks) == [Spent("work (a.py)", 0.8, 0.8), Spent("main (a.py)", 0.2, 1.0)]
