"""The comparator: honest differences pass, and every forgery that it is meant to see is seen."""

from __future__ import annotations

import gzip
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.demo.compare import TOLERANCES, comparator, compare_assoc, compare_bytes, compare_kinship
from tests.requirements import shared_data

HEADER = "chr\trs\tps\tn_miss\tallele1\tallele0\taf\tbeta\tse\tlogl_H1\tl_remle\tl_mle\tp_wald\tp_lrt\tp_score"
ROW = "1\trs1\t3010274\t0\tX\tY\t0.276\t1.533062e-01\t1.255922e-01\t-4.9e+01\t1e-05\t1e-05\t2.2e-01\t2.1e-01\t2.2e-01"
COLUMNS = HEADER.split("\t")


def table(*rows: str, header: str = HEADER) -> bytes:
    """Write a table."""
    return ("\n".join((header, *rows)) + "\n").encode()


def changed(row: str = ROW, **cells: str) -> str:
    """Return a row with some cells replaced."""
    return "\t".join(cells.get(name, cell) for name, cell in zip(COLUMNS, row.split("\t"), strict=True))


def agree(a: bytes, b: bytes) -> bool:
    """Compare both ways round; a comparator that depends on the order is no comparator."""
    one, other = compare_assoc(a, b), compare_assoc(b, a)
    assert one.equal == other.equal
    assert one.why
    return one.equal


FILLER = tuple(changed(rs=f"s{i}") for i in range(1999))


@pytest.mark.parametrize(
    ("cells", "equal"),
    [
        ({"beta": "1.534062e-01"}, True),
        ({"beta": "1.536062e-01"}, False),
        ({"se": "1.255923e-01"}, True),
        ({"logl_H1": "-4.90004e+01"}, True),
        ({"logl_H1": "-4.90006e+01"}, False),
        ({"l_mle": "1.1e-05"}, True),
        ({"l_mle": "2.0e-05"}, False),
        ({"p_wald": "2.20021e-01"}, True),
        ({"p_wald": "2.20023e-01"}, False),
        ({"p_lrt": "2.1021e-01"}, False),
        ({"af": "0.2760"}, False),
        ({"ps": "3010274.0"}, False),
        ({"rs": "rs2"}, False),
        ({"allele1": "Y", "allele0": "X"}, False),
        ({"n_miss": "1"}, False),
        ({"beta": "inf"}, False),
        ({"beta": "1_5.33062e-02"}, False),
        ({"beta": " 1.533062e-01"}, False),
        ({"p_lrt": "0x1p-2"}, False),
        ({"p_lrt": ""}, False),
        ({"beta": "nan"}, True),
        ({"beta": "-nan", "se": "nan"}, True),
        ({"af": "nan"}, False),
    ],
)
def test_compare_of_one_changed_row_follows_its_columns_rule(cells: dict[str, str], *, equal: bool) -> None:
    """Each column has its own tolerance; text is text; a number is a plain decimal."""
    assert agree(table(ROW, *FILLER), table(changed(**cells), *FILLER)) is equal


@pytest.mark.parametrize("column", ["p_wald", "p_lrt", "p_score"])
@pytest.mark.parametrize("p", ["1.0e-51", "3.8e-33", "1.0e-300", "4.9e-02", "9.0e-01"])
def test_forged_p_value_of_any_size_is_rejected(column: str, p: str) -> None:
    """A thousandth is seen at 1e-51 as at 0.9, and a peak cannot be made out of noise or put away."""
    honest = changed(**{column: p})
    digits, exponent = p.split("e")
    for forged in (f"{float(digits) * 1.001:.6f}e{exponent}", f"{digits}e-60", "0.000000e+00", "1.0e+00"):
        assert not agree(table(honest, *FILLER), table(changed(**{column: forged}), *FILLER))
    near = f"{float(digits) * 1.00005:.7f}e{exponent}"
    assert agree(table(honest, *FILLER), table(changed(**{column: near}), *FILLER))


@pytest.mark.parametrize(
    "blanked",
    [
        {"p_lrt": "nan"},
        {"p_wald": "nan", "p_lrt": "nan", "p_score": "nan"},
        {"beta": "nan"},
        {"l_mle": "nan", "p_lrt": "nan"},
    ],
)
def test_blanked_top_hit_is_rejected(blanked: dict[str, str]) -> None:
    """A row with any p-value below 0.05, on either side, has no business with nan."""
    hit = changed(p_wald="2e-01", p_lrt="4.9e-02", p_score="2e-01")
    assert not agree(table(hit, *FILLER), table(changed(hit, **blanked), *FILLER))


def test_blanked_row_without_any_p_value_is_rejected() -> None:
    """Where no p-value is known on either side, nothing says that the row is unremarkable."""
    unknown = changed(p_wald="nan", p_lrt="nan", p_score="nan")
    assert not agree(table(unknown, *FILLER), table(changed(unknown, beta="nan"), *FILLER))


