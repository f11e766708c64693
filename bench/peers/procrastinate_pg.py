"""Procrastinate over PostgreSQL: two worker processes, eight tasks at a time in each."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.peers.peer import Peer, Run, need_modules, running, until
from gnexec.bench.databases import postgres

EXTRA = "pip install 'gnexec[peers,postgresql]'"
VARIABLE = "BENCH_PROCRASTINATE"


@contextmanager
def opened(folder: Path) -> Iterator[Run]:
    """Start PostgreSQL and the workers."""
    need_modules(EXTRA, "procrastinate", "psycopg")
    import psycopg

    with postgres(None) as url, ExitStack() as stack:
        os.environ[VARIABLE] = url
        from bench.peers.procrastinate_task import app, noop

        async def schema() -> None:
            async with app.open_async():
                await app.schema_manager.apply_schema_async()

        asyncio.run(schema())
        worker = [sys.executable, "-m", "procrastinate", "--app", "bench.peers.procrastinate_task.app", "worker"]
        for _ in range(2):
            stack.enter_context(running([*worker, "--concurrency", "8"], folder))
        db = stack.enter_context(psycopg.connect(url, autocommit=True))

        def done() -> int:
            row = db.execute("SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'").fetchone()
            return 0 if row is None else int(row[0])

        async def defer(tasks: int) -> None:
            async with app.open_async():
                for start in range(0, tasks, 1_000):
                    await noop.batch_defer_async(*({} for _ in range(min(1_000, tasks - start))))

        def run(tasks: int) -> None:
            before = done()
            asyncio.run(defer(tasks))
            until(lambda: done() - before >= tasks, "procrastinate runs the tasks", 0.02)

        run(10)
        yield run


PEER = Peer("procrastinate", "2 processes, 8 tasks at a time in each; PostgreSQL, fsync each commit", 2_000, opened)
