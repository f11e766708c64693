"""A Redis server of one's own that flushes its log at each write (appendfsync always), behind a Unix socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.peer import need_command, running, until


@contextmanager
def redis_server(folder: Path) -> Iterator[Path]:
    """Run it and lend its socket."""
    server, tool = need_command("redis-server", "redis-server"), folder / "redis.sock"
    files = ["--dir", str(folder), "--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    with running([server, "--port", "0", "--unixsocket", str(tool), *files], folder):
        until(tool.exists, "redis-server starts")
        yield tool
