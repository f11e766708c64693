"""Taking outputs out of a work directory that a hostile job has left behind."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.worker.collect import Collected, collect, keep
from gnexec.worker.workdir import parts_of


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work directory with one good output in a folder."""
    folder = tmp_path / "work"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/good").write_bytes(b"good")
    return folder


def take(work: Path, *names: str, max_bytes: int = 1000) -> Collected:
    """Collect into a folder beside the work directory."""
    into = work.parent / "outbox"
    into.mkdir(exist_ok=True)
    return collect(work, names, into, max_bytes)


def test_output_is_copied_under_its_digest(work: Path) -> None:
    """A regular file is taken whole, by content."""
    found = take(work, "sub/good")
    output = found.outputs["sub/good"]
    assert found.refused == {}
    assert (output.sha256, output.size) == (hashlib.sha256(b"good").hexdigest(), 4)
    assert output.path == work.parent / "outbox" / output.sha256
    assert output.path.read_bytes() == b"good"


def test_outputs_of_equal_content_share_a_copy(work: Path) -> None:
    """Two names for the same bytes are both taken."""
    (work / "twin").write_bytes(b"good")
    found = take(work, "sub/good", "twin")
    assert found.outputs["twin"] == found.outputs["sub/good"]
    assert len(list((work.parent / "outbox").iterdir())) == 1


def test_empty_output_is_an_output(work: Path) -> None:
    """No bytes are bytes too."""
    (work / "empty").touch()
    assert take(work, "empty").outputs["empty"].size == 0


def test_missing_output_is_said_to_be_missing(work: Path) -> None:
    """An output that the job did not make is named, and does not hide the others."""
    found = take(work, "absent", "sub/absent", "sub/good")
    assert found.refused == dict.fromkeys(("absent", "sub/absent"), "The job did not make it.")
    assert set(found.outputs) == {"sub/good"}


@pytest.mark.parametrize("target", ["/etc/passwd", "sub/good", "../secret", "nowhere"])
def test_symlink_in_place_of_an_output_is_refused(work: Path, target: str) -> None:
    """No link is followed, not even one that stays inside."""
    (work.parent / "secret").write_text("secret")
    (work / "out").symlink_to(target)
    found = take(work, "out")
    assert found.outputs == {}
    assert "link" in found.refused["out"]


def test_symlink_in_place_of_a_folder_is_refused(work: Path) -> None:
    """A link on the way to an output is not followed either."""
    (work.parent / "host").mkdir()
    (work.parent / "host/secret").write_text("secret")
    (work / "dir").symlink_to(work.parent / "host")
    found = take(work, "dir/secret")
    assert found.outputs == {}
    assert "link" in found.refused["dir/secret"]


def test_pipe_in_place_of_an_output_is_refused_without_waiting(work: Path) -> None:
    """A pipe that nobody writes to does not hold the worker up."""
    os.mkfifo(work / "pipe")
    assert "regular" in take(work, "pipe").refused["pipe"]


def test_directory_or_socket_in_place_of_an_output_is_refused(work: Path) -> None:
    """Only regular files are outputs."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(work / "socket"))
        assert set(take(work, "sub", "socket").refused) == {"sub", "socket"}


def test_device_in_place_of_an_output_is_refused(work: Path) -> None:
    """What lies on another file system is not of the work directory."""
    assert take(Path("/dev"), "null", "zero").outputs == {}
    assert take(work, "sub/good").outputs


def test_output_above_the_cap_is_refused_and_leaves_nothing(work: Path) -> None:
    """The cap is over all outputs, and a copy that was cut off is removed."""
    (work / "big").write_bytes(b"x" * 8)
    found = take(work, "sub/good", "big", max_bytes=11)
    assert set(found.outputs) == {"sub/good"}
    assert "larger" in found.refused["big"]
    assert len(list((work.parent / "outbox").iterdir())) == 1
    assert take(work, "sub/good", "big", max_bytes=12).refused == {}


def test_sparse_output_above_the_cap_is_refused(work: Path) -> None:
    """A file that claims to be huge is not read to its end."""
    (work / "huge").touch()
    os.truncate(work / "huge", 1 << 40)
    assert "larger" in take(work, "huge").refused["huge"]


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../secret", "sub/../../secret", "sub//good", "sub/", ".", "./sub/good", "a\0b", "a\nb"]
)
def test_name_that_is_no_plain_path_is_refused(work: Path, name: str) -> None:
    """A name cannot lead out of the work directory, or have two forms."""
    (work.parent / "secret").write_text("secret")
    found = take(work, name)
    assert found.outputs == {}
    assert "file name" in found.refused[name]


@given(st.text(max_size=40))
def test_name_that_is_accepted_stays_beneath(name: str) -> None:
    """Whatever is accepted joins to a path beneath the directory, and comes back as it was."""
    try:
        parts = parts_of(name)
    except ValueError:
        return
    assert "/".join(parts) == name
    assert os.path.normpath("/work/" + name) == "/work/" + name


def test_log_is_kept_by_its_digest(work: Path) -> None:
    """The worker's own files are copied in the same way, and capped."""
    (work.parent / "outbox").mkdir()
    assert keep(work / "sub/good", work.parent / "outbox", 4).size == 4
    with pytest.raises(ValueError, match="larger"):
        keep(work / "sub/good", work.parent / "outbox", 3)
