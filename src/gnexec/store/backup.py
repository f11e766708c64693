"""Copies of what a server keeps, made while it serves: its SQLite log, and folders of files.

A copy of the log is one committed state of it: SQLite's backup interface reads it in a single transaction, through a
connection that can neither write nor checkpoint. A log names blobs only after they were stored, so blobs that are
copied after the log are all that it names.

Rules:
- A file of a copy is written aside, flushed, and only then given its name: what is there is whole.
- A copied database has no write-ahead log, so that one file is all of it, also where nothing can be written.
- Nothing here decides what goes where; see `gnexec.cli.backup`. PostgreSQL has tools of its own.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from gnexec.errors import BadConfiguration
from gnexec.store.connections import connect, translated
from gnexec.store.contract import Head
from gnexec.store.sqlite import checked_head


def copy_log(database: Path, to: Path) -> Head:
    """Copy the log as it is at one moment; a server may go on writing meanwhile.

    Args:
        database: the SQLite file.
        to: where the copy goes; one that is there is replaced in the end.

    Returns:
        The head of the copy.

    Raises:
        BadConfiguration: there is no log, or the copy cannot be written.
        CorruptLog: what was copied does not end where its head says.
        StoreAway: SQLite does not answer.
    """
    if not database.is_file():
        msg = f"There is no log at {database}. Give the folder that `gnexec serve --data` was given."
        raise BadConfiguration(msg)
    with (
        _written(to) as aside,
        translated(),
        closing(connect(database, mode="ro")) as source,
        closing(connect(aside, mode="rw")) as copy,
    ):
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
        return checked_head(copy)


def size_of_log(database: Path) -> int:
    """Return how many entries a log has that no server is writing.

    Raises:
        BadConfiguration: it is not there, or no log.
        CorruptLog: it does not end where its head says.
        StoreAway: SQLite does not answer.
    """
    with translated(), closing(connect(database, mode="ro")) as source:
        return checked_head(source).size


def mirror(source: Path, to: Path, wanted: Callable[[Path], bool] = lambda _: True, *, prune: bool = True) -> int:
    """Make `to` hold the files of `source`: new ones are copied, those that are gone there are removed here.

    A file that has the size and the time of its copy is taken for unchanged.

    Args:
        source: a folder; one that is not there counts as empty.
        to: made if need be, mode 0700.
        wanted: whether a file is to be copied, by its path below `source`.
        prune: remove what is in `to` only; else it stays.

    Returns:
        How many files were copied.

    Raises:
        BadConfiguration: something cannot be read or written.
    """
    there = {path.relative_to(source) for path in source.rglob("*") if path.is_file()} if source.is_dir() else set()
    there = {path for path in there if wanted(path)}
    copied = 0
    with _explained(to):
        to.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in sorted(there):
        try:
            file = (source / path).open("rb")
        except FileNotFoundError:
            continue  # erased meanwhile
        with file:
            copied += _copy(file, to / path)
    if not prune:
        return copied
    with _explained(to):
        for path in [path for path in to.rglob("*") if path.is_file() and path.relative_to(to) not in there]:
            path.unlink()
    return copied


def _copy(source: BinaryIO, to: Path) -> bool:
    """Copy a file with its mode and time; return False where the copy is there already."""
    stat = os.fstat(source.fileno())
    with _explained(to):
        with suppress(FileNotFoundError):
            had = to.stat()
            if (had.st_size, had.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns):
                return False
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _written(to) as aside:
        with aside.open("wb") as copy:
            shutil.copyfileobj(source, copy)
        aside.chmod(stat.st_mode & 0o777)
        os.utime(aside, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    return True


@contextmanager
def _written(to: Path) -> Iterator[Path]:
    """Lend a path beside `to`; what was written there is flushed and takes its name, or is removed after an error."""
    aside = to.with_name(f".{to.name}.{secrets.token_hex(8)}")
    with _explained(to):
        os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            yield aside
            _sync(aside)
            aside.replace(to)
            _sync(to.parent)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        msg = f"{path} cannot be written, or what belongs there read: {err.strerror or err}."
        raise BadConfiguration(msg) from err
