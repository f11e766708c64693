"""The process tree of one run: who is in it, and what they use.

Members are found by walking down from the root; those that left it (a daemon that forked twice) by the control
group, by having been seen before, or by a mark in their environment once they are adopted by the worker. Under
bubblewrap none of that is a matter of trust: the pid namespace holds them all, and they die with its first process.

Numbers are of one moment and a little late. Nothing here kills.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from gnexec.worker.cgroup import Group

MARK: Final = "GNEXEC_RUN"
"""Environment variable by which a plain process that left its tree is known again."""

_PR_SET_CHILD_SUBREAPER: Final = 36  # include/uapi/linux/prctl.h


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process tree uses.

    Attributes:
        cpu_s: processor seconds of the living, and of the dead whom the living have waited for.
        rss_bytes: sum of resident memory; pages that processes share count for each.
        tasks: processes and threads.
    """

    cpu_s: float
    rss_bytes: int
    tasks: int


class Tree:
    """The processes of one run."""

    def __init__(self, root: int, mark: str | None = None, group: Group | None = None) -> None:
        self._root = root
        self._mark = f"{MARK}={mark}".encode() if mark else None
        self._group = group
        self._seen: dict[int, psutil.Process] = {}

    def members(self) -> list[psutil.Process]:
        """Return the living processes of the run, its first one among them."""
        return [process for process in self.remains() if lives(process)]

    def remains(self) -> list[psutil.Process]:
        """Return the processes of the run, with those that have ended and that nobody has waited for yet."""
        pids = set(_descendants(self._root))
        if self._group:
            pids |= self._group.pids()
        if self._mark:
            for pid in _children(os.getpid()):
                if pid not in self._seen and self._is_marked(pid):
                    pids |= {pid, *_descendants(pid)}
        for pid in pids - self._seen.keys():
            with contextlib.suppress(psutil.Error):
                self._seen[pid] = psutil.Process(pid)
        self._seen = {pid: process for pid, process in self._seen.items() if process.is_running()}
        return list(self._seen.values())

    def sample(self) -> Sample:
        """Measure the living."""
        cpu_s, rss_bytes, tasks = 0.0, 0, 0
        for process in self.members():
            with contextlib.suppress(psutil.Error), process.oneshot():
                cpu_s += sum(process.cpu_times()[:4])
                rss_bytes += process.memory_info().rss
                tasks += process.num_threads()
        return Sample(cpu_s, rss_bytes, tasks)

    def proportional_bytes(self) -> int:
        """Measure memory with each shared page counted once (PSS): slower than `sample`, and fair to forks."""
        total = 0
        for process in self.members():
            with contextlib.suppress(psutil.Error):
                try:
                    total += process.memory_full_info().pss
                except psutil.AccessDenied:
                    total += process.memory_info().rss
        return total

    def _is_marked(self, pid: int) -> bool:
        """Tell whether an adopted process is of this run: by its session, or by the mark in its environment."""
        with contextlib.suppress(OSError):
            if os.getsid(pid) == self._root:
                return True
            return self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return False


def unlinked_bytes(pids: Iterable[int], device: int) -> int:
    """Measure files that processes hold open but that have no name any more, as no walk of a folder sees them.

    A worker that is root in a container without CAP_SYS_PTRACE cannot look into another user's processes, and finds 0.

    Args:
        pids: processes of our user, or any where we may look into them.
        device: only files on this device (`st_dev`) count.
    """
    sizes: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for file in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    stat = file.stat()
                    if stat.st_nlink == 0 and stat.st_dev == device:
                        sizes[stat.st_ino] = stat.st_blocks * 512
    return sum(sizes.values())


def adopt_orphans() -> None:
    """Have processes that lose their parent become this process's children, so that none is out of reach.

    Source: prctl(2), PR_SET_CHILD_SUBREAPER.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _descendants(root: int) -> list[int]:
    found = [root]
    for pid in found:  # grows as it goes: breadth first
        found += _children(pid)
    return found


def _children(pid: int) -> list[int]:
    """Read a process's children, of all its threads; by a search of all processes where the kernel has no list."""
    children: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
    except FileNotFoundError:
        if Path("/proc/self/task").exists() and not Path(f"/proc/self/task/{os.getpid()}/children").exists():
            with contextlib.suppress(psutil.Error):
                return [child.pid for child in psutil.Process(pid).children()]
    except OSError:
        pass
    return children


def lives(process: psutil.Process) -> bool:
    """Tell whether a process runs, as against one that has ended or waits to be reaped."""
    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
