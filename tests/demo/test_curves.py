"""The drawings of a LOD curve: in a terminal and as SVG."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.demo import curve_svg, curve_text
from gnexec.demo.genome import Mark, chromosomes
from gnexec.demo.threshold import Mapped, Point, combine

SVG = "{http://www.w3.org/2000/svg}"
SGR = re.compile(r"\x1b\[[0-9;]*m")


def mapped(points: list[tuple[str, str, str]], threshold: str = "3.0000") -> Mapped:
    """Make a mapped trait of (chromosome, cM, LOD)."""
    curve = "".join(f"{name}\tm{i}\t{cm}\t{lod}\n" for i, (name, cm, lod) in enumerate(points))
    return combine(f"Chr\tLocus\tcM\tLOD\n{curve}".encode(), [f"Permutation\tLOD\n0\t{threshold}\n".encode()], 1)


MOUSE = mapped(
    [(name, f"{cm}.0", "0.5000") for name in [*map(str, range(1, 20)), "X"] for cm in range(0, 80, 5)]
    + [("Y", "0.0", "7.0000"), ("Y", "40.0", "0.0000"), ("Y", "80.0", "3.2000")]
)

curves = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.integers(0, 200_000),
        st.one_of(st.integers(0, 900_000).map(lambda n: f"{n / 10000:.4f}"), st.just("inf")),
    ),
    min_size=1,
    max_size=40,
).map(lambda rows: mapped([(f"c{name}", str(Decimal(cm) / 1000), lod) for name, cm, lod in sorted(rows)]))


@given(curve=curves, colour=st.booleans())
def test_terminal_drawing_of_any_curve_fits_80_columns(curve: Mapped, *, colour: bool) -> None:
    """Whatever is drawn, no line is wider than 80 columns and there is a row for each step."""
    lines = SGR.sub("", curve_text.draw(curve, colour=colour)).split("\n")
    assert len(lines) == curve_text.ROWS + 2
    assert max(map(len, lines)) <= 80


@given(curve=curves)
def test_terminal_drawing_in_colour_says_the_same_without_it(curve: Mapped) -> None:
    """Colour is only added: with NO_COLOR the same characters stand in the same places."""
    marks = [Mark(curve.peak.chromosome, curve.peak.centimorgan)]
    plain, coloured = (curve_text.draw(curve, marks, colour=colour) for colour in (False, True))
    assert SGR.sub("", coloured) == plain
    assert "\x1b" not in plain


def test_terminal_drawing_shows_peaks_threshold_and_marks() -> None:
    """What passes the threshold stands above the dashed line, over its mark; the axis names each chromosome."""
    *rows, axis, names, marks = curve_text.draw(
        MOUSE, [Mark("Y", Decimal(0)), Mark("Y", Decimal(80)), Mark("Z", Decimal(1))]
    ).split("\n")
    first, last = (i for i, char in enumerate(marks) if char == "▲")
    column = {i: "".join(row[i : i + 1] or " " for row in rows) for i in (5, first, last)}
    assert column[5] == " " * 7 + "┄" + " " * 3 + "▆"
    assert column[first] == " ▄" + "█" * 10
    assert column[last] == " " * 7 + "▆" + "█" * 4
    assert names.split() == ["chr", *map(str, range(1, 20)), "X", "Y"]
    assert axis.count("┴") == 20
    assert [row[:5].strip(" │┤") for row in rows if row[:5].strip(" │┤")] == ["LOD", "6", "4", "2"]


def test_terminal_drawing_of_a_flat_curve_draws_slivers() -> None:
    """A LOD of 0 is still a place on the map, and the threshold line is whole."""
    rows = curve_text.draw(mapped([("1", "0", "0.0000"), ("1", "9", "0.0000")])).split("\n")
    assert rows[11][5:] == "▁" * curve_text.COLUMNS
    assert sum(row[5:] == "┄" * curve_text.COLUMNS for row in rows) == 1


def test_terminal_drawing_of_too_many_chromosomes_is_refused() -> None:
    """26 names do not fit into 75 columns; that is said, not garbled."""
    with pytest.raises(ValueError, match="26 chromosomes"):
        curve_text.draw(mapped([(f"c{i}", "1", "1.0000") for i in range(26)]))


@given(curve=curves, title=st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"))))
def test_svg_of_any_curve_is_well_formed(curve: Mapped, title: str) -> None:
    """It parses, has a line for each chromosome, and every coordinate lies within the picture."""
    root = ET.fromstring(curve_svg.draw(curve, title=title))  # noqa: S314 - our own output
    assert (root[0].text or "") == title
    lines = [path.get("d", "") for path in root.iter(f"{SVG}path") if path.get("class") == "curve"]
    assert len(lines) == len(chromosomes(curve.curve))
    for x, y in re.findall(r"([0-9.-]+) ([0-9.-]+)", " ".join(lines)):
        assert curve_svg.LEFT <= float(x) <= curve_svg.RIGHT
        assert curve_svg.TOP <= float(y) <= curve_svg.BOTTOM


def test_svg_shows_threshold_marks_and_peak_at_their_places() -> None:
    """The threshold line lies where its LOD lies; a triangle stands under each planted locus that is on the map."""
    picture = curve_svg.draw(MOUSE, [Mark("Y", Decimal(40)), Mark("Z", Decimal(1))], title="T")
    root = ET.fromstring(picture)  # noqa: S314 - our own output
    (level,) = (path.get("d") for path in root.iter(f"{SVG}path") if path.get("class") == "threshold")
    assert (
        level
        == f"M{curve_svg.LEFT} {curve_svg.BOTTOM - (curve_svg.BOTTOM - curve_svg.TOP) * 3 / 8:.1f}H{curve_svg.RIGHT}"
    )
    assert sum(path.get("class") == "guide" for path in root.iter(f"{SVG}path")) == 1
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert {"5 % threshold 3.00", "planted QTL", "LOD 7.00, chr Y, 0.0 cM", "1", "X", "LOD"} <= set(words)
    assert curve_svg.draw(MOUSE, title="T") == curve_svg.draw(MOUSE, title="T")
    assert b"planted" not in curve_svg.draw(MOUSE, title="T").split(b"</style>")[1]


def test_chromosomes_keep_map_order_and_length() -> None:
    """A curve is cut where the chromosome's name changes."""
    first, second = chromosomes(
        [Point(name, "m", Decimal(cm), Decimal(0)) for name, cm in (("2", 1), ("2", 9), ("1", 4))]
    )
    assert (first.name, len(first.points), first.length) == ("2", 2, Decimal(9))
    assert (second.name, second.length) == ("1", Decimal(4))
