"""Logs that must replay for ever: how they are read, what is said of them, and how new ones are written.

`python -m tests.core.golden` writes the logs of `SCENES` that are not in `tests/golden` yet. One that is there is never
written again: it is what an old gnexec wrote. A change of the laws gets a scene more, and perhaps an upcast.

A file has one line for each entry (leaf, salt, payload), and a last one with what they must fold to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from gnexec.core.commands import EndOutage, NextJobs, OpenLog, Work
from gnexec.core.events import AnyEvent, PolicySet
from gnexec.core.job import Job, fold
from gnexec.core.terms import Needs
from gnexec.core.world import World
from gnexec.ids import ANONYMOUS
from gnexec.tlog.merkle import leaf_hash
from gnexec.tlog.tiles import Tree
from gnexec.wire import decode_leaf, encode_event, encode_leaf, open_payload
from tests.core.rings import Rings
from tests.core.scene import CRASH, ORIGIN, PAIR, POLICY, PREEMPTED, VKEY, Scene, draw, expect, request, terms

FOLDER: Final = Path(__file__).resolve().parents[1] / "golden"


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """An entry: leaf and payload as text, the salt in hexadecimal."""

    leaf: str
    salt: str
    payload: str


def spine() -> Scene:
    """Return a log in which everything happens that can happen to enrolled workers."""
    scene = Scene()
    vera, eve, wim, xaver = (scene.enrol(owner) for owner in ("vera", "eve", "wim", "xaver"))
    scene.submit(request("plain"), request("again"), request("again"), request("pair", PAIR), key="k1")
    scene.submit(
        request("pair", terms(replicas=3, quorum=2)), request("big", terms(needs=Needs(cores=64))), owner="pia"
    )
    scene.later(1)
    scene.report(scene.take(vera, 2, "r1"))  # "plain" and "again" succeed.
    scene.report(scene.take(eve), "wrong")
    honest, slow = scene.take(wim), scene.take(xaver)
    scene.progress(slow, 100_000)
    scene.later(60)
    scene.progress(slow, 600_000)
    scene.report(honest)
    scene.report(honest, "another")  # Equivocation.
    scene.later(200)
    scene.lapse()  # The slow one is abandoned.
    scene.report(slow)  # Too late.
    scene.report(scene.take(scene.enrol("yara")))  # The quorum.
    scene.submit(request("plain"), owner="pia")  # Joins what is closed.
    scene.submit(
        request("crash"),
        request("never", terms(max_attempts=1)),
        request("preempted", terms(priority=3)),
        request("unneeded", terms(replicas=2)),
        request("cancelled"),
        request("waiting", terms(priority=-1, estimate_ms=60_000)),
    )
    scene.report(scene.take(vera), outcome=PREEMPTED)
    scene.report(scene.take(vera))
    scene.report(scene.take(vera), outcome=CRASH)
    scene.progress(scene.take(wim), 0)  # Heard of once, then silent.
    first, second = scene.take(vera), scene.take(wim)
    scene.report(first)
    scene.report(second)  # Unneeded.
    scene.take(xaver)
    scene.cancel(9, 10)
    scene.later(50)
    scene.when(EndOutage(scene.at_ms - 30_000))
    scene.later(1000)
    scene.lapse()
    scene.submit(request("crash", retry_failed=True), request("plain", force=True))
    scene.when(OpenLog(ORIGIN, VKEY, {"kid": "x", "kid2": "x2"}, replace_policy(max_open=2)))
    scene.take(vera, 5, "r2")
    quick = terms(needs=Needs(wall_s=60), priority=9)
    scene.submit(request("late", quick), request("lost", quick), *(request(("many", i)) for i in range(9)))
    expired, _ = scene.take(wim), scene.take(xaver)
    scene.progress(expired, 10_000)
    scene.later(71)
    scene.lapse()  # One at its deadline, one of which nothing was ever heard.
    scene.report(scene.take(wim))
    scene.submit(request(("many", 4), PAIR), owner="pia")
    scene.report(scene.take(wim))
    return scene


def trusting() -> Scene:
    """Return a log of open mode whose operator trusts all volunteers."""
    scene = Scene(replace_policy(distinct_owners=False, open=True))
    scene.submit(request("pair", PAIR), request("single"), owner=ANONYMOUS)
    for turn in range(3):
        scene.later(1)
        work = expect(Work, scene.when(NextJobs(ANONYMOUS, ANONYMOUS, 1, None, draw(turn))))
        scene.when(replace(scene.report_of(work.hand_out), statement=None))
    return scene


def turning() -> Scene:
    """Return a log whose keys turn while attempts are out: token keys, log keys, and a theft."""
    rings = Rings()
    scene = Scene(vkey=rings.vkeys[0])
    vera = scene.enrol("vera")
    scene.jobs(3)
    scene.when(rings.ring("kid", "a", current="kid"))
    held = scene.take(vera)
    scene.later(1)
    scene.when(rings.ring("a", "b", "kid", current="a", log=2))
    scene.progress(scene.take(vera), 0)
    scene.when(rings.ring("b", "c", "a", current="b", retired={"kid"}, log=3, ended=1))
    scene.report(held)
    scene.when(rings.ring("d", "e", current="d", retired={"kid"}, revoked={"a", "b", "c"}, log=3, ended=2))
    scene.later(200)
    scene.lapse()
    return scene


SCENES: Final[dict[str, Callable[[], Scene]]] = {"spine-2": spine, "trusting-2": trusting, "turning-1": turning}
"""Their number goes up when the form of what they write changes; what was written before stays."""


def replace_policy(**changes: Any) -> PolicySet:  # noqa: ANN401 -- fields of the policy
    """Return the scenes' policy with other numbers."""
    return msgspec.structs.replace(POLICY, **changes)


