"""A control group around one job, where this process may make one; in the form of version 2 and of version 1.

The group lies beneath the worker's own, so that whatever bounds the worker bounds the job too. Under version 2 an
ordinary user may make groups only where they were delegated (systemd: `Delegate=yes`, or a user session); elsewhere
`make` returns None and the poll of `gnexec.worker.execute` stands alone. Nothing here moves the worker itself, and
nothing fails for want of a group.

Source: Linux Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/{memory,pids,cpuacct}.rst; proc(5), mountinfo.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from gnexec.worker.limits import Limits

UNIFIED: Final = ""
"""Key of version 2's one hierarchy among the hierarchies."""

_SPARE_TASKS: Final = 2  # the sandbox's own first process, and one above the limit; less than RLIMIT_NPROC leaves
_PERIOD_US: Final = 100_000
_CONTROLLERS: Final = ("memory", "pids", "cpu", "cpuacct")


def own_groups(proc: Path = Path("/proc/self")) -> dict[str, Path]:
    """Find the directories of this process's control groups.

    Args:
        proc: a process's directory in /proc.

    Returns:
        Directory by controller for version 1, under `UNIFIED` for version 2; only directories that exist.
    """
    found: dict[str, Path] = {}
    try:
        lines = (proc / "cgroup").read_text().splitlines()
        mounts = [line.split() for line in (proc / "mountinfo").read_text().splitlines()]
    except OSError:
        return found
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            for mount in mounts:
                kind, options = mount[mount.index("-") + 1], mount[-1].split(",")
                if (kind == "cgroup2") if controller == UNIFIED else (kind == "cgroup" and controller in options):
                    where, root = Path(_unescaped(mount[4])), _unescaped(mount[3])
                    inside = os.path.relpath(path, root)
                    folder = where / inside
                    if inside.startswith("..") or not folder.is_dir():
                        folder = where  # the mount shows another part of the tree: what we see of it is its top
                    found[controller] = folder
                    break
    return found


class Group:
    """One job's control group: one directory (version 2), or one for each controller (version 1)."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = dict(folders)
        self._all = sorted(set(self._folders.values()))

    @property
    def controllers(self) -> frozenset[str]:
        """What the group bounds or counts: memory, pids, cpu, cpuacct."""
        return frozenset(self._folders)

    def add(self, pid: int) -> bool:
        """Move a process, which has no children yet, into the group; tell whether the kernel let us."""
        try:
            for folder in self._all:
                (folder / "cgroup.procs").write_text(str(pid))
        except OSError:
            return False
        return True

    def pids(self) -> set[int]:
        """Return the processes that are in the group now."""
        pids: set[int] = set()
        for folder in self._all:
            pids.update(int(line) for line in _read(folder / "cgroup.procs").split())
        return pids

    def cpu_s(self) -> float:
        """Return processor seconds used so far, also by processes that have ended; 0 where that is not counted."""
        if usage := self._value("cpuacct", "cpuacct.usage"):
            return int(usage) / 1e9
        return _field(self._value("cpu", "cpu.stat"), "usage_usec") / 1e6

    def ran_out_of_memory(self) -> bool:
        """Tell whether the kernel has killed one of the processes for want of memory."""
        text = self._value("memory", "memory.events") or self._value("memory", "memory.oom_control")
        return _field(text, "oom_kill") > 0

    def ran_out_of_tasks(self) -> bool:
        """Tell whether a process or thread was refused."""
        return _field(self._value("pids", "pids.events"), "max") > 0

    def kill(self) -> None:
        """Kill every process in the group."""
        for folder in self._all:
            with contextlib.suppress(OSError):
                if (folder / "cgroup.kill").exists():
                    (folder / "cgroup.kill").write_text("1")
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        """Remove the group; one that still holds a process stays, and is swept away with the next job."""
        for folder in self._all:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _value(self, controller: str, name: str) -> str:
        folder = self._folders.get(controller)
        return _read(folder / name).strip() if folder else ""


def make(name: str, limits: Limits, groups: Mapping[str, Path] | None = None) -> Group | None:
    """Make a control group with these limits.

    Args:
        name: unique among the jobs of this worker.
        limits: memory, processes and cores are set; the others have no controller.
        groups: the worker's own groups, from `own_groups`, which is asked if they are not given.

    Returns:
        The group, with those controllers that could be set; None if there are none.
    """
    groups = own_groups() if groups is None else groups
    folder_name = f"gnexec-{os.getpid()}-{name}"
    made: dict[str, Path] = {}
    for controller in _CONTROLLERS:
        if parent := groups.get(controller):
            made |= _made(parent / folder_name, (controller,), limits)
    if not made and (unified := groups.get(UNIFIED)):
        for parent in _delegated(unified):
            made = made or _made(parent / folder_name, _CONTROLLERS[:3], limits)
    return Group(made) if made else None


def _delegated(own: Path) -> list[Path]:
    """Return where a version 2 group may be made: in our own group, or in its parent if that is our user's."""
    parents = [own]
    with contextlib.suppress(OSError):
        if os.geteuid() and own.parent.stat().st_uid == os.geteuid():
            parents.append(own.parent)
    for parent in parents:
        for controller in _CONTROLLERS[:3]:
            with contextlib.suppress(OSError):
                (parent / "cgroup.subtree_control").write_text(f"+{controller}")
    return parents


def _made(folder: Path, controllers: Sequence[str], limits: Limits) -> dict[str, Path]:
    """Make one directory and set what can be set in it; leave nothing behind where that is nothing."""
    _sweep(folder.parent)
    try:
        folder.mkdir()
    except OSError:
        return {}
    made = {controller: folder for controller in controllers if _set(folder, controller, limits)}
    if not made:
        folder.rmdir()
    return made


def _set(folder: Path, controller: str, limits: Limits) -> bool:
    """Write one controller's limit; its files tell the version."""
    quota = str(limits.cores * _PERIOD_US)
    match controller:
        case "memory":
            two = [("memory.max", str(limits.memory_bytes)), ("memory.swap.max", "0"), ("memory.oom.group", "1")]
            one = [(f"memory.{kind}limit_in_bytes", str(limits.memory_bytes)) for kind in ("", "memsw.")]
        case "pids":
            two = one = [("pids.max", str(limits.processes + _SPARE_TASKS))]
        case "cpu":
            two = [("cpu.max", f"{quota} {_PERIOD_US}")]
            one = [("cpu.cfs_quota_us", quota)]
        case _:
            two = one = [("cpuacct.usage", "0")]
    for (file, value), *others in (two, one):
        if (folder / file).exists():
            try:
                (folder / file).write_text(value)
            except OSError:
                return False
            for other, its_value in others:
                with contextlib.suppress(OSError):  # there only where the kernel was built or booted with it
                    (folder / other).write_text(its_value)
            return True
    return False


def _sweep(parent: Path) -> None:
    """Remove the groups of workers that are gone, and what still runs in them."""
    with contextlib.suppress(OSError):
        for folder in parent.glob("gnexec-*-*"):
            owner = folder.name.split("-")[1]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                stale = Group({UNIFIED: folder})
                stale.kill()
                stale.remove()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _field(text: str, name: str) -> int:
    found = re.search(rf"^{re.escape(name)} (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
