"""Private files: read only when nobody else can, written whole or not at all.

A file is first written and synced under a hidden name, with its final mode from the first moment, then linked or moved
to its place. So a reader sees all of it or none of it, also after a loss of power.

Rules:
- A private file that others may read is refused, not repaired: it may have been read.
- Whatever the operating system refuses is told as `BadConfiguration`, with the path and the reason.

This module does not know what the files hold (`gnexec.keys.ring` does).
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gnexec.errors import BadConfiguration

MAX_FILE_BYTES: Final = 1 << 20
"""Largest file that is taken for a key file."""


def read_private(path: Path) -> bytes:
    """Read a file that only its owner can read.

    Raises:
        BadConfiguration: missing, unreadable, too large, not a regular file, or others may read or write it.
    """
    data, mode = _read(path)
    if mode & 0o077:
        msg = f"others may read {path} (mode {mode & 0o777:o}): chmod 600 {path}, and replace it if it may have leaked"
        raise BadConfiguration(msg)
    return data


def read_public(path: Path) -> bytes:
    """Read a file, whoever else can.

    Raises:
        BadConfiguration: missing, unreadable, too large or not a regular file.
    """
    return _read(path)[0]


def write_new(path: Path, data: bytes) -> bool:
    """Make a file of mode 0600, and tell whether it was made; one that is there already stays as it is.

    Raises:
        BadConfiguration: it cannot be made.
    """
    with _explained(path):
        aside = _write_aside(path, data, 0o600)
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
        finally:
            aside.unlink()
        _sync_dir(path.parent)
        return True


def replace(path: Path, data: bytes, mode: int) -> None:
    """Put a file in the place of the old one, if there is one.

    Raises:
        BadConfiguration: it cannot be written; the old one is untouched.
    """
    with _explained(path):
        aside = _write_aside(path, data, mode)
        with undone_on_error([aside]):
            aside.replace(path)
        _sync_dir(path.parent)


def remove(path: Path) -> None:
    """Remove a file.

    Raises:
        BadConfiguration: it cannot be removed.
    """
    with _explained(path):
        path.unlink(missing_ok=True)


def make_dir(path: Path, mode: int) -> None:
    """Make a directory and its parents; one that is there already stays as it is.

    Raises:
        BadConfiguration: it cannot be made.
    """
    with _explained(path):
        path.mkdir(mode=mode, parents=True, exist_ok=True)


def check_dir(path: Path) -> None:
    """Make sure that only its owner can put files into a directory.

    Raises:
        BadConfiguration: missing, or others may replace files in it.
    """
    with _explained(path):
        mode = path.stat().st_mode
    if mode & 0o022:
        msg = f"others may replace files in {path} (mode {mode & 0o777:o}): chmod 700 {path}"
        raise BadConfiguration(msg)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the directory's lock, so that two commands change its files one after the other.

    Raises:
        BadConfiguration: the lock file cannot be made.
    """
    with _explained(folder):
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def undone_on_error(paths: Iterable[Path]) -> Iterator[None]:
    """Remove these files, none of which was there before, if the block fails."""
    try:
        yield
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


def _read(path: Path) -> tuple[bytes, int]:
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    with _explained(path), os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        data = file.read(MAX_FILE_BYTES + 1) if stat.S_ISREG(mode) else None
    if data is None or len(data) > MAX_FILE_BYTES:
        msg = f"{path} is not a key file"
        raise BadConfiguration(msg)
    return data, mode


def _write_aside(path: Path, data: bytes, mode: int) -> Path:
    """Write and sync a new hidden file beside `path`."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with undone_on_error([aside]):
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode & 0o600)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    return aside


def _sync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        msg = f"{path}: {err.strerror or err}"
        raise BadConfiguration(msg) from err
