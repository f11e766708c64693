"""A server and two volunteers on this machine, as real processes that speak real HTTP, for as long as a demo runs."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gnexec.errors import BadConfiguration
from gnexec.keys import ServerKeys, access_token, new_keys
from gnexec.tokens.issued import Scope

ORIGIN: Final = "demo.example/gnexec"
OWNERS: Final = ("ann", "bob")
DAY_S: Final = 24 * 3600
_ADDRESS = re.compile(r"http://\S+")


@dataclass(frozen=True, slots=True)
class Fleet:
    """What runs.

    Attributes:
        url: the server's address. token: of the submitter. vkey: of the log.
    """

    url: str
    token: str
    vkey: str


@contextmanager
def fleet(folder: Path, worker_flags: Sequence[str]) -> Iterator[Fleet]:
    """Run a server and a worker for each of two owners; all of them end with the block.

    Args:
        folder: existing; server, workers and their logs live in it.
        worker_flags: further flags of `gnexec worker`.

    Raises:
        BadConfiguration: a process does not start; says what it said.
    """
    keys = new_keys(folder / "server" / "keys", folder / "server" / "public", ORIGIN)
    with ExitStack() as stack:
        serve = ["serve", "--data", str(folder / "server"), "--port", "0", "--allow-raw", "--data-class", "public"]
        url = stack.enter_context(_serving(serve, folder / "server.log"))
        for owner in OWNERS:
            secret = folder / f"{owner}.token"
            secret.touch(mode=0o600)
            secret.write_text(_token(keys, owner, Scope.ENROL))
            flags = ["--owner-token-file", str(secret), "--state", str(folder / owner), "--name", owner]
            command = ["worker", url, "--slots", str(_slots()), "--wait", "5", "--drain", "1", *flags, *worker_flags]
            stack.enter_context(_process(command, folder / f"{owner}.log"))
        yield Fleet(url, _token(keys, "demo", Scope.SUBMIT, Scope.READ), keys.log_verifier.vkey)


def _slots() -> int:
    return max(1, len(os.sched_getaffinity(0)) // len(OWNERS))


def _token(keys: ServerKeys, name: str, *scopes: Scope) -> str:
    return access_token(
        keys, name, scopes, project="demo", now_s=int(time.time()), for_s=DAY_S, draw=secrets.token_bytes(16)
    )


@contextmanager
def _process(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 -- our own command
            [sys.executable, "-m", "gnexec", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _serving(arguments: list[str], log: Path) -> Iterator[str]:
    """Start the server and wait until it says where it listens."""
    with _process(arguments, log) as process:
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            found = _ADDRESS.search(log.read_text(errors="replace"))
            if found is not None:
                yield found[0].rstrip("/")
                return
            time.sleep(0.05)
        msg = f"The server did not start. It said: {log.read_text(errors='replace').strip()[-500:]}"
        raise BadConfiguration(msg)
