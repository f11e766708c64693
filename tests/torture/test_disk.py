"""A disk that errs or is full, below the log, the blobs and a worker's spool: what was acknowledged stays.

The server is never started anew here: it must live through the trouble, and serve again when the disk is well.
"""

from __future__ import annotations

import random
import signal
from itertools import product
from pathlib import Path

import pytest

from gnexec.client import Client
from gnexec.tokens.issued import Scope
from tests.serving import running_server
from tests.torture.arena import ROUNDS, SEED, Arena, arena
from tests.torture.disk import Disk, Error, Form
from tests.worker.agents import until, worker

TROUBLES = [
    # operations, part of the path
    ("w", "log.sqlite-wal"),
    ("s", "log.sqlite-wal"),
    ("wst", "log.sqlite"),
    ("w", "blobs/uploads"),
    ("s", "blobs"),
    ("r", "blobs"),
]
FEW = 8
"""Rows of the table that a short run takes."""


def test_disk_that_errs_or_is_full_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Each call on each kind of file fails for a while, done or not done; meanwhile and afterwards all is as it was."""
    disk = Disk(tmp_path)
    draw = random.Random(f"{SEED}/disk")  # noqa: S311 -- a seed that can be told
    with arena(SEED, env=disk.environment()) as it:
        for _ in range(max(1, ROUNDS)):
            table = list(product(TROUBLES, Error, Form))
            for (operations, part), error, form in draw.sample(table, len(table) if ROUNDS else FEW):
                it.crowd.moves(draw.randrange(1, 30))
                _trouble(it, disk, operations, error, form, part, draw.randrange(1, 10))
        assert it.server.process is not None
        assert it.server.process.poll() is None
        it.ready()
        it.finish()


def _trouble(it: Arena, disk: Disk, operations: str, error: Error, form: Form, part: str, count: int) -> None:
    goal = disk.hits + count
    disk.breaks(operations, error, form, part)

    def hit() -> bool:
        it.crowd.check()
        return disk.hits >= goal

    until(hit, f"{count} calls that fail: {operations} {part} {error.name}", lambda: it.words)
    disk.mends()
    it.killed[f"disk: {operations} {part} {error.name} {form.name}"] += count


CASES = list(product(Form, Error))


@pytest.mark.parametrize(("form", "error"), CASES if ROUNDS else CASES[:1])
def test_worker_whose_spool_cannot_be_written_comes_back_by_itself(form: Form, error: Error, tmp_path: Path) -> None:
    """It asks for nothing that it could not keep; when the disk is well, jobs are done, and nothing is left."""
    disk = Disk(tmp_path / "disk")
    flags = ("--slots", "1", "--wait", "1s", "--unsafe-no-sandbox")
    with running_server(tmp_path / "server", "--allow-raw", "--lease", "2s") as server:
        owner = server.access_token("volunteer", Scope.ENROL)
        with (
            Client(server.url, server.access_token("submitter", Scope.SUBMIT, Scope.READ)) as client,
            worker(server.url, tmp_path / "state", *flags, access_token=owner) as one,
        ):
            one.env = disk.environment()
            one.start()
            job = client.submit(["/bin/echo", "before"], outputs=["stdout"]).id
            assert client.wait(job, timeout_s=60).state == "succeeded", one.text
            for operations in "wsr":
                disk.breaks(operations, error, form, "/spool")
                job = client.submit(["/bin/echo", operations], outputs=["stdout"]).id
                disk.until(disk.hits + 2)
                disk.mends()
                assert client.wait(job, timeout_s=60).state == "succeeded", one.text
                assert client.stdout(job) == f"{operations}\n".encode()
            assert one.process is not None
            assert one.process.poll() is None, one.text
            one.signal(signal.SIGTERM)
            assert one.wait() == 0, one.text
            one.start()
            until(lambda: not one.entries, "an empty spool", lambda: one.text)
