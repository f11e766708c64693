"""What a machine offers, in groups that leave it less."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

from gnexec.worker import capabilities
from gnexec.worker.cgroup import UNIFIED
from gnexec.worker.limits import GIB
from gnexec.worker.sandbox import Kind, Sandbox
from tests.worker.conftest import Bench


def group(folder: Path, **files: str) -> Path:
    """Write a control group's directory; `_` stands for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.procs").touch()
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")
    return folder


def test_cores_are_the_least_of_affinity_and_quotas(tmp_path: Path) -> None:
    """A quota anywhere above the process counts, rounded down, but never to nothing."""
    free = len(os.sched_getaffinity(0))
    own = group(tmp_path / "slice/job", cpu__max="max 100000")
    assert capabilities.cores({UNIFIED: own}) == free
    group(tmp_path / "slice", cpu__max="150000 100000")
    assert capabilities.cores({UNIFIED: own}) == 1
    group(tmp_path / "slice", cpu__max="50000 100000")
    assert capabilities.cores({UNIFIED: own}) == 1
    old = group(tmp_path / "old", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert capabilities.cores({"cpu": old}) == free
    group(tmp_path / "old", cpu__cfs_quota_us="100000")
    assert capabilities.cores({"cpu": old}) == 1
    assert capabilities.cores({}) == free


def test_memory_is_the_least_of_machine_and_groups(tmp_path: Path) -> None:
    """The tightest limit above the process counts; "max" and the huge number of version 1 are none."""
    total = psutil.virtual_memory().total
    own = group(tmp_path / "slice/job", memory__max="max")
    assert capabilities.memory_bytes({UNIFIED: own}) == total
    group(tmp_path / "slice", memory__max=str(1 << 20))
    assert capabilities.memory_bytes({UNIFIED: own}) == 1 << 20
    old = group(tmp_path / "old", memory__limit_in_bytes=str(2**63 - 4096))
    assert capabilities.memory_bytes({"memory": old}) == total
    assert capabilities.memory_bytes({}) == total


def test_measure_tells_what_this_machine_is(tmp_path: Path, caged: Bench) -> None:
    """The machine is described, and a sandbox that works is offered."""
    found = capabilities.measure(tmp_path, caged.sandbox)
    assert (found.arch, found.os.split()[0]) == (platform.machine(), "Linux")
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert 0 < found.memory_bytes <= psutil.virtual_memory().total
    assert 0 < found.disk_bytes < 1 << 20 * GIB.bit_length()
    assert found.sandboxes == ("bubblewrap",)


def test_plain_processes_are_not_offered_as_a_sandbox(tmp_path: Path) -> None:
    """A worker without a sandbox says that it has none."""
    assert capabilities.measure(tmp_path, Sandbox(Kind.PLAIN)).sandboxes == ()
