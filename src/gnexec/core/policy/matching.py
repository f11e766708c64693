"""Which jobs a worker may be given, which of them first, and why there was none.

A job goes to a worker that offers what it needs and whose owner may still have a say on it. The line order is that of
`gnexec.core.ready`: higher priority first, then older. An empty hand always has reasons (FEATURES.md N-2).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice

from gnexec.core.events import Offer
from gnexec.core.ready import LineKey
from gnexec.core.records import WorkerRecord
from gnexec.core.terms import Needs
from gnexec.core.world import World
from gnexec.ids import ANONYMOUS


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One reason why a worker gets nothing.

    Attributes:
        code: no_work, quota, owner_has_it, cores, memory_bytes, disk_bytes.
        jobs: number of waiting jobs that it keeps from this worker; where they are many, an upper bound.
        detail: a sentence.
    """

    code: str
    jobs: int
    detail: str


MAX_AT_ONCE = 64
"""Attempts in one hand-out, at most."""
COUNTED = 64
"""Jobs of a line that are counted one by one; an empty hand is not worth walking over a million."""
NO_WORK = Obstacle("no_work", 0, "No job is waiting that you could take.")


def unmet(needs: Needs, offer: Offer | None) -> str | None:
    """Name the first need that `offer` does not meet, or None; a worker that made no offer meets all."""
    if offer is None:
        return None
    for field in ("cores", "memory_bytes", "disk_bytes"):
        if getattr(needs, field) > getattr(offer, field):
            return field
    return None


def obstacle(key: LineKey, worker: WorkerRecord, owner: str) -> str | None:
    """Name what keeps the jobs of a line from a worker, or None."""
    if owner in key.excluded:
        return "owner_has_it"
    return unmet(key.terms.needs, worker.offer)


def choose(world: World, worker: WorkerRecord, owner: str, n: int) -> list[int]:
    """Choose up to `n` jobs for a worker: eligible, best first.

    Args:
        world: is only read.
        worker: who asks.
        owner: for whom its results count.
        n: 1..64.

    Returns:
        Job ids, at most n, and at most `room`.
    """
    most = min(n, room(world, worker))
    if most <= 0:
        return []
    return list(islice(world.ready.best_first(lambda key: obstacle(key, worker, owner) is None), most))


def room(world: World, worker: WorkerRecord) -> int:
    """Return how many attempts more a worker may be given; perhaps none, or less.

    A worker that takes work and is not heard of keeps jobs from others for as long as its leases last, at no cost to
    itself. So where the policy says so, each such hand-out in a row halves what it may hold, down to one attempt; its
    first sign of life gives it all back.
    """
    if worker.id == ANONYMOUS:
        return MAX_AT_ONCE
    policy = world.policy
    most = max(1, policy.max_open >> worker.silent) if policy.silent_halves else policy.max_open
    left = most - worker.open
    return min(left, policy.max_owner_open - world.held.get(worker.owner, 0)) if policy.max_owner_open else left


def explain(world: World, worker: WorkerRecord, owner: str) -> tuple[Obstacle, ...]:
    """Say why `choose` gives this worker nothing (or would give it less); at least one reason."""
    if room(world, worker) <= 0:
        return (_quota(world, worker),)
    kept: Counter[str] = Counter()
    for key in world.ready.lines():
        code = obstacle(key, worker, owner)
        if code is not None:
            kept[code] += world.ready.count(key, COUNTED)
    found = tuple(Obstacle(code, jobs, _SENTENCES[code].format(jobs=jobs)) for code, jobs in kept.items() if jobs)
    return found or (NO_WORK,)


def _quota(world: World, worker: WorkerRecord) -> Obstacle:
    policy = world.policy
    held = world.held.get(worker.owner, 0)
    if worker.open >= policy.max_open:
        detail = f"You hold {worker.open} attempts; {policy.max_open} are allowed at a time."
    elif policy.max_owner_open and held >= policy.max_owner_open:
        detail = f"All your workers hold {held} attempts; {policy.max_owner_open} are allowed at a time."
    else:
        detail = (
            f"Nothing was heard of your last {worker.silent} hand-outs: while you hold {worker.open} attempts, you get "
            "no more. Tell the status of one, or report a result."
        )
    return Obstacle("quota", 0, detail)


_SENTENCES = {
    "owner_has_it": "{jobs} waiting jobs need a result of another owner than you.",
    "cores": "{jobs} waiting jobs need more cores than you offer.",
    "memory_bytes": "{jobs} waiting jobs need more memory than you offer.",
    "disk_bytes": "{jobs} waiting jobs need more disk than you offer.",
}
