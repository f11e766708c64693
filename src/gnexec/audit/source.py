"""One way to read a log, wherever it is: an exported file, a live server, or a store on this machine.

Items come in order of seq, and a seal last. A source reports what it finds: it is `gnexec.audit.verify` that believes
nothing. What a source cannot read at all it refuses by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from gnexec.audit.lines import Header, Record, Seal
from gnexec.errors import BadConfiguration

DATABASE: Final = "log.sqlite"
"""Name of the log's database in a server's data folder."""

_SQLITE: Final = b"SQLite format 3\0"


class Source(Protocol):
    """A log that can be read from its first entry to its checkpoint.

    Attributes:
        header: which log, and how many entries it has, as it says of itself.
    """

    header: Header

    def items(self, start: int = 0) -> Iterator[Record | Seal]:
        """Yield the entries from `start` on, then the seal; no seal where the log breaks off.

        Raises:
            CorruptLog: an item cannot be read.
            ServerUnreachable, StoreAway: no answer; try again later.
        """
        ...


class Provable(Source, Protocol):
    """A log that can also tell the nodes of its tree, so that proofs can be made: a server's, or a store.

    Attributes:
        note: the signed checkpoint up to which it is read.
    """

    note: bytes

    def node(self, height: int, index: int) -> bytes:
        """Return the hash of a complete subtree, as `gnexec.tlog.merkle.Node` wants it.

        Raises:
            CorruptLog: a tile is missing or damaged.
        """
        ...


def is_url(where: str) -> bool:
    """Tell whether `where` is an address rather than a path."""
    return where.startswith(("http://", "https://"))


def open_source(where: str, token: str | None = None) -> AbstractContextManager[Source]:
    """Open the log at `where`, to be read only.

    Args:
        where: address of a server; folder of a server's data; its database; or an exported file.
        token: access token with the scope audit, for a server that is to show more than is public; or None.

    Raises:
        BadConfiguration: there is nothing that can be read as a log.
        CorruptLog: what is there begins like no log.
        ServerUnreachable: no answer.
    """
    if is_url(where):
        from gnexec.audit.live import LiveLog  # noqa: PLC0415 - files need no HTTP client

        return LiveLog(where, token)
    database = _database(Path(where))
    if database is not None:
        from gnexec.audit.local import LocalLog  # noqa: PLC0415 - the others need no database

        return LocalLog(database)
    from gnexec.audit.exported import ExportedLog  # noqa: PLC0415 - as above

    return ExportedLog(Path(where))


def open_provable(where: str, token: str | None = None) -> AbstractContextManager[Provable]:
    """Open the log at `where` for making proofs: a server's, or a store.

    Raises:
        BadConfiguration: it is an exported file, which has no tiles to make proofs from; or as `open_source`.
    """
    if is_url(where):
        from gnexec.audit.live import LiveLog  # noqa: PLC0415 - as above

        return LiveLog(where, token)
    database = _database(Path(where))
    if database is None:
        msg = f"{where} is an exported log, without the tiles that proofs are made from. Give a server or its folder."
        raise BadConfiguration(msg)
    from gnexec.audit.local import LocalLog  # noqa: PLC0415 - as above

    return LocalLog(database)


def _database(path: Path) -> Path | None:
    """Return the database at `path`, or in the data folder there; None for any other file."""
    if path.is_dir():
        return path / DATABASE
    try:
        with path.open("rb") as file:
            return path if file.read(len(_SQLITE)) == _SQLITE else None
    except OSError as err:
        msg = f"{path} cannot be read as a log: {err.strerror or err}."
        raise BadConfiguration(msg) from err
