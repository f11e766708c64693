"""Snapshots on disk: `<size>-<root>-<fold>.snap` in one folder, each under a message authentication code.

Rules:
- A snapshot is a cache. Whatever is wrong with one is told the operator, and it is passed over; nothing fails by it.
- Only what this server, or one with the same secret and log, has written is decoded. Whether it fits the log as it now
  is in the store, is for who folds on from it to check (`gnexec.desk.folding`).
- A file appears whole or not at all. The newest two of this fold are kept, so that a damaged one leaves another.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Final

import structlog

from gnexec.core.snapshot import UnusableSnapshot, decode, encode, fold_version
from gnexec.core.world import World
from gnexec.keys.files import make_dir
from gnexec.tlog.tiles import Tree

log = structlog.get_logger("gnexec.desk")

KEPT: Final = 2
"""Snapshots of this fold that are kept."""
OTHERS_KEPT_S: Final = 24 * 3600
"""How long snapshots of other folds are kept: another version of the program may serve beside this one."""
MAGIC: Final = b"gnexec snapshot\n"
MAC_BYTES: Final = 32
_NAME: Final = re.compile(r"(?P<size>[0-9]{1,16})-(?P<root>[0-9a-f]{8})-(?P<fold>[0-9a-f-]{1,64})\.snap", re.ASCII)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A world and a tree that were read from a file; whoever takes them has them alone."""

    path: Path
    world: World
    tree: Tree


class Snapshots:
    """The snapshots of one log in one folder."""

    def __init__(self, folder: Path, secret: bytes, origin: str) -> None:
        """Look at a folder; it is made when the first snapshot is kept.

        Args:
            folder: where they lie.
            secret: the server's, 32 bytes; the key of the codes is derived from it.
            origin: the log's name.
        """
        self.folder = folder
        self._key = hmac.digest(secret, b"gnexec snapshot of " + origin.encode(), hashlib.sha256)

    def newest_first(self, most: int) -> Iterator[Snapshot]:
        """Read the snapshots of this fold one after the other, the largest first; what cannot be used is passed over.

        Args:
            most: those of more entries are passed over: the store holds an older state, such as a backup.
        """
        for size, path in self._own():
            if not 0 < size <= most:
                log.warning("a snapshot goes further than the log", snapshot=path.name, entries=most)
                continue
            try:
                yield self._read(path)
            except (OSError, UnusableSnapshot) as err:
                log.warning("a snapshot cannot be used", snapshot=path.name, error=str(err))

    def newest(self, most: int) -> tuple[int, int]:
        """Return what the name of the largest snapshot says, and its length, without reading it.

        Args:
            most: larger ones do not count.

        Returns:
            (entries, bytes); (0, 0) where there is none.
        """
        for size, path in self._own():
            if size <= most:
                with suppress(FileNotFoundError):
                    return size, path.stat().st_size
        return 0, 0

    def keep(self, world: World, tree: Tree) -> Path:
        """Write a snapshot durably, and remove those that are no longer needed.

        Args:
            world: at least one entry, folded and checked.
            tree: over the same entries.

        Raises:
            OSError: it could not be written.
        """
        make_dir(self.folder, 0o700)
        body = encode(world, tree)
        path = self.folder / _name(world, tree)
        aside = path.with_suffix(".new")
        with aside.open("wb") as file:
            file.write(MAGIC)
            file.write(self._mac(body))
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._clear(path)
        return path

    @contextmanager
    def making(self) -> Iterator[bool]:
        """Be the only one that makes a snapshot here; yields False where another process is at it."""
        make_dir(self.folder, 0o700)
        lock = os.open(self.folder / "making.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                flock(lock, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(lock)

    def _mac(self, body: bytes | memoryview) -> bytes:
        return hmac.digest(self._key, body, hashlib.sha256)

    def _read(self, path: Path) -> Snapshot:
        """Read one file.

        Raises:
            OSError, UnusableSnapshot: it cannot be used.
        """
        data = memoryview(path.read_bytes())
        head = len(MAGIC) + MAC_BYTES
        if bytes(data[: len(MAGIC)]) != MAGIC or not hmac.compare_digest(
            data[len(MAGIC) : head], self._mac(data[head:])
        ):
            msg = "it is damaged, or another server wrote it"
            raise UnusableSnapshot(msg)
        world, tree = decode(data[head:])
        if _name(world, tree) != path.name:
            msg = "it was renamed"
            raise UnusableSnapshot(msg)
        return Snapshot(path, world, tree)

    def _files(self) -> Iterator[tuple[Path, str, int]]:
        """Yield (path, fold, size) of every file that has a snapshot's name."""
        with suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                named = _NAME.fullmatch(path.name)
                if named is not None:
                    yield path, named["fold"], int(named["size"])

    def _own(self) -> list[tuple[int, Path]]:
        fold = fold_version()
        return sorted(((size, path) for path, made_by, size in self._files() if made_by == fold), reverse=True)

    def _clear(self, newest: Path) -> None:
        """Remove what an interrupted writer left, all but the latest two of this fold, and old ones of other folds.

        The latest are those written last: after a backup was restored, a larger one is of a history that is no more.
        """
        for left in self.folder.glob("*.new"):
            left.unlink(missing_ok=True)
        written: list[tuple[float, Path]] = []
        for path, fold, _ in self._files():
            with suppress(FileNotFoundError):
                at_s = path.stat().st_mtime
                if fold == fold_version():
                    written.append((at_s, path))
                elif time.time() - at_s > OTHERS_KEPT_S:
                    path.unlink()
        others = sorted((each for each in written if each[1] != newest), reverse=True)
        for _, path in others[KEPT - 1 :]:
            path.unlink(missing_ok=True)


def _name(world: World, tree: Tree) -> str:
    return f"{world.size}-{tree.root().hex()[:8]}-{fold_version()}.snap"
