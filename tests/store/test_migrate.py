"""The schema: one description, migrations that lead to it, and a server that takes no other."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import venv
import zipfile
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from gnexec import migrate
from gnexec.core.refs import job_key
from gnexec.errors import BadConfiguration
from gnexec.store import open_store, schema
from gnexec.store.sqlite import SqliteStore
from tests import databases
from tests.requirements import missing
from tests.store.stores import entry, fill

ROOT: Final = Path(__file__).parents[2]

NEXT: Final = '''"""The next revision, for a test."""
from alembic import op
revision = "9999"
down_revision = "{head}"
branch_labels = depends_on = None
def upgrade():
    op.execute("CREATE TABLE later (id INTEGER)")
    {then}
'''


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Name a file that is not there."""
    return tmp_path / "log.db"


@pytest.fixture
def migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the migrations from a copy that the test may change."""
    copy = tmp_path / "100%" / "migrations"
    shutil.copytree(migrate.script_location(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrate, "script_location", lambda: copy)
    return copy


def add_revision(migrations: Path, then: str = "") -> None:
    """Make this program one that needs the next revision."""
    (migrations / "versions" / "9999_next.py").write_text(NEXT.format(head=migrate.head(), then=then))


def url(database: Path) -> str:
    """Return the file's address."""
    return f"sqlite:///{database}"


def tables(database: Path) -> dict[str, str]:
    """Return the statement that made each table, white space made plain."""
    with closing(sqlite3.connect(database)) as db:
        rows = db.execute("SELECT name, sql FROM sqlite_master WHERE name != 'alembic_version' AND sql IS NOT NULL")
        return {name: " ".join(sql.split()) for name, sql in rows}


def test_migrated_schema_is_the_described_one(database: Path) -> None:
    """The migrations lead to exactly the tables of schema.py: the same statements, letter by letter."""
    migrate.upgrade(url(database))
    described = database.with_name("described.db")
    for path in (database, described):
        engine = create_engine(f"sqlite:///{path}")
        with engine.connect() as connection:
            if path is described:
                schema.metadata.create_all(connection)
                connection.commit()
            assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
        engine.dispose()
    assert tables(database) == tables(described)
    assert tables(database).keys() == schema.metadata.tables.keys()


def test_seq_is_the_row_id(database: Path) -> None:
    """SQLite keeps the log in order of seq, without a second index, and refs in order of key."""
    migrate.upgrade(url(database))
    with closing(sqlite3.connect(database)) as db:
        db.execute("INSERT INTO entries (seq, leaf, salt, payload) VALUES (7, x'', x'', x'')")
        assert db.execute("SELECT rowid FROM entries").fetchone() == (7,)
        with pytest.raises(sqlite3.OperationalError, match="rowid"):
            db.execute("SELECT rowid FROM refs")
        indexed = {name for (name,) in db.execute("SELECT tbl_name FROM sqlite_master WHERE type = 'index'")}
    assert "entries" not in indexed


def test_upgrade_makes_the_database_and_repeats_harmlessly(database: Path) -> None:
    """From no file to head, and from head to head; entries stay."""
    assert migrate.current(url(database)) is None
    assert not database.exists()
    for _ in range(2):
        migrate.upgrade(url(database))
        assert migrate.current(url(database)) == migrate.head()
        migrate.check(url(database))
    with closing(open_store(url(database), create=False)) as store:
        fill(store, 2)
        migrate.check(url(database))
    migrate.upgrade(url(database))
    with closing(open_store(url(database), create=False)) as store:
        assert store.entries(0, 9) == [entry(0), entry(1)]


def test_missing_database_is_refused_with_its_mend(database: Path) -> None:
    """Without leave to make one, a server that finds no database says what to run, and makes nothing."""
    for attempt in (lambda: migrate.check(url(database)), lambda: open_store(url(database), create=False)):
        with pytest.raises(BadConfiguration, match="gnexec db upgrade"):
            attempt()
    assert list(database.parent.iterdir()) == []


def test_empty_file_left_by_a_crash_is_migrated(database: Path) -> None:
    """A crash between making the file and its schema costs nothing."""
    database.touch()
    with pytest.raises(BadConfiguration, match="gnexec db upgrade"):
        open_store(url(database), create=False)
    with closing(open_store(url(database), create=True)) as store:
        fill(store, 1)


@pytest.mark.parametrize("create", [True, False])
def test_older_schema_is_refused_until_it_is_upgraded(database: Path, migrations: Path, *, create: bool) -> None:
    """No server migrates what is there by surprise: the operator does, and keeps the log."""
    with closing(SqliteStore(database, create=True)) as store:
        fill(store, 3)
    older = migrate.head()
    add_revision(migrations)
    for attempt in (lambda: migrate.check(url(database)), lambda: open_store(url(database), create=create)):
        with pytest.raises(BadConfiguration, match=f"at {older}, this gnexec needs 9999. Run `gnexec db upgrade`"):
            attempt()
    migrate.upgrade(url(database))
    assert migrate.current(url(database)) == "9999"
    assert "later" in tables(database)
    with closing(open_store(url(database), create=create)) as store:
        assert store.head().size == 3


def test_migration_that_fails_changes_nothing(database: Path, migrations: Path) -> None:
    """A migration that breaks off in its middle leaves the schema where it was, tables included."""
    migrate.upgrade(url(database))
    before = migrate.head(), tables(database)
    add_revision(migrations, then="op.execute('DELETE FROM nowhere')")
    with pytest.raises(BadConfiguration, match="nowhere"):
        migrate.upgrade(url(database))
    assert (migrate.current(url(database)), tables(database)) == before


