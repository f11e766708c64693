"""The same log from a store, a file and a live server is the same to an auditor; damage is named in each."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec
import pytest

from gnexec.audit import live
from gnexec.audit.export import export
from gnexec.audit.exported import ExportedLog
from gnexec.audit.lines import Record, Seal
from gnexec.audit.live import LiveLog
from gnexec.audit.local import LocalLog
from gnexec.audit.receipts import check_receipt, prove
from gnexec.audit.source import open_provable, open_source
from gnexec.audit.verify import Level, verify
from gnexec.core.terms import DataClass
from gnexec.desk.held import ring_of
from gnexec.errors import BadConfiguration, CorruptLog, Refused, ServerUnreachable
from gnexec.keys import load, new_keys
from gnexec.tlog.note import parse_vkey
from gnexec.tokens.issued import Scope
from tests.audit.logs import VERIFIER, eventful, long
from tests.audit.served import served
from tests.serving import ORIGIN, Server

SWAP: Final = (
    "UPDATE entries SET (leaf, salt, payload) = (SELECT leaf, salt, payload FROM entries WHERE seq = 1) WHERE seq = ?"
)
"""Put another entry, consistent in itself, in the place of one."""


def tamper(data: Path, sql: str, *values: object) -> None:
    """Change a server's database behind its back."""
    with closing(sqlite3.connect(data / "log.sqlite")) as db, db:
        assert db.execute(sql, values).rowcount > 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a real server over a log of more than one tile, its jobs public but for one that is not closed."""
    data = tmp_path_factory.mktemp("server")
    keys = new_keys(data / "keys", data / "public", ORIGIN)
    desk = long(origin=ORIGIN, key=keys.log_key, tokens=ring_of(keys).tokens)
    desk.submit(1)
    desk.store(data)
    with served(data) as running:
        yield running


def items_of(where: str, token: str | None = None) -> list[Record | Seal]:
    """Read a whole log, without the hashes that a source may have beside its leaves."""
    with open_source(where, token) as source:
        return [item._replace(h=None) if isinstance(item, Record) else item for item in source.items()]


# A store.


def test_store_read_while_it_is_open_elsewhere_is_verified(tmp_path: Path) -> None:
    """An operator's store has everything, and a server that holds its lock is no obstacle."""
    from gnexec.store.sqlite import SqliteStore  # noqa: PLC0415 -- for one test

    data = eventful().store(tmp_path / "data")
    store = SqliteStore(data / "log.sqlite")
    try:
        with LocalLog(data / "log.sqlite") as log:
            assert verify(log.header, log.items(), VERIFIER).level is Level.FULL
    finally:
        store.close()


@pytest.mark.parametrize("seq", [0, 17, 255])
def test_entry_changed_in_a_store_is_named_by_its_tile(tmp_path: Path, seq: int) -> None:
    """Leaf and payload of another entry, put in its place, fit each other; the tile has another hash."""
    data = long().store(tmp_path / "data")
    tamper(data, SWAP, seq)
    with pytest.raises(CorruptLog) as caught, open_source(str(data)) as log:
        verify(log.header, log.items(), VERIFIER)
    assert caught.value.seq == seq


def test_entry_deleted_from_a_store_is_named(tmp_path: Path) -> None:
    """A gap in the table is a missing entry."""
    data = long().store(tmp_path / "data")
    tamper(data, "DELETE FROM entries WHERE seq = ?", 100)
    with pytest.raises(CorruptLog) as caught, open_source(str(data)) as log:
        verify(log.header, log.items(), VERIFIER)
    assert caught.value.seq == 100


def test_end_of_a_store_deleted_is_named(tmp_path: Path) -> None:
    """Entries that are gone from the end are missed by the head."""
    desk = long()
    data = desk.store(tmp_path / "data")
    tamper(data, "DELETE FROM entries WHERE seq >= ?", desk.size - 3)
    with pytest.raises(CorruptLog) as caught, open_source(str(data)) as log:
        verify(log.header, log.items(), VERIFIER)
    assert caught.value.seq == desk.size - 3


@pytest.mark.parametrize("start", [0, 5, 255, 256, 300])
def test_store_and_file_can_be_read_from_any_entry_on(tmp_path: Path, start: int) -> None:
    """Reading from the middle gives the same entries as reading all."""
    data = long().store(tmp_path / "data")
    whole = items_of(str(data))
    with LocalLog(data / "log.sqlite") as log:
        assert [item[0] for item in log.items(start)] == [item[0] for item in whole[start:]]
        export(log, tmp_path / "file")
    with ExportedLog(tmp_path / "file") as file:
        assert [item[0] for item in file.items(start)] == [item[0] for item in whole[start:]]


def test_export_has_everything_that_the_store_has(tmp_path: Path) -> None:
    """A store's export is the same log, entry by entry, and is there only when it is whole."""
    data = eventful().store(tmp_path / "data")
    with open_source(str(data)) as log:
        assert export(log, tmp_path / "file") == (log.header.size, 0)
    assert items_of(str(data)) == items_of(str(tmp_path / "file"))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["file"]


