"""Draws what was measured, and writes it as tables: `python -m bench.draw` makes those of docs/performance.md anew.

It reads bench/results/*.jsonl, which are what `gnexec bench --json` and `python -m bench.peers --json` printed, and
measures nothing. The same results give the same bytes.

Source: W3C, Scalable Vector Graphics (SVG) 2.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "bench" / "results"
DRAWINGS: Final = ROOT / "docs" / "_static"
PAGE: Final = ROOT / "docs" / "performance.md"
WIDTH, LEFT, RIGHT, TOP, STEP, BAR = 900, 300, 830, 64, 26, 16
OURS, THEIRS, MISSED = "#2166ac", "#8a94a0", "#b2182b"
STYLE: Final = """
text { font: 13px system-ui, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif; fill: #3d4752 }
.title { font-size: 17px; font-weight: 600; fill: #17202a }
.note { fill: #6b7682 }
.grid { stroke: #dde3e9; stroke-width: 1 }
.goal { stroke: #17202a; stroke-width: 1.5; stroke-dasharray: 5 3 }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar, above 0, what is written at its end, and its colour."""

    name: str
    value: float
    label: str
    colour: str


def results(name: str) -> list[dict[str, Any]]:
    """Return the figures of a run."""
    lines = (RESULTS / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [each for each in map(json.loads, lines) if each["kind"] == "figure"]


def goals() -> bytes:
    """Draw how far each figure is from its goal: 1 is the goal, further right is better."""
    bars = []
    for each in results("bench"):
        reached = each["value"] if each["over"] is None else each["ratio"]
        if each["goal"] is not None and reached is not None:
            share = each["goal"] / reached if each["less"] else reached / each["goal"]
            colour = {"goal": OURS, "must": THEIRS}.get(each["met"], MISSED)
            bars.append(Bar(each["what"], share, f"{_short(reached)} of {_short(each['goal'])}", colour))
    note = "times the goal; dashed: the goal; blue: reached, grey: what must be, red: less than that"
    return _drawn("gnexec and its goals", note, bars, 1.0)


def peers() -> bytes:
    """Draw the rates of gnexec and its peers."""
    bars = [
        Bar(each["what"], each["value"], _short(each["value"]), OURS if each["what"].startswith("gnexec") else THEIRS)
        for each in results("peers")
        if each["over"] is None and each["value"] is not None
    ]
    bars.sort(key=lambda bar: -bar.value)
    return _drawn("The same tasks through gnexec and its peers", "tasks that do nothing, a second", bars, None)


def _drawn(title: str, note: str, bars: Sequence[Bar], mark: float | None) -> bytes:
    """Draw bars over a logarithmic axis, with a dashed line at `mark`."""
    low = 10 ** math.floor(math.log10(min([bar.value for bar in bars] + ([mark] if mark else []))))
    high = 10 ** math.ceil(math.log10(max([bar.value for bar in bars] + ([mark] if mark else [])) * 1.01))
    height = TOP + STEP * len(bars) + 40

    def x(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * math.log(value / low) / math.log(high / low)

    def parts() -> Iterator[str]:
        yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
        yield f"<title>{escape(title)}</title>"
        yield f'<style>{STYLE}</style><rect width="{WIDTH}" height="{height}" fill="#fff"/>'
        yield f'<text x="16" y="28" class="title">{escape(title)}</text>'
        yield f'<text x="16" y="48" class="note">{escape(note)}</text>'
        bottom = TOP + STEP * len(bars) + 6
        decade = low
        while decade <= high * 1.001:
            yield f'<path class="grid" d="M{x(decade):.1f} {TOP - 6}V{bottom}"/>'
            at = f'x="{x(decade):.1f}" y="{bottom + 18}"'
            yield f'<text {at} class="note" text-anchor="middle">{_short(decade)}</text>'
            decade *= 10
        for place, bar in enumerate(bars):
            y = TOP + STEP * place
            yield f'<text x="{LEFT - 10}" y="{y + 13}" text-anchor="end">{escape(bar.name)}</text>'
            yield f'<rect x="{LEFT}" y="{y}" width="{x(bar.value) - LEFT:.1f}" height="{BAR}" fill="{bar.colour}"/>'
            yield f'<text x="{x(bar.value) + 6:.1f}" y="{y + 13}">{escape(bar.label)}</text>'
        if mark is not None:
            yield f'<path class="goal" d="M{x(mark):.1f} {TOP - 6}V{bottom}"/>'
        yield "</svg>"

    return ("\n".join(parts()) + "\n").encode()


def machine_line() -> str:
    """Say on what the two runs were made."""
    said = []
    for name, what in (("bench", "`gnexec bench`"), ("peers", "`make peers`")):
        told = json.loads((RESULTS / f"{name}.jsonl").read_text("utf-8").partition("\n")[0])
        said.append(
            f"{what}: {told['cores']} cores, Python {told['python']}, SQLite {told['sqlite']}, Ed25519 by "
            f"{told['ed25519']}; a flush of 4 KiB took {told['fdatasync_us']:,.0f} µs; other work on the machine: load "
            f"{told['load']:g} before the run."
        )
    return "\n".join(f"- {each}" for each in said) + "\n"


def goals_table() -> str:
    """Write the figures of `gnexec bench` as a table of Markdown."""
    rows = [
        "| | median | CPU µs | busy | ratio | by CPU | must | goal | met |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for each in results("bench"):
        numbers = (each[name] for name in ("value", "cpu_us", "busy", "ratio", "cpu_ratio", "must", "goal"))
        met = each["missing"] or {"no": "**no**"}.get(each["met"], each["met"])
        rows.append(f"| {each['what']} | {' | '.join(map(_short, numbers))} | {met} |")
    return "\n".join(rows) + "\n"


def peers_table() -> str:
    """Write the rates of the peers as a table of Markdown, and the goals beside them."""
    found = results("peers")
    rows = ["| | how | tasks/s | least – most |", "|---|---|---:|---:|"]
    for each in (each for each in found if each["over"] is None):
        span = each["missing"] or f"{_short(each['low'])} – {_short(each['high'])}"
        rows.append(f"| {each['what']} | {each['how']} | {_short(each['value'])} | {span} |")
    rows += ["", "| | ratio | must | goal | met |", "|---|---:|---:|---:|---|"]
    for each in (each for each in found if each["over"] is not None):
        met = each["missing"] or {"no": "**no**"}.get(each["met"], each["met"])
        rows.append(
            f"| {each['what']} | {' | '.join(_short(each[key]) for key in ('ratio', 'must', 'goal'))} | {met} |"
        )
    return "\n".join(rows) + "\n"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def page(text: str) -> str:
    """Return the page with its tables made anew, between the comments that mark them."""
    for name, table in (("machine", machine_line()), ("goals", goals_table()), ("peers", peers_table())):
        before, begin, rest = text.partition(f"<!-- {name}: made by bench.draw -->\n")
        _, end, after = rest.partition("<!-- end -->\n")
        if not begin or not end:
            msg = f"the page has no place for {name}"
            raise ValueError(msg)
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def main() -> None:
    """Draw both, and put the tables into the page."""
    (DRAWINGS / "performance-goals.svg").write_bytes(goals())
    (DRAWINGS / "performance-peers.svg").write_bytes(peers())
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
