"""How long work takes: what was seen, and what it promises.

Statistics are kept for each program over the times that its successful attempts took. The prediction is a mean with a
range of two standard deviations; without any observation, the submitter's own estimate; without
that, nothing: an unknown time is said to be unknown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec


class Statistics(msgspec.Struct, frozen=True, gc=False):
    """Count, mean and sum of squared deviations of times in milliseconds.

    Source: Welford, "Note on a method for calculating corrected sums of squares and products", 1962.
    """

    n: int = 0
    mean_ms: float = 0.0
    m2: float = 0.0

    def add(self, took_ms: int) -> Statistics:
        """Return the statistics with one more observation."""
        n = self.n + 1
        delta = took_ms - self.mean_ms
        mean = self.mean_ms + delta / n
        return Statistics(n, mean, self.m2 + delta * (took_ms - mean))

    @property
    def deviation_ms(self) -> float:
        """Standard deviation; 0 with fewer than two observations."""
        return math.sqrt(self.m2 / (self.n - 1)) if self.n > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """When a piece of work is expected to be done, from now, in milliseconds.

    Attributes:
        likely_ms: expected. low_ms, high_ms: a range around it.
        observations: results that it rests on; 0 for the submitter's own guess.
    """

    likely_ms: int
    low_ms: int
    high_ms: int
    observations: int


def attempt_ms(statistics: Statistics | None, guess_ms: int | None) -> int | None:
    """Predict one attempt's wall time in milliseconds, or None where nothing is known."""
    if statistics is not None and statistics.n:
        return round(statistics.mean_ms)
    return guess_ms


def estimate(statistics: Statistics | None, guess_ms: int | None, attempts_ahead: int, slots: int) -> Estimate | None:
    """Predict when `attempts_ahead` attempts, the asked ones included, will be done.

    Args:
        statistics: of the program, or None.
        guess_ms: the submitter's estimate of one attempt, or None.
        attempts_ahead: attempts still to be run up to and including the one asked about, >= 0.
        slots: attempts that can run at one time, >= 0; 0 is taken as 1, the least that can finish anything.

    Returns:
        None where neither observations nor a guess exist.
    """
    each = attempt_ms(statistics, guess_ms)
    if each is None:
        return None
    n = statistics.n if statistics is not None else 0
    rounds = math.ceil(attempts_ahead / max(1, slots))
    likely = rounds * each
    # Sums of independent times spread with the root of their number; a guess alone is taken as good to a factor of two.
    spread = 2 * math.sqrt(rounds) * statistics.deviation_ms if statistics is not None and n > 1 else likely / 2
    return Estimate(round(likely), max(0, round(likely - spread)), round(likely + spread), n)
