"""Keys turn: each change is one entry however many servers ask, only forwards, and never without the old key's word."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gnexec.core.commands import OpenLog, TurnKeys
from gnexec.core.decide import decide
from gnexec.core.events import (
    AnyEvent,
    AttemptState,
    KeyAdded,
    KeyCurrent,
    KeyRetired,
    KeyRevoked,
    LogKeyAdded,
    LogKeyRetired,
)
from gnexec.core.turn import lacking
from gnexec.core.world import World
from gnexec.errors import BadConfiguration, IllegalTransition
from tests.core.rings import Rings
from tests.core.scene import ORIGIN, POLICY, Scene

RINGS = Rings()


@pytest.fixture
def turning() -> Scene:
    """A log that knows the token keys "kid" (current) and "next", and one log key."""
    scene = Scene(vkey=RINGS.vkeys[0])
    scene.when(RINGS.ring("next", "kid", current="kid"))
    return scene


def tags(events: list[AnyEvent]) -> list[str]:
    """Return the events' classes and what they name, in short."""
    return [f"{type(event).__name__} {getattr(event, 'kid', '')}".strip() for event in events]


def test_turn_announces_each_change_once_however_many_servers_ask(turning: Scene) -> None:
    """A rotation is two entries; a second server with the same ring adds none."""
    ring = RINGS.ring("later", "next", "kid", current="next")
    turning.when(ring)
    assert tags(turning.new) == ["KeyAdded later", "KeyCurrent next"]
    turning.when(ring)
    assert turning.new == []
    book = turning.world.keys
    assert {kid: key.state for kid, key in book.tokens.items()} == {
        "kid": "previous",
        "next": "current",
        "later": "next",
    }
    assert book.tokens["kid"].ended == book.tokens["next"].current == turning.world.size - 1


def test_turn_of_a_server_that_lags_changes_nothing(turning: Scene) -> None:
    """Its ring lacks a key of the log: it cannot set the clock back, and it is told what it lacks."""
    old = RINGS.ring("next", "kid", current="kid")
    turning.when(RINGS.ring("later", "next", "kid", current="next", log=2))
    turning.when(old)
    assert turning.new == []
    assert turning.world.keys.current == "next"
    missing = lacking(turning.world.keys, old.tokens, [key.vkey for key in old.log])
    assert missing is not None
    assert "later" in missing
    assert RINGS.vkeys[1] in missing


def test_turn_of_a_ring_that_went_on_apart_changes_nothing(turning: Scene) -> None:
    """Two hosts rotated their copies: the first is followed, the other one's key never gets into the log."""
    turning.when(RINGS.ring("ours", "next", "kid", current="next"))
    turning.when(RINGS.ring("theirs", "next", "kid", current="next"))
    assert turning.new == []
    assert "theirs" not in turning.world.keys.tokens


def test_turn_after_rotations_that_no_server_saw_catches_up(turning: Scene) -> None:
    """Three rotations of both kinds while all servers were down are told in one batch, in an order that is lawful."""
    turning.when(RINGS.ring("c", "b", "a", "next", "kid", current="b", log=4, ended=2))
    told = tags(turning.new)
    assert told[:4] == ["KeyAdded c", "KeyAdded b", "KeyAdded a", "KeyCurrent b"]
    assert told[4:] == ["LogKeyAdded"] * 3 + ["LogKeyRetired"] * 2
    assert turning.world.keys.in_force() == RINGS.vkeys[2:4]
    assert turning.refolded().keys == turning.world.keys


def test_turn_with_revoked_keys_excuses_open_attempts(turning: Scene) -> None:
    """Their workers cannot answer any more, and lapse without blame, though they were heard of."""
    worker = turning.enrol("vera")
    turning.jobs(1)
    turning.progress(turning.take(worker), 100_000)
    turning.when(RINGS.ring("b", "a", current="a", revoked=["kid", "next"]))
    assert tags(turning.new) == ["KeyAdded b", "KeyAdded a", "KeyCurrent a", "KeyRevoked kid", "KeyRevoked next"]
    assert turning.world.keys.revoked() == {"kid", "next"}
    turning.later(2000)
    turning.lapse()
    assert turning.world.workers[worker].tally == {AttemptState.UNDELIVERED: 1}


