"""Under which keys an entry can be found again.

What has left the world is read by folding its own entries. These keys say which entries those are; the store keeps
(key, seq) pairs beside the log, a cache that `gnexec log replay` rebuilds with this same function.
"""

from __future__ import annotations

from typing import Final

from gnexec.core.events import AnyEvent, Submitted
from gnexec.core.steps import jobs_of

SHELF: Final = 8
"""Consecutive jobs that are filed under one key."""


def job_key(job: int) -> bytes:
    """Key of all entries about a job, or about one that stands on the same shelf.

    A request that is about many jobs is mostly about consecutive ones, so it is filed an eighth as often; who looks a
    job up reads the entries of its neighbours too, and leaves them aside. Keys of later shelves are higher.
    """
    return b"s" + (job // SHELF).to_bytes(8, "big")


def digest_key(project: str, digest: str) -> bytes:
    """Key of the submissions that made a job of this digest in this project."""
    return b"d" + bytes.fromhex(digest)[:16] + project.encode()


def idempotency_key(key: str) -> bytes:
    """Key of the submission that used an idempotency key.

    Args:
        key: SHA-256 (hexadecimal) over owner and key.
    """
    return b"k" + bytes.fromhex(key)[:16]


def refs(event: AnyEvent) -> set[bytes]:
    """Return the keys under which `event` is filed."""
    keys = {job_key(job) for job in jobs_of(event)}
    if isinstance(event, Submitted):
        keys.update(digest_key(event.project, row.digest) for row in event.jobs)
        if event.key is not None:
            keys.add(idempotency_key(event.key))
    return keys
