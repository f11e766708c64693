"""How commands print: results on standard output, everything said beside them on standard error.

- `--json` prints one JSON document to a line, each line one thing; nothing else is on standard output then.
- Text that came from elsewhere (names, commands, output of jobs) cannot drive the terminal: control characters are
  shown, not obeyed. Bytes that go to a file or a pipe are left as they are.
- Colour only on a terminal, and never where NO_COLOR is set.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, Parameter(name="--json", show_default=False, help="Print JSON, one document to a line.")]


@cache
def out() -> Console:
    """Return the console of standard output."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


@cache
def err() -> Console:
    """Return the console of standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def say(text: str, style: str = "") -> None:
    """Say something beside the result."""
    err().print(clean(text), style=style, soft_wrap=True)


def complain(sentence: str, mend: str = "") -> None:
    """Say what went wrong and, on a line of its own, how to mend it."""
    sentence = clean(sentence).rstrip()
    err().print("gnexec: ", style="bold red", end="")
    err().print(sentence if sentence.endswith((".", "!", "?")) else f"{sentence}.", soft_wrap=True)
    if mend:
        err().print(f"        {clean(mend)}", style="dim", soft_wrap=True)


def line(text: str) -> None:
    """Print one line of a result."""
    out().print(clean(text), soft_wrap=True)


def json_line(value: Any) -> None:  # noqa: ANN401 -- any shape
    """Print a value as one line of JSON."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def facts(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one to a line; empty values are left out."""
    from rich.text import Text

    shown = [(name, clean(value)) for name, value in rows if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        out().print(Text.assemble((f"{name:<{width}}", "dim"), "  ", value), soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a table; on a terminal, the last column is cut where it ends.

    Args:
        columns: their heads.
        rows: cells, as many as columns.
        right: the columns whose cells are set to the right.
    """
    from rich.cells import cell_len, chop_cells

    cells = [list(columns), *([clean(cell, keep="") for cell in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    room = out().width - sum(widths[:-1]) - 2 * (len(widths) - 1)
    for place, row in enumerate(cells):
        if out().is_terminal and cell_len(row[-1]) > max(room, 8):
            row[-1] = chop_cells(row[-1], max(room, 8) - 1)[0] + "…"
        padded = [
            " " * (width - cell_len(cell)) + cell if name in right else cell + " " * (width - cell_len(cell))
            for cell, width, name in zip(row, widths, columns, strict=True)
        ]
        out().print("  ".join(padded).rstrip(), style="bold" if place == 0 else "", soft_wrap=True)


def raw(data: bytes, *, to_err: bool = False) -> None:
    """Print bytes that a job printed: as they are, but on a terminal with control characters shown."""
    stream = sys.stderr if to_err else sys.stdout
    stream.flush()
    if stream.isatty():
        stream.write(clean(data.decode(errors="replace"), keep="\n\t"))
        if data and not data.endswith(b"\n"):
            stream.write("\n")
    else:
        stream.buffer.write(data)
    stream.flush()


def clean(text: str, keep: str = "\n") -> str:
    """Return `text` with every control character in an escaped form, but those in `keep`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)
