"""Sets up what a page of the documentation takes for granted: a server, workers, tokens, a log with a history."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gnexec.client import Client
from gnexec.tokens.issued import Scope
from gnexec.worker.sandbox import Kind, Sandbox, detect, unprivileged
from tests.databases import Cluster, binaries
from tests.docs.console import Shell, shell
from tests.requirements import missing, require
from tests.serving import Server, running_server

PROPS = frozenset({"server", "open server", "workers", "submitter", "invitation", "history", "postgresql"})
"""What a page may say that it needs: one of the servers, and on it workers of two owners, the token of a submitter or
of a volunteer, or a log with two decided jobs; a PostgreSQL server of its own, with its tools."""


@contextmanager
def stage(wanted: frozenset[str], folder: Path) -> Iterator[Shell]:
    """Run a shell in the middle of what a page needs.

    Args:
        wanted: some of `PROPS`; without a server the page starts its own.
        folder: empty; the reader's home and the server's data are made in it.
    """
    home = folder / "home"
    home.mkdir()
    with ExitStack() as stack:
        if not wanted & {"server", "open server"}:
            address = f"127.0.0.1:{_free_port()}"
            environment = {"GNEXEC_SERVE_PORT": address.partition(":")[2], "GNEXEC_SERVER": f"http://{address}"}
        else:
            flags = ["--open"] if "open server" in wanted else ["--allow-raw"]
            server = stack.enter_context(running_server(folder / "server", *flags))
            for owner in ("ann", "bob") if wanted & {"workers", "history"} else ():
                stack.enter_context(_worker(server, folder, owner))
            _hand_over(server, wanted, home)
            address = server.url.removeprefix("http://")
            environment = {"GNEXEC_SERVE_PORT": "0"} | ({"GNEXEC_SERVER": server.url} if "submitter" in wanted else {})
        if "postgresql" in wanted:
            environment |= _postgresql(stack.enter_context(Cluster()))
        yield stack.enter_context(shell(home, environment, address))


def require_for(wanted: frozenset[str], typed: str) -> None:
    """Skip, or fail, where the machine lacks what a page needs or what is typed on it."""
    if re.search(r"^curl ", typed, re.MULTILINE):
        require("curl", "curl")
    if re.search(r"^make ", typed, re.MULTILINE):
        require("make", "make")
    if wanted & {"workers", "history"} or re.search(r"^gnexec worker ", typed, re.MULTILINE):
        require("bwrap", "bubblewrap")
        found = detect(Sandbox(Kind.BUBBLEWRAP, (), unprivileged(None)))
        if not found.ok:
            missing(f"{found.reason} {found.mend}")


def _hand_over(server: Server, wanted: frozenset[str], home: Path) -> None:
    """Give the reader tokens and keys, and the log a history."""
    if "submitter" in wanted:
        _secret(home / ".config/gnexec/token", server.access_token("eve", Scope.SUBMIT, Scope.READ))
    if "invitation" in wanted:
        _secret(home / "invitation", server.access_token("ann", Scope.ENROL))
    if "history" in wanted:
        _secret(home / "audit.token", server.access_token("auditor", Scope.AUDIT))
        (home / "log.vkey").write_text(server.vkey + "\n", encoding="utf-8")
        with Client(server.url, server.access_token("eve", Scope.SUBMIT, Scope.READ)) as client:
            for word in ("one", "two"):
                client.wait(client.submit(["echo", word]).id, timeout_s=60)


@contextmanager
def _worker(server: Server, folder: Path, owner: str) -> Iterator[None]:
    command = [sys.executable, "-m", "gnexec", "worker", server.url, "--state", str(folder / owner), "--slots", "1"]
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "GNEXEC_TOKEN": server.access_token(owner, Scope.ENROL)}
    with (folder / f"{owner}.log").open("wb") as log:
        running = subprocess.Popen([*command, "--drain", "1"], stdout=log, stderr=subprocess.STDOUT, env=env)
    try:
        yield
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(60)


def _postgresql(cluster: Cluster) -> dict[str, str]:
    """Return what lets the reader's commands find a PostgreSQL server, and its tools."""
    path = f"{Path(sys.executable).parent}:{binaries()}:/usr/local/bin:/usr/bin:/bin"
    return {"PGHOST": str(cluster.folder), "PGUSER": "postgres", "PATH": path}


def _secret(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port
