"""Blobs: whole or not at all, under the name that their bytes give them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.errors import BadConfiguration, Refused, StoreAway
from gnexec.ids import sha256_hex
from gnexec.store.blobs import Blobs

HELLO: Final = b"hello, blob\n"
DIGEST: Final = sha256_hex(HELLO)
ABSENT: Final = sha256_hex(b"never uploaded")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Name a folder that is not there."""
    return tmp_path / "deep" / "blobs"


@pytest.fixture
def blobs(folder: Path) -> Blobs:
    """Open an empty folder."""
    return Blobs(folder)


def files(folder: Path) -> list[Path]:
    """Return every file in the folder, unfinished uploads included."""
    return [path for path in folder.rglob("*") if not path.is_dir()]


def read(blobs: Blobs, sha256: str) -> bytes:
    """Return a blob's bytes."""
    with blobs.open(sha256) as file:
        return file.read()


@pytest.mark.parametrize("data", [HELLO, b"", b"\x00\xff" * 700_000])
def test_put_blob_is_found_by_its_digest(blobs: Blobs, folder: Path, data: bytes) -> None:
    """What is put can be read, in a folder named for the digest's first two digits; again is harmless."""
    for _ in range(2):
        sha256 = blobs.put(data)
        assert sha256 == sha256_hex(data)
        assert blobs.has(sha256)
        assert blobs.size(sha256) == len(data)
        assert read(blobs, sha256) == data
    assert files(folder) == [folder / sha256[:2] / sha256[2:]]


@given(data=st.binary(max_size=500), cuts=st.lists(st.integers(0, 500), max_size=5))
def test_any_way_of_cutting_an_upload_gives_the_same_blob(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[int]
) -> None:
    """Chunks, empty ones included, are one stream."""
    blobs = Blobs(tmp_path_factory.getbasetemp() / "cut")
    with blobs.writer() as writer:
        for start, stop in pairwise([0, *sorted(cuts), len(data) + 500]):
            writer.write(data[start:stop])
        assert writer.finish(sha256_hex(data)) == len(data)
    assert read(blobs, sha256_hex(data)) == data


def test_unfinished_blob_is_not_there(blobs: Blobs, folder: Path) -> None:
    """Until it is finished an upload cannot be found; left unfinished, it leaves nothing."""
    with blobs.writer() as writer:
        writer.write(HELLO)
        assert not blobs.has(DIGEST)
    assert files(folder) == []


def test_upload_broken_off_by_an_error_leaves_nothing(blobs: Blobs, folder: Path) -> None:
    """The caller's own error drops the upload."""

    def lose_the_connection() -> None:
        with blobs.writer() as writer:
            writer.write(HELLO)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        lose_the_connection()
    assert files(folder) == []


def test_wrong_digest_is_invalid_and_leaves_nothing(blobs: Blobs, folder: Path) -> None:
    """Bytes never get a name that is not theirs."""
    writer = blobs.writer()
    writer.write(HELLO[:-1])
    with pytest.raises(Refused, match=DIGEST) as caught:
        writer.finish(DIGEST)
    assert caught.value.code == "invalid"
    assert files(folder) == []


def test_wrong_digest_does_not_harm_the_blob_of_that_name(blobs: Blobs) -> None:
    """An attempt to replace a blob by other bytes changes nothing."""
    blobs.put(HELLO)
    writer = blobs.writer()
    writer.write(b"forged")
    with pytest.raises(Refused):
        writer.finish(DIGEST)
    assert read(blobs, DIGEST) == HELLO


def test_upload_beyond_the_cap_is_too_large_and_leaves_nothing(folder: Path) -> None:
    """The cap is met at the first byte beyond it, and not before."""
    blobs = Blobs(folder, max_bytes=len(HELLO))
    blobs.put(HELLO)
    writer = blobs.writer()
    writer.write(HELLO)
    with pytest.raises(Refused, match="at most 12 bytes") as caught:
        writer.write(b"!")
    assert caught.value.code == "too_large"
    assert files(folder) == [folder / DIGEST[:2] / DIGEST[2:]]


@pytest.mark.parametrize("end", ["finish", "abort", "refusal"])
def test_ended_upload_takes_nothing_more(blobs: Blobs, end: str) -> None:
    """An upload ends once; aborting it afterwards is harmless."""
    writer = blobs.writer()
    writer.write(HELLO)
    if end == "finish":
        writer.finish(DIGEST)
    elif end == "abort":
        writer.abort()
    else:
        with pytest.raises(Refused):
            writer.finish(ABSENT)
    writer.abort()
    assert blobs.has(DIGEST) == (end == "finish")
    for call in (lambda: writer.write(b"more"), lambda: writer.finish(DIGEST)):
        with pytest.raises(RuntimeError, match="ended"):
            call()


@pytest.mark.parametrize("call", [Blobs.open, Blobs.size])
def test_absent_blob_is_not_found(blobs: Blobs, call: Callable[[Blobs, str], object]) -> None:
    """Neither in a folder that is there nor in one that is not."""
    for sha256 in (ABSENT, DIGEST[:-1] + "0"):
        blobs.put(HELLO)
        assert not blobs.has(sha256)
        with pytest.raises(Refused) as caught:
            call(blobs, sha256)
        assert caught.value.code == "not_found"


