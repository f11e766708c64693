"""The work directory: inputs put in, space measured, everything cleared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gnexec.worker.workdir import UNBOUNDED, Identity, barrier, clear, measure, place


def test_input_is_placed_with_its_folders(tmp_path: Path) -> None:
    """An input gets the folders that its path names."""
    (tmp_path / "source").write_bytes(b"data")
    (tmp_path / "work").mkdir()
    place(tmp_path / "work", "a/b/c", tmp_path / "source")
    assert (tmp_path / "work/a/b/c").read_bytes() == b"data"


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", ""])
def test_input_outside_the_work_directory_is_refused(tmp_path: Path, name: str) -> None:
    """A server cannot have a worker write elsewhere."""
    (tmp_path / "source").write_bytes(b"data")
    (tmp_path / "work").mkdir()
    with pytest.raises(ValueError, match="file name"):
        place(tmp_path / "work", name, tmp_path / "source")
    assert list((tmp_path / "work").iterdir()) == []


def test_input_on_a_place_that_is_taken_is_refused(tmp_path: Path) -> None:
    """An input never replaces another, and never goes through a link."""
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "source").write_bytes(b"data")
    (work / "taken").write_bytes(b"first")
    (work / "link").symlink_to(tmp_path / "victim")
    (work / "dir").symlink_to(tmp_path)
    for name in ("taken", "link", "dir/victim", "taken/below"):
        with pytest.raises((FileExistsError, NotADirectoryError)):
            place(work, name, tmp_path / "source")
    assert (work / "taken").read_bytes() == b"first"
    assert not (tmp_path / "victim").exists()


def test_measure_counts_what_is_allocated(tmp_path: Path) -> None:
    """Bytes on disk count, holes do not, and a second name for a file does not count twice."""
    (tmp_path / "sub").mkdir()
    assert measure(tmp_path) < 1 << 16
    (tmp_path / "sub/data").write_bytes(os.urandom(1 << 20))
    os.link(tmp_path / "sub/data", tmp_path / "again")
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 1 << 40)
    assert 1 << 20 <= measure(tmp_path) < 2 << 20


def test_measure_counts_empty_files(tmp_path: Path) -> None:
    """A million empty files are not free."""
    for i in range(100):
        (tmp_path / str(i)).touch()
    assert measure(tmp_path) >= 100 * 4096


def test_measure_does_not_follow_links(tmp_path: Path) -> None:
    """A link out of the directory adds nothing."""
    (tmp_path / "work").mkdir()
    (tmp_path / "big").write_bytes(os.urandom(1 << 20))
    (tmp_path / "work/file").symlink_to(tmp_path / "big")
    (tmp_path / "work/folder").symlink_to(tmp_path)
    (tmp_path / "work/loop").symlink_to("loop")
    assert measure(tmp_path / "work") < 1 << 16


def nested(work: Path, depth: int) -> None:
    """Make directories in each other, deeper than a path may be long."""
    here = os.open(work, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * 100, dir_fd=here)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_measure_of_a_bottomless_tree_is_unbounded(tmp_path: Path) -> None:
    """Depth is no place to hide, and does not exhaust the worker."""
    nested(tmp_path, 1500)
    assert measure(tmp_path) >= UNBOUNDED
    clear(tmp_path)


def test_clear_removes_what_a_hostile_job_leaves(tmp_path: Path) -> None:
    """Neither depth nor permissions keep a work directory from being removed, and links are not followed."""
    work = tmp_path / "work"
    (work / "closed/in").mkdir(parents=True)
    (work / "closed/in/file").touch()
    (tmp_path / "kept").mkdir(mode=0o700)
    (work / "link").symlink_to(tmp_path / "kept")
    nested(work, 1500)
    (work / "closed").chmod(0)
    clear(work)
    assert not work.exists()
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700


def test_barrier_names_the_first_closed_directory(tmp_path: Path) -> None:
    """Where the job's user is stopped on the way is named."""
    folder = tmp_path / "open/closed/below"
    folder.mkdir(parents=True)
    somebody = Identity(os.getuid() + 4321, os.getgid() + 4321)
    for path in [*folder.parents, folder]:
        if path.is_relative_to(tmp_path):
            path.chmod(0o755)
    first = barrier(folder, somebody)
    assert first is None or not first.is_relative_to(tmp_path)
    if first is None:
        (tmp_path / "open/closed").chmod(0o750)
        assert barrier(folder, somebody) == tmp_path / "open/closed"
    assert barrier(folder, Identity(os.getuid(), os.getgid())) in {None, first}
