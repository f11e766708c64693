"""Combine the outputs of `scan.py` from many jobs: genome-wide threshold, peak, support interval.

It reads bytes and returns numbers; it draws nothing (see `curve_text`, `curve_svg`) and trusts nothing: a permutation
that is missing, doubled or unreadable is an error, never a silently smaller sample; names must be printable ASCII, so
that a result cannot speak to the terminal it is shown on.

Rules:
- The threshold at level alpha is an order statistic of the N permutations' best LODs: the ceil((1 - alpha)·N)-th
  smallest, without interpolation. Of N = 1,000, at 5 %, that is the 950th: at most 50 permutations lie above it.
  Source: Churchill and Doerge 1994, Genetics 138:963-971.
- A peak is significant when its LOD is *above* the threshold.
- The p-value counts the trait as it is among the permutations, so that it is never 0: (1 + exceeding) / (1 + N).
  Source: Phipson and Smyth 2010, Stat Appl Genet Mol Biol 9:39.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from math import ceil
from typing import Final

SIGNIFICANT: Final = Fraction(5, 100)
SUGGESTIVE: Final = Fraction(63, 100)
"""Once a genome scan by chance. Source: Lander and Kruglyak 1995, Nat Genet 11:241-247."""
SUPPORT_DROP: Final = Decimal("1.5")
BEST_HEADER: Final = "Permutation\tLOD"
CURVE_HEADER: Final = "Chr\tLocus\tcM\tLOD"


@dataclass(frozen=True, slots=True)
class Point:
    """One locus of a LOD curve; `centimorgan` >= 0, `lod` >= 0 or infinite."""

    chromosome: str
    name: str
    centimorgan: Decimal
    lod: Decimal


@dataclass(frozen=True, slots=True)
class Mapped:
    """A trait, mapped.

    Attributes:
        curve: all loci in map order, at least one.
        permutations: N, how many permutations the thresholds rest on.
        threshold: LOD that at most 5 % of the permutations exceed.
        suggestive: LOD that at most 63 % of the permutations exceed.
        peak: the first locus with the largest LOD.
        interval: from the first to the last locus of the peak's chromosome with a LOD within 1.5 of the peak's.
        p_value: genome-wide, 1/(N+1)..1.
    """

    curve: tuple[Point, ...]
    permutations: int
    threshold: Decimal
    suggestive: Decimal
    peak: Point
    interval: tuple[Point, Point]
    p_value: Fraction

    @property
    def significant(self) -> bool:
        """Whether the peak is above the threshold."""
        return self.peak.lod > self.threshold

    def covers(self, chromosome: str, centimorgan: Decimal) -> bool:
        """Say whether a place lies within the support interval of the peak."""
        low, high = self.interval
        return chromosome == self.peak.chromosome and low.centimorgan <= centimorgan <= high.centimorgan


def combine(curve: bytes, best: Iterable[bytes], permutations: int) -> Mapped:
    """Put the parts together.

    Args:
        curve: what `scan.py --scan` wrote.
        best: what `scan.py --out` wrote, from every job, in any order.
        permutations: how many are expected, 1 or more: 0..permutations-1, each once.

    Raises:
        ValueError: a part cannot be read; a permutation is missing, doubled or beyond the last.
    """
    found: dict[int, Decimal] = {}
    for part in best:
        for k, lod in parse_best(part):
            if k in found:
                msg = f"permutation {k} is there twice"
                raise ValueError(msg)
            found[k] = lod
    wrong = set(found) ^ set(range(permutations))
    if wrong or not found:
        msg = f"{len(found)} permutations where {permutations} are expected: look at {min(wrong, default=0)}"
        raise ValueError(msg)
    lods = list(found.values())
    points = parse_curve(curve)
    peak = max(points, key=lambda point: point.lod)
    near = [p for p in points if p.chromosome == peak.chromosome and p.lod >= peak.lod - SUPPORT_DROP]
    exceeding = sum(lod >= peak.lod for lod in lods)
    return Mapped(
        curve=points,
        permutations=permutations,
        threshold=order_statistic(lods, SIGNIFICANT),
        suggestive=order_statistic(lods, SUGGESTIVE),
        peak=peak,
        interval=(near[0], near[-1]),
        p_value=Fraction(1 + exceeding, 1 + permutations),
    )


def order_statistic(lods: Sequence[Decimal], alpha: Fraction) -> Decimal:
    """Return the ceil((1 - alpha)·N)-th smallest of N >= 1 values, 0 < alpha < 1."""
    return sorted(lods)[ceil((1 - alpha) * len(lods)) - 1]


def parse_best(table: bytes) -> list[tuple[int, Decimal]]:
    """Read (permutation, LOD) pairs.

    Raises:
        ValueError: another header, or a line that is not two numbers.
    """
    return [(_whole(k), _lod(lod)) for k, lod in _rows(table, BEST_HEADER, 2)]


def parse_curve(table: bytes) -> tuple[Point, ...]:
    """Read a LOD curve of one locus or more.

    Raises:
        ValueError: another header, no locus, or a line that does not fit.
    """
    points = tuple(
        Point(chromosome, name, _finite(centimorgan), _lod(lod))
        for chromosome, name, centimorgan, lod in _rows(table, CURVE_HEADER, 4)
    )
    if not points:
        msg = "the LOD curve has no locus"
        raise ValueError(msg)
    return points


def _rows(table: bytes, header: str, columns: int) -> list[list[str]]:
    lines = table.decode("utf-8").splitlines()
    if lines[:1] != [header]:
        msg = f"the table does not begin with {header!r}"
        raise ValueError(msg)
    rows = [line.split("\t") for line in lines[1:]]
    if any(len(row) != columns or not all(field.isascii() and field.isprintable() for field in row) for row in rows):
        msg = f"the table under {header!r} has a line that is not {columns} columns of plain text"
        raise ValueError(msg)
    return rows


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        msg = f"{text!r} is not the number of a permutation"
        raise ValueError(msg)
    return int(text)


def _lod(text: str) -> Decimal:
    return Decimal("Infinity") if text == "inf" else _finite(text)


def _finite(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0:
        msg = f"{text!r} is not a number of 0 or more"
        raise ValueError(msg)
    return value
