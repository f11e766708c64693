"""A lock file, by which one process at a time owns a SQLite log.

The kernel holds the lock (flock) and frees it when the process ends, however it ends: a file left behind blocks nobody.
The file is never deleted, since a process that waits on a deleted file would hold a lock that nobody else sees.
It holds the owner's process id, for the message to the second one. Not for network file systems.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from gnexec.errors import BadConfiguration


class LockFile:
    """The lock of one database file, held from construction to `release`."""

    def __init__(self, database: Path) -> None:
        """Take the lock on `<database>.lock`, without waiting.

        Args:
            database: the file to own; symbolic links are followed, so that two names of a file share a lock.

        Raises:
            BadConfiguration: another process has it (named), or the lock file cannot be made.
        """
        real = database.resolve()
        path = real.with_name(real.name + ".lock")
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as err:
            msg = f"{path} cannot be opened: {err.strerror}. Give a database in a folder that exists and is writable."
            raise BadConfiguration(msg) from err
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            msg = (
                f"{real} is in use by process {holder}. A SQLite log serves one process: stop that one first, "
                f"or give this one another database."
            )
            raise BadConfiguration(msg) from err
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Free the lock; harmless when done twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        """Hold the lock for the length of a `with` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the lock."""
        self.release()
