"""`gnexec log`: what it prints, and how it ends."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import psycopg
import pytest

from gnexec.audit import live
from gnexec.cli import main
from gnexec.core.refs import job_key
from gnexec.store import open_store
from gnexec.store.sqlite import SqliteStore
from tests.audit.logs import VERIFIER, Dispatcher, eventful, honest, long, write_lines
from tests.audit.served import served
from tests.databases import shared

VKEY = ("--vkey", VERIFIER.vkey)


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Run the command line; return its status, and what it printed and said."""
    capsys.readouterr()
    status = main(["log", *map(str, arguments)])
    return status, *capsys.readouterr()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return an exported log."""
    return honest().write(tmp_path / "log.jsonl")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data folder with the same log."""
    return eventful().store(tmp_path / "data")


def test_verify_of_an_honest_file_succeeds(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    """All that was checked is said, and the level that was reached."""
    status, out, said = run(capsys, "verify", file, *VKEY)
    assert (status, said) == (0, "")
    assert out.splitlines()[-1] == "Verified: full."
    assert "39, from " in out
    assert "9 of workers verified" in out
    assert "applied to all 39 entries" in out


def test_verify_without_a_key_warns_and_keeps_it(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    """The log's own word for its key is taken once, with a warning, and not again."""
    status, _, said = run(capsys, "verify", file)
    assert status == 0
    assert "taken from the log itself" in said
    status, out, said = run(capsys, "verify", file)
    assert (status, said) == (0, "")
    assert "(kept)" in " ".join(out.split())
    assert "kept before" in out


def test_verify_of_an_altered_file_fails_with_one_clear_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The first bad entry is named, with the reason."""
    lines = honest().lines
    lines[13] = lines[13].replace(b"SIGSEGV", b"SIGKILL").replace(b'\\"exit\\":0', b'\\"exit\\":1')
    altered = write_lines(tmp_path / "log.jsonl", lines)
    status, out, said = run(capsys, "verify", altered, *VKEY)
    assert (status, out) == (1, "")
    assert said == ("gnexec: NOT verified: entry 12: the payload is not the one that the leaf commits to.\n")
    status, out, _ = run(capsys, "verify", altered, *VKEY, "--json")
    assert status == 1
    assert json.loads(out) == {
        "ok": False,
        "seq": 12,
        "reason": "the payload is not the one that the leaf commits to",
    }


def test_verify_finds_a_log_that_was_cut_back_since_the_last_time(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What was verified is kept, and must be continued."""
    desk = long(4)
    assert run(capsys, "verify", desk.log().write(tmp_path / "new"), *VKEY)[0] == 0
    del desk.told[-4:]
    status, _, said = run(capsys, "verify", desk.log().write(tmp_path / "old"))
    assert status == 1
    assert f"entry {desk.size}: the log was cut back" in said


def test_verify_finds_a_log_that_was_rewritten_since_the_last_time(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Another history under the same key is found against the checkpoint that was kept."""
    assert run(capsys, "verify", long(4).log().write(tmp_path / "one"), *VKEY)[0] == 0
    status, _, said = run(capsys, "verify", long(5).log().write(tmp_path / "other"))
    assert status == 1
    assert "rewritten" in said


def test_failed_verification_keeps_no_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Only what was verified counts later."""
    lines = honest().lines
    del lines[5]
    assert run(capsys, "verify", write_lines(tmp_path / "bad", lines), *VKEY)[0] == 1
    assert list(tmp_path.glob("**/checkpoint")) == []


def test_verify_where_nothing_can_be_kept_still_verifies(
    capsys: pytest.CaptureFixture[str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state folder that cannot be written costs continuity, not the verification."""
    monkeypatch.setenv("XDG_STATE_HOME", str(file))
    status, _, said = run(capsys, "verify", file, *VKEY)
    assert status == 0
    assert "could not be kept" in " ".join(said.split())


def test_verify_with_json_prints_one_document(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    """A program can read what was verified."""
    _, out, _ = run(capsys, "verify", file, *VKEY, "--json")
    told = json.loads(out)
    assert (told["ok"], told["level"], told["size"], told["withheld"]) == (True, "full", 39, 0)
    assert (told["vkey"], told["key_known"]) == (VERIFIER.vkey, "given")


def test_exported_data_folder_is_verified_anywhere(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path
) -> None:
    """An operator exports everything, and an auditor verifies the file."""
    to = tmp_path / "out.jsonl"
    assert run(capsys, "export", "--data", data, "-o", to)[:2] == (0, f"{to} has 39 entries.\n")
    assert run(capsys, "verify", to, *VKEY)[0] == 0
    assert run(capsys, "verify", data, *VKEY)[0] == 0
    assert run(capsys, "verify", "--data", data, *VKEY)[0] == 0


def test_export_and_verify_of_a_live_server(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """From a server comes what is public; the key is the one it published, held by the auditor."""
    with served(tmp_path / "data") as server:
        status, out, said = run(capsys, "verify", server.url, "--vkey", server.data / "public" / "log.vkey")
        assert (status, said) == (0, "")
        assert out.splitlines()[-1] == "Verified: full."
        assert run(capsys, "export", server.url, "-o", tmp_path / "file")[0] == 0
        assert run(capsys, "prove", server.url, "--seq", "0", "-o", tmp_path / "receipt")[0] == 0
    assert run(capsys, "verify", tmp_path / "file")[0] == 0
    status, out, _ = run(capsys, "verify-receipt", tmp_path / "receipt")
    assert status == 0
    assert "has entry 0: log-opened" in " ".join(out.split())


def test_data_folder_of_a_server_brings_its_published_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An operator who verifies his own folder is not warned about the key in it."""
    with served(tmp_path / "data"):
        pass
    status, out, said = run(capsys, "verify", tmp_path / "data")
    assert (status, said) == (0, "")
    assert "(published)" in " ".join(out.split())


def test_server_that_is_down_is_tried_later(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 75 says that nothing was found, and that it may be tried again."""
    monkeypatch.setattr(live, "PATIENCE_S", 0.01)
    status, out, said = run(capsys, "verify", "http://127.0.0.1:1")
    assert (status, out) == (75, "")
    assert "cannot be reached" in said


class _Busy(BaseHTTPRequestHandler):
    """A server that is busy at first, and then turns out to be none of ours."""

    answers: ClassVar[list[int]] = [404, 503]

    def do_GET(self) -> None:
        """Answer without a body."""
        self.send_response(self.answers.pop())
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_server_that_is_busy_is_asked_again_and_the_user_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A 503 is waited out; what comes then counts."""
    with HTTPServer(("127.0.0.1", 0), _Busy) as busy:
        Thread(target=busy.serve_forever, daemon=True).start()
        status, out, said = run(capsys, "verify", f"http://127.0.0.1:{busy.server_port}")
        busy.shutdown()
    assert (status, out) == (1, "")
    assert "(status 503). Trying again." in said
    assert "answered 404" in said


def test_show_is_a_table_of_eighty_columns(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    """The newest entries come last, each on one line."""
    status, out, _ = run(capsys, "show", file)
    lines = out.splitlines()
    assert status == 0
    assert max(map(len, lines)) <= 80
    assert len(lines) == 1 + 30
    assert lines[0].split() == ["seq", "time", "event", "about"]
    assert lines[-1].split()[0] == "38"
    assert "handed-out" in lines[-1]
    assert len(run(capsys, "show", file, "--limit", "3")[1].splitlines()) == 1 + 3


def test_show_of_a_job_has_all_its_entries(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    """A job's story is told from its submission to its decision."""
    _, out, _ = run(capsys, "show", data, "--job", "4", "--json")
    events = [json.loads(line)["event"]["t"] for line in out.splitlines()]
    assert events[0] == "submitted/1"
    assert "jobs-decided/1" in events
    assert all("leaf" in json.loads(line) for line in out.splitlines())


def test_show_of_one_entry_shows_its_payload(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    """One entry is shown in full; one that is not there is an error."""
    _, out, _ = run(capsys, "show", file, "--seq", "2")
    assert '"lease_s": 100' in out
    status, _, said = run(capsys, "show", file, "--seq", "99")
    assert status == 1
    assert "the entries 0 to 38" in said


def test_show_says_what_is_withheld(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An entry without its payload is shown as that."""
    log = honest()
    bare = type(log)(log.header, [r._replace(payload=None, salt=None) for r in log.records], log.note)
    _, out, _ = run(capsys, "show", bare.write(tmp_path / "bare"), "--limit", "1")
    assert "(withheld)" in out
    _, out, _ = run(capsys, "show", tmp_path / "bare", "--limit", "1", "--json")
    assert json.loads(out)["withheld"] is True


def test_receipt_is_made_and_checked_offline(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    """A receipt from the store holds under the key; altered, it does not."""
    receipt = tmp_path / "receipt.json"
    assert run(capsys, "prove", "--data", data, "--seq", "12", "-o", receipt)[0] == 0
    assert run(capsys, "prove", data, "--seq", "12")[1] == receipt.read_text()
    status, out, _ = run(capsys, "verify-receipt", receipt, *VKEY)
    assert status == 0
    assert "entry 12: results-reported" in " ".join(out.split())
    assert json.loads(run(capsys, "verify-receipt", receipt, *VKEY, "--json")[1])["event"]["t"] == "results-reported/1"
    receipt.write_text(receipt.read_text().replace('"seq":12', '"seq":13'))
    status, _, said = run(capsys, "verify-receipt", receipt, *VKEY)
    assert status == 1
    assert "not of entry 13" in said
    assert run(capsys, "verify-receipt", receipt)[0] == 1, "no key is known, and none is in a receipt"


def test_replay_finds_repairs_and_confirms(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    """A bent ref is named, written anew, and then right."""
    assert run(capsys, "replay", "--data", data)[0] == 0
    with closing(sqlite3.connect(data / "log.sqlite")) as db, db:
        db.execute("DELETE FROM refs WHERE key = ?", (job_key(4),))
    status, out, said = run(capsys, "replay", "--data", data)
    assert (status, out) == (1, "")
    assert "The refs are not what the log makes them: jobs 0 to 7 at entry 6 is missing" in " ".join(said.split())
    assert json.loads(run(capsys, "replay", "--data", data, "--json")[1])["differences"][0]["cache"] == "refs"
    assert run(capsys, "replay", "--data", data, "--repair")[0] == 0
    assert run(capsys, "replay", "--data", data)[0] == 0


def test_replay_repairs_nothing_under_a_running_server(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    """Reading is allowed while a server is at work, writing is not."""
    with closing(SqliteStore(data / "log.sqlite")):
        assert run(capsys, "replay", "--data", data)[0] == 0
        status, _, said = run(capsys, "replay", "--data", data, "--repair")
    assert status == 1
    assert "in use by process" in " ".join(said.split())


def test_replay_of_a_damaged_log_names_the_entry(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    """Damage is told as such, and repaired by nothing."""
    with closing(sqlite3.connect(data / "log.sqlite")) as db, db:
        db.execute("UPDATE entries SET salt = zeroblob(16) WHERE seq = 21")
    for more in ((), ("--repair",)):
        status, _, said = run(capsys, "replay", "--data", data, *more)
        assert status == 1
        assert "entry 21: the payload is not the one" in said


def test_dishonest_dispatcher_is_named_on_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A late result under a valid checkpoint ends in one line that says so."""
    desk = Dispatcher()
    desk.enrol("ann")
    desk.submit(1)
    held = desk.take("ann")
    event, _ = desk.reported(held)
    desk.at_ms = held.exp_s * 1000 + 1
    seq = desk.forge(event)
    status, _, said = run(capsys, "verify", desk.log().write(tmp_path / "log"), *VKEY)
    assert (status, said) == (
        1,
        f"gnexec: NOT verified: entry {seq}: a result is taken 1 ms after its deadline.\n",
    )


def test_words_of_a_hostile_log_do_not_drive_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Control characters in what a log says of itself are shown, not obeyed."""
    lines = honest().lines
    lines[0] = lines[0].replace(b"audit.test", b"\\u001b[2Jaudit.test")
    status, out, said = run(capsys, "verify", write_lines(tmp_path / "log", lines))
    assert status == 1
    assert "\x1b" not in out + said


def test_replay_over_postgres_finds_repairs_and_confirms(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    """A log that moved into PostgreSQL is replayed there, once no server has it open."""
    with shared().database() as url:
        assert main(["db", "copy", f"sqlite:///{data / 'log.sqlite'}", url]) == 0
        capsys.readouterr()
        status, out, _ = run(capsys, "replay", "--database", url)
        assert (status, out.partition(" entries")[0]) == (0, "39")
        with psycopg.connect(url) as db:
            db.execute("DELETE FROM refs WHERE key = %s", (job_key(4),))
        assert run(capsys, "replay", "--database", url)[0] == 1
        assert run(capsys, "replay", "--database", url, "--repair")[0] == 0
        with closing(open_store(url, create=False)):
            status, _, said = run(capsys, "replay", "--database", url)
        assert status != 0
        assert "stop it first" in " ".join(said.split())
