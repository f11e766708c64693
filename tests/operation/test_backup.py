"""Backups that are made while the server serves, and what a server does over a log that comes from an old one."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from gnexec.cli import main
from gnexec.client import Client
from gnexec.errors import BadConfiguration
from gnexec.keys import load, rotate_log_key
from gnexec.store import backup as copying
from gnexec.store.backup import copy_log, mirror
from gnexec.store.contract import Head
from gnexec.store.published import Published, newest_published
from gnexec.tlog.checkpoint import parse_checkpoint
from gnexec.tlog.note import parse_note
from tests.cli.volunteer import Volunteer
from tests.serving import ORIGIN, Server, running_server

OPEN = ("--open",)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a home that knows of no log."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


def gnexec(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours to its end."""
    command = [sys.executable, "-m", "gnexec", *arguments]
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)


def work(url: str, word: str) -> int:
    """Have one job done in open mode; return its id."""
    with closing(Volunteer(url)) as volunteer, Client(url) as client:
        job = client.submit(["echo", word]).id
        volunteer.do_next(word)
        assert client.wait(job, timeout_s=60).state == "succeeded"
    return job


def test_backup_of_a_busy_server_is_a_whole_log_with_all_its_blobs(tmp_path: Path) -> None:
    """However busy the server is, the copy verifies, replays, names only blobs that it has, and can be served."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    with running_server(data, *OPEN) as server:
        work(server.url, "first")
        stop = threading.Event()

        def busy() -> None:
            for number in range(10_000):
                if stop.is_set():
                    return
                work(server.url, f"word-{number}")

        load = threading.Thread(target=busy)
        load.start()
        try:
            sizes = []
            for _ in range(2):
                done = gnexec("db", "backup", str(backup), "--data", str(data), "--json")
                assert done.returncode == 0, done.stderr
                sizes.append(json.loads(done.stdout)["entries"])
                for command in (("verify", str(backup)), ("replay", "--data", str(backup))):
                    checked = gnexec("log", *command)
                    assert checked.returncode == 0, checked.stderr + checked.stdout
        finally:
            stop.set()
            load.join()
        assert sizes == sorted(set(sizes))
    assert backup.stat().st_mode & 0o077 == 0
    assert (backup / "keys" / "log.pem").stat().st_mode & 0o077 == 0
    with running_server(backup, *OPEN) as second, Client(second.url) as client:
        assert client.job(1).state == "succeeded"
        work(second.url, "goes on")


def test_second_backup_copies_only_what_is_new_and_drops_what_was_erased(tmp_path: Path) -> None:
    """A folder is made the mirror of another; half-written files never have a name."""
    source, to = tmp_path / "source", tmp_path / "to"
    (source / "ab").mkdir(parents=True)
    (source / "ab" / "one").write_text("1")
    (source / "uploads").mkdir()
    (source / "uploads" / "part").write_text("half")
    assert mirror(source, to, lambda path: path.parts[0] != "uploads") == 1
    (source / "ab" / "two").write_text("2")
    assert mirror(source, to, lambda path: path.parts[0] != "uploads") == 1
    (source / "ab" / "one").unlink()
    assert mirror(source, to, lambda path: path.parts[0] != "uploads") == 0
    assert [path.relative_to(to).as_posix() for path in sorted(to.rglob("*")) if path.is_file()] == ["ab/two"]


def test_copy_that_cannot_be_written_leaves_the_last_one_alone(tmp_path: Path) -> None:
    """A failed backup says why, and the one from before is still whole."""
    with running_server(tmp_path / "data", *OPEN) as server:
        work(server.url, "word")
        size = copy_log(tmp_path / "data" / "log.sqlite", tmp_path / "copy").size
        with pytest.raises(BadConfiguration, match="cannot be written"):
            copy_log(tmp_path / "data" / "log.sqlite", tmp_path / "copy" / "below")
        with pytest.raises(BadConfiguration, match="no log at"):
            copy_log(tmp_path / "nothing", tmp_path / "copy")
    assert copy_log(tmp_path / "copy", tmp_path / "again").size == size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "copy", "data"]


def test_short_backup_is_refused_and_the_procedure_of_the_docs_leads_on(tmp_path: Path) -> None:
    """The published checkpoint outlives the log: what ends before it becomes an archive, and another log begins."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    server = Server(data, OPEN)
    data.mkdir()
    server.start()
    first = work(server.url, "kept")
    assert gnexec("db", "backup", str(backup), "--data", str(data)).returncode == 0
    second = work(server.url, "lost")
    server.kill()
    published = checkpoint(data / "published")

    before = contents(data)
    done = gnexec("db", "restore", str(backup), "--data", str(data))
    assert done.returncode == 1
    assert f"a checkpoint of {published} was published" in done.stderr
    assert "begin another log" in done.stderr
    assert contents(data) == before

    # A log that is put there by hand is not served either.
    aside = tmp_path / "aside"
    aside.mkdir()
    for file in data.glob("log.sqlite*"):
        file.rename(aside / file.name)
    copy_log(backup / "log.sqlite", data / "log.sqlite")
    refused = gnexec("serve", "--data", str(data), "--port", "0", "--open")
    assert refused.returncode == 1
    assert f"a checkpoint of {published} was published" in refused.stderr
    assert "docs/operate.md" in refused.stderr
    examined = [json.loads(line) for line in gnexec("doctor", "--json", "--data", str(data)).stdout.splitlines()]
    (found,) = [finding for finding in examined if finding["subject"] == "log"]
    assert found["grade"] == "bad"
    assert f"a checkpoint of {published} was published" in found["detail"]
    assert "Traceback" not in refused.stderr

    # What was there before goes on.
    for file in data.glob("log.sqlite*"):
        file.unlink()
    for file in aside.iterdir():
        file.rename(data / file.name)
    server.start()
    with Client(server.url) as client:
        assert client.job(second).state == "succeeded"
    server.kill()

    # And where it is lost, the procedure: the backup is the archive, a new folder gets a new name and new keys.
    data.rename(tmp_path / "lost")
    assert gnexec("keys", "new", "--data", str(data), "--origin", "test.example/gnexec-2").returncode == 0
    server.start()
    with Client(server.url) as client:
        assert client.hey().origin == "test.example/gnexec-2"
    assert work(server.url, "lost") == 1
    server.kill()
    for folder in (backup, data):
        assert gnexec("log", "verify", str(folder), "--vkey", str(folder / "public" / "log.vkey")).returncode == 0
    assert first == 1


