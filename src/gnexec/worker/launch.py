"""Starts a wrapped command so far that it waits at its gate, where its limits are set before it may go on.

A gate spares the code between fork and exec that Python cannot run safely beside threads: limits, control group and
priority are set from outside, on a process that has not yet begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gnexec.worker.limits import Limits
from gnexec.worker.logfile import LogFile
from gnexec.worker.sandbox import Kind, Sandbox, SandboxUnavailable, explain
from gnexec.worker.tree import MARK
from gnexec.worker.wrap import Launch, bubblewrap, plain

_SETUP_S: Final = 20.0


class Status:
    """What bubblewrap reports: JSON documents, one a line."""

    def __init__(self) -> None:
        self._reader = asyncio.StreamReader()
        self._transport: asyncio.ReadTransport | None = None

    async def attach(self, fd: int) -> None:
        """Read from `fd` from now on; it is closed with this object."""
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._reader), os.fdopen(fd, "rb", buffering=0)
        )

    async def number(self, name: str) -> int | None:
        """Return the next number of this name, or None when the stream ends without it."""
        async for line in self._reader:
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if isinstance(document, dict) and isinstance(document.get(name), int):
                    return int(document[name])
        return None

    def close(self) -> None:
        """Close the stream."""
        if self._transport:
            self._transport.close()


@dataclass(frozen=True, slots=True)
class Child:
    """A command at its gate.

    Attributes:
        process: what is to be waited for: the command itself, or bubblewrap.
        root: first process of the job's tree: the command itself, or the sandbox's first process.
        gate: descriptor to write a line to; the command then goes on. Closed by who writes it.
        status: bubblewrap's reports, or None.
    """

    process: subprocess.Popen[bytes]
    root: int
    gate: int
    status: Status | None


async def launch(
    argv: Sequence[str],
    work: Path,
    env: Mapping[str, str],
    limits: Limits,
    sandbox: Sandbox,
    logs: tuple[LogFile, LogFile],
    name: str,
) -> Child:
    """Start a command up to its gate.

    Args:
        argv: the command.
        work: its work directory, which is already the job user's.
        env: its environment.
        limits: for what the wrapping needs of them.
        sandbox: how it is kept apart.
        logs: where its standard output and error go.
        name: mark by which a plain run's processes are known.

    Raises:
        SandboxUnavailable: bubblewrap could not make the sandbox.
    """
    inlet, gate = os.pipe()
    status = None if sandbox.kind is Kind.PLAIN else Status()
    process: subprocess.Popen[bytes] | None = None
    try:
        if status is None:
            process = _popen(plain(argv, work, {**env, MARK: name}, limits, sandbox.identity), sandbox, logs, inlet)
            return Child(process, process.pid, gate, None)
        reports, report = os.pipe()
        await status.attach(reports)
        try:
            wrapped = bubblewrap(argv, work, env, limits, sandbox.readable, sandbox.identity, inlet, report)
            process = _popen(wrapped, sandbox, logs, None)
        finally:
            os.close(report)
        root = await asyncio.wait_for(status.number("child-pid"), _SETUP_S)
        if root is not None:
            return Child(process, root, gate, status)
    except BaseException:
        os.close(gate)
        _abandon(process, status)
        raise
    finally:
        os.close(inlet)
        for log in logs:
            log.close_inlet()
    os.close(gate)
    _abandon(process, status)
    await logs[1].finish(1.0)
    raise explain(logs[1].path.read_text(errors="replace"))


def _popen(
    wrapped: Launch, sandbox: Sandbox, logs: tuple[LogFile, LogFile], stdin: int | None
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            wrapped.argv,
            env=wrapped.env,
            cwd=wrapped.cwd,
            pass_fds=wrapped.fds,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=logs[0].inlet,
            stderr=logs[1].inlet,
            start_new_session=True,  # an interrupt typed at the worker's terminal is the worker's to handle
            umask=0o022,
            user=sandbox.identity.uid if sandbox.identity else None,
            group=sandbox.identity.gid if sandbox.identity else None,
            extra_groups=[] if sandbox.identity else None,
        )
    except (OSError, subprocess.SubprocessError) as err:
        reason = f"{wrapped.argv[0]} could not be started: {err}."
        mend = "Check that the job's user may run it, and that there is memory and room for another process."
        raise SandboxUnavailable(reason, mend) from err
    finally:
        for fd in wrapped.memory:
            os.close(fd)


def _abandon(process: subprocess.Popen[bytes] | None, status: Status | None) -> None:
    if process:
        process.kill()
        process.wait()
    if status:
        status.close()
