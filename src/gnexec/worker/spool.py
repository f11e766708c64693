"""The worker's spool: every hand-out and every result is on disk until the server has acknowledged it.

One folder for each attempt: `attempt.json` from the hand-out on, `stdout` and `stderr` while it runs, then `blobs/`
and, last, `result.json`: the very bytes that are sent, so that an answer that is given twice is the same answer. A file
appears whole or not at all (written aside, synced, renamed, the folder synced). `asking.json` is the request for work
that has no reply yet: asked again by the same id, it brings the same attempts.

After a crash or a loss of power, a folder is one of three things: without `attempt.json` it is garbage and removed,
with `attempt.json` alone an interrupted attempt, with `result.json` a result to be sent.

This module sends nothing and runs nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from gnexec.core.terms import Needs
from gnexec.ids import sha256_hex
from gnexec.shapes import JobWork, ResultBody

T = TypeVar("T")

_ATTEMPT: Final = "attempt.json"
_RESULT: Final = "result.json"
_ASKING: Final = "asking.json"


class Asking(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request for work that has no reply yet.

    Attributes:
        req: its id, random. n: attempts asked for, 1..64.
    """

    req: str
    n: int


class Attempt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One attempt that was handed to this worker; it holds a secret, the job token.

    Attributes:
        origin: the server's name; no other server ever gets the token.
        work: what is to be run.
        number: the attempt number.
        jti: id of the hand-out.
        token: the hand-out's job token.
        exp_s: its hard deadline, seconds since 1970 by the server's clock.
    """

    origin: str
    work: JobWork
    number: int
    jti: str
    token: str
    exp_s: int

    @property
    def needs(self) -> Needs:
        """What it may use; the defaults where the server does not say."""
        return self.work.needs or Needs()


class Finished(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is to be sent for an attempt.

    Attributes:
        body: the result, as it is sent.
        blobs: digests of the files to be uploaded before, in this order.
        outcome: how it ended, in words.
    """

    body: ResultBody
    blobs: tuple[str, ...]
    outcome: str


class Entry:
    """One attempt's folder.

    Attributes:
        folder: where it is.
        attempt: what was handed out.
        finished: what is to be sent, or None while there is nothing.
    """

    def __init__(self, folder: Path, attempt: Attempt, finished: Finished | None) -> None:
        self.folder = folder
        self.attempt = attempt
        self.finished = finished

    @property
    def stdout(self) -> Path:
        """The job's standard output."""
        return self.folder / "stdout"

    @property
    def stderr(self) -> Path:
        """The job's standard error."""
        return self.folder / "stderr"

    @property
    def blobs(self) -> Path:
        """Files to be uploaded, named by their digests."""
        return self.folder / "blobs"

    def finish(self, finished: Finished) -> None:
        """Keep what is to be sent; durable on return.

        Raises:
            OSError: the disk does not take it.
        """
        _sync(self.blobs)
        _write(self.folder / _RESULT, msgspec.json.encode(finished))
        self.finished = finished

    def drop(self) -> None:
        """Forget the attempt: it was acknowledged, or nobody wants it any more.

        Raises:
            OSError: the disk does not answer.
        """
        (self.folder / _ATTEMPT).unlink(missing_ok=True)
        shutil.rmtree(self.folder)


class Spool:
    """All attempts that the server has not acknowledged."""

    def __init__(self, folder: Path) -> None:
        """Open the spool in an existing folder that nobody else uses, and remove garbage.

        Raises:
            OSError: the disk does not answer.
        """
        self._folder = folder
        self._entries: dict[Path, Entry] = {}
        self._unkept: set[Path] = set()
        """Folders that may be there, though their attempts could not be kept."""
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                attempt = _read(path / _ATTEMPT, Attempt)
                if attempt is None:
                    shutil.rmtree(path)
                else:
                    self._entries[path] = Entry(path, attempt, _read(path / _RESULT, Finished))

    def entries(self) -> list[Entry]:
        """Return the attempts that were found at the start and are still there."""
        return [entry for entry in self._entries.values() if entry.folder.exists()]

    def asking(self) -> Asking | None:
        """Return the request for work that has no reply yet, or None."""
        return _read(self._folder / _ASKING, Asking)

    def ask(self, asking: Asking) -> None:
        """Keep a request before it is sent.

        Raises:
            OSError: the disk does not take it.
        """
        _write(self._folder / _ASKING, msgspec.json.encode(asking))

    def answered(self, attempts: Sequence[Attempt] = ()) -> list[Entry]:
        """Keep what a reply brought, then forget the request.

        Args:
            attempts: what was handed out; those that are or were here already (the reply was a repetition) are passed
                over.

        Returns:
            The new entries; durable.

        Raises:
            OSError: the disk does not take it. Then nothing of it is kept, and the request is to be asked again.
        """
        added: list[Entry] = []
        try:
            for attempt in attempts:
                # A name of our own making: nothing that a server sends becomes a path.
                path = self._folder / sha256_hex(f"{attempt.jti} {attempt.work.id}".encode())[:32]
                if path not in self._entries and (path in self._unkept or not path.exists()):
                    added.append(Entry(path, attempt, None))
                    (path / "blobs").mkdir(mode=0o700, parents=True, exist_ok=True)
                    _write(path / _ATTEMPT, msgspec.json.encode(attempt))
            if added:
                _sync(self._folder)
            (self._folder / _ASKING).unlink(missing_ok=True)
        except OSError:
            for entry in added:
                self._unkept.add(entry.folder)
                shutil.rmtree(entry.folder, ignore_errors=True)
            raise
        self._unkept.clear()
        return added


def _read(path: Path, kind: type[T]) -> T | None:
    """Read a file of ours; None where there is none, or where it is damaged."""
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(path.read_bytes(), type=kind)
    return None


def _write(path: Path, data: bytes) -> None:
    aside = path.with_suffix(".part")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
