"""Draw a LOD curve as an SVG file: plain text, no library, the same bytes from the same curve.

It returns the file's bytes and writes nothing. Chromosomes are bands of the genome in map order; the dashed line is
the genome-wide threshold, the dotted one the suggestive level, a triangle under the axis a planted QTL.

Source: W3C, Scalable Vector Graphics (SVG) 2, with `role`, `title` and `desc` as WAI-ARIA graphics ask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from typing import Final
from xml.sax.saxutils import escape

from gnexec.demo.genome import Chromosome, Mark, axis_top, chromosomes
from gnexec.demo.threshold import Mapped, Point

WIDTH: Final = 1080
HEIGHT: Final = 460
LEFT: Final = 64
RIGHT: Final = 1056
TOP: Final = 84
BOTTOM: Final = 384

STYLE: Final = """
text { font: 13px system-ui, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif; fill: #3d4752;
  paint-order: stroke; stroke: #fff; stroke-width: 3px; stroke-opacity: 0.85; stroke-linejoin: round }
.title { font-size: 20px; font-weight: 600; fill: #17202a }
.note { fill: #6b7682 }
.band { fill: #f2f5f8 }
.grid { stroke: #dde3e9; stroke-width: 1 }
.axis { stroke: #6b7682; stroke-width: 1; fill: none }
.area { fill: #2166ac; fill-opacity: 0.14 }
.curve { fill: none; stroke: #2166ac; stroke-width: 1.5; stroke-linejoin: round }
.threshold { stroke: #b2182b; stroke-width: 1.5; stroke-dasharray: 7 4 }
.suggestive { stroke: #8a94a0; stroke-width: 1; stroke-dasharray: 2 4 }
.above { fill: #b2182b }
.planted { fill: #e08214 }
.guide { stroke: #e08214; stroke-width: 1; stroke-opacity: 0.55 }
"""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where things are: the genome's chromosomes, their offsets in cM, its length in cM, and the LOD at the top."""

    drawn: tuple[Chromosome, ...]
    offsets: tuple[Decimal, ...]
    length: Decimal
    top: int

    def x(self, offset: Decimal, centimorgan: Decimal) -> Decimal:
        """Return the horizontal place of a position on the chromosome that begins at `offset`."""
        return LEFT + (RIGHT - LEFT) * (offset + centimorgan) / self.length

    def y(self, lod: Decimal) -> Decimal:
        """Return the vertical place of a LOD; an infinite one is at the top."""
        return BOTTOM - (BOTTOM - TOP) * (lod / self.top if lod.is_finite() else Decimal(1))

    def place(self, chromosome: str, centimorgan: Decimal) -> Decimal | None:
        """Return the horizontal place of a position, or None for a chromosome that is not drawn."""
        for known, offset in zip(self.drawn, self.offsets, strict=True):
            if known.name == chromosome:
                return self.x(offset, centimorgan)
        return None


def draw(mapped: Mapped, marks: Sequence[Mark] = (), *, title: str) -> bytes:
    """Draw the curve.

    Args:
        mapped: the mapped trait.
        marks: places to point at; one on a chromosome that is not drawn is left out.
        title: what the trait is, any text.

    Returns:
        An SVG file, UTF-8.
    """
    drawn = chromosomes(mapped.curve)
    lengths = [max(chromosome.length, Decimal(1)) for chromosome in drawn]
    *offsets, length = accumulate(lengths, initial=Decimal(0))
    frame = Frame(drawn, tuple(offsets), length, axis_top(mapped.curve, mapped.threshold))
    told = f"LOD {_lod(mapped.peak.lod)} on chromosome {mapped.peak.chromosome} at {mapped.peak.centimorgan:.1f} cM"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"',
        ' role="img" aria-labelledby="title desc">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">LOD curve over {len(drawn)} chromosomes; the highest point is {escape(told)};',
        f"the 5 % threshold is {_lod(mapped.threshold)}.</desc>",
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(LEFT, 36, title, "title"),
        _text(LEFT, 60, f"{len(mapped.curve):,} loci, {mapped.permutations:,} permutations", "note"),
        *_bands(frame),
        *_grid(frame),
        *_planted(frame, marks),
        *_curve(frame),
        *_levels(frame, mapped),
        *_peak(frame, mapped.peak, mapped.threshold),
        f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>',
        _text((LEFT + RIGHT) // 2, HEIGHT - 16, "Chromosome, as long as its genetic map", "note", "middle"),
        f'<g transform="translate(22 {(TOP + BOTTOM) // 2}) rotate(-90)">{_text(0, 0, "LOD", "note", "middle")}</g>',
        "</svg>",
    ]
    return ("\n".join(lines) + "\n").encode("utf-8")


def _bands(frame: Frame) -> Iterator[str]:
    """Shade every second chromosome and name all."""
    for number, (chromosome, offset) in enumerate(zip(frame.drawn, frame.offsets, strict=True)):
        start, end = frame.x(offset, Decimal(0)), frame.x(offset, chromosome.length)
        if number % 2 == 0:
            yield f'<rect class="band" x="{start:.1f}" y="{TOP}" width="{end - start:.1f}" height="{BOTTOM - TOP}"/>'
        yield _text((start + end) / 2, BOTTOM + 34, chromosome.name, anchor="middle")


def _grid(frame: Frame) -> Iterator[str]:
    step = 2 if frame.top <= 12 else 2 * (frame.top // 12)
    for lod in range(0, frame.top + 1, step):
        y = frame.y(Decimal(lod))
        if lod:
            yield f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>'
        yield f'<path class="axis" d="M{LEFT - 5} {y:.1f}H{LEFT}"/>'
        yield _text(LEFT - 10, y + 4, str(lod), anchor="end")


def _planted(frame: Frame, marks: Sequence[Mark]) -> Iterator[str]:
    shown = [x for mark in marks if (x := frame.place(mark.chromosome, mark.centimorgan)) is not None]
    for x in shown:
        yield f'<path class="guide" d="M{x:.1f} {TOP}V{BOTTOM}"/>'
        yield f'<path class="planted" d="M{x:.1f} {BOTTOM + 3}l6 11h-12z"/>'
    if shown:
        yield f'<path class="planted" d="M{RIGHT - 92} {49}l6 11h-12z"/>'
        yield _text(RIGHT, 60, "planted QTL", "note", "end")


def _curve(frame: Frame) -> Iterator[str]:
    """Draw one line for each chromosome, with the area under it."""
    for chromosome, offset in zip(frame.drawn, frame.offsets, strict=True):
        places = [(frame.x(offset, point.centimorgan), frame.y(point.lod)) for point in chromosome.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        yield f'<path class="area" d="M{places[0][0]:.1f} {BOTTOM}L{path}V{BOTTOM}z"/>'
        yield f'<path class="curve" d="M{path}"/>'


def _levels(frame: Frame, mapped: Mapped) -> Iterator[str]:
    for lod, style, words in (
        (mapped.suggestive, "suggestive", "suggestive"),
        (mapped.threshold, "threshold", "5 % threshold"),
    ):
        y = frame.y(lod)
        yield f'<path class="{style}" d="M{LEFT} {y:.1f}H{RIGHT}"/>'
        colour = "above" if style == "threshold" else "note"
        yield _text(RIGHT - 6, y - 6, f"{words} {_lod(lod)}", colour, "end")


def _peak(frame: Frame, peak: Point, threshold: Decimal) -> Iterator[str]:
    """Point out the highest locus and say where it is."""
    x, y = frame.place(peak.chromosome, peak.centimorgan) or Decimal(LEFT), frame.y(peak.lod)
    left = x > (LEFT + RIGHT) // 2
    style = "above" if peak.lod > threshold else "note"
    words = f"LOD {_lod(peak.lod)}, chr {peak.chromosome}, {peak.centimorgan:.1f} cM"
    yield f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    yield _text(x - 10 if left else x + 10, y + 4, words, style, "end" if left else "start")


def _text(x: Decimal | int, y: Decimal | int, words: str, style: str = "", anchor: str = "start") -> str:
    named = f' class="{style}"' if style else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _lod(lod: Decimal) -> str:
    return f"{lod:.2f}" if lod.is_finite() else "∞"
