"""A disk that loses its power: what SQLite has written and not yet synced is gone, wholly or in part.

`Disk` is a folder whose files are written through an apsw VFS. SQLite sees the files as an operating system shows them
(all that was written); beside them a record is kept of what the disk itself has: the bytes as of each file's last sync,
the names as of the folder's last sync, and everything since. When the power is cut, every call fails from then on, and
`survivors` makes the folder that a machine would find when it starts again.

What may happen to what was not synced:
- each 512-byte sector of each write is there or not, whatever came before or after it, and whatever was written to
  other files: so writes are lost, reordered and torn;
- of a sector that is not there, the beginning may be, or bytes that nobody wrote;
- a file may be cut or not, a deleted file may be back, a new one be gone.

What is taken for certain, as SQLite does: a sync that has returned holds, and bytes beside those that were written stay
as they were (SQLITE_IOCAP_POWERSAFE_OVERWRITE). A disk that lies about its syncs loses data with any database.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import apsw

SECTOR: Final = 512
_JOURNALS: Final = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL
_KEPT: Final = apsw.SQLITE_OPEN_MAIN_DB | _JOURNALS


class Loss(StrEnum):
    """What becomes of what was not synced."""

    ALL = "all of it is lost"
    SOME = "any sectors of it are lost"
    TORN = "any sectors of it are lost, torn or garbled"


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes that were written at an offset and not yet synced."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Cut:
    """A file that was cut to a size, not yet synced."""

    size: int


@dataclass(slots=True, eq=False)
class Platter:
    """What the disk has of one file.

    Attributes:
        durable: its bytes as of the last sync.
        since: what was done to it since, in order.
        nameless: whether its first sync makes its name durable too, as that of a new journal does.
    """

    durable: bytes = b""
    since: list[Write | Cut] = field(default_factory=list)
    nameless: bool = False

    def sync(self) -> None:
        """Make everything durable."""
        self.durable = self._with(self.since)
        self.since = []

    def survivor(self, loss: Loss, draw: random.Random) -> bytes:
        """Return the bytes after a loss of power."""
        if loss is Loss.ALL:
            return self.durable
        share = draw.choice((0.05, 0.5, 0.95))
        kept: list[Write | Cut] = []
        for change in self.since:
            if isinstance(change, Cut):
                kept.extend([change] if draw.random() < share else [])
            else:
                kept.extend(_sectors(change, share, loss, draw))
        return self._with(kept)

    def _with(self, changes: list[Write | Cut]) -> bytes:
        data = bytearray(self.durable)
        for change in changes:
            if isinstance(change, Cut):
                del data[change.size :]
            else:
                data.extend(bytes(max(0, change.offset - len(data))))
                data[change.offset : change.offset + len(change.data)] = change.data
        return bytes(data)


def _sectors(write: Write, share: float, loss: Loss, draw: random.Random) -> Iterator[Write]:
    """Yield the sectors of a write that have reached the disk; under `Loss.TORN`, some that have done so badly."""
    stop = write.offset + len(write.data)
    start = write.offset
    while start < stop:
        end = min(stop, start - start % SECTOR + SECTOR)
        sector = write.data[start - write.offset : end - write.offset]
        if draw.random() < share:
            yield Write(start, sector)
        elif loss is Loss.TORN and draw.random() < 0.5:
            torn = sector[: draw.randrange(len(sector))] if draw.random() < 0.5 else draw.randbytes(len(sector))
            yield Write(start, torn)
        start = end


class Disk:
    """A folder of files that SQLite writes through a VFS of its own.

    Attributes:
        folder: as the operating system shows it.
        off: whether the power is cut.
        done: writes, cuts, syncs and deletions so far.
        syncs: how many of them were syncs.
    """

    def __init__(self, folder: Path, *, cut_at: int | None = None) -> None:
        """Take what lies in the folder for durable.

        Args:
            folder: with the files to begin with.
            cut_at: the change, counted from 0, at which the power goes: it is under way, and unsynced. None for never.
        """
        self.folder = folder.resolve()
        self.off = False
        self.done = self.syncs = 0
        self._cut_at = cut_at
        # By name, what the folder's entry may point to: first the durable state, last the newest.
        self._names: dict[str, list[Platter | None]] = {
            path.name: [Platter(path.read_bytes())] for path in self.folder.iterdir() if path.is_file()
        }
        self._vfs = _Vfs(f"power-{id(self)}", self)

    @property
    def vfs(self) -> str:
        """The name by which SQLite knows this disk."""
        return self._vfs.vfs_name

    def close(self) -> None:
        """Take the disk away from SQLite; all its connections are closed."""
        self._vfs.unregister()

    def survivors(self, to: Path, loss: Loss, draw: random.Random) -> Path:
        """Write what is there after the loss of power into a new folder, and return it."""
        to.mkdir()
        for name, states in sorted(self._names.items()):
            platter = states[0] if loss is Loss.ALL else draw.choice(states)
            if platter is not None and not name.endswith(("-shm", ".lock")):
                (to / name).write_bytes(platter.survivor(loss, draw))
        return to

    # For the VFS.

    def platter(self, name: str, flags: int) -> Platter | None:
        """Return the record of a file that was just opened; None for one that need not survive."""
        if not flags & _KEPT:
            return None
        states = self._names.setdefault(name, [None])
        if states[-1] is None:
            # Made by this very call, or by somebody else who has synced it, name and all.
            fresh = bool(flags & apsw.SQLITE_OPEN_CREATE)
            data = b"" if fresh else (self.folder / name).read_bytes()
            states.append(Platter(data, nameless=bool(flags & _JOURNALS)))
            if not fresh:
                del states[:-1]
        return states[-1]

    def sync_names(self) -> None:
        """Make all names in the folder durable."""
        for states in self._names.values():
            del states[:-1]

    def forget(self, name: str, *, synced: bool) -> None:
        """Note that a file was deleted."""
        self._names.setdefault(name, [None]).append(None)
        if synced:
            self.sync_names()

    def told(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Take an error that apsw could tell nobody, a second one within the same call: of lost power, none is news.

        Raises:
            BaseException: any other one.
        """
        if not (self.off and isinstance(unraisable.exc_value, apsw.IOError)):
            raise unraisable.exc_value or AssertionError

    @contextmanager
    def change(self) -> Iterator[None]:
        """Count a change; the power may go while it is under way."""
        self.check()
        self.off = self.done == self._cut_at
        self.done += 1
        yield
        self.check()

    def check(self) -> None:
        """Raise once the power is cut.

        Raises:
            apsw.IOError: nothing works any more.
        """
        if self.off:
            msg = "the power is cut"
            raise apsw.IOError(msg)


