"""What is on the disk of a folder if nothing is there but what was synced: the order of syncs, tested by its outcome.

While `Synced` listens, every `os.fsync` is taken down: of a file, its bytes as they are then; of a folder, its names.
`survivors` makes the folder that a loss of power would leave, under the strictest disk that POSIX allows (a name is
there only once its folder was synced) or under the worst mixture (names are there at once, bytes only once synced:
what a rename before the sync would suffer). A file that was never synced is empty then.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import pytest

_CHANGES: Final = ("fsync", "replace", "rename", "link", "unlink", "mkdir")
"""The calls of `os` after which the disk is looked at."""


class Names(StrEnum):
    """When the name of a file is on the disk."""

    SYNCED = "once its folder is synced"
    AT_ONCE = "at once"


Key = tuple[int, int]
"""Device and inode."""


@dataclass
class Synced:
    """A folder whose syncs are listened to.

    Attributes:
        folder: all of it.
        look: called after every change of names or sync.
        files: bytes as of the last sync. folders: names as of the last sync.
    """

    folder: Path
    look: Callable[[], None] = lambda: None
    files: dict[Key, bytes] = field(default_factory=dict)
    folders: dict[Key, dict[str, tuple[Key, bool]]] = field(default_factory=dict)
    looks: int = 0
    _looking: bool = False

    def listen(self, patch: pytest.MonkeyPatch) -> None:
        """Take what is there for durable, and listen from now on."""
        for path in (self.folder, *self.folder.rglob("*")):
            self._note(path)
        for name in _CHANGES:
            patch.setattr(os, name, self._listening(name, getattr(os, name)))

    def survivors(self, to: Path, names: Names) -> Path:
        """Make the folder that is there after a loss of power, and return it."""
        to.mkdir(mode=0o700)
        for name, (key, is_folder) in self._names(self.folder, names).items():
            self._survive(self.folder / name, key, to / name, names, is_folder=is_folder)
        return to

    def _survive(self, path: Path, key: Key, to: Path, names: Names, *, is_folder: bool) -> None:
        if not is_folder:
            to.write_bytes(self.files.get(key, b""))
            to.chmod(0o600)
            return
        to.mkdir(mode=0o700)
        inner = self.folders.get(key, {}) if names is Names.SYNCED else self._names(path, names)
        for name, (inside, deeper) in inner.items():
            self._survive(path / name, inside, to / name, names, is_folder=deeper)

    def _names(self, folder: Path, names: Names) -> dict[str, tuple[Key, bool]]:
        if names is Names.SYNCED:
            return self.folders.get(_key(folder.stat()), {})
        return _listing(folder)

    def _listening(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:  # noqa: ANN401 -- those of the call
            result = real(*args, **named)
            if name == "fsync":
                self._note(Path(f"/proc/self/fd/{args[0]}"))
            if not self._looking:
                self._looking = True
                try:
                    self.looks += 1
                    self.look()
                finally:
                    self._looking = False
            return result

        return call

    def _note(self, path: Path) -> None:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            self.folders[_key(found)] = _listing(path)
        elif stat.S_ISREG(found.st_mode):
            self.files[_key(found)] = path.read_bytes()


def _listing(folder: Path) -> dict[str, tuple[Key, bool]]:
    with os.scandir(folder) as found:
        return {
            each.name: (_key(each.stat(follow_symlinks=False)), each.is_dir(follow_symlinks=False)) for each in found
        }


def _key(found: os.stat_result) -> Key:
    return found.st_dev, found.st_ino
