"""A job's standard output or error: read from a pipe, written to a file, capped.

Beyond its cap the file ends with one line that says so, and what follows is read and dropped: a job that talks too
much is not stopped by it, and cannot fill the disk. Whoever streams the file reads it by offset; bytes once written
never change.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

_CHUNK: Final = 1 << 16


class LogFile:
    """One stream of one run. `inlet` is the descriptor to give to the job; close it here once it is given.

    Args:
        path: a new or empty file outside the job's reach; a link is refused.
        max_bytes: what the job may write before the rest is dropped.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)
        self._outlet, self.inlet = os.pipe()
        os.set_blocking(self._outlet, False)
        self._left = self._max_bytes = max_bytes
        self._ended = asyncio.Event()
        self.size = 0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._outlet, self._drain)

    def close_inlet(self) -> None:
        """Close our copy of the job's end, so that the stream ends when the job's copies are closed."""
        if self.inlet >= 0:
            os.close(self.inlet)
            self.inlet = -1

    async def finish(self, timeout_s: float) -> None:
        """Wait for the end of the stream, at most `timeout_s` seconds, then close."""
        try:
            await asyncio.wait_for(self._ended.wait(), timeout_s)
        except TimeoutError:
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Close all descriptors; may be called again."""
        self.close_inlet()
        if self._outlet >= 0:
            self._loop.remove_reader(self._outlet)
            os.close(self._outlet)
            os.close(self._file)
            self._outlet = -1

    def _drain(self) -> None:
        try:
            data = os.read(self._outlet, _CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._outlet)
            self._ended.set()
            return
        if self._left < 0:
            return
        kept = data[: self._left]
        self._left -= len(data)
        if self._left < 0:
            kept += f"\n[gnexec: cut off after {self._max_bytes} bytes]\n".encode()
        self._write(kept)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                written = os.write(self._file, data)
                self.size += written
                data = data[written:]
        except OSError:
            self._left = -1  # the disk is full: what cannot be kept is dropped, and the job is judged by its limits