class _Vfs(apsw.VFS):
    """SQLite's own VFS, with a disk that listens."""

    def __init__(self, name: str, disk: Disk) -> None:
        super().__init__(name, "")
        self.vfs_name = name
        self._disk = disk

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: ANN401, N802 -- apsw's
        self._disk.check()
        return _File(name, flags, self._disk)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001, N802 -- apsw's
        synced = syncdir
        with self._disk.change():
            self._disk.forget(Path(filename).name, synced=synced and not self._disk.off)
        super().xDelete(filename, syncdir)


class _File(apsw.VFSFile):
    """A file of SQLite's own VFS; the disk hears of each change."""

    def __init__(self, name: Any, flags: list[int], disk: Disk) -> None:  # noqa: ANN401 -- apsw's
        asked = flags[0]
        super().__init__("", name, flags)
        self._disk = disk
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._platter = disk.platter(Path(path).name, asked) if path else None

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 -- apsw's
        self._disk.check()
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: ANN401, N802 -- apsw's
        if self._platter is not None:
            with self._disk.change():
                self._platter.since.append(Write(offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 -- apsw's
        if self._platter is not None:
            with self._disk.change():
                self._platter.since.append(Cut(newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: ARG002, N802 -- apsw's
        if self._platter is not None:
            with self._disk.change():
                if not self._disk.off:
                    self._disk.syncs += 1
                    self._platter.sync()
                    if self._platter.nameless:
                        self._disk.sync_names()
                        self._platter.nameless = False
        # The real files are only what is shown; nothing rests on them.
