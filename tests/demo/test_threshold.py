"""Combining: which order statistic, what counts as significant, and what is refused."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.demo.threshold import SIGNIFICANT, combine, order_statistic, parse_best, parse_curve

CURVE = (
    b"Chr\tLocus\tcM\tLOD\n1\ta\t0.000\t0.1000\n1\tb\t5.000\t3.0000\n"
    b"2\tc\t0.000\t3.4000\n2\td\t1.500\t4.9000\n2\te\t2.000\t4.9000\n2\tf\t3.000\t3.3999\n2\tg\t4.000\t3.5000\n2\th\t5.000\t0.0000\n"
)


def best(lods: dict[int, str]) -> bytes:
    """Write a table of best LODs."""
    return ("Permutation\tLOD\n" + "".join(f"{k}\t{lod}\n" for k, lod in lods.items())).encode()


def counted(n: int) -> bytes:
    """Write n permutations with the LODs 0.0001, 0.0002, …, n/10000."""
    return best({k: f"{Decimal(k + 1) / 10000:.4f}" for k in range(n)})


@pytest.mark.parametrize(("n", "rank"), [(1, 1), (19, 19), (20, 19), (21, 20), (100, 95), (1000, 950), (1001, 951)])
def test_threshold_of_n_permutations_is_the_named_order_statistic(n: int, rank: int) -> None:
    """The ceil(0.95 n)-th smallest, never interpolated."""
    assert combine(CURVE, [counted(n)], n).threshold == Decimal(rank) / 10000


@given(st.lists(st.integers(0, 60), min_size=1, max_size=300))
def test_threshold_is_exceeded_by_at_most_the_level_and_is_the_least_such(values: list[int]) -> None:
    """At most 5 % lie above; above any smaller observed value lie more."""
    lods = [Decimal(value) for value in values]
    threshold = order_statistic(lods, SIGNIFICANT)
    assert sum(lod > threshold for lod in lods) <= SIGNIFICANT * len(lods)
    smaller = [lod for lod in lods if lod < threshold]
    assert not smaller or sum(lod > max(smaller) for lod in lods) > SIGNIFICANT * len(lods)


def test_peak_interval_and_p_value_of_a_known_curve() -> None:
    """The first of tied loci is the peak; the interval spans its chromosome's loci within 1.5; p is never 0."""
    mapped = combine(CURVE, [best({0: "1.0000", 2: "4.9000"}), best({1: "5.0000", 3: "inf"})], 4)
    assert (mapped.peak.chromosome, mapped.peak.name) == ("2", "d")
    assert [point.name for point in mapped.interval] == ["c", "g"]
    assert mapped.covers("2", Decimal("3.7"))
    assert not mapped.covers("1", Decimal("3.7"))
    assert not mapped.covers("2", Decimal("4.1"))
    assert mapped.p_value == Fraction(1 + 3, 1 + 4)
    assert combine(CURVE, [counted(99)], 99).p_value == Fraction(1, 100)


def test_peak_equal_to_the_threshold_is_not_significant() -> None:
    """Significant means above."""
    assert not combine(CURVE, [best({0: "4.9000"})], 1).significant
    assert combine(CURVE, [best({0: "4.8999"})], 1).significant


@pytest.mark.parametrize(
    ("parts", "n", "why"),
    [
        ([counted(5)], 6, "look at 5"),
        ([counted(5)], 4, "look at 4"),
        ([counted(5), best({3: "1.0000"})], 5, "3 is there twice"),
        ([], 0, "0 permutations"),
        ([best({0: "1.0000", 2: "1.0000"})], 2, "look at 1"),
    ],
)
def test_permutations_missing_or_doubled_are_refused(parts: list[bytes], n: int, why: str) -> None:
    """A smaller or padded sample never becomes a threshold."""
    with pytest.raises(ValueError, match=why):
        combine(CURVE, parts, n)


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"k\tlod\n0\t1.0\n",
        b"Permutation\tLOD\n0\n",
        b"Permutation\tLOD\n0\t1.0\t2\n",
        b"Permutation\tLOD\n-1\t1.0\n",
        b"Permutation\tLOD\n1_0\t1.0\n",
        b"Permutation\tLOD\n0\tnan\n",
        b"Permutation\tLOD\n0\t-1.0\n",
        b"Permutation\tLOD\n0\tsNaN\n",
        b"Permutation\tLOD\n0\tInfinity\n",
        b"Permutation\tLOD\n0\t1.0\xff\n",
        "Permutation\tLOD\n٣\t1.0\n".encode(),
    ],
)
def test_best_lods_that_are_no_table_are_refused(table: bytes) -> None:
    """What a volunteer sent is parsed strictly."""
    with pytest.raises(ValueError, match=r"\S"):
        parse_best(table)


@pytest.mark.parametrize(
    "line",
    [b"1\ta\tinf\t1.0", b"1\ta\t-1\t1.0", b"1\ta\t0\tNaN", b"1\ta\t0", b"\x1b[2J\ta\t0\t1.0", b"1\ta\x07\t0\t1.0"],
)
def test_curve_that_could_speak_to_the_terminal_or_has_no_numbers_is_refused(line: bytes) -> None:
    """Control characters in names, and places that are not finite, do not get in."""
    with pytest.raises(ValueError, match=r"\S"):
        parse_curve(b"Chr\tLocus\tcM\tLOD\n" + line + b"\n")


def test_curve_without_a_locus_is_refused() -> None:
    """There is no peak of nothing."""
    with pytest.raises(ValueError, match="no locus"):
        parse_curve(b"Chr\tLocus\tcM\tLOD\n")
