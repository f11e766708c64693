"""A process that appends and says what was acknowledged; the test that starts it kills it, or the server under it.

Run as `python -m tests.store.appender ADDRESS [SIZE]`, ADDRESS a file or a store's address. It prints the log's size at
first, and then the size that each of its commits gave, one line each, until the log has SIZE entries; without end when
that is absent or 0. A store that is away is tried again.
"""

from __future__ import annotations

import sys
from contextlib import suppress

from gnexec.errors import StoreAway
from gnexec.store import open_store
from gnexec.store.contract import Store
from tests.store.stores import grow


def say(size: int) -> None:
    """Print an acknowledged size at once."""
    sys.stdout.write(f"{size}\n")
    sys.stdout.flush()


def append(store: Store) -> int:
    """Append 1 to 5 entries; return the size that this gave."""
    with store.batch() as batch:
        size = batch.head().size
        batch.append(grow(size, 1 + size % 5, b"all"))
    return batch.head().size


def main(address: str, to: int) -> None:
    """Append batches until the log has `to` entries."""
    store = open_store(address if "://" in address else f"sqlite:///{address}", create=True)
    size = store.head().size
    say(size)
    while not to or size < to:
        with suppress(StoreAway):
            size = append(store)
            say(size)
    store.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
