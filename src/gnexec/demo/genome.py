"""Lay a genome out along one axis: where each chromosome begins, and which loci fall into which slice.

The terminal drawing and the SVG file both use it. Chromosomes follow each other in map order; each is as wide as its
last locus is far, in centimorgan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby

from gnexec.demo.threshold import Point


@dataclass(frozen=True, slots=True)
class Mark:
    """A place that a drawing points at, such as a planted QTL."""

    chromosome: str
    centimorgan: Decimal


@dataclass(frozen=True, slots=True)
class Chromosome:
    """A chromosome's loci in map order; `length` is the last locus's position in cM."""

    name: str
    points: tuple[Point, ...]

    @property
    def length(self) -> Decimal:
        """Position of the last locus, in cM."""
        return max(point.centimorgan for point in self.points)


def chromosomes(curve: Sequence[Point]) -> tuple[Chromosome, ...]:
    """Group a curve, which is in map order, by chromosome."""
    return tuple(Chromosome(name, tuple(points)) for name, points in groupby(curve, key=lambda point: point.chromosome))


def axis_top(curve: Sequence[Point], threshold: Decimal) -> int:
    """Return a round LOD above everything that is drawn: even, and at least 4. Infinite LODs are drawn at the top."""
    highest = max([threshold, *(point.lod for point in curve if point.lod.is_finite())])
    return max(4, 2 * (int(highest * Decimal("1.05")) // 2 + 1))
