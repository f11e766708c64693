"""Random bytes for ids and salts, drawn from the system in blocks.

To draw sixteen bytes is a system call for which Python lets go of its lock; a busy thread then waits for the lock far
longer than for the bytes. Each byte is given out once, and none is kept that was given out.
"""

from __future__ import annotations

import secrets
from threading import Lock
from typing import Final

BLOCK_BYTES: Final = 8192

_lock: Final = Lock()
_block: Final = bytearray()


def draw(count: int) -> bytes:
    """Return `count` random bytes, from any thread."""
    with _lock:
        if len(_block) < count:
            _block.extend(secrets.token_bytes(max(BLOCK_BYTES, count)))
        drawn = bytes(_block[-count:]) if count else b""
        del _block[len(_block) - count :]
    return drawn
