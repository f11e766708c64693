"""Where time goes: py-spy looks from outside at the process that is at work."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gnexec.bench.figures import Missing
from gnexec.bench.stations import Measurement

RATE_HZ = 200
MEND = "pip install py-spy"


@dataclass(frozen=True, slots=True)
class Spent:
    """A function of the process.

    Attributes:
        own: share of the looks that found the process in it, 0..1. total: in it, or in what it called.
    """

    function: str
    own: float
    total: float


def find_spy() -> str:
    """Return the path of py-spy, from PATH or beside the interpreter.

    Raises:
        Missing: it is not installed.
    """
    spy = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if spy is None:
        msg = f"there is no py-spy: {MEND}"
        raise Missing(msg)
    return spy


async def watched(spy: str, measurement: Measurement, to: Path, seconds: float) -> list[Spent]:
    """Measure while the process at work is looked at.

    Args:
        spy: path of py-spy.
        measurement: repeated for `seconds`.
        to: `.svg` (a flame graph) and `.txt` (stacks with how often each was seen) are added to it.
        seconds: for how long to look.

    Returns:
        Where it was, by own share, most first. Waiting is not counted.

    Raises:
        Missing: it may not look, or there is no such process.
    """
    if measurement.pid is None:
        msg = "no process is at work there all the time; take another one"
        raise Missing(msg)
    for form, suffix in (("flamegraph", ".svg"), ("raw", ".txt")):
        looks = ["--rate", str(RATE_HZ), "--nonblocking", "--duration", str(max(int(seconds), 1))]
        words = [spy, "record", "--pid", str(measurement.pid), "--format", form, "--output", f"{to}{suffix}", *looks]
        looking = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        try:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                await measurement.act()
            said, _ = await looking.communicate()
        finally:
            with suppress(ProcessLookupError):
                looking.kill()
        if looking.returncode:
            msg = f"py-spy: {said.decode(errors='replace').strip().splitlines()[-1:]}; it needs the right to trace"
            raise Missing(msg)
    return spent(await asyncio.to_thread(Path(f"{to}.txt").read_text, "utf-8"))


def spent(stacks: str) -> list[Spent]:
    """Count functions in collapsed stacks: on each line frames from the outermost in, a blank, and a count."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame.rpartition(":")[0] + ")" if ":" in frame else frame for frame in stack.split(";")]
        own[frames[-1]] += int(count)
        for frame in set(frames):
            total[frame] += int(count)
    looks = own.total() or 1
    return [Spent(name, count / looks, total[name] / looks) for name, count in own.most_common()]
