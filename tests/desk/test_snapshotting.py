"""Making snapshots beside a server: by a process that nobody waits for, and that ends with the server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from gnexec.core.snapshot import fold_version
from gnexec.desk.clock import Clock
from gnexec.desk.ledger import Ledger
from gnexec.desk.requests import Request
from gnexec.desk.sealer import Sealer
from gnexec.desk.snapshotting import BYTES_AN_ENTRY, DATABASE_VARIABLE, Maker, due_at, make_snapshot, snapshots_of
from gnexec.errors import BadConfiguration
from gnexec.keys import ServerKeys, new_keys
from gnexec.settings import ServerSettings
from gnexec.store import open_reader, open_store
from tests.core.scene import request
from tests.core.summary import summary
from tests.databases import shared
from tests.desk.house import opening, submission
from tests.serving import ORIGIN, running_server

Logged = list[MutableMapping[str, Any]]
EVERY = 10


@pytest.fixture(scope="module")
def made_keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ServerKeys]:
    """Return a folder with a server's keys, and them."""
    data = tmp_path_factory.mktemp("data")
    return data, new_keys(data / "keys", data / "public", ORIGIN)


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerSettings]:
    """Return settings over a new and empty database of each kind."""
    if request.param == "sqlite":
        yield ServerSettings(data=tmp_path, database=f"sqlite:///{tmp_path / 'log.sqlite'}", snapshot_every=EVERY)
        return
    with shared().database() as url:
        yield ServerSettings(data=tmp_path, database=url, snapshot_every=EVERY)


def serving(settings: ServerSettings, keys: ServerKeys) -> tuple[Ledger, Callable[[], None]]:
    """Open the log as a server does; return its ledger, and what closes it."""
    store = open_store(settings.database_url, create=True)
    opened = opening(settings.policy, key=keys.log_key, origin=keys.origin)
    ledger = Ledger(store, Sealer(keys.origin, keys.log_key), opened, Clock(), snapshots_of(settings, keys))
    ledger.refold()
    return ledger, store.close


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.01)


# The work.


def test_snapshot_is_made_beside_a_server_and_read_by_the_next(
    settings: ServerSettings, made_keys: tuple[Path, ServerKeys]
) -> None:
    """The one who makes it takes no lock and counts as no server; who starts from it knows all that it held."""
    keys = made_keys[1]
    ledger, close = serving(settings, keys)
    try:
        assert make_snapshot(settings, keys) is None, "of an empty log there is nothing to keep"
        ledger.record(_commands(ledger, settings, keys, 12))
        made = make_snapshot(settings, keys)
        assert made is not None
        assert (made.size, made.bytes) == (ledger.world.size, made.path.stat().st_size)
        ledger.record(_commands(ledger, settings, keys, 3))
        assert make_snapshot(settings, keys, at_least=50) is None
    finally:
        close()
    again, close = serving(settings, keys)
    close()
    assert type(again.world).__name__ == "_Restored"
    assert summary(again.world) == summary(ledger.world)


def test_snapshot_of_a_log_that_is_not_there_says_how_to_mend_it(
    tmp_path: Path, made_keys: tuple[Path, ServerKeys]
) -> None:
    """No file is made by looking for one."""
    settings = ServerSettings(data=tmp_path)
    with pytest.raises(BadConfiguration, match="gnexec db upgrade"):
        make_snapshot(settings, made_keys[1])
    assert not (tmp_path / "log.sqlite").exists()


def test_reader_sees_what_is_committed_and_is_no_server(
    settings: ServerSettings, made_keys: tuple[Path, ServerKeys]
) -> None:
    """A log may be read while one server has it; that one is still alone."""
    store = open_store(settings.database_url, create=True)
    ledger = Ledger(
        store, Sealer(ORIGIN, made_keys[1].log_key), opening(key=made_keys[1].log_key, origin=ORIGIN), Clock()
    )
    ledger.refold()
    reader = open_reader(settings.database_url)
    try:
        assert (reader.head(), reader.entries(0, 10), reader.tile(0, 0)) == (store.head(), [], None)
        ledger.record(_commands(ledger, settings, made_keys[1], 3))
        assert reader.head() == store.head()
        assert reader.entries(0, 10) == store.entries(0, 10)
        assert reader.story(b"nothing") == []
        assert store.alone()
    finally:
        reader.close()
        store.close()


def _commands(ledger: Ledger, settings: ServerSettings, keys: ServerKeys, jobs: int) -> list[Request]:
    """Return what opens the log, and hands in new jobs, one a request."""
    size = ledger.world.size
    opened = opening(settings.policy, key=keys.log_key, origin=keys.origin)
    return [Request(command=opened), *(Request(command=submission(request((size, n)))) for n in range(jobs))]


