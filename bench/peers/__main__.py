"""`python -m bench.peers`: gnexec and its peers in turn, as a table, as JSON, as a drawing."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Final

from bench.peers import (
    beanstalkd_fsync,
    celery_redis,
    dask_distributed,
    hyperqueue_local,
    procrastinate_pg,
    rq_redis,
)
from bench.peers.own import gnexec
from bench.peers.peer import Peer, Run
from gnexec.bench.figures import Figure, Missing, Row, Sample, figure
from gnexec.bench.machine import Machine, machine

PEERS: Final = (
    gnexec(1, 32, 5_000),
    gnexec(1, 8, 5_000),
    gnexec(64, 8, 30_000),
    gnexec(64, 2, 30_000),
    celery_redis.PEER,
    rq_redis.PEER,
    dask_distributed.PEER,
    procrastinate_pg.PEER,
    hyperqueue_local.PEER,
    beanstalkd_fsync.PEER,
)
GOALS: Final = (
    ("gnexec, n=1, 32 connections", "Celery + Redis", 4.0, 6.0),
    ("gnexec, n=1, 8 connections", "procrastinate", 2.0, 3.5),
    ("gnexec, n=1, 8 connections", "beanstalkd", 0.5, 0.8),
    ("gnexec, n=64, 2 connections", "beanstalkd", 5.0, 9.0),
)
ROWS: Final = (
    *(Row("tasks", peer.name, peer.name) for peer in PEERS),
    *(Row("goals", f"{of} ÷ {over}", of, over, must=must, goal=goal) for of, over, must, goal in GOALS),
)


def main() -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON, one document to a line")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each; they take turns")
    parser.add_argument("--share", type=float, default=1.0, help="part of the usual number of tasks, above 0")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of: " + "; ".join(peer.name for peer in PEERS))
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # or what was started would stay
    if asked.rounds < 1 or not 0 < asked.share <= 100:
        parser.error("--rounds is 1 or more, --share above 0 and at most 100")
    chosen = [peer for peer in PEERS if not asked.only or peer.name in asked.only]
    if asked.only and len(chosen) != len(set(asked.only)):
        parser.error(f"--only takes some of: {'; '.join(peer.name for peer in PEERS)}")
    told = machine()
    figures = measure(chosen, asked.rounds, asked.share)
    (_print_json if asked.json else _print_table)(told, figures)
    return 0


def measure(peers: list[Peer], rounds: int, share: float) -> list[Figure]:
    """Run the tasks through each of `peers` in turn, `rounds` times; `share` of the usual number."""
    samples: dict[str, list[Sample]] = {}
    missing = {peer.name: "not asked for" for peer in PEERS}
    names = {peer.name for peer in peers}
    with tempfile.TemporaryDirectory(prefix="gnexec-peers-") as folder, ExitStack() as stack:
        opened: list[tuple[Peer, Run]] = []
        for place, peer in enumerate(peers):
            say(f"opening {peer.name}")
            own = Path(folder) / str(place)
            own.mkdir()
            try:
                opened.append((peer, stack.enter_context(peer.open(own))))
            except Missing as err:
                missing[peer.name] = str(err)
        for number in range(rounds):
            for peer, run in opened:
                say(f"round {number + 1} of {rounds}: {peer.name}")
                tasks = max(round(peer.tasks * share), 1)
                began = time.perf_counter()
                try:
                    run(tasks)
                except Missing as err:
                    missing[peer.name] = str(err)
                else:
                    samples.setdefault(peer.name, []).append(Sample(tasks, time.perf_counter() - began))
    return [figure(row, samples, missing) for row in ROWS if row.of in names and (row.over or row.of) in names]


def say(text: str) -> None:
    """Tell, beside the result, what is going on."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 -- for whoever waits


def _print_json(told: Machine, figures: list[Figure]) -> None:
    how = {peer.name: peer.how for peer in PEERS}
    documents = [{"kind": "machine", **asdict(told)}]
    documents += [{"kind": "figure", "how": how[each.name], **asdict(each)} for each in figures]
    for document in documents:
        print(json.dumps(document, ensure_ascii=False))  # noqa: T201 -- the result


def _print_table(told: Machine, figures: list[Figure]) -> None:
    how = {peer.name: peer.how for peer in PEERS}
    print(f"{told.cores} cores, load {told.load} before the run, flush of 4 KiB {told.fdatasync_us:,.0f} µs\n")  # noqa: T201
    print(f"{'tasks/s':>8}  system")  # noqa: T201
    for each in figures:
        if each.over is None:
            value = "—" if each.value is None else f"{each.value:,.0f}"
            print(f"{value:>8}  {each.what}: {each.missing or how[each.name]}")  # noqa: T201
    print(f"\n{'ratio':>8}  {'must':>4}  {'goal':>4}  met")  # noqa: T201
    for each in figures:
        if each.over is not None:
            ratio = "—" if each.ratio is None else f"{each.ratio:.2f}"
            met = each.missing if each.ratio is None else f"{each.met}"
            print(f"{ratio:>8}  {each.must:>4}  {each.goal:>4}  {met:<4}  {each.what}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