def test_log_of_another_history_is_refused_though_it_is_longer(tmp_path: Path) -> None:
    """An old backup that went on elsewhere has more entries than were published, and other ones."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    with running_server(data, *OPEN) as server:
        work(server.url, "both")
        assert gnexec("db", "backup", str(backup), "--data", str(data)).returncode == 0
        work(server.url, "here")
    with running_server(backup, *OPEN) as server:
        for word in ("there", "elsewhere", "further"):
            work(server.url, word)
    assert checkpoint(backup / "published") > checkpoint(data / "published")
    assert gnexec("db", "restore", str(backup), "--data", str(data)).returncode == 0
    refused = gnexec("serve", "--data", str(data), "--port", "0", "--open")
    assert refused.returncode == 1
    assert "The log is another one" in refused.stderr


def test_backup_that_is_whole_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was published since: the server serves the restored log, under its old name."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    server = Server(data, OPEN)
    data.mkdir()
    server.start()
    job = work(server.url, "kept")
    server.kill()
    assert main(["db", "backup", str(backup), "--data", str(data)]) == 0
    for file in (*data.glob("log.sqlite*"), *(data / "blobs").rglob("*")):
        if file.is_file():
            file.unlink()
    assert main(["db", "restore", str(backup), "--data", str(data)]) == 0
    assert "are back" in capsys.readouterr().out
    server.start()
    with Client(server.url) as client:
        assert client.stdout(job) == b"kept"
    server.kill()


def test_restore_refuses_a_running_server_and_another_log(tmp_path: Path) -> None:
    """Neither a log in use nor the log of somebody else is replaced."""
    data, backup, other = tmp_path / "data", tmp_path / "backup", tmp_path / "other"
    with running_server(data, *OPEN):
        assert gnexec("db", "backup", str(backup), "--data", str(data)).returncode == 0
        before = (data / "log.sqlite").stat().st_ino
        in_use = gnexec("db", "restore", str(backup), "--data", str(data))
        assert in_use.returncode == 1
        assert "in use by process" in in_use.stderr
        assert (data / "log.sqlite").stat().st_ino == before
    assert gnexec("keys", "new", "--data", str(other), "--origin", "test.example/other").returncode == 0
    for command in (("backup", str(backup), "--data", str(other)), ("restore", str(backup), "--data", str(other))):
        refused = gnexec("db", *command)
        assert refused.returncode == 1
        assert ORIGIN in refused.stderr
        assert "test.example/other" in refused.stderr
    postgres = gnexec("db", "backup", str(tmp_path / "x"), "--data", str(data), "--database", "postgresql://u:pw@db/x")
    assert postgres.returncode == 1
    assert "pg_dump" in postgres.stderr
    assert "pw" not in postgres.stderr.replace("pg_dump", "")


def test_published_checkpoint_is_there_before_anybody_is_answered(tmp_path: Path) -> None:
    """Killed at any time, the file has what the last reply committed to."""
    with running_server(tmp_path, *OPEN) as server, Client(server.url) as client:
        for number in range(20):
            client.submit(["echo", str(number)])
            kept = (tmp_path / "published").read_bytes()
            assert kept == httpx2.get(f"{server.url}/checkpoint").content


def test_older_checkpoint_never_replaces_a_newer_one(tmp_path: Path) -> None:
    """Several processes write one file, each what it knows last."""
    path = tmp_path / "published"
    notes = [note(size) for size in (3, 12, 7)]
    one, other = Published(path), Published(path)
    one.keep(b"")
    assert one.newest() is None
    one.keep(notes[0])
    other.keep(notes[1])
    one.keep(notes[2])
    assert path.read_bytes() == notes[1]
    newest = one.newest()
    assert newest is not None
    assert newest.size == 12
    path.write_text("something else")
    with pytest.raises(BadConfiguration, match="not a checkpoint"):
        one.newest()
    one.close()
    one.close()
    other.close()


def test_restore_keeps_blobs_from_after_the_backup_and_what_is_being_uploaded(tmp_path: Path) -> None:
    """What the backup has not got is not what nobody needs: the log that was there names it."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    server = Server(data, OPEN)
    data.mkdir()
    server.start()
    work(server.url, "before")
    assert gnexec("db", "backup", str(backup), "--data", str(data)).returncode == 0
    job = work(server.url, "afterwards")
    server.kill()
    upload = data / "blobs" / "uploads" / "part"
    upload.parent.mkdir(exist_ok=True)
    upload.write_bytes(b"half")
    later = contents(data / "blobs")
    assert set(later) > set(contents(backup / "blobs"))

    (data / "published").unlink()
    restored = gnexec("db", "restore", str(backup), "--data", str(data), "--json")
    assert restored.returncode == 0, restored.stderr
    assert contents(data / "blobs") == later

    aside = Path(json.loads(restored.stdout)["aside"])
    for file in data.glob("log.sqlite*"):
        file.unlink()
    for file in aside.iterdir():
        file.rename(data / file.name)
    (data / "published").unlink(missing_ok=True)
    server.start()
    with Client(server.url) as client:
        assert client.stdout(job) == b"afterwards"
    server.kill()


