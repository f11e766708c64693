"""A log copied between databases: the same bytes, all or nothing, and never beside a server."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Table

from gnexec.cli import main
from gnexec.errors import BadConfiguration, CorruptLog
from gnexec.store import open_store, schema
from gnexec.store.contract import Append, Grant, Store
from gnexec.store.copying import TABLES, copy_database
from gnexec.tlog.checkpoint import Checkpoint, sign_checkpoint
from gnexec.tlog.merkle import leaf_hash
from gnexec.tlog.tiles import Tree
from tests.databases import shared
from tests.store.stores import content, entry, fill

ORIGIN: Final = "copy.example/log"
SIZE: Final = 700


@pytest.fixture
def postgres() -> Iterator[str]:
    """Lend an empty database's address."""
    with shared().database() as url:
        yield url


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """Return the address of a file that holds a log with something in each table."""
    url = f"sqlite:///{tmp_path / 'log.sqlite'}"
    with closing(open_store(url, create=True)) as store:
        populate(store)
    return url


def populate(store: Store) -> None:
    """Fill a store with a sealed log, and what lies beside it."""
    tree, key = Tree(), Ed25519PrivateKey.generate()
    entries = [entry(seq, size=seq % 300) for seq in range(SIZE)]
    tiles = [tile for each in entries for tile in tree.append(leaf_hash(each.leaf))]
    note = sign_checkpoint(Checkpoint(ORIGIN, SIZE, tree.root()), key)
    refs = [(bytes([seq % 256, 0, 255 - seq % 7]), seq) for seq in range(SIZE)]
    with store.batch() as batch:
        batch.append(Append(entries, refs, tiles, note))
        batch.keep(
            [content(b"%d" % number) for number in range(50)] + [content(b""), content(bytes(range(256)) * 99)],
            [Grant(name, f"{number:064x}") for name in ("o1", "O1", "o-1", "w~", "é") for number in (7, 3)],
        )
    store.pulse(1_700_000_000_123)


def everything(store: Store) -> tuple[object, ...]:
    """Return all that can be read."""
    digests = [content(b"%d" % number).digest for number in range(50)]
    return (
        store.head(),
        store.entries(0, SIZE + 1),
        list(store.refs()),
        [store.tile(level, index) for level in (0, 1) for index in range(3)],
        store.content([*digests, content(b"").digest, content(bytes(range(256)) * 99).digest]),
        [store.granted(name, [f"{number:064x}" for number in (3, 7)]) for name in ("o1", "O1", "o-1", "w~", "é")],
        store.last_pulse(),
    )


def quiet(_what: str, _done: int, _total: int) -> None:
    """Listen to no progress."""


def seen(url: str) -> tuple[object, ...]:
    """Return all that is in the store at `url`."""
    with closing(open_store(url, create=False)) as store:
        return everything(store)


