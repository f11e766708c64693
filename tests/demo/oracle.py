"""The scan, written slowly and literally from its definition: means, sums of squares, fractions, no shortcuts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction

X = {"B": -1, "H": 0, "D": 1}


def r_squared(letters: str, trait: Sequence[Fraction]) -> Fraction:
    """Return the squared correlation of genotype and trait; 0 where either does not vary."""
    x = [Fraction(X[letter]) for letter in letters]
    n = len(x)
    mean_x, mean_y = sum(x, Fraction(0)) / n, sum(trait, Fraction(0)) / n
    xy = sum(((a - mean_x) * (b - mean_y) for a, b in zip(x, trait, strict=True)), Fraction(0))
    xx = sum(((a - mean_x) ** 2 for a in x), Fraction(0))
    yy = sum(((b - mean_y) ** 2 for b in trait), Fraction(0))
    return xy**2 / (xx * yy) if xx and yy else Fraction(0)


def order(seed: str, k: int, n: int) -> list[int]:
    """Return permutation k of 0..n-1."""
    keyed = [(hashlib.sha256(f"{seed}:{k}:{i}".encode()).hexdigest(), i) for i in range(n)]
    return [i for _, i in sorted(keyed)]


def is_lod(text: str, n: int, r2: Fraction) -> bool:
    """Say whether `text` is -(n/2) log10(1 - r2) to 4 decimals, as far as binary floating point can tell."""
    if r2 == 1:
        return text == "inf"
    whole, _, decimals = text.partition(".")
    exact = -n / 2 * math.log1p(-float(r2)) / math.log(10) if r2 < Fraction(1, 2) else -n / 2 * _log10(1 - r2)
    return whole.isdecimal() and len(decimals) == 4 and abs(float(text) - exact) <= 0.5e-4 + 1e-9 * (1 + exact)


def _log10(value: Fraction) -> float:
    return math.log10(value.numerator) - math.log10(value.denominator)