def test_backup_while_keys_turn_has_every_key_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are copied behind the log and under their lock, so that no entry is signed by a key that is missing."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    with running_server(data, *OPEN) as server:
        work(server.url, "word")
    turned = []

    def turn_and_copy(database: Path, to: Path) -> Head:
        turned.append(rotate_log_key(data / "keys", data / "public", now_s=1_800_000_000, alone=True))
        with running_server(data, *OPEN) as again:
            work(again.url, "another")
        return copy_log(database, to)

    def watched(source: Path, to: Path, *arguments: Callable[[Path], bool]) -> int:
        if source == data / "keys":
            with (source / "lock").open() as lock, pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return mirror(source, to, *arguments)

    monkeypatch.setattr(copying, "copy_log", turn_and_copy)
    monkeypatch.setattr(copying, "mirror", watched)
    assert main(["db", "backup", str(backup), "--data", str(data)]) == 0
    assert [key.row for key in load(backup / "keys").log_keys] == [key.row for key in turned[0].log_keys]
    with running_server(backup, *OPEN) as server:
        work(server.url, "goes on")


def note(size: int, signatures: int = 1) -> bytes:
    """Return a checkpoint of that size, in form."""
    lines = f"— {ORIGIN} {'A' * 92}\n" * signatures
    return f"{ORIGIN}\n{size}\n{'A' * 43}=\n\n{lines}".encode()


