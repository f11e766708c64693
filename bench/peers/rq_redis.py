"""RQ over Redis: two workers that run tasks within themselves, which is faster than RQ's usual fork for each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.peers.peer import Peer, Run, need_modules, running, until
from bench.peers.redis_server import redis_server

EXTRA = "pip install 'gnexec[peers]'"


def noop() -> None:
    """Do nothing; the workers import this."""


@contextmanager
def opened(folder: Path) -> Iterator[Run]:
    """Start Redis and the workers."""
    need_modules(EXTRA, "rq", "redis")
    from redis import Redis
    from rq import Queue

    with redis_server(folder) as socket, ExitStack() as stack:
        url = f"unix://{socket}"
        words = [sys.executable, "-m", "rq.cli", "worker", "--url", url, "--worker-class", "rq.worker.SimpleWorker"]
        for _ in range(2):
            stack.enter_context(running([*words, "--quiet"], folder))
        connection = stack.enter_context(Redis.from_url(url))
        queue = Queue(connection=connection)

        def run(tasks: int) -> None:
            before = len(queue.finished_job_registry)
            task = Queue.prepare_data(noop, result_ttl=3600)
            for _ in range(0, tasks, 500):
                queue.enqueue_many([task] * 500)
            until(lambda: queue.finished_job_registry.count - before >= tasks, "RQ runs the tasks", 0.05)

        run(500)
        yield run


PEER = Peer("RQ", "2 workers without fork; Redis with appendfsync always", 1_500, opened)
