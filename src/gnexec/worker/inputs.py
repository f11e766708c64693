"""Inputs: fetched once, checked against their digest while they stream in, kept for the next job that needs them.

An input is what its digest says, or the job does not run: a server, or whoever stands between, cannot slip another file
in. The cache is a folder of blobs (`gnexec.store.blobs`) on which jobs have no hold: each gets a copy. What was used
least recently goes first when the cache outgrows its bound.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from gnexec.errors import GnexecError, Refused, StoreAway
from gnexec.store.blobs import Blobs
from gnexec.worker.limits import GIB
from gnexec.worker.link import Away, Link, Patience
from gnexec.worker.workdir import place

MOST_BYTES: Final = 4 * GIB
"""What the cache keeps between jobs; a job whose inputs are larger has them all the same, while it runs."""
_LARGEST: Final = 1 << 40
_TRIES: Final = 6
_TOO_LARGE: Final = "the inputs are larger than the disk space that the job may use"


class InputUnavailable(GnexecError):
    """An input cannot be had, so that the job cannot run here and now."""


class Inputs:
    """The cache, and the way to fill it."""

    def __init__(self, folder: Path, link: Link, *, most_bytes: int = MOST_BYTES) -> None:
        """Open the cache.

        Args:
            folder: private to us.
            link: where inputs come from.
            most_bytes: bound of what is kept.

        Raises:
            BadConfiguration: the folder cannot be used.
        """
        self._folder = folder
        self._blobs = Blobs(folder, max_bytes=_LARGEST)
        self._link = link
        self._most_bytes = most_bytes
        self._fetching: dict[str, asyncio.Lock] = {}
        self._in_use: Counter[str] = Counter()

    async def provide(self, inputs: dict[str, str], work: Path, job_token: str, max_bytes: int) -> None:
        """Put a copy of each input in its place beneath a work directory.

        Args:
            inputs: digest by path.
            work: the work directory.
            job_token: opens the inputs to us.
            max_bytes: cap over all of them.

        Raises:
            InputUnavailable: refused, of another digest, too large, or out of reach.
        """
        left = max_bytes
        for name, sha256 in inputs.items():
            async with self._held(sha256):
                try:
                    if not self._blobs.has(sha256):
                        await self._fetch(sha256, job_token, left)
                        self._evict()
                    path = self._blobs.path(sha256)
                    left -= path.stat().st_size
                    if left < 0:
                        raise InputUnavailable(_TOO_LARGE)
                    os.utime(path)
                    await asyncio.to_thread(place, work, name, path)
                except (Refused, StoreAway, OSError, ValueError) as err:
                    msg = f"the input {name!r} cannot be had: {err}"
                    raise InputUnavailable(msg) from err

    async def _fetch(self, sha256: str, job_token: str, max_bytes: int) -> None:
        patience = Patience()
        for tries_left in reversed(range(_TRIES)):
            try:
                await self._stream(sha256, job_token, max_bytes)
            except Away as err:
                if not tries_left:
                    raise InputUnavailable(str(err)) from err
                await asyncio.sleep(patience.wait_s(err.after_s))
            else:
                return

    async def _stream(self, sha256: str, job_token: str, max_bytes: int) -> None:
        with self._blobs.writer() as writer:
            size = 0
            async with self._link.blob(sha256, job_token) as pieces:
                async for piece in pieces:
                    size += len(piece)
                    if size > max_bytes:
                        raise InputUnavailable(_TOO_LARGE)
                    await asyncio.to_thread(writer.write, piece)
            await asyncio.to_thread(writer.finish, sha256)

    @asynccontextmanager
    async def _held(self, sha256: str) -> AsyncIterator[None]:
        """Keep an input from being evicted, and from being fetched twice at a time."""
        lock = self._fetching.setdefault(sha256, asyncio.Lock())
        self._in_use[sha256] += 1
        try:
            async with lock:
                yield
        finally:
            self._in_use[sha256] -= 1
            if not self._in_use[sha256]:
                del self._in_use[sha256], self._fetching[sha256]

    def _evict(self) -> None:
        kept = [
            (path.stat(), folder.name + path.name)
            for folder in self._folder.iterdir()
            if len(folder.name) == 2  # blobs lie in folders named by their first two digits
            for path in folder.iterdir()
        ]
        total = sum(info.st_size for info, _ in kept)
        for info, sha256 in sorted(kept, key=lambda row: row[0].st_mtime_ns):
            if total <= self._most_bytes:
                return
            if sha256 not in self._in_use:
                self._blobs.delete(sha256)
                total -= info.st_size