def test_checkpoint_is_read_only_when_nobody_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads waits for the lock, and so never sees what is half written."""
    path = tmp_path / "published"
    reader = Published(path)
    taken = []

    def flock(file: int, operation: int) -> None:
        if operation == fcntl.LOCK_SH:
            taken.append(file)
            path.write_bytes(note(12))  # whoever had the lock is done
        lock(file, operation)

    lock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    for read in (reader.newest, lambda: newest_published(path)):
        path.write_bytes(b"")  # somebody has the lock, and has begun
        newest = read()
        assert newest is not None
        assert newest.size == 12
    assert len(taken) == 2
    reader.close()


def test_kill_within_a_write_leaves_a_checkpoint_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shorter checkpoint over a longer one: killed before the file is cut, it holds the newer."""
    path = tmp_path / "published"
    kept = Published(path)
    kept.keep(note(3, signatures=2))
    with monkeypatch.context() as patched:

        def killed(file: int, length: int) -> None:
            raise OSError(file, length)

        patched.setattr(os, "ftruncate", killed)
        kept.keep(note(12))
    for newest in (kept.newest(), newest_published(path)):
        assert newest is not None
        assert newest.size == 12
    kept.keep(note(13))
    assert path.read_bytes() == note(13)
    kept.close()


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, but for locks."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.endswith("lock")}


def checkpoint(path: Path) -> int:
    """Return the size that a checkpoint commits to."""
    return parse_checkpoint(parse_note(path.read_bytes()).text).size


def test_blobs_in_a_folder_of_their_own_are_backed_up_and_restored(tmp_path: Path) -> None:
    """Where the server is given a folder for blobs, that is where they go, come from, and come back to."""
    data, blobs, backup = tmp_path / "data", tmp_path / "blobs", tmp_path / "backup"
    with running_server(data, *OPEN, "--blobs", str(blobs)) as server:
        job = work(server.url, "apart")
    assert not (data / "blobs").exists()
    assert gnexec("db", "backup", str(backup), "--data", str(data), "--blobs", str(blobs)).returncode == 0
    elsewhere = tmp_path / "elsewhere"
    restored = gnexec("db", "restore", str(backup), "--data", str(data), "--blobs", str(elsewhere))
    assert restored.returncode == 0, restored.stderr
    with running_server(data, *OPEN, "--blobs", str(elsewhere)) as server, Client(server.url) as client:
        assert client.result(job).stdout is not None
        assert httpx2.get(f"{server.url}/v1/jobs/{job}/stdout").content == b"apart"


@pytest.mark.parametrize("left", [b"", bytes(300)])
def test_published_checkpoint_lost_with_the_power_keeps_no_server_from_starting(tmp_path: Path, left: bytes) -> None:
    """The file is not flushed: nothing, or zeros, may be left of it, and no human is needed for that."""
    path = tmp_path / "published"
    path.write_bytes(left)
    with closing(Published(path)) as kept:
        assert kept.newest() is None
    assert newest_published(path) is None
