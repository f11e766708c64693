"""Files that must outlive a loss of power: blobs, keys, the worker's spool.

After every sync, rename, link and deletion, the folder that a loss of power would leave is made and opened by the real
code: what it finds is whole, and what was acknowledged is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from gnexec.keys.files import read_private, replace, write_new
from gnexec.shapes import JobWork, ResultBody
from gnexec.store.blobs import Blobs
from gnexec.worker.collect import keep
from gnexec.worker.spool import Asking, Attempt, Finished, Spool
from tests.store.synced import Names, Synced

DATA = bytes(range(256)) * 40


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Callable[[Path], None]], Synced]]:
    """Have every state that a loss of power could leave looked at."""
    (tmp_path / "live").mkdir()

    def start(look: Callable[[Path], None]) -> Synced:
        disk = Synced(tmp_path / "live")
        number = count()

        def each() -> None:
            for names in Names:
                look(disk.survivors(tmp_path / f"left {next(number)}", names))

        disk.listen(monkeypatch)
        disk.look = each
        return disk

    yield start
    monkeypatch.undo()


def test_blob_whenever_the_power_goes_is_whole_or_not_there(
    listen: Callable[[Callable[[Path], None]], Synced], tmp_path: Path
) -> None:
    """A name that is there means bytes that have that digest; an acknowledged blob is there."""
    sha256 = hashlib.sha256(DATA).hexdigest()

    def look(left: Path) -> None:
        path = left / "blobs" / sha256[:2] / sha256[2:]
        assert not path.exists() or path.read_bytes() == DATA

    disk = listen(look)
    blobs = Blobs(disk.folder / "blobs")
    blobs.put(b"another")
    assert blobs.put(DATA) == sha256
    assert disk.looks > 5
    for names in Names:
        with Blobs(disk.survivors(tmp_path / f"after {names}", names) / "blobs").open(sha256) as file:
            assert file.read() == DATA


def test_private_file_whenever_the_power_goes_is_the_old_or_the_new_one(
    listen: Callable[[Callable[[Path], None]], Synced], tmp_path: Path
) -> None:
    """A key is never half written, nor gone while it is replaced."""
    allowed = {None, b"first"}
    written = False

    def look(left: Path) -> None:
        path = left / "key"
        found = read_private(path) if path.exists() else None
        assert found in allowed
        assert found is not None or not written

    disk = listen(look)
    assert write_new(disk.folder / "key", b"first")
    written = True
    allowed.add(b"second")
    replace(disk.folder / "key", b"second", 0o600)
    for names in Names:
        assert read_private(disk.survivors(tmp_path / f"after {names}", names) / "key") == b"second"


def attempt(job: int) -> Attempt:
    """Return an attempt at a job."""
    work = JobWork(id=job, cmd="true", token="t", attempt=1, digest="0" * 64, lease_until=1, deadline_s=2)
    return Attempt(origin="test/log", work=work, number=1, jti="jti", token="t", exp_s=2)


def test_spool_whenever_the_power_goes_has_the_request_or_its_attempts(
    listen: Callable[[Callable[[Path], None]], Synced], tmp_path: Path
) -> None:
    """From the request to the report, there is no moment at which a loss of power forgets what the server counts on."""
    asked = taken = finished = False

    def look(left: Path) -> None:
        spool = Spool(left)
        jobs = {entry.attempt.work.id for entry in spool.entries()}
        assert jobs <= {1, 2}
        assert not asked or spool.asking() is not None or jobs == {1, 2}
        assert not taken or jobs == {1, 2}
        for entry in spool.entries():
            if entry.finished is not None:
                kept = [(entry.blobs / name).read_bytes() for name in entry.finished.blobs]
                assert [hashlib.sha256(data).hexdigest() for data in kept] == list(entry.finished.blobs)
            assert not finished or entry.attempt.work.id != 1 or entry.finished is not None

    disk = listen(look)
    spool = Spool(disk.folder)
    spool.ask(Asking(req="r", n=2))
    asked = True
    entries = spool.answered([attempt(1), attempt(2)])
    taken = True
    source = tmp_path / "output"
    source.write_bytes(DATA)
    output = keep(source, entries[0].blobs, 1 << 20)
    entries[0].finish(Finished(body=ResultBody(statement="s"), blobs=(output.sha256,), outcome="success"))
    finished = True
    assert disk.looks > 8
    assert {entry.attempt.work.id for entry in Spool(disk.folder).entries()} == {1, 2}
