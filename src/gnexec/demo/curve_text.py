"""Draw a LOD curve in a terminal, at most 80 columns wide.

A bar is the best LOD of one slice of the genome, in eighths of a character cell; the dashed line is the threshold, a
triangle under the axis a planted QTL. Colour only adds: shape tells everything, so NO_COLOR loses nothing.
It returns text and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import accumulate, groupby, pairwise
from typing import Final

from gnexec.demo.genome import Chromosome, Mark, axis_top, chromosomes
from gnexec.demo.threshold import Mapped

COLUMNS: Final = 75
MARGIN: Final = 5
"""Columns left of the bars: a LOD of up to three digits and a tick. With `COLUMNS` they make 80."""
ROWS: Final = 12
NARROWEST: Final = 3
"""Columns that a chromosome's name of two characters needs, with a gap."""
EIGHTHS: Final = " ▁▂▃▄▅▆▇█"

STYLES: Final = {"even": "34", "odd": "36", "above": "1;33", "line": "31", "mark": "1;35", "axis": "2"}
"""SGR parameters: chromosomes in turn, bars above the threshold, the threshold, marks, the axis."""

Cell = tuple[str, str]
"""Text and its style: a key of `STYLES`, or empty."""


def draw(mapped: Mapped, marks: Sequence[Mark] = (), *, colour: bool = False) -> str:
    """Draw the curve as lines of at most 80 columns, without a newline at the end.

    Args:
        mapped: at most 25 chromosomes.
        marks: places to point at; one on a chromosome that is not drawn is left out.
        colour: whether to add SGR escape sequences.

    Raises:
        ValueError: more chromosomes than the columns can name.
    """
    drawn = chromosomes(mapped.curve)
    starts = _starts(drawn)
    top = axis_top(mapped.curve, mapped.threshold)
    bars = [
        (_eighths(lod, top), "odd" if number % 2 else "even")
        for number, (chromosome, (start, end)) in enumerate(zip(drawn, pairwise(starts), strict=True))
        for lod in _slices(chromosome, end - start)
    ]
    line = _eighths(mapped.threshold, top)
    lines = [_row(row, top, bars, line) for row in reversed(range(ROWS))]
    lines += [*_axis(drawn, starts), _marks(drawn, starts, marks)]
    paint = _sgr if colour else _plain
    return "\n".join(paint(line).rstrip() for line in lines).rstrip()


def _sgr(cells: Iterable[Cell]) -> str:
    """Write cells in colour, one SGR sequence for each run of the same style (ECMA-48, section 8.3.117)."""
    runs = ((style, _plain(run)) for style, run in groupby(cells, key=lambda cell: cell[1]))
    return "".join(f"\x1b[{STYLES[style]}m{text}\x1b[0m" if style else text for style, text in runs)


def _plain(cells: Iterable[Cell]) -> str:
    return "".join(text for text, _ in cells)


def _row(row: int, top: int, bars: Sequence[tuple[int, str]], line: int) -> list[Cell]:
    """Lay out one row: bars, and the threshold wherever no bar passes it."""
    lod, between = divmod(row * top, ROWS)
    label = "    │" if between or lod % 2 or row == 0 else f"{lod:>3} ┤"
    cells: list[Cell] = [("LOD │" if row == ROWS - 1 else label, "axis")]
    for height, style in bars:
        filled = min(8, height - 8 * row)
        if height <= line and row == (line - 1) // 8:
            cells.append(("┄", "line"))
        elif filled > 0:
            cells.append((EIGHTHS[filled], "above" if height > line else style))
        else:
            cells.append((" ", ""))
    return cells


def _axis(drawn: Sequence[Chromosome], starts: Sequence[int]) -> tuple[list[Cell], list[Cell]]:
    widths = [end - start for start, end in pairwise(starts)]
    ticks = "".join("┴" + "─" * (width - 1) for width in widths)
    names = "".join(f"{chromosome.name:^{width}.{width - 1}}" for chromosome, width in zip(drawn, widths, strict=True))
    return [("  0 └" + ticks[1:] + "┘", "axis")], [(" chr " + names, "")]


def _marks(drawn: Sequence[Chromosome], starts: Sequence[int], marks: Sequence[Mark]) -> list[Cell]:
    places = {
        start + _slice(mark.centimorgan, chromosome.length, end - start)
        for chromosome, (start, end) in zip(drawn, pairwise(starts), strict=True)
        for mark in marks
        if mark.chromosome == chromosome.name
    }
    return [(" " * MARGIN, ""), *(("▲", "mark") if i in places else (" ", "") for i in range(COLUMNS))]


def _starts(drawn: Sequence[Chromosome]) -> list[int]:
    """Return the first column of each chromosome, and `COLUMNS`: the narrowest each, the rest shared out by length."""
    spare = COLUMNS - NARROWEST * len(drawn)
    if spare < 0:
        msg = f"{len(drawn)} chromosomes do not fit into {COLUMNS} columns"
        raise ValueError(msg)
    ends = list(accumulate(chromosome.length for chromosome in drawn))
    shares = [int(end * spare / ends[-1]) if ends[-1] else 0 for end in ends]
    return [0, *(NARROWEST * (i + 1) + share for i, share in enumerate(shares[:-1])), COLUMNS]


def _slices(chromosome: Chromosome, width: int) -> list[Decimal]:
    """Return the best LOD in each of `width` equal slices; a slice without a locus repeats the one before it."""
    best: dict[int, Decimal] = {}
    for point in chromosome.points:
        here = _slice(point.centimorgan, chromosome.length, width)
        best[here] = max(point.lod, best.get(here, point.lod))
    slices: list[Decimal] = []
    for i in range(width):
        slices.append(best.get(i, slices[-1] if slices else Decimal(0)))
    return slices


def _slice(centimorgan: Decimal, length: Decimal, width: int) -> int:
    return min(width - 1, int(centimorgan * width / length)) if length else 0


def _eighths(lod: Decimal, top: int) -> int:
    """Return a bar's height in eighths of a row, 1..8·ROWS: what is there is seen."""
    return max(1, round(lod * 8 * ROWS / top)) if lod.is_finite() else 8 * ROWS
