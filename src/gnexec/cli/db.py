"""`gnexec db`: the database's schema."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from gnexec.cli.folders import Folder
from gnexec.cli.output import Json, json_line, line

app = App(
    name="db", help="Bring the database to this program's schema; copy the log; back a server up, and restore it."
)
app.command("gnexec.cli.backup:backup", name="backup", help="Copy log, blobs and keys out, while the server may serve.")
app.command("gnexec.cli.backup:restore", name="restore", help="Put a backup into the data folder of a stopped server.")


@app.command
def upgrade(*, folder: Folder | None = None, database: str | None = None, json: Json = False) -> int:
    """Bring the database to this program's schema; make it if it is not there. Harmless when it is up to date.

    Args:
        folder: see `Folder`.
        database: Address of the log's database, sqlite:///FILE or postgresql://HOST/DATABASE; else `log.sqlite` in the
            data folder.
        json: see `Json`.
    """
    from gnexec import migrate

    place = folder or Folder()
    url = database or place.settings.database_url
    if database is None:
        _make(place)
    before = migrate.current(url)
    migrate.upgrade(url)
    after = migrate.current(url)
    if json:
        json_line({"before": before, "after": after})
    elif before == after:
        line(f"The schema is at {after} already.")
    else:
        line(f"The schema is at {after} now; it was at {before or 'nothing'}.")
    return 0


@app.command
def check(*, folder: Folder | None = None, database: str | None = None, json: Json = False) -> int:
    """Make sure that the database has this program's schema.

    Args:
        folder: see `Folder`.
        database: Address of the log's database, sqlite:///FILE or postgresql://HOST/DATABASE; else `log.sqlite` in the
            data folder.
        json: see `Json`.
    """
    from gnexec import migrate
    from gnexec.errors import BadConfiguration

    url = database or (folder or Folder()).settings.database_url
    found, needed = migrate.current(url), migrate.head()
    if json:
        json_line({"current": found, "head": needed, "ok": found == needed})
        return 0 if found == needed else 1
    if found is None:
        msg = f"There is no database at {migrate.shown(url)}. `gnexec db upgrade` makes it."
        raise BadConfiguration(msg)
    migrate.check(url)
    line(f"The schema is at {found}, as this gnexec needs it.")
    return 0


@app.command
def copy(source: str, target: str, /, *, json: Json = False) -> int:
    """Copy a log into an empty database, byte for byte: from SQLite to PostgreSQL, or back.

    No server may have either open. Everything is read back and held against the checkpoint before it is kept. Blobs and
    keys are files of the data folder, and stay where they are. A password is better kept in ~/.pgpass than in an
    address.

    Args:
        source: Address of the log, sqlite:///FILE or postgresql://HOST/DATABASE.
        target: Address of a database that holds nothing.
        json: see `Json`.
    """
    from gnexec.cli.progress import counting
    from gnexec.store.copying import copy_database

    with counting() as tell:
        copied = copy_database(source, target, tell)
    if json:
        json_line({"entries": copied.size, "rows": copied.rows})
    else:
        line(f"The log's {copied.size} entries were copied and verified.")
        line("Serve it with --database and the same data folder, which holds its keys and blobs; servers on several")
        line("hosts need the same keys, and share one folder of blobs.")
    return 0


@app.command
def snapshot(
    *,
    folder: Folder | None = None,
    database: str | None = None,
    at_least: int = 1,
    leash: Annotated[bool, Parameter(show=False)] = False,
    json: Json = False,
) -> int:
    """Make a snapshot, so that the next start of a server over this log takes seconds. Harmless beside a server.

    A server makes them by itself as its log grows; this is for one that is about to start over a long log without any.

    Args:
        folder: see `Folder`.
        database: Address of the log's database, sqlite:///FILE or postgresql://HOST/DATABASE; else `log.sqlite` in the
            data folder.
        at_least: Make one only when this many entries were added since the last.
        leash: Run at the lowest priority, and end when standard input does: how a server starts it.
        json: see `Json`.
    """
    from gnexec.desk.snapshotting import leashed, make_snapshot
    from gnexec.errors import BadConfiguration
    from gnexec.keys import load
    from gnexec.settings import ServerSettings

    if leash:
        leashed()
    settings = ServerSettings(data=(folder or Folder()).data, database=database)
    try:
        made = make_snapshot(settings, load(settings.private_keys), at_least=at_least)
    except OSError as err:
        msg = f"The snapshot cannot be written: {err.strerror or err}."
        raise BadConfiguration(msg) from err
    if json:
        json_line(made and {"path": str(made.path), "entries": made.size, "bytes": made.bytes})
    elif made is None:
        line("Too little is new since the last snapshot, or another process is making one: nothing was done.")
    else:
        line(f"{made.path}: {made.size} entries in {made.bytes} bytes.")
    return 0


def _make(folder: Folder) -> None:
    from gnexec.keys.files import make_dir

    make_dir(folder.data, 0o700)
