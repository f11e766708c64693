"""HyperQueue on one machine: a server and a worker with two cores; each task starts the program `true`.

Its client asks once a second whether all is done: too few tasks would measure that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.peers.peer import Peer, Run, need_modules

EXTRA = "pip install 'gnexec[peers]'"


@contextmanager
def opened(folder: Path) -> Iterator[Run]:
    """Start server and worker."""
    need_modules(EXTRA, "hyperqueue")
    from hyperqueue import Job
    from hyperqueue.cluster import LocalCluster, WorkerConfig

    with ExitStack() as stack:
        with _silence():
            cluster = stack.enter_context(LocalCluster())
            cluster.start_worker(WorkerConfig(cores=2))
        client = cluster.client()

        def run(tasks: int) -> None:
            job = Job(default_workdir=folder)
            for _ in range(tasks):
                job.program(["true"], stdout=None, stderr=None)
            with _silence():
                client.wait_for_jobs([client.submit(job)])

        run(10)
        yield run


@contextmanager
def _silence() -> Iterator[None]:
    """Let nobody in this process print: HyperQueue shows tables and progress on the output that is for results."""
    kept = [(number, os.dup(number)) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        os.close(nowhere)
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)


PEER = Peer("HyperQueue", "a worker of 2 cores, a process for each task; journal off, as by default", 2_000, opened)
