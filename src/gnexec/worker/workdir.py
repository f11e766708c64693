"""A job's work directory: making it the job's, putting inputs in, measuring and clearing it.

While a job runs, everything beneath the directory is the job's to change between two looks at it. So nothing here
follows a link, and every step goes by descriptor from the directory downwards.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

_MAX_DEPTH: Final = 64
_SMALLEST: Final = 4096  # an empty file takes space too
_NO_FOLLOW: Final = os.O_NOFOLLOW | os.O_CLOEXEC
UNBOUNDED: Final = 1 << 62
"""Size of what cannot be measured: more than any limit."""


@dataclass(frozen=True, slots=True)
class Identity:
    """User and group that jobs run under when the worker is root."""

    uid: int
    gid: int


def parts_of(name: str) -> tuple[str, ...]:
    """Split the name of an input or output.

    Args:
        name: a relative path with `/`, 1 to 1,024 bytes, without empty parts, `.`, `..`, or control characters.

    Raises:
        ValueError: it is anything else; the message says what.
    """
    parts = name.split("/")
    if not 0 < len(os.fsencode(name)) <= 1024 or len(parts) > _MAX_DEPTH:
        msg = f"the file name {name[:80]!r} is empty, too long or too deep"
        raise ValueError(msg)
    if any(part in {"", ".", ".."} or len(os.fsencode(part)) > 255 for part in parts):
        msg = f"the file name {name!r} is not a plain path beneath the work directory"
        raise ValueError(msg)
    if not name.isprintable():
        msg = f"the file name {name!r} has control characters"
        raise ValueError(msg)
    return PurePosixPath(name).parts


def open_beneath(work: Path, name: str, flags: int, mode: int = 0o600, *, parents: bool = False) -> int:
    """Open a file beneath a directory without following any link on the way.

    Args:
        work: the directory; links in *its* path are followed, it is ours.
        name: as for `parts_of`.
        flags: as for `os.open`.
        mode: permissions of a new file.
        parents: make missing directories.

    Returns:
        A descriptor.

    Raises:
        ValueError: the name is not acceptable.
        OSError: missing, a link, or not permitted.
    """
    *folders, last = parts_of(name)
    here = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            if parents:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder, 0o755, dir_fd=here)
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW, dir_fd=here)
            os.close(here)
            here = below
        return os.open(last, flags | _NO_FOLLOW, mode, dir_fd=here)
    finally:
        os.close(here)


def place(work: Path, name: str, source: Path) -> None:
    """Copy an input to its place beneath the work directory, before the job starts.

    Raises:
        ValueError: the name is not acceptable.
        OSError: the place is taken, or the source cannot be read.
    """
    target = open_beneath(work, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, parents=True)
    with os.fdopen(target, "wb") as sink, source.open("rb") as stream:
        shutil.copyfileobj(stream, sink, 1 << 20)


def hand_over(work: Path, identity: Identity) -> None:
    """Make the work directory and all that is in it the property of the job's user; needs root."""
    for _, folders, files, fd in os.fwalk(work):
        os.fchown(fd, identity.uid, identity.gid)
        for name in folders + files:
            os.chown(name, identity.uid, identity.gid, dir_fd=fd, follow_symlinks=False)


def barrier(path: Path, identity: Identity) -> Path | None:
    """Find the first directory above `path` that the job's user may not pass, or None if there is none."""
    for folder in reversed(path.absolute().parents):
        info = folder.stat()
        if info.st_uid == identity.uid:
            may = info.st_mode & stat.S_IXUSR
        elif info.st_gid == identity.gid:
            may = info.st_mode & stat.S_IXGRP
        else:
            may = info.st_mode & stat.S_IXOTH
        if not may:
            return folder
    return None


def measure(work: Path) -> int:
    """Measure the space that a directory takes, in bytes, while its owner may be changing it.

    Holes in files take no space, hard links count once. A directory that is hidden from us, or nested deeper than 64
    levels, counts as `UNBOUNDED`: it is how a job would hide what it writes.
    """
    try:
        top = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return UNBOUNDED
    return _measure(top, 0, set())


def _measure(fd: int, depth: int, seen: set[tuple[int, int]]) -> int:
    total = 0
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(info.st_mode):
                    total += _SMALLEST + _below(fd, entry.name, depth + 1, seen)
                    continue
                if info.st_nlink > 1:
                    if (info.st_dev, info.st_ino) in seen:
                        continue
                    seen.add((info.st_dev, info.st_ino))
                total += max(info.st_blocks * 512, _SMALLEST)
    except OSError:
        return UNBOUNDED
    finally:
        os.close(fd)
    return total


def _below(fd: int, name: str, depth: int, seen: set[tuple[int, int]]) -> int:
    if depth > _MAX_DEPTH:
        return UNBOUNDED
    try:
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW, dir_fd=fd)
    except (FileNotFoundError, NotADirectoryError):
        return 0  # gone, or no longer a directory
    except OSError:
        return UNBOUNDED
    return _measure(below, depth, seen)


def clear(work: Path) -> None:
    """Remove a work directory after its job has ended, whatever permissions and depths the job has left in it.

    Raises:
        OSError: something of it is still there.
    """
    # The two commands neither follow links on the way down nor mind the depth; Python's own would recurse.
    for command in (["chmod", "-R", "u+rwX", "--"], ["rm", "-rf", "--"]):
        subprocess.run([*command, work], check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if work.exists():
        msg = f"the work directory {work} could not be removed"
        raise OSError(msg)
