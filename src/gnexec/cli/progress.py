"""How far a long piece of work is: a bar on a terminal, a line for each stage elsewhere, both on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gnexec.cli.output import err, say

Tell = Callable[[str, int, int], None]
"""Is told the stage, how much of it is done, and how much there is."""


@contextmanager
def counting() -> Iterator[Tell]:
    """Lend what shows stages one after the other."""
    if not err().is_terminal:
        yield _in_lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task("", total=None)
        shown = ""

        def move(stage: str, done: int, total: int) -> None:
            nonlocal shown
            if stage != shown:
                shown = stage
                bar.reset(task, description=stage, total=total)
            bar.update(task, completed=done)

        yield move


def _in_lines() -> Tell:
    def tell(stage: str, done: int, total: int) -> None:
        if done == total:
            say(f"{stage}: {done}")

    return tell