def test_open_of_a_new_log_names_the_whole_ring() -> None:
    """The first entries say which key signs what; log keys that were retired before it began are not its own."""
    ring = RINGS.ring("next", "kid", current="kid", log=3, ended=1)
    events, _ = decide(World(), OpenLog(ORIGIN, RINGS.vkeys[1], {}, POLICY, ring), 5)
    assert tags(events) == ["LogOpened", "KeyAdded next", "KeyAdded kid", "KeyCurrent kid", "LogKeyAdded", "PolicySet"]


def test_open_with_a_later_key_of_the_same_log_is_the_same_log(turning: Scene) -> None:
    """A server whose ring has gone on may name its newest key; one that shares no key with the log is another's."""
    ring = RINGS.ring("next", "kid", current="kid", log=3, ended=2)
    turning.when(OpenLog(ORIGIN, RINGS.vkeys[2], {}, POLICY, ring))
    assert turning.world.keys.in_force() == [RINGS.vkeys[2]]
    with pytest.raises(BadConfiguration, match=ORIGIN):
        turning.when(OpenLog(ORIGIN, RINGS.vkeys[4], {}, POLICY))


def test_log_keys_in_force_are_known_for_every_size(turning: Scene) -> None:
    """The checkpoint that has the entry which adds a key is signed by it; that which retires one no more by it."""
    base = turning.world.size
    turning.when(RINGS.ring("next", "kid", current="kid", log=2))
    turning.when(RINGS.ring("next", "kid", current="kid", log=2, ended=1))
    book = turning.world.keys
    first, second = RINGS.vkeys[:2]
    assert [book.in_force(base + i) for i in range(3)] == [[first], [first, second], [second]]


NEW = "z"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: KeyAdded(kid="kid", x="x"), "added before"),
        (lambda: KeyCurrent(kid=NEW), "not announced"),
        (lambda: KeyCurrent(kid="kid"), "is current"),
        (lambda: KeyRetired(kid="kid"), "is current"),
        (lambda: KeyRevoked(kid="kid"), "is current"),
        (lambda: KeyRevoked(kid=NEW), "not announced"),
        (lambda: LogKeyAdded(vkey=RINGS.vkeys[0], endorsement=""), "there before"),
        (lambda: LogKeyAdded(vkey=RINGS.vkeys[1], endorsement=""), "not endorsed"),
        (lambda: LogKeyAdded(vkey=RINGS.vkeys[2], endorsement=RINGS.endorsement(2)), "not endorsed"),
        (lambda: LogKeyAdded(vkey=RINGS.vkeys[2], endorsement=RINGS.endorsement(1)), "not endorsed"),
        (lambda: LogKeyAdded(vkey=Rings("b/l").vkeys[1], endorsement=Rings("b/l").endorsement(1)), "not endorsed"),
        (lambda: LogKeyRetired(vkey=RINGS.vkeys[0]), "newest"),
        (lambda: LogKeyRetired(vkey=RINGS.vkeys[1]), "not in force"),
    ],
)
def test_change_of_keys_that_is_unlawful_is_refused(turning: Scene, make: Callable[[], AnyEvent], words: str) -> None:
    """The fold refuses what no honest dispatcher writes."""
    before = turning.world.keys
    with pytest.raises(IllegalTransition, match=words):
        turning.world.keys.after(make(), turning.world.size)
    assert turning.world.keys is before


def test_revoked_key_never_comes_back(turning: Scene) -> None:
    """Neither as next nor as current."""
    turning.when(RINGS.ring("b", "a", current="a", revoked=["kid", "next"]))
    turning.when(RINGS.ring("next", "b", "a", current="next", revoked=["kid"]))
    assert turning.new == []
    for event in (KeyAdded(kid="next", x="x"), KeyCurrent(kid="next"), KeyRevoked(kid="next")):
        with pytest.raises(IllegalTransition):
            turning.world.keys.after(event, turning.world.size)


def test_turn_of_an_empty_log_waits_until_it_is_opened() -> None:
    """There is nothing to change yet."""
    assert decide(World(), TurnKeys({"a": "x"}, "a"), 1)[0] == []
