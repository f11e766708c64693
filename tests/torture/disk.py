"""A disk that fails when it is told to, for one process: a small library put before C's own (`disk.c`).

It stands in for a bad disk (EIO) and a full one (ENOSPC), below everything that gnexec, Python and SQLite do; in two
forms: the call fails, or it is done and says that it failed.
"""

from __future__ import annotations

import errno
import subprocess
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Final

from tests.requirements import missing, require
from tests.worker.agents import until

_SOURCE: Final = Path(__file__).with_name("disk.c")


class Error(IntEnum):
    """What the disk says."""

    IO = errno.EIO
    FULL = errno.ENOSPC


class Form(StrEnum):
    """What it has done when it says so."""

    FAILED = "before"
    DONE = "after"


class Disk:
    """The remote control of one process's disk."""

    def __init__(self, folder: Path) -> None:
        """Compile the library into `folder`; the disk is fine."""
        compiler = require("gcc", "gcc libc6-dev")
        folder.mkdir(parents=True, exist_ok=True)
        self._library = folder / "disk.so"
        command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", str(self._library), str(_SOURCE), "-ldl"]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            missing(f"a library cannot be compiled ({made.stderr[-300:]}): apt-get install gcc libc6-dev")
        self._control = folder / "control"

    def environment(self) -> dict[str, str]:
        """Return what the process needs."""
        return {"LD_PRELOAD": str(self._library), "GNEXEC_TEST_DISK": str(self._control)}

    def breaks(self, operations: str, error: Error, form: Form, part: str) -> None:
        """Let calls fail from now on.

        Args:
            operations: letters of w (write), s (sync), r (rename), t (truncate).
            error: what they say.
            form: whether they are done.
            part: of the path of the files that this happens to; without blanks.
        """
        aside = self._control.with_suffix(".new")
        aside.write_text(f"{operations} {error:d} {form} {part}\n")
        aside.replace(self._control)

    def mends(self) -> None:
        """Let no more calls fail."""
        self._control.unlink(missing_ok=True)

    def until(self, hits: int) -> None:
        """Wait until so many calls have failed in all."""
        until(lambda: self.hits >= hits, f"{hits} calls that fail")

    @property
    def hits(self) -> int:
        """How many calls have failed so far."""
        hits = self._control.with_name("control.hits")
        return hits.stat().st_size if hits.exists() else 0
