"""`gnexec db`: the database's schema."""

from __future__ import annotations

from cyclopts import App

from gnexec.cli.folders import Folder
from gnexec.cli.output import Json, json_line, line

app = App(name="db", help="Bring the database to this program's schema.")


@app.command
def upgrade(*, folder: Folder | None = None, database: str | None = None, json: Json = False) -> int:
    """Bring the database to this program's schema; make it if it is not there. Harmless when it is up to date.

    Args:
        folder: see `Folder`.
        database: Address of the log's database, sqlite:///FILE; else `log.sqlite` in the data folder.
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
        database: Address of the log's database, sqlite:///FILE; else `log.sqlite` in the data folder.
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
        msg = f"There is no database at {url}. `gnexec db upgrade` makes it."
        raise BadConfiguration(msg)
    migrate.check(url)
    line(f"The schema is at {found}, as this gnexec needs it.")
    return 0


def _make(folder: Folder) -> None:
    from gnexec.keys.files import make_dir

    make_dir(folder.data, 0o700)
