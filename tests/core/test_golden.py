"""Old logs replay for ever: each golden log folds to what it folded to when it was written."""

from __future__ import annotations

import msgspec
import pytest

from gnexec.core.events import AttemptState
from gnexec.errors import CorruptLog, IllegalTransition
from gnexec.wire import decode_event, encode_event
from tests.core.golden import SCENES, Line, names, opened, outline, read
from tests.core.strategies import KINDS


@pytest.mark.parametrize("name", names())
def test_golden_log_folds_to_what_it_did(name: str) -> None:
    """The root, every job's fate, the workers' records, the queue and the leases are as recorded."""
    lines, expected = read(name)
    assert outline(lines) == expected


def test_golden_logs_are_all_there() -> None:
    """No scene is without its file, and no file of an older form was lost."""
    assert set(names()) >= set(SCENES)
    for name in SCENES:
        scene, _, number = name.rpartition("-")
        assert {f"{scene}-{older}" for older in range(1, int(number))} <= set(names())


def test_golden_logs_hold_every_type_of_event() -> None:
    """A new type or version of an event needs a golden log that has it."""
    tags = {msgspec.json.decode(line.payload)["t"] for name in names() for line in read(name)[0]}
    assert {kind.__struct_config__.tag for kind in KINDS} <= tags


@pytest.mark.parametrize("name", names())
def test_golden_payload_of_a_current_type_is_still_written_the_same(name: str) -> None:
    """Reading a payload and writing it again gives the same bytes, so that equal events have equal digests."""
    current = {kind.__struct_config__.tag for kind in KINDS}
    for line in read(name)[0]:
        if msgspec.json.decode(line.payload)["t"] in current:
            assert encode_event(decode_event(line.payload.encode())).decode() == line.payload


def test_golden_log_shows_each_way_in_which_an_attempt_and_a_job_end() -> None:
    """What replays for ever is worth it only if it is all there."""
    jobs = [job for name in names() for job in read(name)[1]["jobs"].values()]
    assert {"queued", "running", "succeeded", "failed", "cancelled"} <= {job["state"] for job in jobs}
    assert {"quorum", "failures", "attempts", "cancelled"} <= {job["reason"] for job in jobs}
    ends = {state for job in jobs for state in job["attempts"]}
    assert ends == set(AttemptState)


@pytest.mark.parametrize("name", names())
def test_golden_log_changed_in_one_place_does_not_open(name: str) -> None:
    """A byte of a payload or salt, or an entry that was moved to the end, is noticed."""
    lines, _ = read(name)
    line = lines[3]
    digit = "0" if line.salt[0] != "0" else "1"
    for bad in (
        Line(line.leaf, digit + line.salt[1:], line.payload),
        Line(line.leaf, line.salt, line.payload.replace('"', "'", 1)),
    ):
        with pytest.raises(CorruptLog):
            opened([*lines[:3], bad, *lines[4:]])
    with pytest.raises(IllegalTransition):
        outline([*lines[:3], *lines[4:], line])
