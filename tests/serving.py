"""Real servers for tests: `gnexec serve` in a process of its own, on a free port, over a real SQLite file."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import IO

from gnexec.keys import access_token, load, new_keys
from gnexec.tokens.issued import Scope

ORIGIN = "test.example/gnexec"
_ADDRESS = re.compile(r"http://\S+")


@dataclass
class Server:
    """A running server; `kill` and `start` may be called again and again over the same data."""

    data: Path
    flags: tuple[str, ...] = ()
    url: str = ""
    process: subprocess.Popen[str] | None = None
    output: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = (sys.executable, "-m", "gnexec")

    @property
    def private_keys(self) -> Path:
        """Folder of its private keys."""
        return self.data / "keys"

    @property
    def vkey(self) -> str:
        """Verifier key of its log."""
        return load(self.private_keys).log_verifier.vkey

    def start(self, port: int = 0) -> None:
        """Start it, and wait until it says where it listens."""
        command = [*self.program, "serve", "--data", str(self.data), "--port", str(port), *self.flags]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.data), "PYTHONUNBUFFERED": "1", **self.env}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if "gnexec serves" in line:
                found = _ADDRESS.search(line)
                assert found is not None
                self.url = found[0].rstrip("/")
                break
        else:
            self.process.stdout.close()
            self.process.wait(30)
            msg = f"the server did not start: {''.join(self.output)}"
            raise AssertionError(msg)
        Thread(target=self._listen, args=(self.process.stdout,), daemon=True).start()

    def _listen(self, said: IO[str]) -> None:
        with said:
            self.output.extend(said)

    def restart(self) -> None:
        """Start it anew on the same port; it must be down."""
        self.start(int(self.url.rpartition(":")[2]))

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; return the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def access_token(self, sub: str, *scopes: Scope, project: str = "default", for_s: int = 3600) -> str:
        """Issue an access token, as `gnexec token issue` does."""
        return access_token(
            load(self.private_keys),
            sub,
            scopes,
            project=project,
            now_s=int(time.time()),
            for_s=for_s,
            draw=secrets.token_bytes(16),
        )


@contextmanager
def running_server(data: Path, *flags: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """Run a server over the folder `data` (made if need be) with these flags of `gnexec serve`; killed in the end."""
    server = Server(data, flags, env=env or {})
    data.mkdir(parents=True, exist_ok=True)
    if not (server.private_keys / "ring.json").exists():
        new_keys(server.private_keys, data / "public", ORIGIN)
    server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
