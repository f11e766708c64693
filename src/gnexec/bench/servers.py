"""Servers under test, each in a process of its own."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gnexec import keys
from gnexec.bench.cores import server_core
from gnexec.tokens.issued import Scope

ORIGIN = "bench.example/gnexec"
HOST = "127.0.0.1"
_PORT = re.compile(r"http://[^:]+:(\d+)")


@dataclass(frozen=True, slots=True)
class Server:
    """A server under test."""

    port: int
    process: subprocess.Popen[str]

    def resident_bytes(self) -> int:
        """Return its resident memory."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def cpu_s(self) -> float:
        """Return the processor time that it has used, user and system, seconds."""
        used = psutil.Process(self.process.pid).cpu_times()
        return float(used.user + used.system)


@contextmanager
def gnexec_server(data: Path, *flags: str, program: str = "gnexec") -> Iterator[Server]:
    """Run `gnexec serve` over a new log, with new keys in `data`; see `serving`."""
    keys.new_keys(data / "keys", data / "public", ORIGIN)
    with serving(data, *flags, program=program) as server:
        yield server


@contextmanager
def serving(data: Path, *flags: str, program: str = "gnexec") -> Iterator[Server]:
    """Run `gnexec serve` over what is in `data`; it has answered by then.

    Args:
        data: with keys.
        flags: more of them; without `--database` the log is a SQLite file in `data`.
        program: the module that is run: `gnexec`, or one that starts it differently.
    """
    all_flags = ["--data", str(data), "--port", "0", "--allow-raw", "--max-open", "100000", *flags]
    with _running([sys.executable, "-m", program, "serve", *all_flags]) as server:
        yield server


@contextmanager
def trivial_server() -> Iterator[Server]:
    """Run the trivial Starlette route under the same uvicorn."""
    with _running([sys.executable, "-m", "gnexec.bench.servers"]) as server:
        yield server


def access_token(data: Path, name: str, *scopes: Scope) -> str:
    """Issue an access token for the server over `data`."""
    return keys.access_token(
        keys.load(data / "keys"),
        name,
        scopes,
        project="bench",
        now_s=int(time.time()),
        for_s=24 * 3600,
        draw=secrets.token_bytes(16),
    )


@contextmanager
def _running(command: list[str]) -> Iterator[Server]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    core = server_core()
    if core is not None:
        psutil.Process(process.pid).cpu_affinity([core])
    try:
        yield Server(_port(process), process)
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def _port(process: subprocess.Popen[str]) -> int:
    if process.stdout is not None:
        for line in process.stdout:
            found = _PORT.search(line)
            if found:
                return int(found[1])
    msg = "the server under test did not start"
    raise ConnectionError(msg)


async def _hello(_: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


def _serve_trivial() -> None:
    import socket

    import uvicorn

    listening = socket.create_server((HOST, 0), backlog=2048)
    print(f"http://{HOST}:{listening.getsockname()[1]}", flush=True)  # noqa: T201 -- read by `_port`
    config = uvicorn.Config(Starlette(routes=[Route("/", _hello)]), log_level="warning", access_log=False)
    uvicorn.Server(config).run([listening])


if __name__ == "__main__":
    _serve_trivial()
