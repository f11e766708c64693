"""Runs one command to its end: in its sandbox, within its limits, and with nothing of it left behind.

`start` returns once the command is let go; `Run.wait` when it has ended, all its processes are gone and its logs are
complete. In between a watch looks at the process tree four times a second and at the disk twice a second; where a
control group bounds the job, the kernel itself holds it to memory and processes.

What this module does not do: talk to the server, choose inputs, read outputs. Rules:

- A job that exceeds a limit is killed at once; one that is stopped gets SIGTERM first, and SIGKILL after its grace.
- A limit that ended a run outranks the exit code that the run left.
- A sandbox that cannot be made raises `SandboxUnavailable`, from `start` or from `wait`; nothing runs without.
- `start` is called in the thread that lives longest: the kernel ends the sandbox with the thread that made it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from gnexec.core.events import Outcome
from gnexec.worker import cgroup
from gnexec.worker.launch import Child, launch
from gnexec.worker.limits import MIB, Halt, Limits, Usage
from gnexec.worker.logfile import LogFile
from gnexec.worker.sandbox import Kind, Sandbox, explain
from gnexec.worker.tree import Sample, Tree, adopt_orphans, lives, unlinked_bytes
from gnexec.worker.workdir import hand_over, measure

MAX_LOG_BYTES: Final = 16 * MIB

_FIRST_LOOK_S: Final = 0.02
_LOOK_S: Final = 0.25
_BLIND_LOOK_S: Final = 0.05  # where the kernel gives no notice of a process's end
_DISK_LOOK_S: Final = 0.5
_DRAIN_S: Final = 5.0
_SWEEP_S: Final = 0.01
_LIMIT_SIGNALS: Final = {signal.SIGXCPU: Halt.CPU, signal.SIGXFSZ: Halt.DISK}
_FATAL: Final = frozenset(signal.Signals) - {
    *(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH),  # ignored unless caught
    *(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),  # stop a process, do not end it
}


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that is over.

    Attributes:
        outcome: how it ended; its `limit` is a value of `Halt`.
        usage: what it used.
        started_ms: when it was let go, milliseconds since 1970.
        ended_ms: when its last process was gone, milliseconds since 1970.
    """

    outcome: Outcome
    usage: Usage
    started_ms: int
    ended_ms: int


def outcome_of(code: int) -> Outcome:
    """Read an exit code.

    Args:
        code: 0..255, or minus a signal's number. 128 + n counts as ended by signal n where n is a signal that ends
            programs: so shells and bubblewrap report it. A program that itself exits with such a number cannot be
            told apart; it is rare, and a failure either way.
    """
    with contextlib.suppress(ValueError):
        number = signal.Signals(-code if code < 0 else code - 128)
        if halt := _LIMIT_SIGNALS.get(number):
            return Outcome(limit=halt.value)
        if code < 0 or number in _FATAL:
            return Outcome(signal=number.name)
    return Outcome(exit=code) if code >= 0 else Outcome(signal=f"SIG{-code}")


async def start(
    argv: Sequence[str],
    work: Path,
    env: Mapping[str, str],
    limits: Limits,
    sandbox: Sandbox,
    stdout: Path,
    stderr: Path,
    *,
    max_log_bytes: int = MAX_LOG_BYTES,
) -> Run:
    """Start a command.

    Args:
        argv: the command and its arguments, at least one word.
        work: its work directory, which becomes the job user's where the worker is root.
        env: its environment, over a few defaults; nothing is inherited from the worker.
        limits: what it may use.
        sandbox: how it is kept apart.
        stdout: file for its standard output, outside `work`.
        stderr: file for its standard error, outside `work`.
        max_log_bytes: what each of the two may hold before the rest is dropped.

    Returns:
        The run, under way.

    Raises:
        SandboxUnavailable: the sandbox cannot be made; nothing was run.
        OSError: the work directory or a log cannot be used.
        ValueError: no command, a NUL in a word, or a variable's name that is none.
    """
    if not argv or any("\0" in word for word in (*argv, *env, *env.values())):
        msg = "a command needs at least one word, and no word of it or of its environment may hold a NUL"
        raise ValueError(msg)
    if any(not name or "=" in name for name in env):
        msg = "the name of an environment variable is empty or holds an equals sign"
        raise ValueError(msg)
    if sandbox.identity:
        hand_over(work, sandbox.identity)
    adopt_orphans()
    name = secrets.token_hex(6)
    with contextlib.ExitStack() as undo:
        out = LogFile(stdout, max_log_bytes)
        undo.callback(out.close)
        err = LogFile(stderr, max_log_bytes)
        undo.callback(err.close)
        child = await launch(argv, work, env, limits, sandbox, (out, err), name)
        undo.pop_all()
    group = cgroup.make(name, limits)
    if group and not group.add(child.root):
        group.remove()
        group = None
    with contextlib.suppress(OSError):  # it died at the gate; the watch finds out how
        os.write(child.gate, b"\n")
    os.close(child.gate)
    tree = Tree(child.root, name if sandbox.kind is Kind.PLAIN else None, group)
    return Run(child, tree, group, limits, work, (out, err))


