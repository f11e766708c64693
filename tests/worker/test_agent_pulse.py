"""The heartbeat: what it reads of a job that may lie, and when it gives an attempt up."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.shapes import JobWork
from gnexec.worker.link import Link, Patience
from gnexec.worker.pulse import PROGRESS_FILE, Order, Pulse, Told, progress
from gnexec.worker.spool import Attempt, Entry, Spool

NOWHERE = "http://127.0.0.1:9"
"""An address at which nothing answers (RFC 863's port, closed)."""


def _entry(folder: Path, *, lease_s: float, exp_s: float) -> Entry:
    work = JobWork(id=1, cmd="true", lease_until=round((time.time() + lease_s) * 1000))
    token = Attempt(origin="x", work=work, number=1, jti="j", token="t", exp_s=round(time.time() + exp_s))
    return Spool(folder).answered([token])[0]


def _told(entry: Entry, *, cut_off_s: float) -> Told:
    async def watch() -> Told:
        async with Link(NOWHERE) as link:
            link.heard_s -= 1000
            return await asyncio.wait_for(Pulse(link, entry, cut_off_s=cut_off_s).watch(), 60)

    return asyncio.run(watch())


def test_deadline_ends_an_attempt_although_the_lease_is_long(tmp_path: Path) -> None:
    """Past the job token's exp nobody takes an answer, whatever the lease says."""
    told = _told(_entry(tmp_path, lease_s=1000, exp_s=1), cut_off_s=1000)
    assert told == Told(Order.DROP, "the attempt's deadline has passed")


def test_lapsed_lease_without_the_server_ends_an_attempt(tmp_path: Path) -> None:
    """Cut off beyond the lease and the grace: the attempt is dropped long before its deadline."""
    told = _told(_entry(tmp_path, lease_s=0, exp_s=1000), cut_off_s=0.3)
    assert told.order is Order.DROP
    assert "lease" in told.reason


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"0.25", 0.25),
        (b"0\n0.5\n", 0.5),
        (b"1", 1.0),
        (b"0.5\n0.", 0.0),
        (b"0.5 half way", 0.5),
        (b"", None),
        (b"nan", None),
        (b"inf -inf 1e999", None),
        (b"1.5 -1", None),
        (b"\xff\xfe\0", None),
        (b"9" * 100_000, None),
        (b"x" * 100_000 + b" 0.75\n", 0.75),
    ],
)
def test_progress_is_the_last_number_from_0_to_1(tmp_path: Path, content: bytes, value: float | None) -> None:
    """Whatever a job writes, progress is a number in range or nothing."""
    (tmp_path / PROGRESS_FILE).write_bytes(content)
    assert progress(tmp_path) == value


def test_progress_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """A job cannot have the worker read a file of the volunteer's and tell its numbers."""
    (tmp_path / "secret").write_text("0.5")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / PROGRESS_FILE).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic"):
        progress(tmp_path / "work")


def test_progress_file_that_is_a_pipe_does_not_block(tmp_path: Path) -> None:
    """A job cannot hold the worker up with a pipe that nobody writes to."""
    os.mkfifo(tmp_path / PROGRESS_FILE)
    assert progress(tmp_path) is None


def _increments(folder: Path, data: bytes, cuts: list[int]) -> tuple[str, int]:
    """Write a job's output piece by piece; return what is read of it after each piece, joined, and how many bytes."""
    entry = _entry(folder, lease_s=60, exp_s=60)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]

    async def told() -> tuple[str, int]:
        async with Link(NOWHERE) as link:
            pulse, text = Pulse(link, entry, cut_off_s=1), ""
            for begin, end in itertools.pairwise(places):
                with entry.stdout.open("ab") as file:
                    file.write(data[begin:end])
                found, read, _ = pulse._stdout()
                text += found
                pulse._read += read
            return text, pulse._read

    return asyncio.run(told())


@given(st.text(max_size=40), st.lists(st.integers(0, 1000), max_size=12))
def test_live_output_in_pieces_is_the_whole_text(
    tmp_path_factory: pytest.TempPathFactory, text: str, cuts: list[int]
) -> None:
    """Wherever the output is cut, within a character too, the increments join to the text as it is."""
    data = text.encode()
    assert _increments(tmp_path_factory.mktemp("pulse"), data, cuts) == (text, len(data))


@given(st.binary(max_size=60), st.lists(st.integers(0, 1000), max_size=12))
def test_live_output_that_is_no_text_is_passed_on_with_replacements(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[int]
) -> None:
    """Any bytes are read to the end, but for at most three that could begin a character."""
    text, read = _increments(tmp_path_factory.mktemp("pulse"), data, cuts)
    assert len(data) - 3 <= read <= len(data)
    assert text.isascii() or not data.isascii()


@given(st.lists(st.none() | st.floats(0, 100), max_size=20))
def test_patience_grows_to_its_bound_and_heeds_the_server(asked: list[float | None]) -> None:
    """Each wait is positive, within its bound, and at least what the server asks for."""
    patience = Patience(0.5, 8.0)
    for after_s in asked:
        wait_s = patience.wait_s(after_s)
        if after_s is None:
            assert 0.25 <= wait_s <= 8.0
        else:
            assert after_s <= wait_s <= after_s * 1.25 + 0.5


def test_patience_doubles_until_its_bound_and_begins_anew_after_success() -> None:
    """The fifth wait is longer than the first could be; a reset makes it short again."""
    patience = Patience(0.5, 8.0)
    waits = [patience.wait_s() for _ in range(50)]
    assert waits[0] <= 0.5
    assert waits[4] >= 4.0
    assert max(waits) <= 8.0
    patience.reset()
    assert patience.wait_s() <= 0.5
