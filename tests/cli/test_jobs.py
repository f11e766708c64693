"""Handing in work on the command line, against a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gnexec.cli import main
from gnexec.cli.connection import Connection
from tests.cli.middleman import change, middleman
from tests.cli.volunteer import Volunteer
from tests.serving import Server, running_server

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _at_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every command speak to the server."""
    monkeypatch.setenv("GNEXEC_SERVER", server.url)


def submitted(capsys: Captured, *arguments: str) -> int:
    """Hand in a job and return its id."""
    assert main(["submit", *arguments]) == 0
    return int(capsys.readouterr().out)


def test_submit_prints_the_id_and_nothing_else(capsys: Captured) -> None:
    """Standard output is for scripts: `job=$(gnexec submit …)`; words for people are beside it."""
    assert main(["submit", "--name", "first", "--", "ls", "-l", "--debug"]) == 0
    shown = capsys.readouterr()
    job = int(shown.out)
    assert f"Job {job} is handed in" in shown.err
    assert main(["status", str(job), "--json"]) == 0
    view = json.loads(capsys.readouterr().out)
    assert (view["id"], view["cmd"], view["name"], view["state"]) == (job, "ls -l --debug", "first", "queued")
    assert main(["submit", "--name", "first", "--", "ls", "-l", "--debug"]) == 0
    assert f"it is job {job}" in capsys.readouterr().err
    assert main(["cancel", str(job)]) == 0
    assert capsys.readouterr().out == f"Job {job} cancelled.\n"