def test_newer_schema_is_refused_by_an_older_program(database: Path, migrations: Path) -> None:
    """A schema of the future is neither served nor migrated."""
    add_revision(migrations)
    migrate.upgrade(url(database))
    (migrations / "versions" / "9999_next.py").unlink()
    for attempt in (migrate.check, migrate.upgrade, lambda url: open_store(url, create=True)):
        with pytest.raises(BadConfiguration, match="at 9999, which this gnexec does not know"):
            attempt(url(database))


def test_foreign_database_is_left_alone(database: Path) -> None:
    """Leave to make a database is not leave to add tables to somebody else's."""
    with closing(sqlite3.connect(database)) as db:
        db.execute("CREATE TABLE somebody (id INTEGER)")
    with pytest.raises(BadConfiguration, match="schema is at nothing"):
        open_store(url(database), create=True)
    assert tables(database).keys() == {"somebody"}


@pytest.mark.parametrize("create", [True, False])
def test_file_that_is_no_database_is_refused(database: Path, *, create: bool) -> None:
    """A text file is not overwritten."""
    database.write_text("Dear diary, " * 100)
    with pytest.raises(BadConfiguration, match="cannot be used as a database: file is not a database"):
        open_store(url(database), create=create)
    with pytest.raises(BadConfiguration, match="file is not a database"):
        migrate.upgrade(url(database))
    assert database.read_text() == "Dear diary, " * 100


def test_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A mistyped folder is not made."""
    with pytest.raises(BadConfiguration, match="folder that exists"):
        open_store(url(tmp_path / "nowhere" / "log.db"), create=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_refs_of_single_jobs_are_filed_by_shelves(kind: str, database: Path, migrations: Path) -> None:
    """What an older program filed under each job is found under its shelf; other keys stay as they are."""
    address = url(database) if kind == "sqlite" else databases.shared().url()
    newer = sorted(path for path in (migrations / "versions").glob("000[3-9]_*.py"))
    texts = [path.read_text() for path in newer]
    for path in newer:
        path.unlink()
    migrate.upgrade(address)
    old = [(b"j" + job.to_bytes(8, "big"), seq) for job in range(1, 40) for seq in (3, 4, 100 + job)]
    others = [(b"d" + bytes(16) + b"p", 3), (b"k" + bytes(16), 3)]
    refs = schema.refs.insert().values([{"key": key, "seq": seq} for key, seq in old + others])
    with migrate.writing(address) as connection:
        connection.execute(refs)
        connection.commit()
    for path, text in zip(newer, texts, strict=True):
        path.write_text(text.replace("CHUNK = 10_000", "CHUNK = 7"))
    migrate.upgrade(address)
    with migrate.writing(address) as connection:
        found = {(bytes(key), seq) for key, seq in connection.execute(schema.refs.select())}
    assert found == {(job_key(int.from_bytes(key[1:], "big")), seq) for key, seq in old} | set(others)


def test_package_without_migrations_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An incomplete copy is the operator's to mend, not a traceback."""
    monkeypatch.setattr(migrate, "__file__", str(tmp_path / "src" / "gnexec" / "migrate.py"))
    with pytest.raises(BadConfiguration, match="incomplete"):
        migrate.script_location()


def alembic(*arguments: str, cwd: Path) -> str:
    """Run the alembic command in a folder; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_alembic_folder_does_not_hide_the_library(database: Path) -> None:
    """Developers run the alembic command in the checkout: it finds the library, the migrations and no difference."""
    assert not (ROOT / "alembic" / "__init__.py").exists()
    address = f"url={url(database)}"
    alembic("-x", address, "upgrade", "head", cwd=ROOT)
    assert migrate.current(url(database)) == migrate.head()
    assert "No new upgrade operations detected" in alembic("-x", address, "check", cwd=ROOT)
    assert "head" in alembic("-x", address, "current", cwd=ROOT)


def test_new_revision_from_the_template_runs(database: Path, migrations: Path) -> None:
    """A migration made from the template is one that upgrades."""
    migrate.upgrade(url(database))
    made = command.revision(migrate._config(), message="nothing yet", rev_id="0099", head=migrate.head())
    assert made is not None
    assert migrate.head() == "0099"
    migrate.upgrade(url(database))
    assert migrate.current(url(database)) == "0099"
    assert migrations in Path(str(made[0] if isinstance(made, list) else made.path)).parents


INSTALLED: Final = """
import pathlib, sys
import gnexec
from gnexec import migrate
from gnexec.store import open_store
from gnexec.store.contract import Append, Entry
package = pathlib.Path(gnexec.__file__).parent
assert package.is_relative_to(sys.prefix), package
assert migrate.script_location() == package.resolve() / "_alembic"
for url in ("sqlite:///made.db", "sqlite:///migrated.db"):
    if "migrated" in url:
        migrate.upgrade(url)
    store = open_store(url, create="made" in url)
    with store.batch() as batch:
        batch.append(Append([Entry(b"leaf", b"salt", b"payload")], [], [], b"note"))
    assert store.head().size == 1
    store.close()
    migrate.check(url)
print(migrate.current(url))
"""


def test_installed_wheel_migrates_and_opens_from_anywhere(tmp_path: Path) -> None:
    """A wheel built here and installed in a fresh environment has all it needs, with no checkout in sight."""
    if find_spec("hatchling") is None:
        missing("hatchling, which builds the wheel, is not installed: pip install hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")

    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    asked = [python, "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if "__pycache__" in name or name.startswith("alembic")]
        archive.extractall(site)
    # What gnexec depends on comes from the environment of this test, after the wheel: no network is needed.
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [python, "-I", "-W", "error", "-c", INSTALLED], cwd=elsewhere, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == migrate.head()
