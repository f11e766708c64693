"""What this machine offers to jobs: measured, not configured.

Numbers of the host mislead inside a container or a batch system, so that each is the least of what the host has and
what the control groups and the scheduler leave to this process. Nothing here decides what is offered.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from gnexec.worker.cgroup import UNIFIED, own_groups
from gnexec.worker.sandbox import Sandbox, detect


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a worker can offer.

    Attributes:
        cores: processors that this process may use, 1.. (a control group's quota is rounded down).
        memory_bytes: memory of the machine, or of the tightest control group above this process.
        disk_bytes: free space where work directories are made.
        os: kernel's name and release, such as "Linux 6.1.0".
        arch: machine architecture, such as "x86_64".
        cpu_model: the processor's name; "" where the kernel does not say.
        sandboxes: kinds of sandbox that work here; plain processes are not among them, they are no sandbox.
    """

    cores: int
    memory_bytes: int
    disk_bytes: int
    os: str
    arch: str
    cpu_model: str
    sandboxes: tuple[str, ...]


def measure(work: Path, sandbox: Sandbox | None = None) -> Capabilities:
    """Measure this machine.

    Args:
        work: an existing directory, on the file system where work directories will be.
        sandbox: what the worker would use, as for `sandbox.detect`.
    """
    found = detect(sandbox)
    return Capabilities(
        cores=cores(),
        memory_bytes=memory_bytes(),
        disk_bytes=psutil.disk_usage(str(work)).free,
        os=f"{platform.system()} {platform.release()}",
        arch=platform.machine(),
        cpu_model=_cpu_model(),
        sandboxes=(found.kind.value,) if found.ok and found.kind.value != "plain" else (),
    )


def cores(groups: Mapping[str, Path] | None = None) -> int:
    """Count the processors that this process may use: its affinity, and the quotas of the groups above it.

    Args:
        groups: the process's control groups, from `cgroup.own_groups`, which is asked if they are not given.
    """
    groups = own_groups() if groups is None else groups
    least = float(len(os.sched_getaffinity(0)))
    for folder in _upwards(groups.get(UNIFIED)):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        least = min(least, _ratio(quota, period))
    for folder in _upwards(groups.get("cpu")):
        least = min(least, _ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")))
    return max(1, int(least))


def memory_bytes(groups: Mapping[str, Path] | None = None) -> int:
    """Return the machine's memory, or the least limit of the groups above this process.

    Args:
        groups: as for `cores`.
    """
    groups = own_groups() if groups is None else groups
    limits = [psutil.virtual_memory().total]
    for controller, file in ((UNIFIED, "memory.max"), ("memory", "memory.limit_in_bytes")):
        limits += [int(text) for folder in _upwards(groups.get(controller)) if (text := _read(folder / file)).isdigit()]
    return min(limits)


def _upwards(folder: Path | None) -> Iterator[Path]:
    """Yield a group's directory and those above it, as far as they are groups."""
    while folder and (folder / "cgroup.procs").exists():
        yield folder
        folder = folder.parent


def _ratio(quota: str, period: str) -> float:
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        return int(quota) / int(period)
    return float("inf")  # "max" and -1 mean no quota


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    return found[1].strip() if found else platform.processor()


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
