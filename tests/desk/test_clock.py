"""The watched clock: jumps, drift, sleep, and the time to go by meanwhile."""

from __future__ import annotations

import pytest

from gnexec.desk.clock import TOLERANCE_MS, Clock, steady_ms
from tests.core.scene import START_MS
from tests.desk.house import Time


@pytest.fixture
def clock(time: Time) -> Clock:
    """Return a clock that has been read once."""
    clock = Clock(time.steady)
    clock.read(time.wall())
    return clock


@pytest.mark.parametrize("jump_s", [-40, 40, 3600, -86_400, 10**8])
def test_clock_that_jumps_is_not_believed_and_time_goes_on(clock: Clock, time: Time, jump_s: int) -> None:
    """After a jump the steady clock goes on alone, in both directions; the trouble says how far it was."""
    time.later(10)
    time.jump(jump_s)
    assert clock.read(time.wall()) == START_MS + 10_000
    assert f"{jump_s:+d} s" in (clock.trouble or "")
    time.later(5)
    assert clock.read(time.wall()) == clock.now_ms() == START_MS + 15_000


def test_clock_that_is_set_right_again_is_believed(clock: Clock, time: Time) -> None:
    """When the wall clock is back, the trouble is over."""
    time.jump(3600)
    clock.read(time.wall())
    time.later(10)
    time.jump(-3600)
    assert clock.read(time.wall()) == START_MS + 10_000
    assert clock.trouble is None


def test_clock_that_drifts_slowly_is_followed(clock: Clock, time: Time) -> None:
    """Small corrections add up without ever being a jump."""
    for _ in range(100):
        time.later(60)
        time.jump(1)
        assert clock.read(time.wall()) == time.wall_ms
        assert clock.trouble is None
    time.jump((TOLERANCE_MS + 1) / 1000)
    assert clock.read(time.wall()) != time.wall_ms


def test_clock_tolerates_exactly_its_tolerance(clock: Clock, time: Time) -> None:
    """At the tolerance the wall clock still counts."""
    time.jump(TOLERANCE_MS / 1000)
    assert clock.read(time.wall()) == time.wall_ms
    assert clock.trouble is None


def test_clock_that_slept_has_not_jumped(clock: Clock, time: Time) -> None:
    """Suspension passes on both clocks."""
    time.later(100_000)
    assert clock.read(time.wall()) == time.wall_ms
    assert clock.trouble is None


def test_steady_clock_never_goes_back() -> None:
    """The machine's steady clock only goes forward."""
    readings = [steady_ms() for _ in range(1000)]
    assert readings == sorted(readings)