def test_run_prints_what_the_job_printed(volunteer: Volunteer, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Its accepted output, byte for byte, and success."""
    working = volunteer.soon("one\ntwo without end")
    assert main(["run", "--", "print", "it"]) == 0
    working.join()
    assert capfdbinary.readouterr().out == b"one\ntwo without end"


def test_run_of_a_failing_job_fails(volunteer: Volunteer, capsys: Captured) -> None:
    """What it printed, what it complained about, and how it ended are all there."""
    working = volunteer.soon("so far\n", 3, stderr="it broke\n")
    assert main(["run", "fail"]) == 1
    working.join()
    shown = capsys.readouterr()
    assert shown.out == "so far\n"
    assert "it broke\n" in shown.err
    assert shown.err.endswith("failed: failure (exit 3).\n")


def test_run_with_json_prints_the_result(volunteer: Volunteer, capsys: Captured) -> None:
    """One document, with the digests of all files."""
    working = volunteer.soon("out")
    assert main(["run", "--json", "--", "print", "json"]) == 0
    working.join()
    result = json.loads(capsys.readouterr().out)
    assert (result["state"], result["exit_code"], result["stdout"]["size"]) == ("succeeded", 0, 3)


def test_interrupted_run_leaves_its_job(server: Server, home: Path) -> None:
    """Ctrl-C ends the waiting with 130 and says how to go on; the job is still there."""
    # Whoever starts the tests in the background of a shell script has SIGINT ignored by all that they start.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "gnexec", "run", "--server", server.url, "--", "x"]
    env = {"PATH": os.environ["PATH"], "HOME": str(home)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        job = said.split()[1]
        while "queued" not in said:
            said = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        last = process.stderr.read()
        assert process.wait(60) == 130
    assert f"`gnexec wait {job}`" in last
    assert "Traceback" not in last
    assert main(["status", job]) == 0
    assert main(["cancel", job]) == 0


def test_files_go_out_and_come_back(volunteer: Volunteer, home: Path, capsys: Captured) -> None:
    """Inputs under their own and under given names, variables, limits; outputs into a folder, with their subfolders."""
    (home / "plain.txt").write_text("plain")
    (home / "odd=name.txt").write_text("odd")
    job = submitted(
        capsys,
        *("--input", str(home / "plain.txt"), "--input", f"{home / 'odd=name.txt'}=in/renamed.txt"),
        *("--output", "a.txt", "--output", "deep/b.txt", "--env", "MODE=x=y", "--seed", "9"),
        *("--cores", "2", "--memory", "64MiB", "--wall", "10m", "--", "convert"),
    )
    taken = volunteer.take()
    assert taken["id"] == job
    assert volunteer.input(taken, "plain.txt") == b"plain"
    assert volunteer.input(taken, "in/renamed.txt") == b"odd"
    assert (taken["env"]["MODE"], taken["seed"]) == ("x=y", 9)
    assert (taken["needs"]["cores"], taken["needs"]["memory_bytes"], taken["needs"]["wall_s"]) == (2, 64 << 20, 600)
    volunteer.give(taken, "log\n", outputs={"a.txt": "A", "deep/b.txt": "B"})
    assert main(["wait", str(job)]) == 0
    assert capsys.readouterr().out == f"Job {job} succeeded.\n"
    assert main(["result", str(job), "--output", str(home / "got")]) == 0
    shown = capsys.readouterr()
    assert "deep/b.txt" in shown.out
    assert (home / "got" / "a.txt").read_text() == "A"
    assert (home / "got" / "deep" / "b.txt").read_text() == "B"
    assert {path.name for path in (home / "got").iterdir()} == {"a.txt", "deep"}
    assert main(["result", str(job), "--stdout"]) == 0
    assert capsys.readouterr().out == "log\n"


@pytest.mark.parametrize("name", ["../stolen.txt", "/tmp/gnexec-stolen.txt", "a/../../stolen.txt"])
def test_server_cannot_write_outside_the_folder(
    server: Server, volunteer: Volunteer, home: Path, capsys: Captured, name: str
) -> None:
    """A server that names an output so that it would lie elsewhere is refused before anything is written."""
    job = submitted(capsys, "--output", "honest.txt", "--force", "--", "steal", name)
    volunteer.do_next(outputs={"honest.txt": "x"})
    with middleman(server.url) as thief:
        thief.once(f"GET /v1/jobs/{job}/result", change(b'"honest.txt":', f'"{name}":'.encode()))
        assert main(["result", str(job), "--output", str(home / "in" / "here"), "--server", thief.url]) == 1
    assert "not a plain relative path" in capsys.readouterr().err
    assert not (home / "in").exists()
    assert not Path("/tmp/gnexec-stolen.txt").exists()


def test_status_shows_one_job_in_full_and_many_as_rows(capsys: Captured) -> None:
    """Many jobs take a line each; with --json, a document each."""
    first, second = submitted(capsys, "--", "first", "one"), submitted(capsys, "--", "second", "one")
    assert main(["status", str(first)]) == 0
    assert "command    first one\n" in capsys.readouterr().out
    assert main(["status", str(first), str(second)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["job", "state"]
    assert [row.split()[0] for row in rows] == [str(first), str(second)]
    assert main(["status", str(first), str(second), "--json"]) == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == [first, second]
    assert main(["cancel", str(first), str(second), "--json"]) == 0
    assert [json.loads(line)["state"] for line in capsys.readouterr().out.splitlines()] == ["cancelled"] * 2


def test_undecided_job_is_try_later(capsys: Captured) -> None:
    """Both who waits for some time only, and who asks for the result, are told to come back: 75."""
    job = submitted(capsys, "--", "not", "yet")
    assert main(["wait", str(job), "--timeout", "1s"]) == 75
    assert main(["result", str(job)]) == 75
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"`gnexec wait {job}`" in shown.err
    assert main(["explain", str(job)]) == 0
    assert f"Job {job} is queued." in capsys.readouterr().out
    assert main(["explain", str(job), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["needed"] == 1
    assert main(["cancel", str(job)]) == 0


def test_wait_for_several_fails_if_one_failed(volunteer: Volunteer, capsys: Captured) -> None:
    """Each is told in a line of its own."""
    good, bad = submitted(capsys, "--", "good"), submitted(capsys, "--", "bad")
    for _ in range(2):
        job = volunteer.take()
        volunteer.give(job, exit_code=0 if job["id"] == good else 1)
    assert main(["wait", str(bad), str(good)]) == 1
    assert capsys.readouterr().out == f"Job {bad} failed: failure (exit 1).\nJob {good} succeeded.\n"
    assert main(["result", str(bad)]) == 1
    assert "failure (exit 1)" in capsys.readouterr().out


def test_job_of_nobody_is_not_found(capsys: Captured) -> None:
    """The same answer for what is not there and for what is not yours: 1."""
    for command in ("status", "wait", "result", "cancel", "explain"):
        assert main([command, "9007199254740991"]) == 1
        assert "There is no job 9007199254740991 of yours." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words", "ends"),
    [
        (["echo hello"], "--shell", 2),
        (["--shell", "--", "echo", "hello"], "one line", 2),
        (["--env", "NOVALUE", "--", "x"], "NAME=VALUE", 2),
        (["--input", "a=", "--", "x"], "PATH=NAME", 2),
        (["--input", "no/such/file", "--", "x"], "no/such/file", 1),
        (["--output", "../up", "--", "x"], "plain relative path", 1),
    ],
)
def test_job_that_makes_no_sense_is_not_handed_in(
    arguments: list[str], words: str, ends: int, capsys: Captured
) -> None:
    """The option is named, and how it is meant."""
    assert main(["submit", *arguments]) == ends
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err


def test_shell_line_is_handed_in_as_it_is(volunteer: Volunteer, capsys: Captured) -> None:
    """With --shell, the one line goes to a shell, where the operator allows it."""
    job = submitted(capsys, "--shell", "--", "echo a | wc -c > out")
    taken = volunteer.take()
    assert (taken["id"], taken["cmd"], taken.get("argv")) == (job, "echo a | wc -c > out", None)
    volunteer.give(taken)


def test_access_token_is_taken_from_flag_then_environment_then_home(
    home: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token from `gnexec token issue` opens a secured server; not from a file that others may read."""
    with running_server(home / "secured", "--allow-raw") as secured:
        monkeypatch.setenv("GNEXEC_SERVER", secured.url)
        assert main(["submit", "--", "x"]) == 1
        assert "access token" in capsys.readouterr().err
        assert main(["token", "issue", "--sub", "ann", "--data", str(secured.data)]) == 0
        token = capsys.readouterr().out
        usual = home / "config" / "gnexec" / "token"
        usual.parent.mkdir(parents=True)
        usual.touch(mode=0o600)
        usual.write_text(token)
        assert main(["submit", "--", "x"]) == 0
        monkeypatch.setenv("GNEXEC_TOKEN", "no.to.ken")
        assert main(["submit", "--", "x"]) == 1
        assert main(["submit", "--token-file", str(usual), "--", "x"]) == 0
        monkeypatch.setenv("GNEXEC_TOKEN", token)
        usual.chmod(0o644)
        assert main(["submit", "--", "x"]) == 0
        capsys.readouterr()
        assert main(["submit", "--token-file", str(usual), "--", "x"]) == 1
        assert "others may read" in capsys.readouterr().err


def test_token_over_an_open_line_is_warned_of(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever listens on the way learns the token; nothing is said where there is no way, or no token."""
    monkeypatch.setenv("GNEXEC_TOKEN", "secret")
    for server, warned in (("http://gnexec.invalid", True), ("https://gnexec.invalid", False), ("http://[::1]", False)):
        Connection(server=server).client().close()
        assert ("not encrypted" in capsys.readouterr().err) is warned
    monkeypatch.delenv("GNEXEC_TOKEN")
    Connection(server="http://gnexec.invalid").client().close()
    assert capsys.readouterr().err == ""