def test_export_of_a_log_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    """A file that is there is a whole export."""
    data = long().store(tmp_path / "data")
    tamper(data, "DELETE FROM entries WHERE seq = ?", 300)
    with pytest.raises(CorruptLog), open_source(str(data)) as log:
        export(log, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_folder_without_a_log_is_refused_with_words(tmp_path: Path) -> None:
    """What is no log is said to be none."""
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(BadConfiguration, match="no log at"):
        open_source(str(tmp_path))
    with pytest.raises(BadConfiguration, match="cannot be read"):
        open_source(str(tmp_path / "nothing"))
    with pytest.raises(CorruptLog, match="cannot be read"):
        open_source(str(tmp_path / "text"))
    with pytest.raises(BadConfiguration, match="exported log"):
        open_provable(str(tmp_path / "text"))


# A live server.


def test_live_log_shows_what_is_public_and_withholds_the_rest(server: Server) -> None:
    """Without a token, the submission of the open job is withheld: integrity, and rules up to there."""
    with open_source(server.url) as log:
        result = verify(log.header, log.items(), parse_vkey(server.vkey))
    assert result.level is Level.INTEGRITY
    assert (result.withheld, result.statements) == (1, 80)
    assert result.ruled == 5 + 4 * 80


def test_live_log_with_an_audit_token_is_fully_verified(server: Server) -> None:
    """An auditor with the scope sees every payload."""
    token = server.access_token("auditor", Scope.AUDIT)
    with open_source(server.url, token) as log:
        result = verify(log.header, log.items(), parse_vkey(server.vkey))
    assert (result.level, result.withheld) == (Level.FULL, 0)


def test_live_log_with_a_token_of_another_scope_is_refused(server: Server) -> None:
    """A submitter's token opens nothing more."""
    with pytest.raises(Refused) as caught, open_source(server.url, server.access_token("s", Scope.SUBMIT)) as log:
        list(log.items())
    assert caught.value.code == "wrong_scope"


@pytest.mark.parametrize("start", [0, 5, 255, 256, 300])
def test_live_log_is_the_same_as_its_store(server: Server, start: int) -> None:
    """Over HTTP come the same bytes as the store has, from any entry on."""
    token = server.access_token("auditor", Scope.AUDIT)
    with LiveLog(server.url, token) as log, LocalLog(server.data / "log.sqlite") as stored:
        assert list(log.items(start))[:-1] == [
            item._replace(h=log.node(0, item.seq)) for item in stored.items(start) if isinstance(item, Record)
        ]


def test_export_of_a_live_log_is_verified_offline(server: Server, tmp_path: Path) -> None:
    """What was fetched from a server can be checked anywhere later."""
    with open_source(server.url) as log:
        export(log, tmp_path / "file")
    with open_source(str(tmp_path / "file")) as file:
        assert verify(file.header, file.items(), parse_vkey(server.vkey)).withheld == 1


@pytest.mark.parametrize("seq", [0, 1, 100, 255, 256, 300])
def test_receipt_made_over_http_equals_the_one_made_from_the_store(server: Server, seq: int) -> None:
    """Proofs from tiles over HTTP and from the store are one and the same, and hold under the log's key."""
    token = server.access_token("auditor", Scope.AUDIT)
    with open_provable(server.url, token) as log, open_provable(str(server.data)) as stored:
        receipt = prove(log, seq)
        assert receipt == prove(stored, seq)
    assert check_receipt(receipt, parse_vkey(server.vkey)).seq == seq


def test_receipt_of_a_withheld_entry_shows_its_leaf(server: Server) -> None:
    """Without the payload, a receipt still shows that the leaf is in the log."""
    with open_provable(server.url) as log:
        receipt = prove(log, 5 + 4 * 80)
    assert (receipt.salt, receipt.payload) == ("", "")
    assert check_receipt(receipt, parse_vkey(server.vkey)).event is None


def test_server_that_serves_another_entry_than_it_committed_to_is_found(tmp_path: Path) -> None:
    """An entry that is swapped under a running server does not fit the tile that the server has in memory."""
    keys = new_keys(tmp_path / "data" / "keys", tmp_path / "data" / "public", ORIGIN)
    long(origin=ORIGIN, key=keys.log_key, tokens=ring_of(keys).tokens).store(tmp_path / "data")
    with served(tmp_path / "data") as running:
        tamper(running.data, SWAP, 260)
        with pytest.raises(CorruptLog) as caught, open_source(running.url) as log:
            verify(log.header, log.items(), parse_vkey(running.vkey))
    assert caught.value.seq == 260


def test_server_with_an_older_log_is_found_against_what_was_verified(tmp_path: Path) -> None:
    """A server that was set back to an old state is found by whoever has seen a newer one."""
    data = tmp_path / "data"
    keys = new_keys(data / "keys", data / "public", ORIGIN)
    desk = long(2, data_class=DataClass.PROJECT, origin=ORIGIN, key=keys.log_key, tokens=ring_of(keys).tokens)
    desk.store(tmp_path / "newer")
    with LocalLog(tmp_path / "newer" / "log.sqlite") as log:
        kept = verify(log.header, log.items(), load(data / "keys").log_verifier).checkpoint
    del desk.told[-4:]
    desk.store(data)
    with LocalLog(data / "log.sqlite") as older, pytest.raises(CorruptLog, match="cut back") as caught:
        verify(older.header, older.items(), load(data / "keys").log_verifier, kept=kept)
    assert caught.value.seq == desk.size


def test_address_at_which_nothing_answers_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is down is a reason to try later, not a finding."""
    monkeypatch.setattr(live, "PATIENCE_S", 0.01)
    with pytest.raises(ServerUnreachable):
        open_source("http://127.0.0.1:1")


def test_withheld_payloads_of_a_server_are_marked_in_its_export(server: Server, tmp_path: Path) -> None:
    """The file says itself what it does not have."""
    with open_source(server.url) as log:
        assert export(log, tmp_path / "file")[1] == 1
    lines = [msgspec.json.decode(line) for line in (tmp_path / "file").read_bytes().splitlines()]
    assert [line["seq"] for line in lines if line.get("withheld")] == [5 + 4 * 80]
