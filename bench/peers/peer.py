"""What a system under comparison is to the run: something to open, and then to give tasks to."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from gnexec.bench.figures import Missing

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: workers of other systems import their task from here."""
PATIENCE_S = 120.0

Run = Callable[[int], None]
"""Has that many tasks done, and returns when all are."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A system, and a way to use it.

    Attributes:
        name: of it. how: with how many workers or connections it is run, in which durability.
        tasks: as many as make a fair measurement of it.
        open: given an empty folder, starts it and lends what runs tasks; raises `Missing` where it is not installed.
    """

    name: str
    how: str
    tasks: int
    open: Callable[[Path], AbstractContextManager[Run]]


def need_modules(extra: str, *names: str) -> None:
    """Make sure that Python modules can be imported.

    Raises:
        Missing: one cannot.
    """
    for name in names:
        if find_spec(name) is None:
            msg = f"no Python module {name}: {extra}"
            raise Missing(msg)


def need_command(name: str, package: str) -> str:
    """Return the path of a command, which Debian's `package` brings.

    Raises:
        Missing: it is not there.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        msg = f"no {name}: apt-get install {package}"
        raise Missing(msg)
    return found


@contextmanager
def running(command: list[str], folder: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in the background, silently, and end it with all that it has started."""
    with (folder / f"{Path(command[0]).name}-{time.monotonic_ns()}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def until(done: Callable[[], bool], what: str, every_s: float = 0.01) -> None:
    """Wait until something is so.

    Raises:
        Missing: it takes too long.
    """
    late = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > late:
            msg = f"{what}: not within {PATIENCE_S:.0f} s"
            raise Missing(msg)
        time.sleep(every_s)
