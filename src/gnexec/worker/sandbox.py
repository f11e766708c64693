"""How a command is wrapped so that it cannot reach the volunteer's machine; fails closed.

Two kinds. *bubblewrap*: new namespaces for everything, no capabilities, no network, a read-only system, one writable
work directory at /work, private and bounded /tmp and /dev/shm, a filter on system calls. *plain*: an ordinary
process, only for a volunteer who typed `--unsafe-no-sandbox`, or for a program that is our own. A worker that is root
runs either under an unprivileged user.

This module makes command lines and looks whether they work (`detect`); `gnexec.worker.execute` runs them. There is no
way from one kind to the other here: who asks for bubblewrap gets it or `SandboxUnavailable`.

Source: bwrap(1) of bubblewrap 0.8, which refuses `--disable-userns` without `--unshare-user`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from gnexec.errors import BadConfiguration, GnexecError
from gnexec.worker import seccomp
from gnexec.worker.limits import MIB, Limits, preamble
from gnexec.worker.workdir import Identity, barrier

WORK: Final = Path("/work")
"""Where a sandboxed job finds its work directory."""

_SCRATCH: Final = Path("/tmp")  # noqa: S108 - the sandbox's own, not the machine's

_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_JOB_ID: Final = 1000  # user and group inside the sandbox; which user it is outside does not show
_DETECT_S: Final = 20.0

_SPARE_TASKS: Final = 6  # the sandbox's own first process, and room for the poll to see the limit exceeded
_SPARE_PLAIN: Final = 64

_SYSTEM: Final = ("/usr", "/gnu/store", "/nix/store")
_ALIASES: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC: Final = (
    *("ld.so.*", "alternatives", "localtime", "nsswitch.conf", "fonts"),
    *("R", "java-*", "perl", "python3*"),  # interpreters read their own settings there
)
_FORBIDDEN: Final = ("/proc", "/sys", "/dev", "/run", "/etc", "/boot", "/work")


class Kind(StrEnum):
    """How jobs are kept apart from the machine."""

    BUBBLEWRAP = "bubblewrap"
    PLAIN = "plain"


class SandboxUnavailable(GnexecError):
    """The sandbox cannot be had, so the job was not run; the attempt is to be given back.

    Attributes:
        reason: what is wrong, one sentence.
        mend: what the volunteer can do about it, one sentence.
    """

    def __init__(self, reason: str, mend: str) -> None:
        super().__init__(f"{reason} {mend}")
        self.reason = reason
        self.mend = mend


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


@dataclass(frozen=True, slots=True)
class Launch:
    """A command line to start, with what it needs.

    Attributes:
        argv: the command, which waits at its gate until it may go on.
        env: environment of the outermost process.
        cwd: its directory.
        fds: descriptors to pass on.
        memory: those among `fds` that were made for it, to be closed here once it is started.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: Path
    fds: tuple[int, ...] = ()
    memory: tuple[int, ...] = ()


def environment(env: Mapping[str, str], limits: Limits, home: Path, scratch: Path) -> dict[str, str]:
    """Return a job's whole environment: what it asks for over a few defaults; nothing of the worker's."""
    threads = str(limits.cores)
    defaults = {"PATH": _PATH, "HOME": str(home), "TMPDIR": str(scratch), "LANG": "C.UTF-8", "USER": "gnexec"}
    # Libraries for linear algebra start one thread per processor of the machine unless told otherwise.
    defaults |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    return defaults | dict(env)


def plain(argv: Sequence[str], work: Path, env: Mapping[str, str], limits: Limits, sandbox: Sandbox) -> Launch:
    """Wrap a command as an ordinary process, which waits for a line on its standard input.

    It dies with the worker where setpriv(1) is there to arrange it. Its own children then live on until the next
    worker sweeps their control group away, and without one until they end: a reason to want the sandbox.
    """
    script = f'read -r go || exit 125; {preamble(limits, _ceiling(limits, sandbox))}exec "$@" </dev/null'
    setpriv = shutil.which("setpriv")
    mortal = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
    command = [*_gently(), *mortal, "/bin/sh", "-c", script, "sh", *argv]
    return Launch(command, environment(env, limits, work, work), work)


