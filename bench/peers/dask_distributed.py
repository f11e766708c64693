"""Dask.distributed on one machine: a scheduler in this process, two worker processes of one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.peer import Peer, Run, need_modules

EXTRA = "pip install 'gnexec[peers]'"


def noop(_: int) -> None:
    """Do nothing."""


@contextmanager
def opened(folder: Path) -> Iterator[Run]:
    """Start scheduler and workers."""
    need_modules(EXTRA, "distributed")
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=str(folder)
        ) as cluster,
        Client(cluster) as client,
    ):

        def run(tasks: int) -> None:
            client.gather(client.map(noop, range(tasks), pure=False))

        run(10)
        yield run


PEER = Peer("Dask.distributed", "2 worker processes of one thread; nothing is on disk", 3_000, opened)