def names() -> list[str]:
    """Return the names of the golden logs that there are."""
    return sorted(path.stem for path in FOLDER.glob("*.jsonl"))


def read(name: str) -> tuple[list[Line], dict[str, Any]]:
    """Return a golden log's entries, and what they must fold to."""
    *lines, last = (FOLDER / f"{name}.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Line) for line in lines], msgspec.json.decode(last)["expect"]


def opened(lines: list[Line]) -> list[tuple[int, AnyEvent]]:
    """Return (at_ms, event) of each entry, every payload held against its leaf."""
    found = []
    for line in lines:
        leaf = decode_leaf(line.leaf.encode())
        found.append((leaf.at, open_payload(leaf, bytes.fromhex(line.salt), line.payload.encode())))
    return found


def outline(lines: list[Line]) -> dict[str, Any]:
    """Return what the entries fold to, in terms that outlive how the world is built."""
    told = opened(lines)
    world, tree = World(), Tree()
    for line, (at_ms, event) in zip(lines, told, strict=True):
        world.apply(event, at_ms)
        tree.append(leaf_hash(line.leaf.encode()))
    entries = [(seq, at_ms, event) for seq, (at_ms, event) in enumerate(told)]
    jobs = {job: fold(job, entries) for job in range(1, world.next_job)}
    return {
        "origin": world.origin,
        "size": world.size,
        "root": tree.root().hex(),
        "jobs": {str(number): _job(job) for number, job in jobs.items() if job is not None},
        "open": sorted(world.jobs),
        "waiting": list(world.ready.best_first(lambda _: True)),
        "leases": {jti: held.lease_until_ms for jti, held in sorted(world.hand_outs.items())},
        "decided": {str(state): n for state, n in sorted(world.decided.items())},
        "workers": {
            record.id: {
                "owner": record.owner,
                "open": record.open,
                "tally": {str(what): n for what, n in sorted(record.tally.items())},
            }
            for record in sorted(world.workers.values(), key=lambda record: record.id)
        },
    }


def _job(job: Job) -> dict[str, Any]:
    return {
        "state": str(job.state),
        "reason": job.reason,
        "canonical": job.canonical,
        "decided_seq": job.decided_seq,
        "owners": list(job.owners),
        "former_owners": list(job.former_owners),
        "quorum": job.terms.redundancy.quorum,
        "attempts": [str(attempt.state) for attempt in job.attempts],
        "comparisons": [list(found) for found in job.comparisons],
    }


def write(name: str) -> None:
    """Write a golden log that is not there yet."""
    lines = []
    for seq, (at_ms, event) in enumerate(SCENES[name]().told):
        payload = encode_event(event)
        salt = hashlib.sha256(b"salt %d" % seq).digest()[:16]
        lines.append(Line(encode_leaf(at_ms, salt, payload).decode(), salt.hex(), payload.decode()))
    encoded = [msgspec.json.encode(line) for line in (*lines, {"expect": outline(lines)})]
    with (FOLDER / f"{name}.jsonl").open("xb") as file:
        file.write(b"\n".join(encoded) + b"\n")


if __name__ == "__main__":
    for missing in sorted(SCENES.keys() - set(names())):
        write(missing)
