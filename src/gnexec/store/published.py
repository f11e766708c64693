"""The newest checkpoint that servers of a data folder have shown to anybody: one small file beside the log.

A log that was restored from an old backup, or taken over by a database that had not got the newest commits, ends before
it. To go on from there would make a second history of one log, which whoever holds the newer checkpoint can prove. So
the file outlives the database, and a server looks at it before it serves (`gnexec.desk.sealer`).

Rules:
- A checkpoint is kept after its commit and before anybody is answered; it is never replaced by a smaller one.
- Nothing is flushed: what a power loss takes from this file, it does not take from the log. Writing takes microseconds.
- Several processes may share a folder: whoever writes or reads the file holds its lock (flock).
- Killed at any time, it holds the old checkpoint or the new one, perhaps with empty lines behind it.
- The file is a signed note (C2SP tlog-checkpoint), as `/checkpoint` shows it: one that was saved elsewhere may be put
  in its place.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from gnexec.errors import BadConfiguration, ProofError
from gnexec.tlog.checkpoint import Checkpoint, parse_checkpoint
from gnexec.tlog.note import parse_note

MOST_BYTES: Final = 1 << 12
"""Room for the signatures of all keys that a log has at a time, and of witnesses."""


class Published:
    """The file."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make it if it is not there.

        Raises:
            BadConfiguration: it cannot be written.
        """
        self.path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as err:
            msg = f"{path} cannot be written: {err.strerror}. Give a data folder that is writable."
            raise BadConfiguration(msg) from err

    def newest(self) -> Checkpoint | None:
        """Return the checkpoint, or None for none yet. Whose signature it has is not asked.

        Raises:
            BadConfiguration: the file holds something else.
        """
        return _parse(_read_shared(self._file, self.path), self.path)

    def keep(self, note: bytes) -> None:
        """Keep a checkpoint, unless the file has one of as many entries or more.

        What cannot be written is not kept: the file is a safeguard of the log, and not the log.

        Args:
            note: signed by a log; b"" is ignored.
        """
        if not note:
            return
        with suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                self._replace(self._read(), note)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file; harmless when done twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _replace(self, old: bytes, note: bytes) -> None:
        with suppress(ValueError):  # what cannot be read is replaced as well
            if _size(old) >= _size(note):
                return
        os.pwrite(self._file, note.ljust(len(old), b"\n"), 0)  # killed behind this, all of the old one is gone
        if len(old) > len(note):
            os.ftruncate(self._file, len(note))

    def _read(self) -> bytes:
        return os.pread(self._file, MOST_BYTES, 0)


def newest_published(path: Path) -> Checkpoint | None:
    """Return the checkpoint in a file, or None for none; the file is neither made nor kept open.

    Raises:
        BadConfiguration: the file cannot be read, or holds something else.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as err:
        msg = f"{path} cannot be read: {err.strerror}."
        raise BadConfiguration(msg) from err
    try:
        return _parse(_read_shared(file, path), path)
    finally:
        os.close(file)


def _read_shared(file: int, path: Path) -> bytes:
    """Read the file while nobody writes it."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
        try:
            return os.pread(file, MOST_BYTES, 0)
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
    except OSError as err:
        msg = f"{path} cannot be read: {err.strerror}."
        raise BadConfiguration(msg) from err


def _parse(note: bytes, path: Path) -> Checkpoint | None:
    if not note.strip(b"\0"):
        return None  # never written, or lost with the power: the file is not flushed, and zeros are what may be left
    try:
        return parse_checkpoint(parse_note(note.rstrip(b"\n") + b"\n").text)
    except ProofError as err:
        msg = f"{path} is not a checkpoint: {err}. Put the newest one there that anybody has."
        raise BadConfiguration(msg) from err


def _size(note: bytes) -> int:
    """Return a checkpoint's number of entries, from its second line; ValueError if it has none."""
    return int(note.partition(b"\n")[2].partition(b"\n")[0])
