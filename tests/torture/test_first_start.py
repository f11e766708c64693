"""A kill while a server is made, or while its keys are changed: the next start finds what is there, and goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from gnexec.client import Client
from gnexec.tokens.issued import Scope
from tests.serving import ORIGIN, Server, running_server
from tests.torture.arena import ROUNDS
from tests.torture.check import gnexec
from tests.torture.faults import Faults
from tests.torture.points import Of, Point, points

_draw = random.Random(0)  # noqa: S311 -- the same everywhere: test ids are made of it


def _cases(of: Of) -> list[tuple[Point, int]]:
    """Return (point, k): every k in a long run, one of them in a short one."""
    return [
        (point, k)
        for point in points(of)
        for k in (range(1, point.most + 1) if ROUNDS else [_draw.randint(1, point.most)])
    ]


def _name(value: object) -> str:
    return value.name if isinstance(value, Point) else str(value)


@pytest.mark.parametrize(("point", "k"), _cases(Of.FIRST_START), ids=_name)
def test_kill_during_the_first_start_needs_no_hand(point: Point, k: int, tmp_path: Path) -> None:
    """Keys, schema or log are half made: the same command, given again, serves; and a job goes in and is proved."""
    faults = Faults(tmp_path / "faults")
    server = Server(tmp_path / "server", ("--allow-raw", "--origin", ORIGIN), env=faults.environment())
    faults.arm(point, k)
    with pytest.raises(AssertionError, match="did not start"):
        server.start()
    assert faults.fired() == [point.name]
    assert server.process is not None
    assert server.process.returncode == -signal.SIGKILL
    server.start()
    try:
        with Client(server.url, server.access_token("ann", Scope.SUBMIT, Scope.READ), patience_s=10) as client:
            assert client.submit(["/bin/true"]).id == 1
        assert httpx2.get(f"{server.url}/readyz").status_code == 200
        gnexec(tmp_path, "log", "verify", server.url, "--vkey", server.vkey)
    finally:
        server.kill()


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server, over whose keys all rotations go."""
    with running_server(tmp_path_factory.mktemp("rotated") / "server", "--allow-raw") as server:
        yield server


@pytest.mark.parametrize(("point", "k"), _cases(Of.ROTATION), ids=_name)
def test_kill_during_a_rotation_of_keys_refuses_no_token(point: Point, k: int, rotated: Server, tmp_path: Path) -> None:
    """The rotation is half done: the next one ends it, and a token from before is good before and after a restart."""
    before = rotated.access_token("ann", Scope.SUBMIT, Scope.READ)
    faults = Faults(tmp_path / "faults")
    faults.arm(point, k)
    rotate = [sys.executable, "-m", "gnexec", "keys", "rotate", "--data", str(rotated.data)]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **faults.environment()}
    assert subprocess.run(rotate, env=env, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert faults.fired() == [point.name]
    rotated.kill()
    rotated.restart()
    after = rotated.access_token("ann", Scope.SUBMIT, Scope.READ)
    for token in (before, after):
        with Client(rotated.url, token, patience_s=10) as client:
            assert client.submit(["/bin/true"], force_recompute=True).id > 0
    assert subprocess.run(rotate, env=env, check=False, capture_output=True).returncode == 0
    with Client(rotated.url, before, patience_s=10) as client:
        assert client.submit(["/bin/true"], force_recompute=True).id > 0