@contextmanager
def raw(url: str) -> Iterator[sqlite3.Connection]:
    """Change a SQLite file behind everybody's back."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as db:
        yield db


def rows(postgres: str) -> dict[str, int]:
    """Count what a PostgreSQL database holds."""
    with psycopg.connect(postgres) as db:
        found = {}
        for table in TABLES:
            row = db.execute(f"SELECT count(*) FROM {table.name}".encode()).fetchone()  # noqa: S608 - our own names
            found[table.name] = int(row[0]) if row else -1
        return found


def test_log_copied_there_and_back_is_the_same_bytes(sqlite: str, postgres: str, tmp_path: Path) -> None:
    """From SQLite to PostgreSQL to SQLite: whatever can be read is what it was, and the log goes on from there."""
    told: list[tuple[str, int, int]] = []
    copied = copy_database(sqlite, postgres, lambda *each: told.append(each))
    assert copied.size == SIZE
    assert copied.rows["entries"] == copied.rows["refs"] == SIZE
    assert ("copying entries", SIZE, SIZE) in told
    assert ("verifying entries", SIZE, SIZE) in told
    back = f"sqlite:///{tmp_path / 'back.sqlite'}"
    assert copy_database(postgres, back, quiet) == copied
    assert seen(sqlite) == seen(postgres) == seen(back)
    for url in (postgres, back):
        with closing(open_store(url, create=False)) as store:
            fill(store, 3, b"new")
            assert store.head().size == SIZE + 3


def test_log_is_copied_between_two_databases_of_one_kind(sqlite: str, postgres: str, tmp_path: Path) -> None:
    """Nothing depends on the two being different."""
    copy_database(sqlite, postgres, quiet)
    with shared().database() as other:
        copy_database(postgres, other, quiet)
        assert seen(other) == seen(sqlite)
    file = f"sqlite:///{tmp_path / 'other.sqlite'}"
    copy_database(sqlite, file, quiet)
    assert seen(file) == seen(sqlite)


def test_empty_log_is_copied(tmp_path: Path, postgres: str) -> None:
    """A log without an entry has no checkpoint, and is a log."""
    url = f"sqlite:///{tmp_path / 'empty.sqlite'}"
    open_store(url, create=True).close()
    assert copy_database(url, postgres, quiet).size == 0
    assert seen(postgres) == seen(url)


def test_every_table_is_copied_but_what_running_attempts_tell() -> None:
    """A table that is added must be copied, or named here."""
    left_out = {"live", "live_output"}
    assert {table.name for table in TABLES} | left_out == set(schema.metadata.tables)


@pytest.mark.parametrize("table", [table for table in TABLES if table is not schema.head], ids=lambda table: table.name)
def test_target_that_holds_something_is_refused(sqlite: str, postgres: str, table: Table) -> None:
    """Nothing is ever copied over, or beside, what is there."""
    open_store(postgres, create=True).close()
    values = {"INTEGER": "1", "BIGINT": "1", "TEXT": "'x'", "BLOB": "'x'"}
    row = ", ".join(values[str(column.type)] for column in table.columns)
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute(f"INSERT INTO {table.name} VALUES ({row})".encode())  # noqa: S608 - our own names
    before = rows(postgres)
    with pytest.raises(BadConfiguration, match=f"holds a log already .table {table.name}"):
        copy_database(sqlite, postgres, quiet)
    assert rows(postgres) == before


@pytest.mark.parametrize("held", ["source", "target"])
def test_database_that_a_server_has_open_is_refused(sqlite: str, postgres: str, tmp_path: Path, held: str) -> None:
    """Neither end may move during the copy: not a file, and not a database that several servers share."""
    for source, target in ((sqlite, postgres), (postgres, f"sqlite:///{tmp_path / 'other.sqlite'}")):
        with (
            closing(open_store(source if held == "source" else target, create=True)),
            pytest.raises(BadConfiguration, match="in use by"),
        ):
            copy_database(source, target, quiet)
        copy_database(source, target, quiet)


def test_server_cannot_open_what_is_being_copied(sqlite: str, postgres: str) -> None:
    """A server that starts during the copy is told so, and starts afterwards."""
    refusals = []

    def start(_what: str, _done: int, _total: int) -> None:
        for url in (sqlite, postgres):
            try:
                open_store(url, create=False).close()
            except Exception as err:  # noqa: BLE001 - which one is asked below
                refusals.append(f"{type(err).__name__}: {err}")

    copy_database(sqlite, postgres, start)
    assert refusals
    assert all("in use by" in each for each in refusals)
    assert any("gnexec db copy" in each for each in refusals)
    assert seen(postgres) == seen(sqlite)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        ("UPDATE entries SET leaf = x'00' WHERE seq = 400", "do not give the root"),
        ("DELETE FROM entries WHERE seq = 400", "entry 400: the entry is missing"),
        ("DELETE FROM entries WHERE seq = 699", "700 entries, the entries end at 699"),
        ("UPDATE head SET size = 699", "699 entries, the entries end at 700"),
        ("UPDATE head SET note = x'00'", "checkpoint cannot be read"),
        ("DELETE FROM head", "head has 0 rows"),
        ("UPDATE contents SET data = 'text'", "contents holds a value of another type"),
        ("UPDATE refs SET seq = 1.5 WHERE seq = 3", "refs holds a value of another type"),
    ],
)
def test_source_that_contradicts_itself_is_not_kept(sqlite: str, postgres: str, damage: str, match: str) -> None:
    """A copy is not the place to lose or to bless a damage: the target stays empty."""
    with raw(sqlite) as db:
        db.execute(damage)
    with pytest.raises(CorruptLog, match=match):
        copy_database(sqlite, postgres, quiet)
    assert rows(postgres) == {table.name: int(table is schema.head) for table in TABLES}


@pytest.mark.parametrize(
    "trigger",
    [
        "NEW.salt := ''; RETURN NEW",  # what no root would tell
        "IF NEW.seq = 3 THEN RETURN NULL; END IF; RETURN NEW",
    ],
)
def test_target_that_changes_what_it_is_given_is_found_out(sqlite: str, postgres: str, trigger: str) -> None:
    """What the target holds is read back before it is kept: bytes that came out otherwise end the copy."""
    open_store(postgres, create=True).close()
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute(f"CREATE FUNCTION lie() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {trigger}; END $$".encode())
        db.execute("CREATE TRIGGER lie BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION lie()")
    with pytest.raises(CorruptLog):
        copy_database(sqlite, postgres, quiet)
    assert rows(postgres)["entries"] == 0


def test_missing_source_is_refused_and_makes_nothing(tmp_path: Path, postgres: str) -> None:
    """A mistyped name is not a new, empty log."""
    with pytest.raises(BadConfiguration, match="gnexec db upgrade"):
        copy_database(f"sqlite:///{tmp_path / 'nowhere.sqlite'}", postgres, quiet)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BadConfiguration, match="same database"):
        copy_database(postgres, postgres, quiet)


def test_command_copies_and_says_what_is_left_to_do(
    sqlite: str, postgres: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An operator sees each stage and is told of blobs and keys; a script reads JSON; a refusal names its reason."""
    assert main(["db", "copy", sqlite, postgres]) == 0
    said = capsys.readouterr()
    assert "700 entries were copied and verified" in said.out
    assert "blobs" in said.out
    assert "copying entries: 700" in said.err
    assert main(["db", "copy", sqlite, postgres, "--json"]) == 1
    assert "holds a log already" in capsys.readouterr().err
    with shared().database() as other:
        assert main(["db", "copy", sqlite, other, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["entries"] == SIZE


def test_commands_check_and_upgrade_a_postgresql_database(postgres: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`gnexec db` does for PostgreSQL what it does for a file; with a server at work an upgrade that is due waits."""
    secret = postgres.replace("//postgres@", "//postgres:hunter2@")
    assert main(["db", "check", "--database", secret]) == 1
    assert main(["db", "upgrade", "--database", secret]) == 0
    assert main(["db", "check", "--database", secret]) == 0
    with closing(open_store(postgres, create=False)):
        assert main(["db", "upgrade", "--database", secret]) == 0
    said = capsys.readouterr()
    assert "gnexec db upgrade" in said.err
    assert "it was at nothing" in said.out
    assert "already" in said.out
    assert "hunter2" not in said.out + said.err
