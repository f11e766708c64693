"""How a command is wrapped so that it cannot reach the volunteer's machine; fails closed.

Two kinds. *bubblewrap*: new namespaces for everything, no capabilities, no network, a read-only system, one writable
work directory at /work, private and bounded /tmp and /dev/shm, a filter on system calls. *plain*: an ordinary
process, only for a volunteer who typed `--unsafe-no-sandbox`, or for a program that is our own. A worker that is root
runs either under an unprivileged user.

This module says what is asked for and looks whether it works (`detect`); `gnexec.worker.wrap` makes the command lines,
`gnexec.worker.execute` runs them. There is no way from one kind to the other: who asks for bubblewrap gets it or
`SandboxUnavailable`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from gnexec.errors import BadConfiguration
from gnexec.worker.limits import Limits
from gnexec.worker.workdir import Identity
from gnexec.worker.wrap import WORK, SandboxUnavailable, bubblewrap

__all__ = ["WORK", "Availability", "Kind", "Sandbox", "SandboxUnavailable", "detect", "explain", "unprivileged"]

_DETECT_S: Final = 20.0
_FORBIDDEN: Final = ("/proc", "/sys", "/dev", "/run", "/etc", "/boot", "/work")


class Kind(StrEnum):
    """How jobs are kept apart from the machine."""

    BUBBLEWRAP = "bubblewrap"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a kind of sandbox works here; `reason` and `mend` are empty where it does."""

    kind: Kind
    ok: bool
    reason: str = ""
    mend: str = ""


def unprivileged(user: str | None = None) -> Identity | None:
    """Find the user that jobs run under.

    Args:
        user: name of an account; `nobody` if None. Only a worker that is root can choose.

    Returns:
        Its user and group, or None where the worker is not root: jobs then run as the worker's own user.

    Raises:
        BadConfiguration: there is no such account, it is root, or a worker that is not root was given one.
    """
    if os.geteuid() != 0:
        if user is not None:
            msg = f"only a worker that is root can run jobs as {user}"
            raise BadConfiguration(msg)
        return None
    try:
        account = pwd.getpwnam(user or "nobody")
    except KeyError as err:
        msg = f"there is no account {user or 'nobody'} to run jobs under"
        raise BadConfiguration(msg) from err
    if account.pw_uid == 0:
        msg = "jobs are never run as root: name an unprivileged account"
        raise BadConfiguration(msg)
    return Identity(account.pw_uid, account.pw_gid)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A kind of sandbox and what it shows of the machine.

    Attributes:
        kind: bubblewrap, or plain where the volunteer asked for it.
        readable: files and directories shown read-only at their own place, such as an interpreter outside /usr.
        identity: user that jobs run under; needed if and only if the worker is root.

    Raises:
        BadConfiguration: `readable` would show the home directory, all of it or more, or a part of the system that
            is hidden on purpose; or jobs would run as root.
    """

    kind: Kind = Kind.BUBBLEWRAP
    readable: tuple[Path, ...] = ()
    identity: Identity | None = field(default_factory=unprivileged)

    def __post_init__(self) -> None:
        """Refuse to show what must stay hidden."""
        if os.geteuid() == 0 and (self.identity is None or self.identity.uid == 0):
            msg = "jobs are never run as root: name an unprivileged account"
            raise BadConfiguration(msg)
        home = Path.home().resolve()
        for path in self.readable:
            for form in (path, path.resolve()):
                hidden = any(form.is_relative_to(place) for place in _FORBIDDEN)
                if not path.is_absolute() or home.is_relative_to(form) or hidden or form.is_relative_to(home / ".ssh"):
                    msg = f"{path} cannot be shown to jobs: name an absolute path that holds no home directory"
                    raise BadConfiguration(msg)


def detect(sandbox: Sandbox | None = None) -> Availability:
    """Look whether a sandbox works, by running `true` in it.

    Args:
        sandbox: what a worker would use; bubblewrap with nothing readable if None.

    Returns:
        The finding, with a reason and a way to mend it where it does not work. Never raises for that.
    """
    sandbox = sandbox or Sandbox()
    if sandbox.kind is Kind.PLAIN:
        return Availability(Kind.PLAIN, ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="gnexec-detect-") as folder:
            work = Path(folder)
            if sandbox.identity:
                os.chown(work, sandbox.identity.uid, sandbox.identity.gid)
            complaint = _try(work, sandbox)
        if complaint is not None:
            raise explain(complaint)
    except SandboxUnavailable as err:
        return Availability(sandbox.kind, ok=False, reason=err.reason, mend=err.mend)
    except (OSError, subprocess.TimeoutExpired) as err:
        mend = "Look into the system's log, and run `bwrap --ro-bind / / true` by hand."
        return Availability(sandbox.kind, ok=False, reason=f"bubblewrap could not be run: {err}.", mend=mend)
    return Availability(sandbox.kind, ok=True)


def _try(work: Path, sandbox: Sandbox) -> str | None:
    """Run `true` in bubblewrap; return what it complained about if that fails."""
    reports, report = os.pipe()
    try:
        launch = bubblewrap(["true"], work, {}, Limits(), sandbox.readable, sandbox.identity, status=report)
        try:
            ended = subprocess.run(
                launch.argv,
                env=launch.env,
                cwd=launch.cwd,
                pass_fds=launch.fds,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=_DETECT_S,
                user=sandbox.identity.uid if sandbox.identity else None,
                group=sandbox.identity.gid if sandbox.identity else None,
                extra_groups=[] if sandbox.identity else None,
            )
        finally:
            for fd in launch.memory:
                os.close(fd)
    finally:
        os.close(report)
        with os.fdopen(reports) as stream:
            first = re.search(r'"child-pid": (\d+)', stream.read())
    if first:  # a worker that has run jobs adopts orphans: the sandbox's first process is then ours to reap
        with contextlib.suppress(ChildProcessError):
            os.waitpid(int(first[1]), 0)
    return None if ended.returncode == 0 else ended.stderr.decode(errors="replace")


def explain(stderr: str) -> SandboxUnavailable:
    """Turn what bubblewrap complained about into a reason and a way to mend it."""
    complaint = next((line for line in stderr.splitlines() if line.startswith("bwrap:")), stderr.strip()[-300:])
    reason = f"bubblewrap could not make the sandbox ({complaint or 'it was ended from outside'})."
    known = (
        ("/proc/sys/user/max_user_namespaces", "0", "Allow user namespaces: sysctl user.max_user_namespaces=15000."),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "Allow user namespaces: sysctl kernel.unprivileged_userns_clone=1.",
        ),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "Give bwrap an AppArmor profile with `userns,`: the package apparmor-profiles has one.",
        ),
    )
    for file, value, mend in known:
        if _setting(file) == value:
            return SandboxUnavailable(reason, mend)
    if "mount proc" in complaint:
        return SandboxUnavailable(
            reason, "In a container, /proc must not be masked: docker run --security-opt systempaths=unconfined."
        )
    if "namespace" in complaint or "Operation not permitted" in complaint:
        return SandboxUnavailable(
            reason,
            "User namespaces are blocked here; in a container they need: docker run --security-opt "
            "seccomp=unconfined --security-opt apparmor=unconfined.",
        )
    if "Unknown option" in complaint:
        return SandboxUnavailable(reason, "bubblewrap 0.8.0 or newer is needed.")
    return SandboxUnavailable(reason, "Run `gnexec doctor`, and `bwrap --ro-bind / / true` by hand.")


def _setting(file: str) -> str | None:
    try:
        return Path(file).read_text().strip()
    except OSError:
        return None
