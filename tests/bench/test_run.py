"""`gnexec bench` runs, with counts as small as they go, and counts what was really done."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from gnexec.bench.goals import ROWS
from gnexec.bench.servers import HOST, ORIGIN, Server, access_token, gnexec_server
from gnexec.bench.stations import hand_in
from gnexec.bench.volunteer import Volunteer, cycles
from gnexec.core.events import ResultsReported
from gnexec.desk.facts import read
from gnexec.store import open_reader
from gnexec.tokens.issued import Scope

LONGEST_S = 600


def bench(*flags: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `gnexec bench`."""
    env = {**os.environ, "HOME": str(folder)}
    command = [sys.executable, "-m", "gnexec", "bench", *flags]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, timeout=LONGEST_S, check=False)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a whole run prints as JSON."""
    done = bench("--quick", "--json", folder=tmp_path_factory.mktemp("bench"))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_bench_as_json_has_the_machine_and_every_line_of_the_goals(figures: list[dict[str, Any]]) -> None:
    """One document to a line: what it ran on, then a figure for each row, in order."""
    told, *rest = figures
    assert told["kind"] == "machine"
    assert told["cores"] == len(os.sched_getaffinity(0))
    assert told["fdatasync_us"] > 0
    assert [(each["kind"], each["name"], each["over"] or None) for each in rest] == [
        ("figure", row.of, row.over) for row in ROWS
    ]


def test_bench_measures_all_that_the_machine_allows(figures: list[dict[str, Any]]) -> None:
    """Every figure has a value, or says why not; only PostgreSQL may be missing here."""
    for each in figures[1:]:
        if each["missing"]:
            assert each["name"].startswith("pg-"), each
        else:
            assert each["value"] > 0 or each["name"] in {"idle", "idle-memory"}, each
            assert each["samples"] == 1


def test_bench_ratios_are_those_of_its_own_rates(figures: list[dict[str, Any]]) -> None:
    """With one round, a ratio is what a reader works out from two lines of the report."""
    values = {each["name"]: each["value"] for each in figures[1:]}
    ratios = [each for each in figures[1:] if each["ratio"] is not None]
    assert len(ratios) > 10
    for each in ratios:
        mine, other = each["value"], values[each["over"]]
        assert each["ratio"] == pytest.approx(other / mine if each["name"] == "fold" else mine / other)


def test_bench_of_one_topic_prints_its_lines_only(tmp_path: Path) -> None:
    """What is not asked for is not measured; the table is for terminals of 80 columns."""
    done = bench("--quick", "--only", "ed25519", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition("Ed25519 ")[2] for line in lines[-7:-3]] == [
        row.what.partition("Ed25519 ")[2] for row in ROWS if row.topic == "ed25519"
    ]
    assert max(map(len, lines)) <= 100
    assert "GET" not in done.stdout


def test_bench_of_an_unknown_topic_names_the_known_ones(tmp_path: Path) -> None:
    """A wrong word is refused before anything is measured."""
    done = bench("--only", "speed", folder=tmp_path)
    assert done.returncode == 2
    assert "'speed'" in done.stderr
    assert "replay" in done.stderr


@pytest.mark.parametrize(("name", "told"), [("cycle", "pip install py-spy"), ("speed", "n64")])
def test_profile_that_cannot_be_made_says_how_to_mend_it(tmp_path: Path, name: str, told: str) -> None:
    """Without py-spy its package is named, and an unknown measurement is answered by the known ones."""
    python = str(tmp_path / "python")  # beside which there is no py-spy either
    code = f"import sys; sys.executable = {python!r}; from gnexec.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "bench", "--quick", "--profile", name]
    env = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=LONGEST_S, check=False
    )
    assert done.returncode == 1, done.stdout
    assert told in done.stderr


def test_database_that_cannot_be_reached_is_a_reason_and_not_a_failure(tmp_path: Path) -> None:
    """The lines of PostgreSQL are missing with the reason, without the password, and the others are there."""
    address = f"postgresql://eve:open-sesame@/x?host={tmp_path}"
    done = bench("--quick", "--json", "--only", "postgres", "--database", address, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()][1:]
    assert len(found) == 3
    assert all("--database" in each["missing"] for each in found)
    assert "open-sesame" not in done.stdout + done.stderr


def test_bench_that_is_terminated_takes_its_servers_with_it(tmp_path: Path) -> None:
    """Whatever was started ends with the run, however early that is."""
    command = [sys.executable, "-m", "gnexec", "bench", "--quick", "--only", "cycle"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path) as running:
        us = psutil.Process(running.pid)
        while not (servers := [each for each in us.children() if "serve" in each.cmdline()]):
            assert running.poll() is None
            time.sleep(0.02)
        running.terminate()
        assert running.wait(60) == 128 + signal.SIGTERM
    gone, left = psutil.wait_procs(servers, timeout=60)
    assert gone
    assert not left


def _load(server: Server, data: Path, connections: int, n: int) -> float:
    """Have work done by some volunteers; return how many jobs were counted."""

    async def load() -> float:
        enrol, submit = access_token(data, "ann", Scope.ENROL), access_token(data, "eve", Scope.SUBMIT)
        volunteers = [await Volunteer.enrol(HOST, server.port, ORIGIN, enrol) for _ in range(connections)]
        assert (await hand_in(server.port, submit, 1_500)).count == 2_000
        done = await cycles(volunteers, n, 0.2)
        for each in volunteers:
            each.wire.close()
        await asyncio.sleep(0)  # the loop sees them go
        return done.count

    return asyncio.run(load())


def test_cycles_are_as_many_as_the_log_has_results(tmp_path: Path) -> None:
    """What is counted as done was durably reported, one by one."""
    with gnexec_server(tmp_path) as server:
        counted = _load(server, tmp_path, 4, 16)
    with closing(open_reader(f"sqlite:///{tmp_path / 'log.sqlite'}")) as log:
        events = [read(seq, entry)[2] for seq, entry in enumerate(log.entries(0, log.head().size))]
    reported = sum(len(event.results) for event in events if isinstance(event, ResultsReported))
    assert counted == reported > 0


@pytest.mark.parametrize(("program", "alone"), [("gnexec", False), ("gnexec.bench.single", True)])
def test_server_of_single_transactions_never_shares_one(tmp_path: Path, program: str, *, alone: bool) -> None:
    """What group commit is compared with decides each request by itself, and the ordinary server does not."""
    with gnexec_server(tmp_path, program=program) as server:
        _load(server, tmp_path, 32, 1)
        page = httpx2.get(f"http://{HOST}:{server.port}/metrics").text
    total, batches = (_metric(page, f"gnexec_batch_requests_{part}") for part in ("sum", "count"))
    assert total > 64
    assert (total == batches) == alone


def _metric(page: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", page, re.MULTILINE)
    assert found is not None, page
    return float(found[1])
