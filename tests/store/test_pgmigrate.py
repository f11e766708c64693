"""The schema on PostgreSQL: the same description and migrations as on SQLite, each migration whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from gnexec import migrate
from gnexec.errors import BadConfiguration, StoreAway
from gnexec.store import open_store, schema
from gnexec.store.pgaddress import PgAddress
from gnexec.store.postgres import PostgresStore
from tests.databases import shared
from tests.store.stores import entry, fill
from tests.store.test_migrate import ROOT, add_revision, alembic, migrations

__all__ = ["migrations"]  # a fixture, which pytest finds by its name here


@pytest.fixture
def url() -> Iterator[str]:
    """Lend an empty database."""
    with shared().database() as url:
        yield url


def columns(url: str) -> list[tuple[object, ...]]:
    """Return every column and key as the server keeps it."""
    with psycopg.connect(url) as db:
        found = db.execute(
            "SELECT table_name, ordinal_position, column_name, data_type, is_nullable, column_default"
            " FROM information_schema.columns WHERE table_schema = 'public' AND table_name != 'alembic_version'"
        ).fetchall()
        found += db.execute(
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text != 'alembic_version'"
        ).fetchall()
        found += db.execute(
            "SELECT attrelid::regclass::text, attname, attstorage FROM pg_attribute JOIN pg_class ON oid = attrelid"
            " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname != 'alembic_version'"
        ).fetchall()
    return sorted(found, key=str)


def described(connection: Connection) -> None:
    """Make the tables as schema.py says."""
    schema.metadata.create_all(connection)
    connection.commit()


def test_migrated_schema_is_the_described_one(url: str) -> None:
    """The migrations lead to exactly the tables of schema.py, constraints and storage included."""
    migrate.upgrade(url)
    with migrate.connected_postgres(PgAddress.parse(url)) as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    with shared().database() as other:
        with migrate.connected_postgres(PgAddress.parse(other)) as connection:
            described(connection)
        assert columns(url) == columns(other)
    assert {row[0] for row in columns(url)} == set(schema.metadata.tables)


def test_developers_find_no_difference_either(url: str) -> None:
    """`alembic check` in the checkout takes the same address."""
    alembic("-x", f"url={url}", "upgrade", "head", cwd=ROOT)
    assert "No new upgrade operations detected" in alembic("-x", f"url={url}", "check", cwd=ROOT)


def test_upgrade_makes_the_schema_and_repeats_harmlessly(url: str) -> None:
    """From nothing to head, and from head to head also beside a server; entries stay."""
    assert migrate.current(url) is None
    with pytest.raises(BadConfiguration, match=r"at nothing.*gnexec db upgrade"):
        open_store(url, create=False)
    for _ in range(2):
        migrate.upgrade(url)
        migrate.check(url)
    with closing(open_store(url, create=False)) as store:
        fill(store, 2)
        migrate.upgrade(url)
        assert store.entries(0, 9) == [entry(0), entry(1)]


def test_older_schema_is_refused_until_no_server_is_left_and_it_is_upgraded(url: str, migrations: Path) -> None:
    """No server migrates by surprise, and none is migrated under; one that lost contact finds out when it is back."""
    older = migrate.head()
    with closing(PostgresStore(url, create=True)) as store:
        fill(store, 3)
        add_revision(migrations)
        with pytest.raises(BadConfiguration, match="in use by a server"):
            migrate.upgrade(url)
        for create in (True, False):
            with pytest.raises(BadConfiguration, match=f"at {older}, this gnexec needs 9999"):
                open_store(url, create=create)
        assert store._link is not None
        store._link.close()
        _until_it_goes(url)
        with pytest.raises(StoreAway, match=r"schema .* is at 9999"):
            fill(store, 1)
    with closing(open_store(url, create=False)) as upgraded:
        assert upgraded.head().size == 3


def _until_it_goes(url: str) -> None:
    """Upgrade as soon as the server has seen that its client is gone."""
    while True:
        try:
            migrate.upgrade(url)
        except BadConfiguration as err:
            assert "in use" in str(err)  # noqa: PT017 - what else is tried again would never end
        else:
            return


def test_migration_that_fails_changes_nothing(url: str, migrations: Path) -> None:
    """A migration that breaks off in its middle leaves the schema where it was."""
    migrate.upgrade(url)
    before = migrate.head(), columns(url)
    add_revision(migrations, then="op.execute('DELETE FROM nowhere')")
    with pytest.raises(BadConfiguration, match="nowhere"):
        migrate.upgrade(url)
    assert (migrate.current(url), columns(url)) == before


def test_newer_schema_is_refused_by_an_older_program(url: str, migrations: Path) -> None:
    """A schema of the future is neither served nor migrated."""
    add_revision(migrations)
    migrate.upgrade(url)
    (migrations / "versions" / "9999_next.py").unlink()
    for attempt in (migrate.check, migrate.upgrade, lambda url: open_store(url, create=True)):
        with pytest.raises(BadConfiguration, match="at 9999, which this gnexec does not know"):
            attempt(url)


def test_foreign_database_is_left_alone(url: str) -> None:
    """Leave to make a schema is not leave to add tables to somebody else's."""
    with psycopg.connect(url) as db:
        db.execute("CREATE TABLE somebody (id int)")
    with pytest.raises(BadConfiguration, match="schema is at nothing"):
        open_store(url, create=True)
    assert {row[0] for row in columns(url)} == {"somebody"}


def test_schema_that_was_broken_by_hand_is_told_with_its_statement(url: str) -> None:
    """A table that is gone is named, before anything is served and while serving."""
    with closing(PostgresStore(url, create=True)) as store:
        fill(store, 1)
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("DROP TABLE tiles, contents")
        with pytest.raises(StoreAway, match='relation "tiles" does not exist'):
            store.tile(0, 0)
        with pytest.raises(StoreAway, match='relation "contents" does not exist'):
            store.content([b"x"])
        fill(store, 1)
        assert store.head().size == 2
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("DROP TABLE entries")
        with pytest.raises(StoreAway, match='relation "entries" does not exist'):
            fill(store, 1)
    with pytest.raises(BadConfiguration, match='relation "entries" does not exist'):
        PostgresStore(url)
