"""Files named by the SHA-256 of their bytes: inputs, outputs, manifests, tables of variables.

A blob appears whole or not at all: it is written beside its place, checked, made durable, and only then given its name.
So a name that is there means bytes that have that digest, and an acknowledged blob survives a power loss. Several
processes may share a folder. Who may read which blob is not decided here (see `Grant` in `gnexec.store.contract`).

Layout: `ab/cdef…` is the blob whose digest begins with `abcdef`; `uploads/` holds what is being written, each file
locked by its writer, so that what a crash has left behind can be told from what is at work.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from gnexec.errors import BadConfiguration, Refused, StoreAway
from gnexec.ids import check_digest

MAX_BYTES: Final = 1 << 30
"""Largest blob unless the operator says otherwise: 1 GiB."""


class Blobs:
    """A folder of blobs."""

    def __init__(self, directory: Path, *, max_bytes: int = MAX_BYTES) -> None:
        """Open the folder, make it if need be, and remove what crashed uploads have left in it.

        Args:
            directory: on a local file system; private to its owner when made here.
            max_bytes: size of the largest blob accepted.

        Raises:
            BadConfiguration: the folder cannot be made or written.
        """
        self._root = directory.resolve()
        self._uploads = self._root / "uploads"
        self._max_bytes = max_bytes
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._uploads.mkdir(mode=0o700, exist_ok=True)
            _sync(self._root)
            _sync(self._root.parent)
            for path in self._uploads.iterdir():
                _remove_if_abandoned(path)
        except OSError as err:
            msg = f"{self._root} cannot hold blobs: {err.strerror}. Give a folder that is writable."
            raise BadConfiguration(msg) from err

    def writer(self) -> BlobWriter:
        """Begin an upload.

        Raises:
            StoreAway: the disk does not take it.
        """
        return BlobWriter(self, self._uploads, self._max_bytes)

    def put(self, data: bytes) -> str:
        """Keep `data` and return its SHA-256 in hexadecimal; durable on return.

        Raises:
            Refused: too_large.
            StoreAway: the disk does not take it.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        with self.writer() as writer:
            writer.write(data)
            writer.finish(sha256)
        return sha256

    def open(self, sha256: str) -> BinaryIO:
        """Open a blob for reading; the file stays readable when the blob is deleted meanwhile.

        Raises:
            Refused: invalid digest, or not_found.
            StoreAway: the disk does not answer.
        """
        with _disk(sha256):
            return self.path(sha256).open("rb")

    def size(self, sha256: str) -> int:
        """Return a blob's size in bytes.

        Raises:
            Refused: invalid digest, or not_found.
            StoreAway: the disk does not answer.
        """
        with _disk(sha256):
            return self.path(sha256).stat().st_size

    def has(self, sha256: str) -> bool:
        """Return whether a blob is there.

        Raises:
            Refused: invalid digest.
        """
        return self.path(sha256).is_file()

    def delete(self, sha256: str) -> bool:
        """Delete a blob; return whether it was there.

        Raises:
            Refused: invalid digest.
            StoreAway: the disk does not answer.
        """
        path = self.path(sha256)
        try:
            with _disk(sha256):
                path.unlink()
                _sync(path.parent)
        except Refused:
            return False
        return True

    def path(self, sha256: str) -> Path:
        """Return where a blob is or would be.

        Raises:
            Refused: invalid; what is no digest never becomes a path.
        """
        check_digest(sha256, "sha256")
        return self._root / sha256[:2] / sha256[2:]


class BlobWriter:
    """An upload: `write` any number of times, then `finish`. As a context manager it drops what is not finished."""

    def __init__(self, blobs: Blobs, uploads: Path, max_bytes: int) -> None:
        """Open a file of its own; see `Blobs.writer`."""
        self._blobs = blobs
        self._max_bytes = max_bytes
        self._size = 0
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        with _disk():
            self._path, self._file = _locked_file(uploads)

    def write(self, chunk: bytes) -> None:
        """Add bytes.

        Raises:
            Refused: too_large; the upload is dropped.
            StoreAway: the disk does not take it; the upload is dropped.
        """
        self._size += len(chunk)
        with self._or_drop() as file:
            if self._size > self._max_bytes:
                raise Refused("too_large", f"A blob has at most {self._max_bytes} bytes here.", field="body")
            self._hash.update(chunk)
            file.write(chunk)

    def finish(self, expected_sha256: str) -> int:
        """Check the digest, make the blob durable, and give it its name; one that is there is replaced by its equal.

        Returns:
            The blob's size in bytes.

        Raises:
            Refused: invalid, the bytes have another digest; nothing is kept.
            StoreAway: the disk does not take it; nothing is kept.
        """
        with self._or_drop() as file:
            path = self._blobs.path(expected_sha256)
            if self._hash.hexdigest() != expected_sha256:
                raise Refused(
                    "invalid",
                    f"The body's SHA-256 is {self._hash.hexdigest()}, not {expected_sha256}.",
                    field="sha256",
                    mend="Send the blob again, whole.",
                )
            file.flush()
            os.fsync(file.fileno())
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self._path.replace(path)
            _sync(path.parent)
            _sync(path.parent.parent)
            file.close()
            self._file = None
        return self._size

    def abort(self) -> None:
        """Drop the upload; harmless when finished or dropped already."""
        if self._file is not None:
            with suppress(OSError):
                self._path.unlink()
            with suppress(OSError):
                self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        """Write within a `with` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop the upload unless it is finished."""
        self.abort()

    @contextmanager
    def _or_drop(self) -> Iterator[BinaryIO]:
        if self._file is None:
            msg = "this upload has ended"
            raise RuntimeError(msg)
        try:
            with _disk():
                yield self._file
        except BaseException:
            self.abort()
            raise


@contextmanager
def _disk(sha256: str | None = None) -> Iterator[None]:
    """Turn the disk's errors into ours; a missing file is not_found where a blob is named."""
    try:
        yield
    except OSError as err:
        if sha256 is not None and err.errno == errno.ENOENT:
            raise Refused("not_found", f"There is no blob {sha256}.", field="sha256") from err
        msg = f"blobs: {err.strerror}"
        raise StoreAway(msg) from err


def _locked_file(folder: Path) -> tuple[Path, BinaryIO]:
    """Make a file that nobody takes for abandoned while it is open."""
    while True:
        path = folder / secrets.token_hex(16)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return path, os.fdopen(descriptor, "wb")
        os.close(descriptor)  # another process, just starting, has removed it before it was locked


def _remove_if_abandoned(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
