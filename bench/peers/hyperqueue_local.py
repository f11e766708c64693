"""HyperQueue on one machine: a server and a worker with two cores; each task starts the program `true`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.peer import Peer, Run, need_modules

EXTRA = "pip install 'gnexec[peers]'"


@contextmanager
def opened(folder: Path) -> Iterator[Run]:
    """Start server and worker."""
    need_modules(EXTRA, "hyperqueue")
    from hyperqueue import Job
    from hyperqueue.cluster import LocalCluster, WorkerConfig

    with LocalCluster() as cluster:
        cluster.start_worker(WorkerConfig(cores=2))
        client = cluster.client()

        def run(tasks: int) -> None:
            job = Job(default_workdir=folder)
            for _ in range(tasks):
                job.program(["true"], stdout=None, stderr=None)
            client.wait_for_jobs([client.submit(job)])

        run(10)
        yield run


PEER = Peer("HyperQueue", "a worker of 2 cores, a process for each task; journal off, as by default", 2_000, opened)
