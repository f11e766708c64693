"""`words.py`, run as volunteers run it, against the reference counts and its own definition."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.demo import words
from tests.requirements import require, shared_data

PROGRAM = Path(words.__file__)


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run the program in `folder`; returns what it printed on stdout, or on stderr when it fails."""
    argv = [sys.executable, str(PROGRAM), *arguments]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_words_of_two_files_are_counted_and_written_canonically(tmp_path: Path) -> None:
    """One line, sorted keys, no spaces; upper case joins lower case, other letters end a token."""
    (tmp_path / "a.txt").write_text("To be, or not\tTO be\n")
    (tmp_path / "b.txt").write_text("Straße 12 be")
    assert run(tmp_path, "a.txt", "b.txt") == "files 2 words 9 tokens 9\n"
    assert (tmp_path / "counts.json").read_bytes() == (
        b'{"bytes":33,"files":2,"tokens":9,"vocabulary":{"be":3,"e":1,"not":1,"or":1,"stra":1,"to":2},"words":9}\n'
    )


def test_words_of_concatenated_files_fuse_where_a_newline_is_missing(tmp_path: Path) -> None:
    """The trap: counted apart and added up, the sum does not depend on how files were shared out; `cat` does."""
    (tmp_path / "a").write_bytes(b"one two")
    (tmp_path / "b").write_bytes(b"three\n")
    (tmp_path / "both").write_bytes(b"one twothree\n")
    run(tmp_path, "--out", "1.json", "a")
    run(tmp_path, "--out", "2.json", "b")
    assert run(tmp_path, "--reduce", "1.json", "2.json").startswith("files 2 words 3 ")
    assert run(tmp_path, "both").startswith("files 1 words 2 ")


@given(texts=st.lists(st.binary(max_size=60), min_size=1, max_size=8), cut=st.integers(0, 8))
def test_counts_added_in_any_grouping_are_the_same(texts: list[bytes], cut: int) -> None:
    """Adding is associative and does not depend on order, so that any sharing out gives equal bytes."""
    parts = [words.count(text) for text in texts]
    grouped = [words.add(parts[cut:]), words.add(parts[:cut])]
    assert words.canonical(words.add(grouped)) == words.canonical(words.add(parts))
    assert words.read_counts(words.canonical(words.add(parts))) == words.add(parts)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"bytes":1,"files":1,"tokens":1,"vocabulary":{},"words":1}',
        b'{"bytes":1,"files":1,"tokens":1,"vocabulary":{"A":1},"words":1}',
        b'{"bytes":1,"files":1,"tokens":1,"vocabulary":{"a":1.0},"words":1}',
        b'{"bytes":true,"files":1,"tokens":1,"vocabulary":{"a":1},"words":1}',
        b'{"bytes":-1,"files":1,"tokens":1,"vocabulary":{"a":1},"words":1}',
        b'{"bytes":1,"files":1,"tokens":1,"vocabulary":[],"words":1}',
        b"\xff",
    ],
)
def test_reduce_of_what_is_no_count_fails(tmp_path: Path, data: bytes) -> None:
    """Exit status 1 and no output: a wrong part never becomes part of a sum."""
    (tmp_path / "part.json").write_bytes(data)
    assert run(tmp_path, "--reduce", "--out", "sum.json", "part.json", code=1).startswith("words.py: ")
    assert not (tmp_path / "sum.json").exists()


def test_words_of_a_missing_file_fails(tmp_path: Path) -> None:
    """Exit status 1, the file named."""
    assert "absent.txt" in run(tmp_path, "absent.txt", code=1)


def test_words_of_each_reference_text_are_the_reference(tmp_path: Path) -> None:
    """Bytes and words of all 116 texts, one by one, are those of the reference table."""
    data = shared_data("text-gn-issues")
    with (data / "ref" / "per_file.tsv").open() as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    assert len(table) == 116
    for row in table:
        text = (data / "files" / row["file"]).read_bytes()
        counts = words.count(text)
        assert (counts["bytes"], counts["words"]) == (int(row["bytes"]), int(row["words"])), row["file"]
    run(tmp_path, str(data / "files" / table[0]["file"]))
    assert json.loads((tmp_path / "counts.json").read_bytes())["words"] == int(table[0]["words"])


def test_words_of_all_reference_texts_are_the_reference(tmp_path: Path) -> None:
    """Totals, distinct tokens, the twenty most frequent and the digest of all counts; `cat | wc` differs by six."""
    data = shared_data("text-gn-issues")
    expected = json.loads((data / "ref" / "total.json").read_bytes())
    files = sorted((data / "files").iterdir())
    run(tmp_path, *map(str, files))
    counts = words.read_counts((tmp_path / "counts.json").read_bytes())
    vocabulary = counts["vocabulary"]
    assert counts["words"] == expected["words_whitespace"] == 21_550
    assert counts["tokens"] == expected["alpha_tokens"] == 23_735
    assert (counts["files"], counts["bytes"], len(vocabulary)) == (116, expected["bytes"], expected["distinct"])
    assert hashlib.sha256(words.canonical(vocabulary)).hexdigest() == expected["sha256_canonical_counts"]
    assert all(vocabulary[token] == times for token, times in expected["top20"])
    whole = b"".join(path.read_bytes() for path in files)
    assert words.count(whole)["words"] == 21_544
    counted = subprocess.run([require("wc", "coreutils"), "-w"], input=whole, capture_output=True, check=True).stdout
    assert int(counted) == 21_544
