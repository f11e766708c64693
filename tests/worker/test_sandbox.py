"""What the sandbox shows and refuses to show, and what it says when it cannot be had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gnexec.errors import BadConfiguration
from gnexec.worker.sandbox import Kind, Sandbox, SandboxUnavailable, detect, explain, unprivileged
from gnexec.worker.workdir import Identity
from tests.requirements import missing
from tests.worker.conftest import Bench


def test_readable_is_shown_at_its_own_place_and_read_only(caged: Bench) -> None:
    """An interpreter outside /usr can be used, not changed."""
    tools = caged.folder / "tools"
    tools.mkdir()
    (tools / "hello").write_text("#!/bin/sh\necho hello\n")
    (tools / "hello").chmod(0o755)
    tools.chmod(0o777)
    bench = Bench(caged.folder, Sandbox(Kind.BUBBLEWRAP, (*caged.sandbox.readable, tools)), caged.python)
    assert bench.run([str(tools / "hello")]).out == "hello\n"
    assert bench.sh(f"touch {tools}/x || echo held").out == "held\n"
    assert not (tools / "x").exists()


@pytest.mark.parametrize(
    "path", ["/", "/home", "~", "~/.ssh", "/proc", "/sys/class", "/dev/shm", "/run", "/etc", "usr"]
)
def test_readable_that_must_stay_hidden_is_refused(path: str) -> None:
    """Neither the home directory, nor what holds it, nor the machine's own files can be shown."""
    if path == "/home" and not Path.home().is_relative_to("/home"):
        path = str(Path.home().parent)
    with pytest.raises(BadConfiguration, match="cannot be shown"):
        Sandbox(readable=(Path(os.path.expanduser(path)),))  # noqa: PTH111 - a relative path must stay one


def test_readable_link_to_the_home_directory_is_refused(tmp_path: Path) -> None:
    """A link does not hide what it leads to."""
    (tmp_path / "link").symlink_to(Path.home())
    with pytest.raises(BadConfiguration, match="cannot be shown"):
        Sandbox(readable=(tmp_path / "link",))


def test_jobs_are_never_run_as_root() -> None:
    """Root names an unprivileged user; who is not root cannot choose."""
    with pytest.raises(BadConfiguration):
        unprivileged("root")
    with pytest.raises(BadConfiguration):
        unprivileged("no-such-account-here")
    if os.geteuid() == 0:
        assert (unprivileged() or Identity(0, 0)).uid != 0
        for identity in (None, Identity(0, 0)):
            with pytest.raises(BadConfiguration, match="never run as root"):
                Sandbox(identity=identity)
    else:
        assert unprivileged() is None


def test_detect_finds_that_the_sandbox_works(caged: Bench) -> None:
    """Where bubblewrap works, nothing is to be mended."""
    found = detect(caged.sandbox)
    assert (found.kind, found.ok, found.reason, found.mend) == (Kind.BUBBLEWRAP, True, "", "")


def test_detect_of_a_missing_bubblewrap_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said."""
    monkeypatch.setenv("PATH", str(tmp_path))
    found = detect()
    assert not found.ok
    assert "not installed" in found.reason
    assert "apt-get install bubblewrap" in found.mend


def test_detect_of_blocked_namespaces_repeats_the_complaint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel refuses, bubblewrap's words and a way out are given."""
    program = folder / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    found = detect()
    assert not found.ok
    assert "No permissions to create new namespace" in found.reason
    assert found.mend
    bench = Bench(folder, Sandbox(), "python3")
    with pytest.raises(SandboxUnavailable, match="No permissions to create new namespace"):
        bench.sh("touch ran")
    assert not (bench.work / "ran").exists()


@pytest.mark.parametrize(
    ("stderr", "reason", "mend"),
    [
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "mount proc", "systempaths"),
        ("bwrap: Creating new namespace failed: Operation not permitted", "Creating new namespace", "seccomp"),
        ("bwrap: Unknown option --disable-userns", "Unknown option", "0.8.0"),
        ("noise\nbwrap: Can't find source path /x: Permission denied", "/x", "doctor"),
        ("", "ended from outside", "doctor"),
    ],
)
def test_explain_finds_a_way_to_mend(stderr: str, reason: str, mend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each known complaint leads to its own remedy."""
    monkeypatch.setattr("gnexec.worker.sandbox._setting", lambda _file: None)
    found = explain(stderr)
    assert reason in found.reason
    assert mend in found.mend


@pytest.mark.parametrize(
    ("file", "value", "mend"),
    [
        ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "unprivileged_userns_clone"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor"),
    ],
)
def test_explain_names_the_setting_that_blocks(
    file: str, value: str, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a setting of the kernel's is the cause, it is named."""
    monkeypatch.setattr("gnexec.worker.sandbox._setting", {file: value}.get)
    assert mend in explain("bwrap: No permissions to create new namespace").mend


def test_work_directory_that_the_jobs_user_cannot_reach_is_explained(caged: Bench) -> None:
    """Where root's jobs cannot get through, the closed directory is named and nothing runs."""
    if os.geteuid() != 0:
        missing("only root's worker runs jobs under another user")
    caged.folder.chmod(0o700)
    with pytest.raises(SandboxUnavailable, match=f"chmod o\\+x {caged.folder}"):
        caged.sh("true")