# When it is done, by a program that stands for the command.


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return what puts a shell script in the place of Python; it notes its arguments in a file first."""

    def put(script: str) -> Path:
        notes, program = tmp_path / "notes", tmp_path / "program"
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" "${DATABASE_VARIABLE}" "$$" >> {notes}\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        return notes

    return put


@pytest.fixture
def maker(tmp_path: Path, made_keys: tuple[Path, ServerKeys]) -> Iterator[Maker]:
    """Return a maker of snapshots over a folder without any."""
    database = "postgresql://user:pass@nowhere/log"
    maker = Maker(ServerSettings(data=tmp_path, database=database, snapshot_every=EVERY), made_keys[1])
    yield maker
    maker.stop()


def lines(notes: Path) -> list[str]:
    """Return what the stand-ins have noted, three lines each."""
    return notes.read_text().splitlines() if notes.exists() else []


def test_maker_starts_when_the_log_has_grown_enough_and_one_at_a_time(
    maker: Maker, stand_in: Callable[[str], Path]
) -> None:
    """Neither before, nor again while one is at work; the database's password is on no command line."""
    notes = stand_in("exec cat > /dev/null")
    for size in range(EVERY):
        maker.noticed(size)
    assert maker._thread is None
    for size in range(EVERY, 5 * EVERY):
        maker.noticed(size)
    until(lambda: len(lines(notes)) == 3)
    command, database, _ = lines(notes)
    assert "db snapshot" in command
    assert "pass" not in command
    assert database == "postgresql://user:pass@nowhere/log"


def test_maker_that_is_stopped_ends_the_process_and_says_nothing(
    maker: Maker, stand_in: Callable[[str], Path], logged: Logged
) -> None:
    """A server that ends leaves no process behind, and no warning of what it did itself; nothing starts any more."""
    notes = stand_in("exec cat > /dev/null")
    maker.noticed(EVERY)
    until(lambda: len(lines(notes)) == 3)
    maker.stop()
    assert not psutil.pid_exists(int(lines(notes)[2]))
    maker.noticed(10 * EVERY)
    maker.stop()
    assert len(lines(notes)) == 3
    assert logged == []


def test_maker_tells_what_failed_and_tries_again_when_the_log_has_grown(
    maker: Maker, stand_in: Callable[[str], Path], logged: Logged
) -> None:
    """One warning for each failure, in the command's own words."""
    notes = stand_in("echo gnexec: no space left >&2; exit 1")
    maker.noticed(EVERY)
    until(lambda: logged)
    assert logged == [
        {
            "event": "no snapshot could be made",
            "log_level": "warning",
            "status": 1,
            "error": "gnexec: no space left",
        }
    ]
    assert maker._thread is not None
    maker._thread.join(60)
    maker.noticed(2 * EVERY - 1)
    maker._thread.join(60)
    assert len(lines(notes)) == 3
    maker.noticed(2 * EVERY)
    until(lambda: len(lines(notes)) == 6)


def test_maker_looks_at_what_others_made_before_it_starts(maker: Maker, stand_in: Callable[[str], Path]) -> None:
    """Of several servers over one folder, the first makes the snapshot for all."""
    notes = stand_in("")
    made = maker.snapshots
    made.folder.mkdir()
    (made.folder / f"{EVERY}-00000000-{fold_version()}.snap").write_bytes(b"")
    maker.noticed(2 * EVERY - 1)
    assert maker._thread is None
    maker.noticed(2 * EVERY)
    until(lambda: len(lines(notes)) == 3)


@pytest.mark.parametrize(
    ("newest", "due"),
    [((0, 0), 100), ((500, 10), 600), ((500, 99 * BYTES_AN_ENTRY), 600), ((500, 1000 * BYTES_AN_ENTRY), 1500)],
)
def test_next_snapshot_is_due_later_the_longer_the_last_was(newest: tuple[int, int], due: int) -> None:
    """A long one is written less often, so that writing never costs more than folding on."""
    assert due_at(newest, 100) == due


# The real command, and the real server.


def test_leashed_process_goes_last_and_ends_with_its_standard_input() -> None:
    """However the server ends, a killed one included, what it started ends too, quietly."""
    code = "from gnexec.desk.snapshotting import leashed; leashed(); print(flush=True); import time; time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert psutil.Process(process.pid).nice() == 19
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_server_makes_snapshots_by_itself_and_starts_from_the_last(tmp_path: Path, end: signal.Signals) -> None:
    """Its log grows, a file appears; the next start reads it, says nothing strange, and leaves no process behind."""
    with running_server(tmp_path / "data", "--snapshot-every", "3") as server:
        folder = server.data / "snapshots"
        until(lambda: list(folder.glob("*.snap")))
        assert server.process is not None
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.kill(end)
        for child in children:
            child.wait(60)
        server.start()
        server.kill(signal.SIGTERM)
        assert "Traceback" not in "".join(server.output)
        assert "snapshot" not in "".join(server.output)


def test_command_makes_a_snapshot_and_says_where(tmp_path: Path) -> None:
    """An operator who is about to start a server over a long log makes one beforehand."""
    with running_server(tmp_path / "data", "--snapshot-every", "0") as server:
        server.kill(signal.SIGTERM)
        assert not (server.data / "snapshots").exists()
    command = [sys.executable, "-m", "gnexec", "db", "snapshot", "--data", str(tmp_path / "data"), "--json"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert Path(told["path"]).stat().st_size == told["bytes"]
    assert json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) is None
