"""`gnexec db backup` and `gnexec db restore`: all that a server cannot make again, copied out and put back.

A backup is a data folder: log, blobs, private and public keys. It can be verified like one (`gnexec log verify BACKUP`)
and served. It is made while the server serves; made anew over an older one, it copies only what changed.

Rules:
- The log is copied first, then the keys, then the blobs: whatever is added meanwhile, the copy of the log names no key
  and no blob that is not there.
- To restore removes nothing: blobs are named by their content, and the log that was there is moved aside.

A backup does not hold `published`, the newest checkpoint that the server has shown: that must be kept apart from what
it is there to check.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gnexec.cli.folders import Folder
from gnexec.cli.output import Json, complain, json_line, line
from gnexec.cli.values import Flag

if TYPE_CHECKING:
    from gnexec.settings import ServerSettings

LOG = "log.sqlite"
_UPLOADS = "uploads"


def backup(
    to: Annotated[Path, Parameter(metavar="FOLDER")],
    /,
    *,
    folder: Folder | None = None,
    database: str | None = None,
    blobs: Path | None = None,
    without_log: Flag = False,
    json: Json = False,
) -> int:
    """Copy log, blobs and keys into a folder, while the server may serve; one that has a backup is brought up to date.

    The copy holds private keys: it is made readable by you alone, and must stay so.

    Args:
        to: Folder for the backup.
        folder: see `Folder`.
        database: Address of the log's database, sqlite:///FILE, or postgresql://HOST/DATABASE with --without-log; else
            `log.sqlite` in the data folder.
        blobs: Folder of the blobs, if the server was given one.
        without_log: Blobs and keys only, after the log was dumped by PostgreSQL's own tools.
        json: see `Json`.
    """
    from gnexec.errors import BadConfiguration
    from gnexec.keys import load
    from gnexec.keys.files import locked, make_dir
    from gnexec.settings import ServerSettings
    from gnexec.store.backup import copy_log, mirror

    settings = ServerSettings(data=(folder or Folder()).data, database=database, blobs=blobs)
    origin = load(settings.private_keys).origin
    _refuse_other(to, origin)
    if not without_log and not settings.database_url.startswith("sqlite:"):
        msg = "This log is not in SQLite: dump it with pg_dump first, then add --without-log (docs/operate.md)."
        raise BadConfiguration(msg)
    make_dir(to, 0o700)
    head = None if without_log else copy_log(_database(settings), to / LOG)
    with locked(settings.private_keys):
        mirror(settings.private_keys, to / "keys", _is_key)
        mirror(settings.data / "public", to / "public", _is_key)
    copied = mirror(settings.blob_folder, to / "blobs", _is_blob)
    entries = None if head is None else head.size
    if json:
        json_line({"path": str(to), "entries": entries, "blobs_copied": copied})
    else:
        log = "Blobs and keys" if entries is None else f"The log's {entries} entries, blobs and keys"
        line(f"{log} of {origin} are in {to}; {copied} blobs were new.")
    return 0


def restore(
    source: Annotated[Path, Parameter(metavar="FOLDER")],
    /,
    *,
    folder: Folder | None = None,
    blobs: Path | None = None,
    json: Json = False,
) -> int:
    """Put a backup into the data folder, whose server must not run; a log that is there is moved aside, not removed.

    Changes nothing if the backup ends before a checkpoint that the server has published: such a log may not be served
    again. Blobs and keys that are there stay.

    Args:
        source: Folder of the backup.
        folder: see `Folder`.
        blobs: Folder for the blobs, if the server is given one.
        json: see `Json`.
    """
    from gnexec.keys import load
    from gnexec.keys.files import make_dir
    from gnexec.settings import ServerSettings
    from gnexec.store.backup import copy_log, mirror, size_of_log
    from gnexec.store.lockfile import LockFile
    from gnexec.store.published import newest_published

    settings = ServerSettings(data=(folder or Folder()).data, blobs=blobs)
    origin = load(source / "keys").origin
    _refuse_other(settings.data, origin)
    make_dir(settings.data, 0o700)
    size, aside = None, None
    if not (source / LOG).exists():
        mirror(source / "blobs", settings.blob_folder, _is_blob, prune=False)
    else:
        with LockFile(_database(settings)):
            size = size_of_log(source / LOG)
            newest = newest_published(settings.published)
            if newest is not None and newest.size > size:
                if json:
                    json_line({"entries": size, "aside": None, "short_of": newest.size})
                complain(
                    f"The backup has {size} entries, and a checkpoint of {newest.size} was published, so it may not be "
                    "served any more; nothing was changed",
                    "Restore a newer backup, or begin another log: docs/operate.md, 'A backup that is too short'.",
                )
                return 1
            mirror(source / "blobs", settings.blob_folder, _is_blob, prune=False)
            aside = _move_aside(settings)
            copy_log(source / LOG, _database(settings))
    _restore_keys(source, settings)
    if json:
        json_line({"entries": size, "aside": aside and str(aside), "short_of": None})
    else:
        line(f"{'Blobs and keys' if size is None else f'The log, of {size} entries, blobs and keys'} are back.")
        if aside is not None:
            line(f"The log that was there is in {aside}.")
    return 0


def _restore_keys(source: Path, settings: ServerSettings) -> None:
    """Put the keys of a backup where there are none; the ring comes last, so that this can be done again."""
    from gnexec.store.backup import mirror

    ring = "ring.json"
    if (settings.private_keys / ring).exists():
        return
    mirror(source / "public", settings.data / "public", _is_key, prune=False)
    mirror(source / "keys", settings.private_keys, lambda path: _is_key(path) and path.name != ring, prune=False)
    mirror(source / "keys", settings.private_keys, lambda path: path.name == ring, prune=False)


def _is_key(path: Path) -> bool:
    """Tell a file of keys from the folder's lock, and from what is being written."""
    return not path.name.startswith(".") and path.name != "lock"


def _is_blob(path: Path) -> bool:
    """Tell a blob from what is being uploaded."""
    return path.parts[0] != _UPLOADS


def _refuse_other(folder: Path, origin: str) -> None:
    """Make sure that a folder has no keys, or those of this log."""
    from gnexec.errors import BadConfiguration
    from gnexec.keys import load

    if (folder / "keys" / "ring.json").exists() and (found := load(folder / "keys").origin) != origin:
        msg = f"{folder} is of the log {found}, not of {origin}: give another folder."
        raise BadConfiguration(msg)


def _database(settings: ServerSettings) -> Path:
    from gnexec.migrate import sqlite_path

    return sqlite_path(settings.database_url)


def _move_aside(settings: ServerSettings) -> Path | None:
    """Move the log that is there away, with its write-ahead log, which would be taken for the restored one's."""
    import time

    database = _database(settings)
    if not database.exists():
        return None
    aside = settings.data / f"replaced-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    aside.mkdir(mode=0o700)
    for name in (database.name, f"{database.name}-wal", f"{database.name}-shm"):
        if (database.parent / name).exists():
            (database.parent / name).rename(aside / name)
    return aside
