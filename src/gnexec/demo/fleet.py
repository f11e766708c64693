"""A server and two volunteers on this machine, as real processes that speak real HTTP, for as long as a demo runs.

Rules:
- A process that was killed is started again, over the same state: that is how a demo survives `kill -9`. One that gives
  up by itself ends the demo, with its last words.
- Nothing outlives the block: each process is asked to leave at once, and after some time it and all that it has started
  is killed. Should this process die without having its say, the kernel asks them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from gnexec.errors import BadConfiguration
from gnexec.keys import ServerKeys, access_token, new_keys
from gnexec.tokens.issued import Scope

ORIGIN: Final = "demo.example/gnexec"
OWNERS: Final = ("ann", "bob")
DAY_S: Final = 24 * 3600
START_S: Final = 60
LEAVE_S: Final = 5
MOST_RESTARTS: Final = 100
_ADDRESS = re.compile(r"http://\S+")
_PR_SET_PDEATHSIG: Final = 1  # include/uapi/linux/prctl.h


@dataclass(slots=True)
class Process:
    """One of the fleet's processes.

    Attributes:
        name: for people.
        arguments: of `gnexec`.
        log: where it writes what it has to say.
        running: the process as it runs now.
        restarts: how often it was started again.
    """

    name: str
    arguments: list[str]
    log: Path
    running: subprocess.Popen[bytes]
    restarts: int = 0

    def tend(self) -> bool:
        """Start the process again if it was killed; return whether it was.

        Raises:
            BadConfiguration: it has ended by itself, or was killed too often; has its last words.
        """
        status = self.running.poll()
        if status is None:
            return False
        if status >= 0 or self.restarts == MOST_RESTARTS:
            said = self.log.read_text(errors="replace").strip()[-1000:]
            msg = f"{self.name} ended (exit status {status}). It said:\n{said}"
            raise BadConfiguration(msg)
        self.restarts += 1
        self.running = _start(self.arguments, self.log)
        return True


@dataclass(frozen=True, slots=True)
class Fleet:
    """What runs.

    Attributes:
        url: the server's address. token: of the submitter. vkey: of the log.
        processes: the server and the workers.
    """

    url: str
    token: str
    vkey: str
    processes: tuple[Process, ...]

    def tend(self) -> list[str]:
        """Start again what was killed; return the names of those.

        Raises:
            BadConfiguration: a process has ended by itself; has its last words.
        """
        return [process.name for process in self.processes if process.tend()]


@contextmanager
def fleet(folder: Path, worker_flags: Sequence[str]) -> Iterator[Fleet]:
    """Run a server and a worker for each of two owners; all of them end with the block.

    Args:
        folder: existing; server, workers and their logs live in it.
        worker_flags: further flags of `gnexec worker`.

    Raises:
        BadConfiguration: a process does not start; has its last words.
    """
    keys = new_keys(folder / "server" / "keys", folder / "server" / "public", ORIGIN)
    processes: list[Process] = []

    def start(name: str, arguments: list[str]) -> Process:
        log = folder / f"{name}.log"
        processes.append(Process(name, arguments, log, _start(arguments, log)))
        return processes[-1]

    try:
        kept = ["--data", str(folder / "server"), "--allow-raw", "--data-class", "public"]
        server = start("server", ["serve", "--port", "0", *kept])
        url = _address(server)
        server.arguments = ["serve", "--port", url.rpartition(":")[2], *kept]
        for owner in OWNERS:
            secret = folder / f"{owner}.token"
            secret.touch(mode=0o600)
            secret.write_text(_token(keys, owner, Scope.ENROL))
            own = ["--owner-token-file", str(secret), "--state", str(folder / owner), "--name", owner]
            share = ["--slots", str(_slots()), "--wait", "5s", "--drain", "1s", "--grace", "2s"]
            start(f"worker-{owner}", ["worker", url, *share, *own, *worker_flags])
        submitter = _token(keys, "demo", Scope.SUBMIT, Scope.READ)
        yield Fleet(url, submitter, keys.log_verifier.vkey, tuple(processes))
    finally:
        _end(processes[1:])  # the workers first, so that they can still give back what they run
        _end(processes[:1])


def _slots() -> int:
    return max(1, len(os.sched_getaffinity(0)) // len(OWNERS))


def _token(keys: ServerKeys, name: str, *scopes: Scope) -> str:
    return access_token(
        keys, name, scopes, project="demo", now_s=int(time.time()), for_s=DAY_S, draw=secrets.token_bytes(16)
    )


def _address(server: Process) -> str:
    """Wait until the server says where it listens."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        server.tend()
        found = _ADDRESS.findall(server.log.read_text(errors="replace"))
        if found:
            return str(found[-1]).rstrip("/")
        time.sleep(0.05)
    msg = f"The server did not start within {START_S} s."
    raise BadConfiguration(msg)


def _start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "gnexec", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_dies_with(os.getpid()),  # noqa: PLW1509 -- it takes no lock that another thread may hold
        )


def _dies_with(parent: int) -> Callable[[], None]:
    """Return what a new process does so that it gets SIGTERM when `parent` dies.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before it was asked
            os._exit(1)

    return ask


def _end(processes: Sequence[Process]) -> None:
    """End processes; those that do not leave in time, with all that they have started."""
    for process in processes:
        for number in (signal.SIGINT, signal.SIGTERM):  # a worker takes the second one to mean: at once
            process.running.send_signal(number)
    until = time.monotonic() + LEAVE_S
    for process in processes:
        try:
            process.running.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill_tree(process.running)


def _kill_tree(running: subprocess.Popen[bytes]) -> None:
    tree = [psutil.Process(running.pid)]
    with contextlib.suppress(psutil.NoSuchProcess):
        tree += tree[0].children(recursive=True)
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    running.wait()
