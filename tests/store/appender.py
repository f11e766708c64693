"""A process that appends for ever and says what was acknowledged; the test that starts it kills it.

Run as `python -m tests.store.appender FILE`. It prints the log's size at first and after each commit, one line each.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gnexec.store.sqlite import SqliteStore
from tests.store.stores import fill


def main(database: Path) -> None:
    """Append batches of 1 to 5 entries, without end."""
    store = SqliteStore(database, create=True)
    while True:
        size = store.head().size
        sys.stdout.write(f"{size}\n")
        sys.stdout.flush()
        fill(store, 1 + size % 5, b"all")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
