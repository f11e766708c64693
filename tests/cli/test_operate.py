"""Keys, access tokens, the database and the doctor, on the command line."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest

from gnexec import migrate
from gnexec.cli import doctor as doctors
from gnexec.cli import main
from gnexec.keys import load
from gnexec.tokens import Scope, read_access_token
from tests.cli.middleman import answer, middleman
from tests.serving import ORIGIN, Server, running_server

Captured = pytest.CaptureFixture[str]


def test_keys_are_made_listed_and_rotated(home: Path, capsys: Captured) -> None:
    """The private ones private, the public ones published, and never overwritten; rotation moves each on by one."""
    data = ["--data", str(home / "server")]
    assert main(["keys", "new", "--origin", "a.example/log", *data]) == 0
    shown = capsys.readouterr().out
    keys = load(home / "server" / "keys")
    assert keys.origin == "a.example/log"
    assert keys.log_verifier.vkey in shown
    assert (home / "server" / "public" / "jwks.json").exists()
    assert main(["keys", "list", "--json", *data]) == 0
    before = json.loads(capsys.readouterr().out)["keys"]
    assert main(["keys", "rotate", *data]) == 0
    capsys.readouterr()
    assert main(["keys", "list", "--json", *data]) == 0
    after = json.loads(capsys.readouterr().out)["keys"]
    assert [row["use"] for row in after] == ["log", "token, next", "token, current", "token, previous"]
    assert [after[0], after[2]["key"], after[3]["key"]] == [before[0], before[1]["key"], before[2]["key"]]
    assert main(["keys", "new", *data]) == 1
    assert "never overwritten" in capsys.readouterr().err
    assert load(home / "server" / "keys").log_verifier == keys.log_verifier


def test_keys_without_a_name_are_named_after_the_machine(home: Path, capsys: Captured) -> None:
    """The usual name, and another folder for what is published."""
    assert main(["keys", "new", "--data", str(home / "s"), "--public", str(home / "pub"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["origin"] == f"{socket.gethostname()}/gnexec"
    assert (home / "pub" / "log.vkey").exists()


def test_issued_token_says_what_was_asked_for(home: Path, capsys: Captured) -> None:
    """Account, scopes and project, signed with the current key; printed alone, for a file."""
    assert main(["keys", "new", "--origin", ORIGIN, "--data", str(home)]) == 0
    capsys.readouterr()
    assert (
        main(["token", "issue", "--sub", "ann", "--scope", "read,submit", "--project", "p", "--data", str(home)]) == 0
    )
    token = capsys.readouterr().out.strip()
    claims = read_access_token(token, load(home / "keys").token_public, origin=ORIGIN, now_s=int(time.time()))
    assert (claims.sub, claims.scopes, claims.project) == ("ann", (Scope.SUBMIT, Scope.READ), "p")
    assert claims.exp - claims.iat == 30 * 86400


@pytest.mark.parametrize(
    ("scope", "words"), [("work", "work"), ("", "scope"), ("read,read", "twice"), ("root", "scope")]
)
def test_token_of_an_impossible_scope_is_not_issued(home: Path, scope: str, words: str, capsys: Captured) -> None:
    """Nothing is printed that could be taken for a token."""
    assert main(["keys", "new", "--data", str(home)]) == 0
    capsys.readouterr()
    assert main(["token", "issue", "--sub", "ann", "--scope", scope, "--data", str(home)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err


def test_commands_without_keys_say_how_to_make_them(home: Path, capsys: Captured) -> None:
    """Who forgot `gnexec keys new` is reminded of it."""
    for command in (["keys", "list"], ["keys", "rotate"], ["token", "issue", "--sub", "ann"]):
        assert main([*command, "--data", str(home)]) == 1
        assert "`gnexec keys new`" in capsys.readouterr().err


def test_database_is_made_and_checked(home: Path, capsys: Captured) -> None:
    """Before, it is not there; then at head; upgrading again is harmless; a foreign schema is refused."""
    data = ["--data", str(home / "new")]
    assert main(["db", "check", *data]) == 1
    assert "`gnexec db upgrade`" in capsys.readouterr().err
    assert main(["db", "upgrade", "--json", *data]) == 0
    assert json.loads(capsys.readouterr().out) == {"before": None, "after": migrate.head()}
    assert (home / "new").stat().st_mode & 0o077 == 0
    assert main(["db", "check", *data]) == 0
    assert main(["db", "upgrade", *data]) == 0
    assert "already" in capsys.readouterr().out
    url = f"sqlite:///{home / 'new' / 'log.sqlite'}"
    with migrate.writing(url) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'tomorrow'")
    assert main(["db", "check", "--database", url]) == 1
    assert "tomorrow" in capsys.readouterr().err
    assert main(["db", "check", "--json", "--database", url]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_database_in_use_is_not_upgraded(server: Server, capsys: Captured) -> None:
    """A running server holds its log alone."""
    assert main(["db", "upgrade", "--data", str(server.data)]) == 1
    assert "in use" in capsys.readouterr().err


def findings(capsys: Captured, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Ask the doctor; return the exit status and the findings by subject."""
    status = main(["doctor", "--json", *arguments])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return status, {line["subject"]: line for line in lines}


