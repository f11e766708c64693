"""Waiting in front of a terminal, or of nobody: a bar that moves, or a line for each change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from gnexec.cli.output import clean, err, say
from gnexec.cli.words import expected, standing
from gnexec.errors import Refused

if TYPE_CHECKING:
    from gnexec.client import Client, Moved
    from gnexec.shapes import JobView

Look = Callable[["JobView"], None]


def follow(client: Client, job: int, *, timeout_s: float | None = None) -> JobView:
    """Wait until a job is decided, and show how it goes on standard error.

    Raises:
        TimeoutError: it is not decided in time.
        KeyboardInterrupt: the user has waited long enough; the job goes on.
    """
    if not err().is_terminal:
        return client.wait(job, timeout_s=timeout_s, on_progress=_lines())
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.table import Column

    note = TextColumn(
        "{task.fields[note]}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
    )
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(20),
        TaskProgressColumn(),
        note,
        console=err(),
        transient=True,
        expand=True,
    ) as bar:
        task = bar.add_task(f"job {job}", total=1.0, note="")

        def look(view: JobView) -> None:
            bar.update(task, completed=view.progress, note=_note(client, view))

        return client.wait(job, timeout_s=timeout_s, on_progress=look)


@contextmanager
def transfers() -> Iterator[Callable[[str, int], Moved | None]]:
    """Show files on their way, on a terminal: call what this yields with a file's name and size for each."""
    if not err().is_terminal:
        yield lambda _, __: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), DownloadColumn(binary_units=True))
    with Progress(*columns, console=err(), transient=True) as bar:

        def begin(name: str, size: int) -> Moved:
            task = bar.add_task(clean(name, keep=""), total=size)
            return lambda done: bar.update(task, completed=done)

        yield begin


def _lines() -> Look:
    """Return a watcher that says something only when there is something new."""
    last = ""

    def look(view: JobView) -> None:
        nonlocal last
        if view.state != last and view.decided_ms is None:
            say(standing(view))
        last = view.state

    return look


def _note(client: Client, view: JobView) -> str:
    """Return what to write beside the bar: the last line that the job printed, else how it stands."""
    words = f"{view.state}{expected(view)}"
    if view.state != "running":
        return words
    with suppress(Refused):  # it was decided in between
        lines = client.tail(view.id).decode(errors="replace").splitlines()
        if lines:
            return clean(f"{words} · {lines[-1]}", keep="")
    return words
