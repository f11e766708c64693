"""The worker's state directory: its key, its enrolment, its spool, its cache, and the lock that makes it one worker's.

One process at a time uses a state directory: two would answer for each other's attempts. The kernel holds the lock and
frees it when the process ends, however it ends. The directory is private; what is in it:

- `worker.pem`: the worker's key · `enrolment.json`: where it is enrolled (`gnexec.worker.identity`);
- `spool/`: hand-outs and results that the server has not acknowledged (`gnexec.worker.spool`);
- `cache/`: inputs by digest (`gnexec.worker.inputs`);
- `jobs/`: work directories; emptied at every start. A worker that is root keeps them in /var/tmp instead, since the
  unprivileged user of its jobs cannot pass a private directory.

This module reads and writes nothing of all that itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gnexec.errors import BadConfiguration
from gnexec.ids import sha256_hex
from gnexec.worker.workdir import clear

_ROOT_JOBS: Final = Path("/var/tmp")  # noqa: S108 - made private to root below, and refused if somebody else made it


class StateDir:
    """A state directory, locked from construction to `release`."""

    def __init__(self, path: Path) -> None:
        """Make the directory if need be, lock it, and clear away the work directories of a crashed worker.

        Args:
            path: where it is or is to be.

        Raises:
            BadConfiguration: another worker uses it (named), or it cannot be made.
        """
        self.path = path.absolute()
        try:
            for folder in (self.path, self.spool, self.cache):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as err:
            msg = f"{self.path} cannot hold a worker's state: {err.strerror}. Give a directory that is writable."
            raise BadConfiguration(msg) from err
        try:
            self._take_lock()
            self.jobs = _jobs_dir(self.path)
            for left_over in self.jobs.iterdir():
                clear(left_over)
        except OSError as err:
            os.close(self._lock)
            msg = f"the work directories of {self.path} cannot be prepared: {err}"
            raise BadConfiguration(msg) from err
        except BadConfiguration:
            os.close(self._lock)
            raise

    @property
    def key(self) -> Path:
        """The worker's private key."""
        return self.path / "worker.pem"

    @property
    def enrolment(self) -> Path:
        """What the server gave the worker when it enrolled."""
        return self.path / "enrolment.json"

    @property
    def spool(self) -> Path:
        """Hand-outs and results."""
        return self.path / "spool"

    @property
    def cache(self) -> Path:
        """Inputs."""
        return self.path / "cache"

    def new_work(self, name: str) -> Path:
        """Make a work directory, and the one above it again should somebody have cleared it away.

        Raises:
            OSError: it is there already, or cannot be made.
            BadConfiguration: somebody else has made the one above it.
        """
        work = _jobs_dir(self.path) / name
        work.mkdir(mode=0o700)
        return work

    def release(self) -> None:
        """Free the lock, and leave no empty directory behind elsewhere; harmless when done twice."""
        if self._lock >= 0:
            with contextlib.suppress(OSError):
                self.jobs.rmdir()
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        """Use the directory for the length of a `with` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the lock."""
        self.release()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            msg = (
                f"{self.path} is in use by the worker with process id {holder}. Stop that one first, "
                f"or give this one another directory with --state; more slots need no second worker."
            )
            raise BadConfiguration(msg) from err
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)


def _jobs_dir(state: Path) -> Path:
    """Make the directory of the work directories: passable by the jobs' user, changed by nobody but us."""
    if os.geteuid() != 0:
        jobs = state / "jobs"
        jobs.mkdir(mode=0o700, exist_ok=True)
        return jobs
    jobs = _ROOT_JOBS / f"gnexec-{sha256_hex(os.fsencode(state.resolve()))[:16]}"
    jobs.mkdir(mode=0o711, exist_ok=True)
    info = jobs.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != 0 or info.st_mode & 0o022:
        msg = f"{jobs} was made by somebody else: remove it, and look who it was"
        raise BadConfiguration(msg)
    jobs.chmod(0o711)
    return jobs
