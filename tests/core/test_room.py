"""How much a worker may be given: silence halves it, an owner's workers share it, and old logs decide as before."""

from __future__ import annotations

import msgspec
import pytest

from gnexec.core.commands import Enrol, NoWork
from gnexec.core.policy.matching import COUNTED, explain
from gnexec.core.ready import LineKey
from gnexec.core.terms import Needs
from gnexec.wire import decode_event
from tests.core.scene import OFFER, POLICY, Scene, digest, draw, expect, terms

STRICT = msgspec.structs.replace(POLICY, silent_halves=True, max_owner_open=10)


@pytest.fixture
def strict() -> Scene:
    """A log under a policy with both bounds, and many jobs."""
    scene = Scene(STRICT)
    scene.jobs(100)
    return scene


def take_in_silence(scene: Scene, worker: str) -> int:
    """Take as much as there is for a worker, let it lapse unheard, and return how much it was."""
    taken = len(scene.take(worker, n=64).jobs)
    scene.later(POLICY.lease_s + 1)
    scene.lapse()
    return taken


def test_silent_hand_outs_in_a_row_halve_what_a_worker_gets(strict: Scene) -> None:
    """Down to one attempt at a time, never to none: a worker that is only unlucky finds back."""
    vera = strict.enrol("vera")
    assert [take_in_silence(strict, vera) for _ in range(6)] == [8, 4, 2, 1, 1, 1]
    assert strict.tally(vera) == {"undelivered": 17}


@pytest.mark.parametrize("sign", ["progress", "result"])
def test_first_sign_of_life_gives_a_silent_worker_everything_back(strict: Scene, sign: str) -> None:
    """A report of progress is enough, and so is a result."""
    vera = strict.enrol("vera")
    for _ in range(3):
        take_in_silence(strict, vera)
    held = strict.take(vera, n=64)
    assert len(held.jobs) == 1
    if sign == "progress":
        strict.progress(held)
    else:
        strict.report(held)
    assert len(held.jobs) + len(strict.take(vera, n=64).jobs) == 8 + (sign == "result")


def test_silent_worker_is_told_why_it_gets_nothing(strict: Scene) -> None:
    """The reason is its quota, and the way out is named."""
    vera = strict.enrol("vera")
    for _ in range(3):
        take_in_silence(strict, vera)
    strict.take(vera)
    (reason,) = expect(NoWork, strict.next(vera)).obstacles
    assert reason.code == "quota"
    assert "3 hand-outs" in reason.detail


def test_worker_that_was_heard_of_and_then_falls_silent_is_not_halved(strict: Scene) -> None:
    """That costs the job's budget, as ever; it is another fault."""
    vera = strict.enrol("vera")
    for _ in range(3):
        strict.progress(strict.take(vera, n=64))
        strict.later(POLICY.lease_s + 1)
        strict.lapse()
    assert len(strict.take(vera, n=64).jobs) == 8


def test_workers_of_one_owner_share_a_bound(strict: Scene) -> None:
    """Many keys are no way to hold more; another owner is not touched, and answering makes room."""
    keys = [strict.enrol("mallory", f"key {i}") for i in range(4)]
    held = [strict.take(keys[0], n=8), strict.take(keys[1], n=8)]
    assert [len(each.jobs) for each in held] == [8, 2]
    assert strict.obstacles(keys[2]) == {"quota": 0}
    assert len(strict.take(strict.enrol("vera"), n=8).jobs) == 8
    strict.report(held[1])
    assert len(strict.take(keys[2], n=8).jobs) == 2
    assert strict.refolded().held == strict.world.held


def test_owners_share_is_given_back_however_an_attempt_ends(strict: Scene) -> None:
    """By a result, by a lapse: nothing is left over."""
    vera = strict.enrol("vera")
    strict.report(strict.take(vera, n=3))
    take_in_silence(strict, vera)
    assert strict.world.held == {}


def test_policy_without_the_bounds_decides_as_it_always_did() -> None:
    """Logs from before replay with the same decisions: nothing is halved, nothing is shared."""
    scene = Scene(POLICY)
    scene.jobs(100)
    vera, other = scene.enrol("vera"), scene.enrol("vera", "two")
    assert [take_in_silence(scene, vera) for _ in range(3)] == [8, 8, 8]
    assert len(scene.take(vera, n=64).jobs) + len(scene.take(other, n=64).jobs) == 16


def test_policy_of_an_old_log_has_neither_bound() -> None:
    """An entry that was written before the fields existed still reads."""
    old = b'{"t":"policy-set/1","lease_s":100,"grace_s":10,"max_open":8,"distinct_owners":true}'
    assert decode_event(old) == POLICY


def test_enrolment_that_says_nothing_new_is_not_entered() -> None:
    """A worker that starts a thousand times leaves one entry; a new offer or description is one more."""
    scene = Scene()
    vera = scene.enrol("vera")
    size = scene.world.size
    for _ in range(3):
        assert scene.enrol("vera") == vera
    assert scene.world.size == size
    smaller = msgspec.structs.replace(OFFER, cores=1)
    assert scene.enrol("vera", offer=smaller) == vera
    assert scene.enrol("vera", offer=smaller) == vera
    assert scene.world.size == size + 1
    scene.when(Enrol("vera", "x-vera", "kid-vera", smaller, digest("another description"), draw("x")))
    assert scene.world.size == size + 2


def test_reasons_are_told_without_walking_over_all_jobs() -> None:
    """Nobody's empty hand makes the desk look at a million jobs; where they are few the number is right."""
    scene = Scene()
    looked = 0
    still = scene.world.ready._still

    def counted(job: int, key: LineKey) -> bool:
        nonlocal looked
        looked += 1
        return still(job, key)

    scene.jobs(COUNTED, terms(needs=Needs(cores=8, wall_s=1)))
    vera = scene.enrol("vera")
    assert scene.obstacles(vera) == {"cores": COUNTED}
    scene.jobs(10 * COUNTED, terms(needs=Needs(cores=8, wall_s=1)))
    scene.world.ready._still = counted
    (reason,) = explain(scene.world, scene.world.workers[vera], "vera")
    assert (reason.code, reason.jobs) == ("cores", 11 * COUNTED)
    assert looked <= COUNTED + 1
