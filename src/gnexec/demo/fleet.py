"""A server and two volunteers on this machine, as real processes that speak real HTTP, for as long as a demo runs.

Rules:
- Nothing outlives the block: each process gets SIGTERM and some time to leave, then it and all it has started is
  killed. Should this process die without having its say, the kernel sends the SIGTERM.
- A process that ends by itself is noticed (`Fleet.check`), not waited for.
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
_ADDRESS = re.compile(r"http://\S+")
_PR_SET_PDEATHSIG: Final = 1  # include/uapi/linux/prctl.h


@dataclass(frozen=True, slots=True)
class Process:
    """One of the fleet's processes; `log` is where it writes what it has to say."""

    name: str
    running: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Make sure that it runs.

        Raises:
            BadConfiguration: it does not; has its last words.
        """
        status = self.running.poll()
        if status is not None:
            said = self.log.read_text(errors="replace").strip()[-1000:]
            msg = f"{self.name} ended (exit status {status}). It said:\n{said}"
            raise BadConfiguration(msg)


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

    def check(self) -> None:
        """Make sure that all of it runs.

        Raises:
            BadConfiguration: a process has ended; has its last words.
        """
        for process in self.processes:
            process.check()


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
        processes.append(_start(name, arguments, folder / f"{name}.log"))
        return processes[-1]

    try:
        serve = ["serve", "--data", str(folder / "server"), "--port", "0", "--allow-raw", "--data-class", "public"]
        url = _address(start("server", serve))
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
        server, workers = processes[:1], processes[1:]
        _end(workers)  # first, so that they can still give back what they run
        _end(server)


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
        found = _ADDRESS.search(server.log.read_text(errors="replace"))
        if found is not None:
            return found[0].rstrip("/")
        server.check()
        time.sleep(0.05)
    msg = f"The server did not start within {START_S} s."
    raise BadConfiguration(msg)


def _start(name: str, arguments: list[str], log: Path) -> Process:
    with log.open("wb") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", "gnexec", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_dies_with(os.getpid()),  # noqa: PLW1509 -- no thread has been started yet
        )
    return Process(name, running, log)


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
