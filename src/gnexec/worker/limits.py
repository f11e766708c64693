"""What a job may use, and the per-process limits that the kernel keeps for us.

Three nets, from exact to coarse, hold a job to its limits:

1. a control group around the whole process tree, where one may be made (`gnexec.worker.cgroup`);
2. the kernel's limits on each process (here);
3. a poll of the process tree and the work directory, every quarter of a second (`gnexec.worker.execute`).

The first is optional; the other two always hold. This module starts nothing and reads no clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MIB: Final = 1 << 20
GIB: Final = 1 << 30


class Halt(StrEnum):
    """Why a run was ended before it ended by itself."""

    CPU = "cpu"
    WALL = "wall"
    MEMORY = "memory"
    DISK = "disk"
    PROCESSES = "processes"
    STOPPED = "stopped"
    PREEMPTED = "preempted"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may use, over its whole process tree.

    Attributes:
        cores: processors, 1.. (the default is one).
        memory_bytes: resident memory; with a control group also what it keeps in /tmp and /dev/shm.
        wall_s: seconds from start to end.
        cpu_s: processor seconds, user and system, of all its processes; None for no limit but `wall_s`.
        disk_bytes: what it may hold in the work directory, in its logs, and in any one file.
        processes: processes and threads at one time.
        files: open files of any one process.
    """

    cores: int = 1
    memory_bytes: int = GIB
    wall_s: float = 3600.0
    cpu_s: float | None = None
    disk_bytes: int = GIB
    processes: int = 64
    files: int = 256

    def __post_init__(self) -> None:
        """Refuse limits that nothing could run under.

        Raises:
            ValueError: a limit that is not positive, or not finite.
        """
        for name in ("cores", "memory_bytes", "wall_s", "cpu_s", "disk_bytes", "processes", "files"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                msg = f"the limit {name} must be positive, not {value}"
                raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run has used, over its whole process tree.

    Attributes:
        cpu_ms: processor milliseconds, user and system; never goes back.
        wall_ms: milliseconds since the start.
        peak_rss_bytes: largest sum of resident memory seen at one time.
    """

    cpu_ms: int
    wall_ms: int
    peak_rss_bytes: int


def preamble(limits: Limits, tasks: int) -> str:
    """Write the shell commands by which a process lowers its own limits, just before it becomes the job.

    It is the process itself that does it, inside the sandbox: there it needs no privilege, and processes and threads
    (RLIMIT_NPROC) are counted for the sandbox alone. A command that fails leaves a limit that was lower already.

    Args:
        limits: the job's limits.
        tasks: ceiling for processes and threads of the user, in its user namespace.

    Returns:
        Commands for sh, each ended by a semicolon.

    Source: POSIX ulimit; `-u` is bash's name and `-p` dash's for RLIMIT_NPROC; proc(5), oom_score_adj: 1000 is the
        first to go when the machine runs out of memory.
    """
    ceilings = {"c": 0, "f": math.ceil(limits.disk_bytes / 512), "n": limits.files}
    if limits.cpu_s is not None:
        ceilings["t"] = math.ceil(limits.cpu_s) + 1
    commands = [f"ulimit -{option} {ceiling} 2>/dev/null" for option, ceiling in ceilings.items()]
    commands.append(f"ulimit -u {tasks} 2>/dev/null || ulimit -p {tasks} 2>/dev/null")
    commands.append("{ echo 1000 >/proc/self/oom_score_adj; } 2>/dev/null")
    return "".join(f"{command}; " for command in commands)
