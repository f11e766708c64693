"""Real workers for tests: `gnexec worker` in a process of its own; and a gateway that loses or changes replies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2

from gnexec.errors import BadConfiguration
from gnexec.worker.statedir import StateDir

LONG_S = 60.0
"""How long a test waits for what must come; it never waits longer than that takes."""


def until(condition: Callable[[], Any], what: str, also: Callable[[], str] = str) -> Any:  # noqa: ANN401 -- what it says
    """Wait until a condition holds and return what it says; if it never does, fail with `what` and what `also` says."""
    give_up = time.monotonic() + LONG_S
    while not (found := condition()):
        if time.monotonic() > give_up:
            msg = f"this never came: {what}\n{also()}"
            raise AssertionError(msg)
        time.sleep(0.02)
    return found


@dataclass
class Worker:
    """A worker; `start` and `kill` may be called again and again over the same state."""

    url: str
    state: Path
    flags: tuple[str, ...] = ()
    access_token: str | None = None
    process: subprocess.Popen[bytes] | None = None
    env: dict[str, str] = field(default_factory=dict)

    def start(self, *flags: str) -> None:
        """Start it."""
        command = [sys.executable, "-m", "gnexec", "worker", self.url, "--state", str(self.state), *self.flags, *flags]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.state.parent), "NO_COLOR": "1", **self.env}
        if self.access_token is not None:
            env["GNEXEC_TOKEN"] = self.access_token
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)

    @property
    def output(self) -> Path:
        """The file into which it talks."""
        return self.state.with_suffix(".out")

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end and return the exit status."""
        assert self.process is not None
        try:
            return self.process.wait(LONG_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.text) from None

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        self.signal(signal.SIGKILL)
        self.wait()

    def run(self, *flags: str) -> int:
        """Run it to its end."""
        self.start(*flags)
        return self.wait()

    def says(self, text: str) -> None:
        """Wait until it has said something."""
        until(lambda: text in self.text, f"{text!r} in the worker's output", lambda: self.text)

    @property
    def text(self) -> str:
        """All that it has said."""
        return self.output.read_text()

    @property
    def entries(self) -> list[Path]:
        """Folders of the attempts in its spool."""
        with contextlib.suppress(FileNotFoundError):
            return [path for path in (self.state / "spool").iterdir() if path.is_dir()]
        return []

    @property
    def has_result(self) -> bool:
        """Whether a result waits in its spool."""
        return any((entry / "result.json").exists() for entry in self.entries)


@contextmanager
def worker(url: str, state: Path, *flags: str, access_token: str | None = None) -> Iterator[Worker]:
    """Have a worker, not started yet; killed in the end."""
    made = Worker(url, state, flags, access_token)
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.kill()
        with contextlib.suppress(BadConfiguration):  # another worker of the same test still uses it
            StateDir(state).release()  # as the next start would, this clears away what the killed one has left


class Deed(StrEnum):
    """What the gateway does with a request."""

    PASS = "pass"
    LOSE = "lose"
    """The server gets the request, the worker no reply."""
    REFUSE = "refuse"
    """The server gets nothing, the worker a 503."""
    CHANGE = "change"
    """The reply's body is another."""


Rule = Callable[[str, str], Deed]


class Gateway:
    """Stands between worker and server, and does to each request what `rule` says of its method and path.

    It does not pass on that a worker has hung up: where that matters, the worker must go to the server directly.

    Attributes:
        url: its own address.
        rule: may be changed at any time.
        seen: requests so far, as "METHOD path", without their query.
    """

    def __init__(self, upstream: str) -> None:
        """Listen on a free port."""
        self.rule: Rule = lambda _, __: Deed.PASS
        self.seen: list[str] = []
        self.sent_to: list[tuple[str, str]] = []
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                gateway._serve(self, upstream)

            do_GET = do_HEAD = do_PUT = do_POST = handle_any  # noqa: N815 -- as http.server calls them

            def log_message(self, *_: Any) -> None:  # noqa: ANN401 -- as http.server calls it
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler, upstream: str) -> None:
        path = handler.path.partition("?")[0]
        self.seen.append(f"{handler.command} {path}")
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        deed = self.rule(handler.command, path)
        if deed is Deed.REFUSE:
            handler.send_response(503)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in {"host", "connection"}}
        try:
            reply = httpx2.request(
                handler.command, upstream + handler.path, content=body, headers=headers, timeout=LONG_S
            )
        except httpx2.HTTPError:
            handler.close_connection = True
            return
        if deed is Deed.LOSE:
            handler.close_connection = True
            return
        content = reply.content[::-1] + b"?" if deed is Deed.CHANGE else reply.content
        with contextlib.suppress(OSError):
            handler.send_response(reply.status_code)
            for name, value in reply.headers.items():
                if name.lower() not in {"content-length", "transfer-encoding", "connection", "date", "server"}:
                    handler.send_header(name, value)
            length = reply.headers.get("Content-Length", "0") if handler.command == "HEAD" else str(len(content))
            handler.send_header("Content-Length", length)
            handler.end_headers()
            if handler.command != "HEAD":
                handler.wfile.write(content)


@contextmanager
def gateway(upstream: str) -> Iterator[Gateway]:
    """Have a gateway before a server."""
    made = Gateway(upstream)
    try:
        yield made
    finally:
        made.close()


def once_each(deed: Deed, *wanted: str) -> Rule:
    """Do something to the first request of each kind, such as "PUT /jobs/*/result"; the rest passes."""
    left = set(wanted)

    def rule(method: str, path: str) -> Deed:
        parts = path.split("/")
        kind = f"{method} {'/'.join('*' if part.isdigit() or len(part) == 64 else part for part in parts)}"
        if kind in left:
            left.discard(kind)
            return deed
        return Deed.PASS

    return rule


def always(deed: Deed, method: str, end: str) -> Rule:
    """Do something to every request of this method whose path ends, or for blobs begins, like this."""
    return lambda its, path: deed if its == method and (path.endswith(end) or path.startswith(end)) else Deed.PASS