@pytest.mark.parametrize("call", [Blobs.open, Blobs.size, Blobs.has, Blobs.delete])
@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "/etc/passwd", "uploads", DIGEST.upper(), DIGEST + "\n", DIGEST[:-1], "é" * 64]
)
def test_path_traversal_by_a_name_that_is_no_digest_is_invalid(
    blobs: Blobs, call: Callable[[Blobs, str], object], name: str
) -> None:
    """What is no digest never becomes a path."""
    blobs.put(HELLO)
    with pytest.raises(Refused) as caught:
        call(blobs, name)
    assert caught.value.code == "invalid"


def test_finish_under_a_name_that_is_no_digest_leaves_nothing(blobs: Blobs, folder: Path) -> None:
    """The expected digest comes from a URL, and is not trusted."""
    writer = blobs.writer()
    with pytest.raises(Refused):
        writer.finish("../" * 10 + "etc/shadow")
    assert files(folder) == []


def test_deleted_blob_is_gone_but_stays_readable_where_open(blobs: Blobs) -> None:
    """Deleting does not break a download that is under way."""
    blobs.put(HELLO)
    with blobs.open(DIGEST) as file:
        assert blobs.delete(DIGEST)
        assert not blobs.has(DIGEST)
        assert file.read() == HELLO
    assert not blobs.delete(DIGEST)
    blobs.put(HELLO)
    assert read(blobs, DIGEST) == HELLO


def test_damaged_blob_is_mended_by_uploading_it_again(blobs: Blobs, folder: Path) -> None:
    """An upload replaces the file of its name, whatever a bad disk has made of it."""
    blobs.put(HELLO)
    (folder / DIGEST[:2] / DIGEST[2:]).write_bytes(b"rotten")
    blobs.put(HELLO)
    assert read(blobs, DIGEST) == HELLO


def test_start_removes_crashed_uploads_and_spares_those_at_work(blobs: Blobs, folder: Path) -> None:
    """What a killed process has left behind goes; what another process is writing stays, and so do blobs."""
    kept = blobs.put(b"kept")
    (folder / "uploads" / "left-behind").write_bytes(b"half of someth")
    with blobs.writer() as writer:
        writer.write(HELLO)
        Blobs(folder)
        assert not (folder / "uploads" / "left-behind").exists()
        writer.finish(DIGEST)
    again = Blobs(folder)
    assert read(again, DIGEST) == HELLO
    assert again.has(kept)
    assert len(files(folder)) == 2


def test_uploads_of_one_blob_at_once_all_succeed(blobs: Blobs, folder: Path) -> None:
    """Two workers that send the same bytes do not get into each other's way."""
    writers = [blobs.writer() for _ in range(3)]
    for writer in writers:
        writer.write(HELLO)
    assert [writer.finish(DIGEST) for writer in writers] == [len(HELLO)] * 3
    assert read(blobs, DIGEST) == HELLO
    assert len(files(folder)) == 1


def test_disk_that_fails_is_store_away(blobs: Blobs, folder: Path) -> None:
    """A folder that has gone is to be tried again, and is no fault of the caller's."""
    begun = blobs.writer()
    begun.write(HELLO)
    shutil.rmtree(folder)
    with pytest.raises(StoreAway, match="No such file"):
        begun.finish(DIGEST)
    with pytest.raises(StoreAway, match="No such file"):
        blobs.put(HELLO)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_folder_that_cannot_be_made_is_bad_configuration(tmp_path: Path, place: str) -> None:
    """A file in the folder's place is the operator's to mend."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BadConfiguration, match="cannot hold blobs"):
        Blobs(tmp_path / place)


def test_blobs_are_private_to_their_owner(blobs: Blobs, folder: Path) -> None:
    """No other account of the machine reads inputs and outputs."""
    blobs.put(HELLO)
    with blobs.writer():
        assert {path.stat().st_mode & 0o077 for path in [folder, *folder.rglob("*")]} == {0}


def test_upload_is_durable_before_it_gets_its_name(blobs: Blobs, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are flushed, then named, then the name is flushed: a power loss never leaves a name without bytes."""
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        fsync(descriptor)
        order.append(f"flush {Path(f'/proc/self/fd/{descriptor}').readlink().relative_to(folder)}")

    def noted_replace(path: Path, target: Path) -> Path:
        order.append("name")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    blobs.put(HELLO)
    assert order[0].startswith("flush uploads/")
    assert order[1:] == ["name", f"flush {DIGEST[:2]}", "flush ."]


def test_blob_of_many_chunks_is_one_blob(blobs: Blobs) -> None:
    """Chunks larger than any buffer are hashed and counted like small ones."""
    chunk, digest = bytes(range(256)) * 4_096, hashlib.sha256()
    with blobs.writer() as writer:
        for _ in range(8):
            writer.write(chunk)
            digest.update(chunk)
        assert writer.finish(digest.hexdigest()) == 8 << 20
    assert blobs.size(digest.hexdigest()) == 8 << 20
