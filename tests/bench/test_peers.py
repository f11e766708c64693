"""The comparison with other systems runs, says what is missing, and its page shows what was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from bench import draw
from bench.peers.__main__ import GOALS, PEERS

from tests.requirements import require

OURS = "gnexec, n=64, 2 connections"


def run(*flags: str) -> list[dict[str, Any]]:
    """Run `python -m bench.peers --json` with few tasks, and return what it prints."""
    command = [sys.executable, "-m", "bench.peers", "--json", "--rounds", "1", "--share", "0.01", *flags]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=draw.ROOT, env={**os.environ, "PYTHONPATH": ""}, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_gnexec_and_beanstalkd_take_turns() -> None:
    """Both have their tasks done in one run, and the ratio is that of the two rates."""
    require("beanstalkd", "beanstalkd")
    told, ours, theirs, ratio = run("--only", OURS, "beanstalkd")
    assert told["kind"] == "machine"
    assert ours["value"] > 0
    assert theirs["value"] > 0
    assert ratio["ratio"] == ours["value"] / theirs["value"]


def test_system_that_is_not_installed_is_left_out_with_the_reason() -> None:
    """Whatever is missing names its package, and the run goes on."""
    for each in run("--only", "Celery + Redis", "RQ", "Dask.distributed", "HyperQueue")[1:]:
        assert (each["value"] is None) == (each["missing"] is not None)
        assert each["missing"] is None or "install" in each["missing"]


def test_goals_are_about_systems_that_are_run() -> None:
    """No goal names a system that nobody runs."""
    names = {peer.name for peer in PEERS}
    assert len(names) == len(PEERS)
    assert all(of in names and over in names for of, over, _, _ in GOALS)


def test_drawings_and_tables_of_the_page_are_those_of_the_results() -> None:
    """`python -m bench.draw` would change nothing, and the page has its tables word for word."""
    assert (draw.DRAWINGS / "performance-goals.svg").read_bytes() == draw.goals()
    assert (draw.DRAWINGS / "performance-peers.svg").read_bytes() == draw.peers()
    text = draw.PAGE.read_text("utf-8")
    assert draw.page(text) == text
    assert draw.goals_table() in text
