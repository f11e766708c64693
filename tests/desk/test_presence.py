"""How many attempts can run side by side: counted seldom, and right all the same."""

from __future__ import annotations

from gnexec.desk.presence import ACTIVE_MS, Presence
from tests.core.scene import Scene


def test_slots_are_workers_that_are_there_or_attempts_that_are_open() -> None:
    """Whichever is more; who has not been heard of for long is not there, and what it holds is."""
    scene, presence = Scene(), Presence()
    assert presence.slots(scene.world) == 0
    vera = scene.enrol("vera")
    scene.enrol("walt")
    assert presence.slots(scene.world) == 2
    scene.jobs(3)
    scene.take(vera, n=3)
    assert presence.slots(scene.world) == 3
    assert sum(worker.open for worker in scene.world.workers.values()) == sum(scene.world.held.values()) == 3
    scene.later(ACTIVE_MS / 1000 + 1)
    scene.lapse()
    scene.enrol("xena")
    assert presence.slots(scene.world) == 1


def test_workers_are_not_walked_over_again_within_a_second() -> None:
    """Ten thousand of them stand behind each submission otherwise."""
    scene, presence = Scene(), Presence()
    scene.enrol("vera")
    assert presence.slots(scene.world) == 1
    for worker in scene.world.workers.values():
        worker.last_ms -= 2 * ACTIVE_MS
    assert presence.slots(scene.world) == 1
    scene.later(2)
    scene.jobs(1)
    assert presence.slots(scene.world) == 0
