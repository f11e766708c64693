"""Command lines that wrap a job: in bubblewrap, or as a plain process at a gate. Nothing is started here.

Source: bwrap(1) of bubblewrap 0.8, which refuses `--disable-userns` without `--unshare-user`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gnexec.errors import GnexecError
from gnexec.worker import seccomp
from gnexec.worker.limits import MIB, Limits, preamble
from gnexec.worker.workdir import Identity, barrier

WORK: Final = Path("/work")
"""Where a sandboxed job finds its work directory."""

_SCRATCH: Final = Path("/tmp")  # noqa: S108 - the sandbox's own, not the machine's

_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_JOB_ID: Final = 1000  # user and group inside the sandbox; which user it is outside does not show

_SPARE_TASKS: Final = 6  # the sandbox's own first process, and room for the poll to see the limit exceeded
_SPARE_PLAIN: Final = 64

_SYSTEM: Final = ("/usr", "/gnu/store", "/nix/store")
_ALIASES: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC: Final = (
    *("ld.so.*", "alternatives", "localtime", "nsswitch.conf", "fonts"),
    *("R", "java-*", "perl", "python3*"),  # interpreters read their own settings there
)


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


def plain(argv: Sequence[str], work: Path, env: Mapping[str, str], limits: Limits, identity: Identity | None) -> Launch:
    """Wrap a command as an ordinary process, which waits for a line on its standard input.

    It dies with the worker where setpriv(1) is there to arrange it. Its own children then live on until the next
    worker sweeps their control group away, and without one until they end: a reason to want the sandbox.
    """
    script = (
        f'read -r go || exit 125; {preamble(limits, _ceiling(limits, identity, own_count=False))}exec "$@" </dev/null'
    )
    setpriv = shutil.which("setpriv")
    mortal = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
    command = [*_gently(), *mortal, "/bin/sh", "-c", script, "sh", *argv]
    return Launch(command, environment(env, limits, work, work), work)


def bubblewrap(
    argv: Sequence[str],
    work: Path,
    env: Mapping[str, str],
    limits: Limits,
    readable: Sequence[Path],
    identity: Identity | None,
    gate: int | None = None,
    status: int | None = None,
) -> Launch:
    """Wrap a command in bubblewrap.

    Args:
        argv: the command; found by the job's PATH inside the sandbox.
        work: the work directory, shown writable at /work.
        env: the job's environment, over the defaults of `environment`.
        limits: memory bounds the size of /tmp and of /dev/shm, a quarter of it for each.
        readable: what else is shown, at its own place.
        identity: the user it is started under, if another than ours.
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
    _check_reach((work, *readable), identity)
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
    for path in readable:
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
    script = f'{preamble(limits, _ceiling(limits, identity, own_count=True))}exec "$@"'
    inner = ["/bin/sh", "-c", script, "sh", *argv]
    return Launch([*_gently(), bwrap, *options, "--", *inner], {"PATH": _PATH}, Path("/"), tuple(fds), memory)


def _gently() -> list[str]:
    """Return the prefix that gives a command the lowest priority: the machine's owner comes first."""
    nice = shutil.which("nice")
    return [nice, "-n", "19"] if nice else []


def _ceiling(limits: Limits, identity: Identity | None, *, own_count: bool) -> int:
    """Return the ceiling of processes and threads for the kernel to keep.

    Since Linux 5.14 they are counted for each user namespace, so that a sandbox has its own count. Elsewhere all of
    the user's count, and the ceiling only brakes a fork bomb until the poll sees it.
    """
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    if own_count and version and (int(version[1]), int(version[2])) >= (5, 14):
        return limits.processes + _SPARE_TASKS
    uid = identity.uid if identity else os.getuid()
    running = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == uid:
                running += sum(1 for _ in (process / "task").iterdir())
    return running + limits.processes + _SPARE_PLAIN


def _check_reach(paths: Sequence[Path], identity: Identity | None) -> None:
    if identity is None:
        return
    for path in paths:
        if blocked := barrier(path, identity):
            reason = f"User {identity.uid}, under whom root's worker runs jobs, cannot pass {blocked}."
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
