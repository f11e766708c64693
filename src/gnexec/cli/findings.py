"""How the commands that check a log tell how far they are, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from gnexec.cli.output import complain, err, json_line

OK: Final = 0
FAILURE: Final = 1


@contextmanager
def progress(verb: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal while entries are gone through."""
    from rich.progress import Progress

    with Progress(console=err(), transient=True, disable=not err().is_terminal) as bar:
        task = bar.add_task(f"{verb} {total} entries", total=total)
        yield lambda done: bar.update(task, completed=done)


def not_verified(error: Exception, *, json: bool) -> int:
    """Say in one line what is wrong, and where."""
    from gnexec.errors import CorruptLog

    seq = error.seq if isinstance(error, CorruptLog) else None
    if json:
        json_line({"ok": False, "seq": seq, "reason": error.reason if isinstance(error, CorruptLog) else str(error)})
    else:
        complain(f"NOT verified: {error}")
    return FAILURE
