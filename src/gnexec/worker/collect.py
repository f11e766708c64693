"""Takes a job's outputs out of its work directory, after the last of its processes is gone.

A job may have left anything: links to the volunteer's files, pipes that never end, a file of any size. So an output
is opened beneath the work directory without following a link, must be a regular file on the same file system, and is
copied, under a cap, to a file that is named by its digest and that no job can reach.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from gnexec.worker.workdir import open_beneath

_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Output:
    """A file that a job made.

    Attributes:
        sha256: digest of its bytes, 64 lower-case hexadecimal digits.
        size: bytes.
        path: our copy, named by the digest.
    """

    sha256: str
    size: int
    path: Path


@dataclass(frozen=True, slots=True)
class Collected:
    """What was found of the outputs that were asked for.

    Attributes:
        outputs: what was taken, by name.
        refused: why a name was not taken, one sentence each.
    """

    outputs: dict[str, Output]
    refused: dict[str, str]


class _Refused(Exception):
    """An output is not taken; the message says why."""


def collect(work: Path, names: Sequence[str], into: Path, max_bytes: int) -> Collected:
    """Copy the declared outputs.

    Args:
        work: the work directory of a job that has ended.
        names: paths beneath it, as `workdir.parts_of` accepts them.
        into: directory for the copies, on which jobs have no hold.
        max_bytes: cap over all outputs together.

    Raises:
        OSError: a copy cannot be written.
    """
    outputs: dict[str, Output] = {}
    refused: dict[str, str] = {}
    left = max_bytes
    for name in dict.fromkeys(names):
        try:
            outputs[name] = _take(work, name, into, left)
            left -= outputs[name].size
        except _Refused as err:
            refused[name] = str(err)
    return Collected(outputs, refused)


def keep(source: Path, into: Path, max_bytes: int) -> Output:
    """Copy a file of our own, such as a log, to a file named by its digest.

    Raises:
        OSError: it cannot be read, or the copy cannot be written.
        ValueError: it is larger than `max_bytes`.
    """
    try:
        return _copy(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), into, max_bytes)
    except _Refused as err:
        msg = f"{source}: {err}"
        raise ValueError(msg) from err


def _take(work: Path, name: str, into: Path, max_bytes: int) -> Output:
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        fd = open_beneath(work, name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError as err:
        raise _Refused(str(err)) from err
    except OSError as err:
        raise _Refused(_reason(err)) from err
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_dev != work.stat().st_dev:
        os.close(fd)
        reason = "It is not a regular file of the work directory."
        raise _Refused(reason)
    return _copy(fd, into, max_bytes)


def _copy(fd: int, into: Path, max_bytes: int) -> Output:
    """Copy an open file, and close it; the copy appears under its name when it is complete and on disk."""
    with os.fdopen(fd, "rb", buffering=0) as source, tempfile.NamedTemporaryFile(dir=into, delete=False) as sink:
        part = Path(sink.name)
        try:
            digest, size = _pour(source, sink, max_bytes)
            return Output(digest, size, part.replace(into / digest))
        finally:
            part.unlink(missing_ok=True)


def _pour(source: IO[bytes], sink: IO[bytes], max_bytes: int) -> tuple[str, int]:
    """Copy and hash; return digest and size once the copy is on disk."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        size += len(chunk)
        if size > max_bytes:
            reason = f"It is larger than the {max_bytes} bytes that are left for outputs."
            raise _Refused(reason)
        digest.update(chunk)
        sink.write(chunk)
    sink.flush()
    os.fsync(sink.fileno())
    return digest.hexdigest(), size


def _reason(err: OSError) -> str:
    match err.errno:
        case errno.ENOENT:
            return "The job did not make it."
        case errno.ELOOP | errno.ENOTDIR:
            return "It is a link, or lies behind one."
        case errno.EACCES:
            return "The job has taken its own permission to read it away."
        case _:
            return f"It cannot be opened: {os.strerror(err.errno or 0)}."