def bubblewrap(
    argv: Sequence[str],
    work: Path,
    env: Mapping[str, str],
    limits: Limits,
    sandbox: Sandbox,
    gate: int | None = None,
    status: int | None = None,
) -> Launch:
    """Wrap a command in bubblewrap.

    Args:
        argv: the command; found by the job's PATH inside the sandbox.
        work: the work directory, shown writable at /work.
        env: the job's environment, over the defaults of `environment`.
        limits: memory bounds the size of /tmp and of /dev/shm, a quarter of it for each.
        sandbox: what else is shown.
        gate: descriptor from which one byte is awaited before the command starts.
        status: descriptor to which bubblewrap reports the first process's id and the exit code, as JSON lines.

    Raises:
        SandboxUnavailable: bubblewrap or a filter for this machine is missing, or the job's user cannot reach a path.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        reason, mend = "bubblewrap is not installed.", "Install it: apt-get install bubblewrap."
        raise SandboxUnavailable(reason, mend)
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in seccomp.MACHINES:
        reason = f"There is no system call filter for {platform.system()} on {machine}."
        raise SandboxUnavailable(reason, f"Run the worker under Linux on {' or '.join(seccomp.MACHINES)}.")
    _check_reach(work, sandbox)
    account = f"gnexec:x:{_JOB_ID}:{_JOB_ID}::/work:/bin/sh\n".encode()
    passwd, group, rules = (
        _memory(account),
        _memory(f"gnexec:x:{_JOB_ID}:\n".encode()),
        _memory(seccomp.program(machine)),
    )
    size = str(max(limits.memory_bytes // 4, MIB))
    options = [
        *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"),
        *("--cap-drop", "ALL", "--clearenv", "--hostname", "gnexec", "--uid", str(_JOB_ID), "--gid", str(_JOB_ID)),
        *_system(),
        *("--ro-bind-data", str(passwd), "/etc/passwd", "--ro-bind-data", str(group), "/etc/group"),
        *("--proc", "/proc", "--dev", "/dev", "--size", size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),  # noqa: S108
        *("--size", size, "--tmpfs", str(_SCRATCH)),
    ]
    for path in sandbox.readable:
        options += ["--ro-bind", str(path), str(path)]
    # The root is made read-only last: it is a file system in memory, with no bound on its size.
    options += ["--bind", str(work.absolute()), str(WORK), "--chdir", str(WORK), "--remount-ro", "/"]
    for name, value in environment(env, limits, WORK, _SCRATCH).items():
        options += ["--setenv", name, value]
    options += ["--seccomp", str(rules)]
    memory = (passwd, group, rules)
    fds = list(memory)
    for option, fd in (("--block-fd", gate), ("--json-status-fd", status)):
        if fd is not None:
            options += [option, str(fd)]
            fds.append(fd)
    # The shell tells a command that cannot be started (127, 126) from a sandbox that cannot be made.
    script = f'{preamble(limits, _ceiling(limits, sandbox))}exec "$@"'
    inner = ["/bin/sh", "-c", script, "sh", *argv]
    return Launch([*_gently(), bwrap, *options, "--", *inner], {"PATH": _PATH}, Path("/"), tuple(fds), memory)


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
        launch = bubblewrap(["true"], work, {}, Limits(), sandbox, status=report)
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


def _gently() -> list[str]:
    """Return the prefix that gives a command the lowest priority: the machine's owner comes first."""
    nice = shutil.which("nice")
    return [nice, "-n", "19"] if nice else []


def _ceiling(limits: Limits, sandbox: Sandbox) -> int:
    """Return the ceiling of processes and threads for the kernel to keep.

    Since Linux 5.14 they are counted for each user namespace, so that a sandbox has its own count. Elsewhere all of
    the user's count, and the ceiling only brakes a fork bomb until the poll sees it.
    """
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    if sandbox.kind is Kind.BUBBLEWRAP and version and (int(version[1]), int(version[2])) >= (5, 14):
        return limits.processes + _SPARE_TASKS
    uid = sandbox.identity.uid if sandbox.identity else os.getuid()
    running = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == uid:
                running += sum(1 for _ in (process / "task").iterdir())
    return running + limits.processes + _SPARE_PLAIN


def _check_reach(work: Path, sandbox: Sandbox) -> None:
    if sandbox.identity is None:
        return
    for path in (work, *sandbox.readable):
        if blocked := barrier(path, sandbox.identity):
            reason = f"User {sandbox.identity.uid}, under whom root's worker runs jobs, cannot pass {blocked}."
            mend = f"Choose a place that everybody may pass, or: chmod o+x {blocked}."
            raise SandboxUnavailable(reason, mend)


def _system() -> list[str]:
    """Return options that show the read-only system; directories that are links (`/bin` on Debian) stay links."""
    options: list[str] = []
    for name in _SYSTEM:
        if Path(name).is_dir():
            options += ["--ro-bind", name, name]
    for name in _ALIASES:
        if Path(name).is_symlink():
            options += ["--symlink", str(Path(name).readlink()), name]
        elif Path(name).is_dir():
            options += ["--ro-bind", name, name]
    for pattern in _ETC:
        for path in sorted(Path("/etc").glob(pattern)):
            options += ["--ro-bind-try", str(path), str(path)]
    return options


def _memory(data: bytes) -> int:
    """Return a descriptor from which `data` can be read once."""
    fd = os.memfd_create("gnexec")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _setting(file: str) -> str | None:
    try:
        return Path(file).read_text().strip()
    except OSError:
        return None