def test_blanked_rows_are_counted_up_to_one_in_a_thousand() -> None:
    """Two rows of 2,000 pass, three do not: else a whole result could be nan."""
    rows = (ROW, *FILLER)
    blank = [changed(row, beta="nan") for row in rows]
    assert agree(table(*rows), table(*blank[:2], *rows[2:]))
    assert not agree(table(*rows), table(*blank[:3], *rows[3:]))
    assert not agree(table(ROW), table(changed(beta="nan")))


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"\n",
        table(),
        table(ROW, ROW),
        table(header=HEADER.replace("p_lrt", "p_wald")),
        table(ROW + "\t1"),
        table(ROW.rsplit("\t", 1)[0], header=HEADER.rsplit("\t", 1)[0]),
        table(ROW).replace(b"rs1", b"rs\xff"),
        table(ROW).replace(b"\n", b"\r\n"),
    ],
)
def test_table_of_another_shape_is_rejected(other: bytes) -> None:
    """Missing rows, added columns, other headers and bytes that are no text differ, without an exception."""
    assert not agree(table(ROW), other)


def test_rows_in_another_order_are_rejected() -> None:
    """A table is compared in place: sorting would hide a swap."""
    assert not agree(table(*FILLER), table(*reversed(FILLER)))


def test_unknown_columns_and_tables_without_p_value_are_not_comparable() -> None:
    """What has no rule is not waved through."""
    one, two = (table(f"rs1\t{x}\t0.5", header="rs\tnew\tp_lrt") for x in "12")
    assert "no rule" in compare_assoc(one, two).why
    one, two = (table(f"rs1\t{x}", header="rs\tbeta") for x in ("1.0", "1.0000001"))
    assert "no p-value" in compare_assoc(one, two).why


@given(
    column=st.sampled_from(sorted(TOLERANCES)),
    value=st.floats(1e-300, 1e5),
    factor=st.floats(0.9, 1.1),
)
def test_compare_within_tolerance_is_symmetric_and_reflexive(column: str, value: float, factor: float) -> None:
    """It never matters which result came first, and a result agrees with itself."""
    one, other = (table(changed(**{column: f"{x:.6e}"}), *FILLER[:5]) for x in (value, value * factor))
    agree(one, other)
    assert agree(one, one)


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        (b"0.1\t-0.2\n-0.2\t0.3000000009\n", True),
        (b"0.1\t-0.2\n-0.2\t0.300000002\n", False),
        (b"0.1\t-0.2\n-0.2\n", False),
        (b"0.1\t-0.2\n", False),
        (b"0.1\t-0.2\n-0.2\tnan\n", False),
        (b"0.1\t-0.2\n-0.2\tinf\n", False),
        (b"0.1\t-0.2\n-0.2\t0.3\t\n", False),
        (b"", False),
        (b"\xff", False),
    ],
)
def test_compare_of_kinship_is_cell_by_cell(other: bytes, *, equal: bool) -> None:
    """1e-9 is the measure, with the same shape and without anything that is no number."""
    matrix = b"0.1\t-0.2\n-0.2\t0.3\n"
    assert compare_kinship(matrix, other).equal is compare_kinship(other, matrix).equal is equal
    assert compare_kinship(matrix, matrix).equal


def test_comparator_is_chosen_by_the_ending() -> None:
    """GEMMA's two tables have their own; everything else is bytes."""
    assert comparator("G.assoc.txt") is compare_assoc
    assert comparator("out/K.cXX.txt") is compare_kinship
    assert comparator("best.tsv") is compare_bytes
    assert compare_bytes(b"a", b"a").equal
    assert not compare_bytes(b"a", b"b").equal


@pytest.fixture(scope="module")
def honest() -> tuple[bytes, bytes]:
    """Return the honest pair that differs: one job on two BLAS kernels, with four rows of nan against a number."""
    folder = shared_data("gemma-bxd") / "ref"
    names = ("prescott", "skylakex_2threads")
    one, other = (gzip.decompress((folder / f"BXD_lmm4_maf0.1.{name}.assoc.txt.gz").read_bytes()) for name in names)
    return one, other


def test_honest_pair_of_two_cpu_kernels_is_accepted(honest: tuple[bytes, bytes]) -> None:
    """Different bytes, the same result."""
    assert honest[0] != honest[1]
    assert agree(*honest)
    assert "nan against a number in 4 of 7320 rows" in compare_assoc(*honest).why


@pytest.mark.parametrize("column", ["p_wald", "p_lrt", "p_score"])
def test_honest_pair_with_one_p_value_off_by_a_thousandth_is_rejected(honest: tuple[bytes, bytes], column: str) -> None:
    """One cell of 100,000, changed by 0.1 %, in the first, a middle and the last row."""
    lines = honest[1].decode().splitlines()
    place = lines[0].split("\t").index(column)
    for number in (1, len(lines) // 2, len(lines) - 1):
        cells = lines[number].split("\t")
        cells[place] = f"{float(cells[place]) * 1.001:.6e}"
        forged = "\n".join([*lines[:number], "\t".join(cells), *lines[number + 1 :]]) + "\n"
        assert not agree(honest[0], forged.encode())


def test_honest_pair_with_the_top_hit_blanked_is_rejected(honest: tuple[bytes, bytes]) -> None:
    """The SNP that the study is about cannot be made to vanish."""
    forged = re.sub(rb"(\trs8253327\t.*\t)[^\t\n]+\n", rb"\1nan\n", honest[1])
    assert forged != honest[1]
    assert not agree(honest[0], forged)
