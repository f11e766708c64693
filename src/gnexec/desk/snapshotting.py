"""Making snapshots: folding from the last one to the head, in a process of its own while the server goes on.

`make_snapshot` is the work, which `gnexec db snapshot` does; `Maker` starts that command when the log has grown enough.

Rules:
- The server is never held up: all it does is to start a process, at the lowest priority, and to wait for it aside.
- One at a time, also among several servers with one folder.
- It ends with the server, however that ends: its standard input is held open by the server and by nobody else.
- When it fails, that is told once, and tried again when the log has grown as much again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from gnexec.desk.folding import fold_all
from gnexec.desk.held import opening_of
from gnexec.desk.sealer import Sealer
from gnexec.desk.snapshots import Snapshots
from gnexec.keys import ServerKeys
from gnexec.settings import ServerSettings
from gnexec.store import open_reader

log = structlog.get_logger("gnexec.desk")

DATABASE_VARIABLE: Final = "GNEXEC_DB_SNAPSHOT_DATABASE"
"""How the command is told the database's address: on a command line, all users of the machine could read it."""
BYTES_AN_ENTRY: Final = 1_000
"""Writing and reading as many bytes of a snapshot costs about as much as folding one entry."""
STOPPED_WITHIN_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Made:
    """A snapshot that was written.

    Attributes:
        size: entries that it stands for. bytes: its length.
    """

    path: Path
    size: int
    bytes: int


def snapshots_of(settings: ServerSettings, keys: ServerKeys) -> Snapshots:
    """Return the snapshots of a server."""
    return Snapshots(settings.snapshots, keys.pseudonym_secret, keys.origin)


def make_snapshot(settings: ServerSettings, keys: ServerKeys, *, at_least: int = 1) -> Made | None:
    """Fold the log from its last snapshot to its head, check it against the checkpoint, and keep the outcome.

    Args:
        settings: of the server.
        keys: its own.
        at_least: entries that must have been added since the last snapshot for a new one to be worth it.

    Returns:
        What was written; None where nothing was: too little is new, or another process is at it.

    Raises:
        BadConfiguration: there is no such log, or it is another server's.
        CorruptLog, ProofError: the log contradicts itself or its checkpoint.
        StoreAway: no answer.
        OSError: the folder cannot be written.
    """
    snapshots = snapshots_of(settings, keys)
    with snapshots.making() as alone, closing(open_reader(settings.database_url)) as reader:
        head = reader.head()
        if not alone or head.size - snapshots.newest(head.size)[0] < max(at_least, 1):
            return None
        folded = fold_all(reader, head, Sealer(keys.origin), opening_of(keys, settings.policy), snapshots)
        path = snapshots.keep(folded.world, folded.tree)
        return Made(path, folded.world.size, path.stat().st_size)


def due_at(newest: tuple[int, int], every: int) -> int:
    """Return the size at which the next snapshot is due.

    Args:
        newest: entries and bytes of the last one. A long one costs more to write, so folding on is worth it for longer.
        every: entries after which one is made, at the earliest.
    """
    entries, length = newest
    return entries + max(every, length // BYTES_AN_ENTRY)


class Maker:
    """Has snapshots made as the log grows.

    Attributes:
        snapshots: where they go.
    """

    def __init__(self, settings: ServerSettings, keys: ServerKeys) -> None:
        """Prepare; nothing is started before `noticed` says that it is time.

        Args:
            settings: of the server; its database must be one that other processes can read.
            keys: its own.
        """
        self.snapshots = snapshots_of(settings, keys)
        self._settings = settings
        self._next = settings.snapshot_every
        self._lock = threading.Lock()
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    def noticed(self, size: int) -> None:
        """Take note of the log's size; returns at once. Called by one thread only, after every commit."""
        every = self._settings.snapshot_every
        if not every or size < self._next or (self._thread is not None and self._thread.is_alive()):
            return
        newest = self.snapshots.newest(size)
        self._next = due_at(newest, every)
        if size >= self._next:
            self._next = size + every
            self._thread = threading.Thread(
                target=self._make, args=((size - newest[0]) // 2,), name="gnexec-snapshot", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End what is under way; it leaves no half snapshot."""
        with self._lock:
            self._stopping = True
            if self._process is not None:
                self._process.kill()
        if self._thread is not None:
            self._thread.join(STOPPED_WITHIN_S)

    def _make(self, at_least: int) -> None:
        command = [sys.executable, "-m", "gnexec", "db", "snapshot", "--data", str(self._settings.data), "--leash"]
        with self._lock:
            if self._stopping:
                return
            self._process = process = subprocess.Popen(
                [*command, "--at-least", str(at_least)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**os.environ, DATABASE_VARIABLE: self._settings.database_url},
                start_new_session=True,  # an interrupt from the terminal is the server's to handle
            )
        with process:
            said = process.stderr.read() if process.stderr is not None else b""
            status = process.wait()
        if status and not self._stopping:
            log.warning("no snapshot could be made", status=status, error=said.decode(errors="replace").strip())


def leashed(end: Callable[[], object] = lambda: os._exit(0)) -> None:
    """Let this process go last, and end when its standard input does.

    Args:
        end: called from another thread; the default ends the process at once, which leaves no half snapshot.
    """
    os.nice(19)

    def hold() -> None:
        while os.read(0, 1024):
            pass
        end()

    threading.Thread(target=hold, name="gnexec-leash", daemon=True).start()
