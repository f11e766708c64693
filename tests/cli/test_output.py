"""How commands print, and how they read and write values."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gnexec.cli import output
from gnexec.cli.values import parse_duration, parse_size, show_duration, show_size


@given(st.text())
def test_cleaned_text_cannot_drive_a_terminal(text: str) -> None:
    """No control character is left but those that were to be kept; what is printable stays as it is."""
    shown = output.clean(text, keep="\n\t")
    assert all(char.isprintable() or char in "\n\t" for char in shown)
    assert not text.isprintable() or shown == text


def test_escape_sequence_of_a_job_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal it is spelt out; a pipe gets the very bytes, also those that are no text."""
    data = b"\x1b]0;owned\x07\xff\n"
    for is_terminal, wanted in ((True, rb"\x1b]0;owned\x07" + "\ufffd\n".encode()), (False, data)):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        monkeypatch.setattr(stream, "isatty", lambda found=is_terminal: found)
        monkeypatch.setattr(sys, "stdout", stream)
        output.raw(data)
        assert stream.buffer.getvalue() == wanted


def test_table_on_a_terminal_cuts_its_last_column_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows fit the terminal; in a pipe nothing is cut."""
    rows = [("1", "a long name"), ("22", "名" * 40 + "\n" + "x" * 40)]
    shown = {}
    for is_terminal in (True, False):
        stream = io.StringIO()
        console = Console(file=stream, width=40, force_terminal=is_terminal, no_color=True, highlight=False)
        monkeypatch.setattr(output, "out", lambda made=console: made)
        output.table(("job", "what"), rows, right=("job",))
        shown[is_terminal] = stream.getvalue()
    assert shown[False].splitlines()[1] == "  1  a long name"
    assert "x" * 40 in shown[False]
    assert len(shown[True].splitlines()) == 3
    assert "…" in shown[True].splitlines()[2]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        ("1KiB", 1024),
        ("1kB", 1000),
        ("2GiB", 2 << 30),
        ("1.5 MiB", 3 << 19),
        ("3g", 3 * 10**9),
    ],
)
def test_size_is_read(text: str, size: int) -> None:
    """With an i, units are powers of 1024; without, of 1000."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("45s", 45), ("10m", 600), ("10min", 600), ("1h30m", 5400), ("2d", 172800)]
)
def test_duration_is_read(text: str, seconds: int) -> None:
    """Units may follow each other; a bare number is seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1XB", "GiB", "1 2", "1e3", "0x10", "1iB2"])
def test_size_that_is_none_is_refused(text: str) -> None:
    """The error shows what a size looks like."""
    with pytest.raises(ValueError, match="512MiB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "-1", "1w", "m", "1m1h", "1.5h", "1 h"])
def test_duration_that_is_none_is_refused(text: str) -> None:
    """The error shows what a duration looks like."""
    with pytest.raises(ValueError, match="1h30m"):
        parse_duration(text)


@given(st.integers(0, 1 << 59))
def test_size_shown_is_near_what_it_was(size: int) -> None:
    """What people read is within a hundredth of the truth, and can be read back."""
    assert abs(parse_size(show_size(size)) - size) <= size / 100


@given(st.floats(0, 1e8))
def test_duration_shown_has_at_most_two_units(seconds: float) -> None:
    """Short enough for a table, and never empty."""
    assert 1 <= len(show_duration(seconds).split()) // 2 <= 2