class Run:
    """A command under way; made by `start`."""

    def __init__(
        self,
        child: Child,
        tree: Tree,
        group: cgroup.Group | None,
        limits: Limits,
        work: Path,
        logs: tuple[LogFile, LogFile],
    ) -> None:
        self._child = child
        self._tree = tree
        self._group = group
        self._limits = limits
        self._work = work
        self._logs = logs
        self._started_ms = time.time_ns() // 1_000_000
        self._started = time.monotonic()
        self._wall_s: float | None = None
        self._cpu_s = 0.0
        self._rusage_s = 0.0
        self._peak_rss_bytes = 0
        self._halt: Halt | None = None
        self._exited = asyncio.Event()
        self._watching = asyncio.create_task(self._watch())

    def usage(self) -> Usage:
        """Return what the run has used so far, a quarter of a second late at most."""
        wall_s = time.monotonic() - self._started if self._wall_s is None else self._wall_s
        return Usage(round(self._cpu_s * 1000), round(wall_s * 1000), self._peak_rss_bytes)

    async def wait(self) -> Ended:
        """Wait for the end: the command has ended, no process of it is left, its logs are complete.

        May be called more than once; cancelling a wait does not touch the run.

        Raises:
            SandboxUnavailable: the sandbox could not be completed, or was ended from outside; there is no outcome.
        """
        return await asyncio.shield(self._watching)

    async def stop(self, reason: str, grace_s: float) -> None:
        """End the run: SIGTERM to all its processes, SIGKILL to those that are left; return when all are gone.

        Args:
            reason: "stopped" or "preempted", which becomes the outcome's limit unless the run has already ended.
            grace_s: seconds between the two signals; 0 for SIGKILL alone.

        Raises:
            ValueError: another reason.
        """
        halt = Halt(reason)
        if halt not in {Halt.STOPPED, Halt.PREEMPTED}:
            msg = f"a run is stopped or preempted, not {reason}"
            raise ValueError(msg)
        if not self._watching.done():
            self._halt = self._halt or halt
            if grace_s > 0:
                self._terminate()
                await asyncio.wait([self._watching], timeout=grace_s)
            if not self._watching.done():
                self._kill()
        await asyncio.wait([self._watching])

    async def _watch(self) -> Ended:
        disk = asyncio.create_task(self._watch_disk())
        pause_s = _FIRST_LOOK_S
        with _notice(self._child.process.pid, self._exited) as noticed:
            while not self._reap():
                self._look()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._exited.wait(), pause_s)
                pause_s = min(2 * pause_s, _LOOK_S if noticed else _BLIND_LOOK_S)
        self._wall_s = time.monotonic() - self._started
        disk.cancel()
        await self._bury()
        ended_ms = max(self._started_ms, time.time_ns() // 1_000_000)
        for log in self._logs:
            await log.finish(_DRAIN_S)
        code: int | None = self._child.process.returncode
        if self._child.status:
            code = await self._child.status.number("exit-code")
            self._child.status.close()
        exceeded = await self._exceeded_at_the_end()
        if self._group:
            self._group.remove()
        if halt := self._halt or exceeded:
            outcome = Outcome(limit=halt.value)
        elif code is None:
            raise explain(self._logs[1].path.read_text(errors="replace"))
        else:
            outcome = outcome_of(code)
        return Ended(outcome, self.usage(), self._started_ms, ended_ms)

    def _look(self) -> None:
        """Measure the process tree, and end the run where it exceeds a limit."""
        sample = self._tree.sample()
        self._cpu_s = max(self._cpu_s, sample.cpu_s, self._group.cpu_s() if self._group else 0.0)
        self._peak_rss_bytes = max(self._peak_rss_bytes, sample.rss_bytes)
        if exceeded := self._exceeded(sample):
            self._end(exceeded)

    def _exceeded(self, sample: Sample) -> Halt | None:
        if exceeded := self._refused_by_kernel():
            return exceeded
        if self._holds_too_much(sample):
            return Halt.MEMORY
        if self._limits.cpu_s is not None and self._cpu_s > self._limits.cpu_s:
            return Halt.CPU
        own = 0 if self._child.status is None else 1
        if sample.tasks - own > self._limits.processes:
            return Halt.PROCESSES
        return Halt.WALL if time.monotonic() - self._started > self._limits.wall_s else None

    def _holds_too_much(self, sample: Sample) -> bool:
        if self._group and "memory" in self._group.controllers:
            return False  # the kernel sees to it, and counts what is mapped from files more fairly
        most = self._limits.memory_bytes
        # Shared pages count for each process in the quick sum; only the fair sum may end a run.
        return sample.rss_bytes > most and self._tree.proportional_bytes() > most

    def _refused_by_kernel(self) -> Halt | None:
        if self._group and self._group.ran_out_of_memory():
            return Halt.MEMORY
        if self._group and self._group.ran_out_of_tasks():
            return Halt.PROCESSES
        return None

    async def _exceeded_at_the_end(self) -> Halt | None:
        """Judge a run that was over before a look could end it."""
        self._cpu_s = max(self._cpu_s, self._rusage_s, self._group.cpu_s() if self._group else 0.0)
        if exceeded := self._refused_by_kernel():
            return exceeded
        if self._limits.cpu_s is not None and self._cpu_s > self._limits.cpu_s:
            return Halt.CPU
        return Halt.DISK if await self._disk_bytes() > self._limits.disk_bytes else None

    async def _watch_disk(self) -> None:
        while True:
            began = time.monotonic()
            if await self._disk_bytes() > self._limits.disk_bytes:
                self._end(Halt.DISK)
            # A large tree takes long to walk: walking never takes more than a tenth of one processor.
            await asyncio.sleep(max(_DISK_LOOK_S, 10 * (time.monotonic() - began)))

    async def _disk_bytes(self) -> int:
        pids = [process.pid for process in self._tree.members()]

        def walk() -> int:
            return measure(self._work) + unlinked_bytes(pids, self._work.stat().st_dev)

        return await asyncio.to_thread(walk) + sum(log.size for log in self._logs)

    def _end(self, halt: Halt) -> None:
        """Kill the run for a limit; again at every look until it is gone, for what was born meanwhile."""
        self._halt = self._halt or halt
        self._kill()

    def _terminate(self) -> None:
        for process in self._tree.members():
            # The sandbox's first process is bubblewrap's: it ignores SIGTERM, and ends with the job's last.
            if self._child.status is None or process.pid != self._child.root:
                with contextlib.suppress(psutil.Error):
                    process.terminate()

    def _kill(self) -> None:
        if self._group:
            self._group.kill()
        for process in self._tree.members():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _reap(self) -> bool:
        """Take the exit status of the process we wait for; tell whether it has ended."""
        process = self._child.process
        if process.returncode is None:
            try:
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
            except ChildProcessError:
                process.returncode = 255  # somebody else took it: the status is lost, and no success is claimed
                return True
            if pid == 0:
                return False
            process.returncode = os.waitstatus_to_exitcode(status)
            self._rusage_s += used.ru_utime + used.ru_stime
        return True

    async def _bury(self) -> None:
        """Kill until no process of the run is left, and reap those that became ours when their parents died."""
        left = True
        while left:
            self._kill()
            left = False
            for process in self._tree.remains():
                try:
                    pid, _, used = os.wait4(process.pid, os.WNOHANG)  # noqa: ASYNC222 - WNOHANG does not wait
                except ChildProcessError:  # another's child: a zombie is for its parent to reap
                    left |= lives(process)
                    continue
                left |= pid == 0
                self._rusage_s += used.ru_utime + used.ru_stime
            if left:
                await asyncio.sleep(_SWEEP_S)


@contextlib.contextmanager
def _notice(pid: int, event: asyncio.Event) -> Iterator[bool]:
    """Have `event` set when the process ends; yield whether the kernel can do that (Linux 5.3, pidfd_open(2))."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        yield False
        return
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(fd)
        event.set()

    loop.add_reader(fd, ended)
    try:
        yield True
    finally:
        loop.remove_reader(fd)
        os.close(fd)