def test_doctor_says_what_works_and_fails_only_for_what_is_wrong(home: Path, capsys: Captured) -> None:
    """A line for each thing; who has no server and no keys is not ill; what is wrong has a mend."""
    status, found = findings(capsys, "--data", str(home))
    assert found.keys() == {"python", "sqlite", "user namespaces", "sandbox", "disk", "server keys", "log", "server"}
    assert found["server"]["grade"] == found["server keys"]["grade"] == "note"
    bad = [finding for finding in found.values() if finding["grade"] == "bad"]
    assert all(finding["mend"] for finding in bad)
    assert status == (1 if bad else 0)
    main(["doctor", "--data", str(home)])
    assert "✓ python " in capsys.readouterr().out


def test_doctor_finds_keys_that_others_can_read(home: Path, capsys: Captured) -> None:
    """A key that may have leaked is the operator's to replace."""
    assert main(["keys", "new", "--data", str(home)]) == 0
    capsys.readouterr()
    assert findings(capsys, "--data", str(home))[1]["server keys"]["grade"] == "good"
    (home / "keys" / "log.pem").chmod(0o644)
    status, found = findings(capsys, "--data", str(home))
    assert (status, found["server keys"]["grade"]) == (1, "bad")
    assert "chmod 600" in found["server keys"]["mend"]


def test_doctor_examines_the_way_to_a_server(home: Path, server: Server, capsys: Captured) -> None:
    """Who answers, whether the clocks agree; and that nobody answers."""
    _, found = findings(capsys, "--data", str(home), "--server", server.url)
    assert ORIGIN in found["server"]["detail"]
    assert found["clock"]["grade"] == "good"
    status, found = findings(capsys, "--data", str(home), "--server", "http://127.0.0.1:1")
    assert (status, found["server"]["grade"]) == (1, "bad")
    assert "clock" not in found


def test_doctor_finds_a_clock_that_is_wrong(home: Path, server: Server, capsys: Captured) -> None:
    """A server whose clock is years away: one of the two is wrong, and tokens would be refused."""
    hey = b'{"I am":"gnexec","version":"0.1.0","origin":"x","open":true}'
    with middleman(server.url) as between:
        between.once(
            "GET /hey", answer(200, hey, Content_Type="application/json", Date="Sat, 01 Jan 2000 00:00:00 GMT")
        )
        status, found = findings(capsys, "--data", str(home), "--server", between.url)
    assert (status, found["clock"]["grade"]) == (1, "bad")
    assert "ahead of" in found["clock"]["detail"]


def test_doctor_finds_a_token_that_is_refused(home: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any work is handed in, it is known whether it would be taken."""
    with running_server(home / "secured") as secured:
        arguments = ("--data", str(home), "--server", secured.url)
        assert findings(capsys, *arguments)[1]["access token"]["grade"] == "bad"
        monkeypatch.setenv("GNEXEC_TOKEN", secured.access_token("ann", Scope.READ))
        assert findings(capsys, *arguments)[1]["access token"]["grade"] == "good"


@pytest.mark.parametrize(
    ("name", "value", "grade"),
    [
        ("user/max_user_namespaces", "0\n", "bad"),
        ("kernel/unprivileged_userns_clone", "0\n", "bad"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1\n", "note"),
        ("user/max_user_namespaces", "63000\n", "good"),
    ],
)
def test_doctor_reads_the_kernels_switches(tmp_path: Path, name: str, value: str, grade: str) -> None:
    """Each switch that blocks the sandbox is named, with the command that turns it."""
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(value)
    found = doctors.user_namespaces(tmp_path)
    assert found.grade == grade
    assert (grade == "bad") == found.mend.startswith("Run: sysctl ")


def test_doctor_finds_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less room than one job wants is too little; a folder that is not there yet is judged by where it would be."""
    place = tmp_path / "not" / "yet"
    assert str(tmp_path) in doctors.disk(place).detail
    usage = os.statvfs(tmp_path)
    monkeypatch.setattr(doctors, "LEAST_DISK_BYTES", usage.f_frsize * usage.f_blocks + 1)
    assert doctors.disk(place).grade == "bad"
