"""Celery over Redis, both for messages and for results: a prefork worker with two processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.peer import Peer, Run, need_modules, running
from bench.peers.redis_server import redis_server

EXTRA = "pip install 'gnexec[peers]'"
VARIABLE = "BENCH_CELERY_REDIS"


@contextmanager
def opened(folder: Path) -> Iterator[Run]:
    """Start Redis and the worker."""
    need_modules(EXTRA, "celery", "redis")
    with redis_server(folder) as socket:
        os.environ[VARIABLE] = str(socket)
        worker = [sys.executable, "-m", "celery", "-A", "bench.peers.celery_task", "worker"]
        with running([*worker, "--pool", "prefork", "--concurrency", "2", "--loglevel", "ERROR"], folder):
            from celery import group

            from bench.peers.celery_task import app, noop

            def run(tasks: int) -> None:
                group(noop.s() for _ in range(tasks)).apply_async().join_native(timeout=600)

            run(10)
            yield run
            app.close()


PEER = Peer("Celery + Redis", "prefork 2; Redis with appendfsync always", 3_000, opened)
