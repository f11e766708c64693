"""`gnexec log replay`: every cache of a server's database made anew from its log, and compared."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from gnexec.cli.findings import FAILURE, OK, not_verified, progress
from gnexec.cli.folders import Folder
from gnexec.cli.output import Json, complain, json_line, line, say
from gnexec.cli.values import Flag

if TYPE_CHECKING:
    from gnexec.audit.replay import Replayed


def replay(
    *, folder: Folder | None = None, database: str | None = None, repair: Flag = False, json: Json = False
) -> int:
    """Rebuild every cache of a server's database from its log, and compare; a difference is a failure.

    A server may go on over SQLite meanwhile; over PostgreSQL, all of them must be down.

    Args:
        folder: see `Folder`.
        database: Address of the log's database, sqlite:///FILE or postgresql://…; else `log.sqlite` in the data folder.
        repair: Write the refs anew, by which entries are found; the server must be down.
        json: see `Json`.
    """
    from gnexec.audit.source import DATABASE
    from gnexec.errors import CorruptLog, ProofError
    from gnexec.migrate import sqlite_path
    from gnexec.store.pgaddress import is_postgres

    try:
        if database is not None and is_postgres(database):
            found = _replay_postgres(database, repair=repair)
        else:
            file = (folder or Folder()).data / DATABASE if database is None else sqlite_path(database)
            found = _replay_sqlite(file, repair=repair)
    except (CorruptLog, ProofError) as error:
        return not_verified(error, json=json)
    if json:
        json_line({"ok": not found.differences, "entries": found.size, "differences": list(found.differences)})
    for difference in () if json else found.differences:
        mend = "`gnexec log replay --repair` writes them anew." if difference.cache == "refs" else ""
        complain(f"The {difference.cache} are not what the log makes them: {difference.detail}", mend)
    if not json and not found.differences:
        line(
            f"{found.size} entries, {found.tiles} full tiles, {found.refs} refs and the head: all as the log makes "
            f"them. {found.open_jobs} jobs are open, {found.workers} workers known."
        )
    return FAILURE if found.differences else OK


def _replay_sqlite(file: Path, *, repair: bool) -> Replayed:
    from gnexec.audit.local import LocalLog
    from gnexec.audit.replay import repair_refs
    from gnexec.audit.replay import replay as rebuild
    from gnexec.store.sqlite import SqliteStore

    if repair:
        with LocalLog(file):
            pass  # its own words for what cannot be opened, before anything is locked
        with closing(SqliteStore(file)) as store:
            say(f"{repair_refs(store)} refs are written anew.")
    with LocalLog(file, still=True) as log, progress("Folding", log.header.size) as tell:
        return rebuild(log, tell)


def _replay_postgres(database: str, *, repair: bool) -> Replayed:
    from gnexec.audit.replay import repair_refs
    from gnexec.audit.replay import replay as rebuild
    from gnexec.errors import BadConfiguration
    from gnexec.store import open_store

    with closing(open_store(database, create=False)) as store:
        if not store.alone():
            msg = (
                "A server has this log open: stop it first, or copy the log with `gnexec db copy` and replay the copy."
            )
            raise BadConfiguration(msg)
        if repair:
            say(f"{repair_refs(store)} refs are written anew.")
        with progress("Folding", store.head().size) as tell:
            return rebuild(store, tell)
