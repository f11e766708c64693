"""Control groups: the machine's own where one may be made, and the form of version 2 on a tree of files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gnexec.worker import cgroup
from gnexec.worker.limits import MIB, Limits
from tests.requirements import missing


def process(root: Path, groups: str, mounts: str) -> Path:
    """Write what /proc says of a process."""
    proc = root / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    (proc / "mountinfo").write_text(mounts)
    return proc


def test_own_groups_of_version_2(tmp_path: Path) -> None:
    """The one hierarchy is found under its mount, which may have a blank in its name."""
    (tmp_path / "a b/user/job").mkdir(parents=True)
    where = str(tmp_path / "a b").replace(" ", "\\040")
    proc = process(tmp_path, "0::/user/job\n", f"30 23 0:26 / {where} rw shared:9 - cgroup2 cgroup2 rw\n")
    assert cgroup.own_groups(proc) == {cgroup.UNIFIED: tmp_path / "a b/user/job"}


def test_own_groups_of_version_1(tmp_path: Path) -> None:
    """Controllers that share a hierarchy share a directory; one that is not mounted is absent."""
    (tmp_path / "cpu/slice").mkdir(parents=True)
    (tmp_path / "memory").mkdir()
    mounts = (
        f"31 23 0:27 / {tmp_path}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        f"32 23 0:28 /docker/1 {tmp_path}/memory rw - cgroup cgroup rw,memory\n"
    )
    proc = process(tmp_path, "3:cpu,cpuacct:/slice\n2:memory:/docker/1\n1:pids:/\n", mounts)
    folder = tmp_path / "cpu/slice"
    assert cgroup.own_groups(proc) == {"cpu": folder, "cpuacct": folder, "memory": tmp_path / "memory"}


def test_own_groups_where_there_is_no_proc(tmp_path: Path) -> None:
    """A machine without control groups is not an error."""
    assert cgroup.own_groups(tmp_path / "absent") == {}
    assert cgroup.make("x", Limits(), {}) is None


def test_group_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    """Where no limit can be set, there is no group, and no directory of one."""
    assert cgroup.make("x", Limits(), {"memory": tmp_path, cgroup.UNIFIED: tmp_path}) is None
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def fill(folder: Path) -> None:
    """Make the files that the kernel would make in a version 2 group."""
    for name in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max", "cgroup.procs"):
        (folder / name).write_text("")
    (folder / "cgroup.kill").write_text("0")


def test_group_of_version_2_sets_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One directory has the limits of all controllers, and its events tell which was exceeded."""
    plain_mkdir = Path.mkdir

    def mkdir(self: Path) -> None:
        plain_mkdir(self)
        fill(self)

    (tmp_path / "cgroup.subtree_control").write_text("")
    monkeypatch.setattr(Path, "mkdir", mkdir)
    group = cgroup.make("x", Limits(cores=2, memory_bytes=64 * MIB, processes=8), {cgroup.UNIFIED: tmp_path})
    assert group is not None
    assert group.controllers == {"memory", "pids", "cpu"}
    folder = tmp_path / f"gnexec-{os.getpid()}-x"
    written = {name: (folder / name).read_text() for name in ("memory.max", "memory.oom.group", "pids.max", "cpu.max")}
    assert written == {
        "memory.max": str(64 * MIB),
        "memory.oom.group": "1",
        "pids.max": "10",
        "cpu.max": "200000 100000",
    }
    assert group.add(12345)
    assert (folder / "cgroup.procs").read_text() == "12345"
    assert not group.ran_out_of_memory()
    assert not group.ran_out_of_tasks()
    (folder / "memory.events").write_text("low 0\nmax 7\noom 1\noom_kill 1\n")
    (folder / "pids.events").write_text("max 3\n")
    (folder / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (folder / "cgroup.procs").write_text("")
    assert group.ran_out_of_memory()
    assert group.ran_out_of_tasks()
    assert group.cpu_s() == 1.5
    group.kill()
    assert (folder / "cgroup.kill").read_text() == "1"


def test_group_on_this_machine_holds_and_is_swept() -> None:
    """Where a group may be made, it has its process, counts, and goes; a stale one is swept with what is in it."""
    group = cgroup.make("real", Limits())
    if group is None:
        missing("no control group may be made here: run as root, or under systemd-run --user")
    with subprocess.Popen(["sleep", "3600"]) as sleeper:
        assert group.add(sleeper.pid)
        assert group.pids() == {sleeper.pid}
        group.remove()
        assert group.pids() == {sleeper.pid}
        group.kill()
        assert sleeper.wait() == -9
    group.remove()
    assert not any(folder.exists() for folder in group._all)


def test_group_of_a_worker_that_is_gone_is_swept_with_what_is_in_it() -> None:
    """What a killed worker left is ended before the next job starts."""
    group = cgroup.make("sweep", Limits())
    if group is None:
        missing("no control group may be made here: run as root, or under systemd-run --user")
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    stale = [folder.with_name(f"gnexec-{gone.pid}-stale") for folder in group._all]
    for folder in stale:
        folder.mkdir()
    with subprocess.Popen(["sleep", "3600"]) as sleeper:
        (stale[0] / "cgroup.procs").write_text(str(sleeper.pid))
        again = cgroup.make("sweep-again", Limits())
        assert again is not None
        assert sleeper.wait() == -9
    again.remove()
    group.remove()
    last = cgroup.make("sweep-last", Limits())
    assert last is not None
    last.remove()
    assert not any(folder.exists() for folder in stale)
