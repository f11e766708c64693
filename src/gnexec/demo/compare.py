"""Compare two results of the same GEMMA job that may honestly differ in their last digits.

Another CPU type, BLAS kernel or thread count changes a GEMMA result a little: beta by 3e-5 of itself, a few rows to
`nan`. A comparator must wave that through and still see one p-value changed by a thousandth. It decides on two byte
strings and knows nothing of jobs, workers or votes.

Rules, by column, where `near` means |a - b| <= absolute + relative · max(|a|, |b|):
- chr, rs, ps, n_miss, allele1, allele0, af: the same text, row by row in the same order.
- p-values: relative 1e-4 and *no* absolute tolerance. Real peaks reach 1e-51; any absolute tolerance would accept a
  forged one.
- A `nan` against a number: in at most one row of 1,000, and only in rows whose every p-value, on either side, is 0.05
  or more: else a top hit could be blanked.
- Anything else that is not a finite decimal number must be the same text. An unknown column is not comparable.
- Kinship: every cell near, absolute 1e-9.

Equality within a tolerance is not transitive: a is near b and b near c says nothing of a and c. Whoever counts votes
must compare each result with one chosen result, not chain them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

EXACT: Final = frozenset({"chr", "rs", "ps", "n_miss", "allele1", "allele0", "af"})
P_VALUES: Final = frozenset({"p_wald", "p_lrt", "p_score"})
REMARKABLE: Final = 0.05
ROWS_PER_NAN: Final = 1000
NUMBER: Final = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
"""What a number may look like; `float` alone would also read underscores, blanks, `infinity` and other digits."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two numbers may lie apart; both parts 0 or more."""

    relative: float
    absolute: float

    def near(self, a: float, b: float) -> bool:
        """Say whether two finite numbers are equal enough."""
        return abs(a - b) <= self.absolute + self.relative * max(abs(a), abs(b))


TOLERANCES: Final = {
    **dict.fromkeys(("beta", "se", "l_remle", "l_mle"), Tolerance(relative=1e-3, absolute=1e-6)),
    "logl_H1": Tolerance(relative=1e-5, absolute=1e-6),
    **dict.fromkeys(P_VALUES, Tolerance(relative=1e-4, absolute=0.0)),
}
KINSHIP: Final = Tolerance(relative=0.0, absolute=1e-9)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether two results agree, and in one sentence why, for the record."""

    equal: bool
    why: str


def compare_assoc(a: bytes, b: bytes) -> Comparison:
    """Compare two `*.assoc.txt` tables of GEMMA's `-lmm`, of any mode."""
    if a == b:
        return Comparison(equal=True, why="identical bytes")
    try:
        (header, *left), (other, *right) = _table(a), _table(b)
    except ValueError as err:
        return _differ(str(err))
    if header != other or len(set(header)) != len(header):
        return _differ("the headers differ, or name a column twice")
    if len(left) != len(right):
        return _differ(f"{len(left)} rows against {len(right)}")
    unknown = [column for column in header if column not in EXACT and column not in TOLERANCES]
    if unknown or not P_VALUES & set(header):
        return _differ(f"column {unknown[0]!r} has no rule" if unknown else "there is no p-value")
    blanked = 0
    for number, (ours, theirs) in enumerate(zip(left, right, strict=True), 1):
        if ours == theirs:
            continue
        why, has_nan = _compare_row(header, ours, theirs)
        if why:
            return _differ(f"row {number}: {why}")
        blanked += has_nan
    if blanked * ROWS_PER_NAN > len(left):
        return _differ(f"nan against a number in {blanked} of {len(left)} rows")
    return Comparison(equal=True, why=f"within tolerance; nan against a number in {blanked} of {len(left)} rows")


def compare_kinship(a: bytes, b: bytes) -> Comparison:
    """Compare two `*.cXX.txt` relatedness matrices cell by cell."""
    if a == b:
        return Comparison(equal=True, why="identical bytes")
    try:
        left, right = _table(a), _table(b)
    except ValueError as err:
        return _differ(str(err))
    if [len(row) for row in left] != [len(row) for row in right]:
        return _differ("the matrices have different shapes")
    for number, (ours, theirs) in enumerate(zip(left, right, strict=True), 1):
        for column, (x, y) in enumerate(zip(ours, theirs, strict=True), 1):
            if x != y and not _near(KINSHIP, x, y):
                return _differ(f"row {number}, column {column}: {x!r} against {y!r}")
    return Comparison(equal=True, why="within tolerance")


def _compare_row(header: list[str], ours: list[str], theirs: list[str]) -> tuple[str, bool]:
    """Return why two rows differ (empty when they agree), and whether they have `nan` against a number."""
    has_nan = False
    for column, x, y in zip(header, ours, theirs, strict=True):
        if x == y:
            continue
        if column not in EXACT and _nan_against_number(x, y):
            has_nan = True
        elif column in EXACT or not _near(TOLERANCES[column], x, y):
            return f"{column} {x!r} against {y!r}", has_nan
    if has_nan and not _unremarkable(header, ours, theirs):
        return "nan against a number where a p-value is remarkable or none is known", has_nan
    return "", has_nan


def _unremarkable(header: list[str], ours: list[str], theirs: list[str]) -> bool:
    known = [
        value
        for row in (ours, theirs)
        for column, text in zip(header, row, strict=True)
        if column in P_VALUES and (value := _number(text)) is not None
    ]
    return bool(known) and min(known) >= REMARKABLE


def _nan_against_number(x: str, y: str) -> bool:
    return (_is_nan(x) and _number(y) is not None) or (_is_nan(y) and _number(x) is not None)


def _is_nan(text: str) -> bool:
    return text in {"nan", "-nan"}


def _near(tolerance: Tolerance, x: str, y: str) -> bool:
    a, b = _number(x), _number(y)
    if a is None or b is None:
        return _is_nan(x) and _is_nan(y)
    return tolerance.near(a, b)


def _number(text: str) -> float | None:
    """Read a finite decimal number, or return None."""
    if not NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _table(data: bytes) -> list[list[str]]:
    """Split into rows of the same number of tab-separated fields; GEMMA ends rows of a matrix with a tab or not.

    Raises:
        ValueError: not ASCII text, empty, or rows of different lengths.
    """
    try:
        rows = list(_rows(data.decode("ascii")))
    except UnicodeDecodeError:
        msg = "a result is not plain text"
        raise ValueError(msg) from None
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        msg = "a result is empty or has rows of different lengths"
        raise ValueError(msg)
    return rows


def _rows(text: str) -> Iterator[list[str]]:
    return (line.split("\t") for line in text.removesuffix("\n").split("\n") if text)


def _differ(why: str) -> Comparison:
    return Comparison(equal=False, why=why)


def compare_bytes(a: bytes, b: bytes) -> Comparison:
    """Compare byte by byte."""
    return Comparison(equal=True, why="identical bytes") if a == b else _differ("the bytes differ")


def comparator(path: str) -> Callable[[bytes, bytes], Comparison]:
    """Return the comparison that fits an output by the ending of its name."""
    if path.endswith(".assoc.txt"):
        return compare_assoc
    return compare_kinship if path.endswith(".cXX.txt") else compare_bytes
