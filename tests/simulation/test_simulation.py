"""The real desk and core under everything that can go wrong at once, in a universe that a seed determines.

A failure names its seed, the kinds of trouble that it takes, and the last lines of the story. GNEXEC_SEED=7 runs one
seed alone; GNEXEC_TORTURE=10 runs a thousand. That these runs find what they are for is tested too: with a rule of
the core broken on purpose, some seed fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from gnexec.core import handout, judge, world
from gnexec.core.commands import Done, Report
from gnexec.core.job import Job
from gnexec.core.policy import redundancy
from gnexec.core.world import World
from gnexec.desk.facts import Facts
from gnexec.desk.ledger import Ledger
from gnexec.errors import StoreAway
from tests.simulation.run import Failed, explain, simulate
from tests.simulation.universe import Trouble

RUNS: Final = 100 * int(os.environ.get("GNEXEC_TORTURE", "0")) or 16
SEEDS: Final = [int(os.environ["GNEXEC_SEED"])] if os.environ.get("GNEXEC_SEED") else list(range(RUNS))
TRIES: Final = 12
"""Seeds that a broken core is given to pass unnoticed."""
ROOT: Final = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def total() -> Iterator[Counter[str]]:
    """Count over all runs, and print the counts at the end."""
    counts: Counter[str] = Counter()
    yield counts
    print(f"\nsimulation, {counts['runs']} runs:")  # noqa: T201 -- these counts are what torture is read by
    for kind, count in sorted(counts.items()):
        print(f"  {count:9d}  {kind}")  # noqa: T201 -- as above


@pytest.mark.parametrize("seed", SEEDS)
def test_simulation_under_all_troubles_breaks_no_promise(seed: int, total: Counter[str]) -> None:
    """Whatever goes wrong, no rule is broken, no answer is contradicted, the audit is green, and every job ends."""
    try:
        counts, _ = simulate(seed)
    except Failed:
        pytest.fail(explain(seed))
    total.update(counts)
    total["runs"] += 1


def test_simulation_of_many_seeds_meets_every_kind_of_trouble() -> None:
    """No kind of trouble is there in name only."""
    met: Counter[str] = Counter()
    for seed in range(50):
        met.update(simulate(seed)[0])
        if all(met[trouble.value] for trouble in Trouble if trouble not in STANDING):
            return
    missing = [trouble.name for trouble in Trouble if trouble not in STANDING and not met[trouble.value]]
    pytest.fail(f"these never happened: {missing}")


STANDING: Final = {Trouble.TWO, Trouble.SNAPSHOT, Trouble.PEOPLE}
"""Troubles that are there from the beginning, and strike nobody in particular."""


def test_simulation_of_one_seed_is_the_same_in_every_process() -> None:
    """A seed determines all of it: another process, with other hashes, lives through the same."""
    program = "from tests.simulation.run import simulate; print(simulate(3)[1])"
    ends = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hashes in ("1", "2")
    }
    assert len(ends) == 1


# A core that is broken on purpose.


def _no_lapse(patch: pytest.MonkeyPatch) -> None:
    """Leases never lapse."""
    patch.setattr(handout, "lapse", lambda *_: ([], Done()))


def _late_results(patch: pytest.MonkeyPatch) -> None:
    """Deadlines of tokens do not count."""
    real = judge.report

    def report(world: World, command: Report, at_ms: int) -> Any:  # noqa: ANN401 -- what it returns
        return real(world, replace(command, exp_s=command.exp_s + 1_000_000), at_ms)

    patch.setattr(judge, "report", report)


def _no_keys(patch: pytest.MonkeyPatch) -> None:
    """Idempotency keys are forgotten."""
    patch.setattr(Facts, "_repeated", lambda *_: None)


def _no_repetition(patch: pytest.MonkeyPatch) -> None:
    """A repeated request for work is a new one."""
    real = handout.next_jobs
    patch.setattr(handout, "next_jobs", lambda world, command, at_ms: real(world, replace(command, req=None), at_ms))


def _two_says(patch: pytest.MonkeyPatch) -> None:
    """One owner gets the same job twice."""
    patch.setattr(world, "excluded_owners", lambda *_, **__: frozenset())


def _small_quorum(patch: pytest.MonkeyPatch) -> None:
    """One result is enough, whatever the quorum."""
    real = redundancy.agreeing

    def agreeing(job: Job, number: int, *, distinct_owners: bool) -> int:
        return max(real(job, number, distinct_owners=distinct_owners), job.terms.redundancy.quorum)

    patch.setattr(redundancy, "agreeing", agreeing)


def _early_answers(patch: pytest.MonkeyPatch) -> None:
    """What was decided is answered though the commit has failed."""
    real = Ledger.record

    def record(self: Ledger, requests: Sequence[Any]) -> list[Any]:
        with suppress(StoreAway):
            return real(self, requests)
        return []

    patch.setattr(Ledger, "record", record)


def _no_catching_up(patch: pytest.MonkeyPatch) -> None:
    """What another server has appended is not looked at."""
    patch.setattr(Ledger, "_catch_up", lambda *_: None)


def _doubtful_world(patch: pytest.MonkeyPatch) -> None:
    """The world is kept as it is when nobody knows what became of the commit."""
    real = Ledger.refold
    patch.setattr(Ledger, "refold", lambda self: real(self) if self.world.size == 0 else None)


BREAKS: Final = [
    _no_lapse,
    _late_results,
    _no_keys,
    _no_repetition,
    _two_says,
    _small_quorum,
    _early_answers,
    _no_catching_up,
    _doubtful_world,
]


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.__name__.lstrip("_"))
def test_simulation_of_a_broken_core_fails(
    monkeypatch: pytest.MonkeyPatch, broken: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Some seed sees the break, and says which it was."""
    broken(monkeypatch)
    for seed in range(TRIES):
        try:
            simulate(seed)
        except Failed as err:
            print(f"{broken.__doc__} {str(err).splitlines()[0]}")  # noqa: T201 -- what it was caught by
            assert f"GNEXEC_SEED={seed}" in str(err)  # noqa: PT017 -- the message is what is tested
            return
    pytest.fail("no seed saw it")
