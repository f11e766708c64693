"""Where the log is kept: one contract (`contract`), a store in memory, one in a SQLite file; and blobs beside them."""

from __future__ import annotations

from gnexec.store.contract import Store


def open_store(url: str, *, create: bool) -> Store:
    """Open the store at `url`.

    Args:
        url: `memory://`, a new and empty log that ends with the process; or `sqlite:///FILE`.
        create: make a SQLite file and its schema where there is none. A schema that is there is never changed.

    Raises:
        BadConfiguration: an address that is none of these, a database in use, or a schema that is not at head.
        CorruptLog: the log contradicts its head.
    """
    if url == "memory://":
        from gnexec.store.memory import MemoryStore  # noqa: PLC0415 - SQLite's users need not load it, nor the reverse

        return MemoryStore()
    from gnexec import migrate  # noqa: PLC0415 - SQLAlchemy takes a quarter of a second, and only servers need it
    from gnexec.store.sqlite import SqliteStore  # noqa: PLC0415 - as above

    return SqliteStore(migrate.sqlite_path(url), create=create)
