"""The spool: what is in it survives any crash, and what is half written is never taken for whole."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from gnexec.core.terms import Needs
from gnexec.errors import BadConfiguration
from gnexec.shapes import InlineFile, JobWork, ResultBody, UsageBody
from gnexec.worker.spool import Asking, Attempt, Entry, Finished, Spool
from gnexec.worker.statedir import StateDir

FINISHED = Finished(
    body=ResultBody(exit_code=0, stdout="text", outputs={"a": InlineFile(base64="AA==")}, usage=UsageBody(cpu_ms=1)),
    blobs=("ab" * 32,),
    outcome="success",
)


def _attempt(job: int = 1, jti: str = "A" * 22) -> Attempt:
    work = JobWork(id=job, cmd="true", argv=["true"], inputs={"in": "cd" * 32}, outputs=["out"], needs=Needs(cores=2))
    return Attempt(origin="here", work=work, number=3, jti=jti, token="secret", exp_s=1_900_000_000)


def _added(folder: Path, *attempts: Attempt) -> list[Entry]:
    return Spool(folder).answered(attempts or [_attempt()])


def test_hand_out_is_found_again_by_the_next_process(tmp_path: Path) -> None:
    """An attempt that was kept is read back as it was, without a result."""
    _added(tmp_path, _attempt(1), _attempt(2))
    found = Spool(tmp_path).entries()
    assert sorted(entry.attempt.work.id for entry in found) == [1, 2]
    assert all(entry.finished is None for entry in found)
    assert {msg.attempt.work.id: msg.attempt for msg in found}[1] == _attempt(1)


def test_result_is_found_again_as_it_was(tmp_path: Path) -> None:
    """A result that was kept is read back to the last field, so that the same answer is given again."""
    (entry,) = _added(tmp_path)
    entry.finish(FINISHED)
    (found,) = Spool(tmp_path).entries()
    assert found.finished == FINISHED


def test_dropped_entry_is_gone(tmp_path: Path) -> None:
    """After the acknowledgement nothing is left, here or for the next process."""
    (entry,) = _added(tmp_path)
    entry.finish(FINISHED)
    entry.drop()
    assert list(tmp_path.iterdir()) == []
    assert Spool(tmp_path).entries() == []


def test_repeated_hand_out_adds_nothing_twice(tmp_path: Path) -> None:
    """The reply to a repeated request brings attempts that are here already: they are not run a second time."""
    spool = Spool(tmp_path)
    assert len(spool.answered([_attempt(1)])) == 1
    assert [entry.attempt.work.id for entry in spool.answered([_attempt(1), _attempt(2)])] == [2]
    assert [entry.attempt.jti for entry in spool.answered([_attempt(1, "B" * 22)])] == ["B" * 22]


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_hand_out_that_the_disk_does_not_take_is_new_when_it_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Whichever file the disk refuses, nothing of the hand-out counts as kept, and its repetition brings all of it."""
    spool = Spool(tmp_path)
    spool.ask(Asking(req="r1", n=2))
    calls, real = 0, os.replace

    def replace(old: Path, new: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.EIO, "Input/output error")
        real(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        for _ in range(2):
            calls = max(0, failing - 3)
            if failing == 3:
                patch.setattr(Path, "unlink", _refuse)
            with pytest.raises(OSError, match="Input/output"):
                spool.answered([_attempt(1), _attempt(2)])
    assert spool.asking() == Asking(req="r1", n=2)
    assert [entry.attempt.work.id for entry in spool.answered([_attempt(1), _attempt(2)])] == [1, 2]
    assert len(Spool(tmp_path).entries()) == 2


def _refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_attempt_of_before_that_is_over_is_not_run_again(tmp_path: Path) -> None:
    """After a crash the same request brings an attempt that was given back meanwhile: it stays given back."""
    _added(tmp_path)
    spool = Spool(tmp_path)
    spool.entries()[0].drop()
    assert spool.answered([_attempt()]) == []


def test_request_stays_until_it_is_answered(tmp_path: Path) -> None:
    """A crash between request and reply leaves the request's id for the next process."""
    Spool(tmp_path).ask(Asking(req="r1", n=4))
    assert Spool(tmp_path).asking() == Asking(req="r1", n=4)
    Spool(tmp_path).answered()
    assert Spool(tmp_path).asking() is None


@pytest.mark.parametrize("left", ["nothing", "part", "blobs", "empty", "half"])
def test_crash_while_a_hand_out_is_written_leaves_garbage_that_is_removed(tmp_path: Path, left: str) -> None:
    """Whatever there is without a whole attempt.json was never acknowledged to anybody, and goes."""
    (entry,) = _added(tmp_path)
    path = entry.folder / "attempt.json"
    data = path.read_bytes()
    path.unlink()
    match left:
        case "part":
            (entry.folder / "attempt.part").write_bytes(data)
        case "blobs":
            (entry.folder / "stdout").write_text("x")
        case "empty":
            path.touch()
        case "half":
            path.write_bytes(data[: len(data) // 2])
        case _:
            shutil.rmtree(entry.blobs)
    assert Spool(tmp_path).entries() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", ["result.part", "result.json"])
def test_crash_while_a_result_is_written_leaves_an_interrupted_attempt(tmp_path: Path, left: str) -> None:
    """A result that is not whole is no result: the attempt is given back."""
    (entry,) = _added(tmp_path)
    entry.finish(FINISHED)
    path = entry.folder / "result.json"
    data = path.read_bytes()
    path.unlink()
    (entry.folder / left).write_bytes(data[:-3])
    (found,) = Spool(tmp_path).entries()
    assert found.finished is None
    assert found.attempt == _attempt()


def test_crash_while_an_entry_is_dropped_does_not_bring_it_back(tmp_path: Path) -> None:
    """Dropping begins with attempt.json: what is left of the rest is garbage."""
    (entry,) = _added(tmp_path)
    entry.finish(FINISHED)
    (entry.folder / "attempt.json").unlink()
    assert Spool(tmp_path).entries() == []
    assert list(tmp_path.iterdir()) == []


def test_what_holds_secrets_is_private(tmp_path: Path) -> None:
    """Job tokens and requests lie in files that only their owner reads."""
    (entry,) = _added(tmp_path)
    Spool(tmp_path).ask(Asking(req="r", n=1))
    for path in (entry.folder / "attempt.json", tmp_path / "asking.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_hostile_ids_stay_within_the_spool(tmp_path: Path) -> None:
    """A server that names its hand-out like a path writes nowhere else."""
    (tmp_path / "spool").mkdir()
    (entry,) = _added(tmp_path / "spool", _attempt(1, "../../../../evil"))
    assert entry.folder.parent == tmp_path / "spool"
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]


def test_state_directory_serves_one_process(tmp_path: Path) -> None:
    """A second worker is refused by name; after the first is gone, the directory is free."""
    with StateDir(tmp_path / "state"), pytest.raises(BadConfiguration, match="in use by the worker with process id"):
        StateDir(tmp_path / "state")
    StateDir(tmp_path / "state").release()


def test_state_directory_clears_work_directories_of_a_crashed_worker(tmp_path: Path) -> None:
    """What a killed worker's job has left, whatever its permissions, is gone at the next start."""
    with StateDir(tmp_path / "state") as state:
        left = state.jobs / "left" / "deep"
        left.mkdir(parents=True)
        left.chmod(0)
    with StateDir(tmp_path / "state") as state:
        assert list(state.jobs.iterdir()) == []
    assert not state.jobs.exists()


def test_work_directory_is_made_although_somebody_cleared_the_place(tmp_path: Path) -> None:
    """What cleans temporary directories up does not end a worker."""
    with StateDir(tmp_path / "state") as state:
        state.jobs.rmdir()
        work = state.new_work("job")
        assert stat.S_IMODE(work.stat().st_mode) == 0o700
        work.rmdir()


def test_state_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file in its place gives a sentence, not a traceback."""
    (tmp_path / "state").write_text("")
    with pytest.raises(BadConfiguration, match="cannot hold a worker's state"):
        StateDir(tmp_path / "state")
