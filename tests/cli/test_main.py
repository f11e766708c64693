"""What all commands have in common: settings, exit statuses, errors, help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import stamina
from cyclopts import App

from gnexec.cli import COMMANDS, app, main
from gnexec.errors import BadConfiguration
from gnexec.keys import new_keys
from tests.cli.middleman import answer, middleman
from tests.serving import Server

Captured = pytest.CaptureFixture[str]
PROBLEM = b'{"type":"/problems/%s","title":"t","status":%d,"detail":"So it is.","code":"%s","mend":"Do better."}'


def test_no_command_prints_help_that_names_all(capsys: Captured) -> None:
    """Whoever types the name alone sees every command with one sentence."""
    assert main([]) == 0
    shown = capsys.readouterr().out
    for name, _, _, help_text in COMMANDS:
        assert f" {name} " in shown
        assert help_text[:40] in shown


@pytest.mark.parametrize("name", [name for name, *_ in COMMANDS])
def test_every_command_has_help(name: str, capsys: Captured) -> None:
    """Each command is there, and explains itself within 80 columns."""
    assert isinstance(app[name], App)
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: gnexec {name}" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "see `" not in shown


def test_help_imports_nothing_heavy() -> None:
    """Help needs neither the HTTP client, nor the database, nor cryptography."""
    code = (
        "import sys, gnexec.cli; assert gnexec.cli.main(['--help']) == 0;"
        "assert not {'httpx2', 'stamina', 'sqlalchemy', 'cryptography', 'starlette'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_module_run_as_a_script_says_its_version() -> None:
    """`python -m gnexec --version` works where the script is not on the path."""
    ended = subprocess.run([sys.executable, "-m", "gnexec", "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("gnexec 0.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sbumit", "--", "x"], "Did you mean submit?"),
        (["status"], "JOBS"),
        (["status", "first"], "first"),
        (["status", "0"], "0"),
        (["status", "1", "--sevrer", "x"], "--server"),
        (["run", "ls", "-l"], "-l"),
        (["run", "--memory", "much", "--", "x"], "512MiB"),
        (["run", "--wall", "1 fortnight", "--", "x"], "1h30m"),
        (["keys", "burn"], "burn"),
        (["token", "issue", "--sub", "ann", "--days", "401"], "400"),
    ],
)
def test_wrong_use_is_said_and_ends_with_2(arguments: list[str], words: str, capsys: Captured) -> None:
    """Usage errors name what is wrong and where help is, on standard error, without a traceback."""
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert "--help" in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("status", "code", "ends"),
    [(503, b"unready", 75), (429, b"too_many", 75), (409, b"conflict", 1), (500, b"internal", 1)],
)
def test_refusal_is_said_with_its_mend(
    server: Server, status: int, code: bytes, ends: int, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What passes ends with 75, what stays with 1; both say what is wrong, then how to mend it."""
    monkeypatch.setattr("gnexec.client.transport.TRY_AGAIN", frozenset())  # patience has its own tests
    problem = answer(status, PROBLEM % (code, status, code), Content_Type="application/problem+json")
    with middleman(server.url) as between:
        between.once("GET /v1/jobs/1", problem)
        assert main(["status", "1", "--server", between.url]) == ends
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "gnexec: So it is.\n        Do better.\n")


def test_unreachable_server_ends_with_75(capsys: Captured) -> None:
    """Nobody listens on port 1: the address, the reason, and to try later."""
    with stamina.set_testing(True, attempts=2):
        assert main(["status", "1", "--server", "http://127.0.0.1:1"]) == 75
    shown = capsys.readouterr().err
    assert shown.count("http://127.0.0.1:1 cannot be reached") == 2  # tried again, and given up
    assert "Trying again." in shown
    assert "Traceback" not in shown


def test_debug_shows_where_an_error_comes_from(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --debug, or its variable, the error is raised, which prints its traceback; without, it is a sentence."""
    wrong = ["status", "1", "--server", "nowhere"]
    assert main(wrong) == 1
    assert "'nowhere' is not the address of a server" in capsys.readouterr().err
    with pytest.raises(BadConfiguration):
        main([*wrong, "--debug"])
    monkeypatch.setenv("GNEXEC_DEBUG", "1")
    with pytest.raises(BadConfiguration):
        main(wrong)


def test_setting_is_taken_from_flag_then_environment_then_file_then_default(
    home: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four servers' keys in four folders: which are listed tells which setting counted."""
    for name in ("flag", "variable", "short", "table", "top", "named"):
        new_keys(home / name / "keys", home / name / "public", f"{name}.example/log")
    new_keys(home / "data" / "gnexec" / "keys", home / "public", "default.example/log")

    def listed(*arguments: str) -> str:
        assert main(["keys", "list", *arguments]) == 0
        return capsys.readouterr().out.split("Keys of ")[1].partition(".example")[0]

    assert listed() == "default"
    settings = home / "config" / "gnexec" / "config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'data = "{home / "top"}"\n')
    assert listed() == "top"
    settings.write_text(f'data = "{home / "top"}"\n[keys.list]\ndata = "{home / "table"}"\n')
    assert listed() == "table"
    (home / "other.toml").write_text(f'data = "{home / "named"}"\n')
    assert listed("--config", str(home / "other.toml")) == "named"
    monkeypatch.setenv("GNEXEC_KEYS_LIST_DATA", str(home / "variable"))
    assert listed() == "variable"
    monkeypatch.setenv("GNEXEC_DATA_DIR", str(home / "short"))
    assert listed() == "short"
    assert listed("--data", str(home / "flag")) == "flag"


@pytest.mark.parametrize(
    ("text", "words", "ends"),
    [
        ('sever = "x"', "sever", 1),
        ("[statsu]\nserver = 1", "statsu", 1),
        ("server = ", "not TOML", 1),
        ('[status]\nsevrer = "x"', "sevrer", 2),
    ],
)
def test_settings_file_that_is_wrong_is_not_ignored(
    home: Path, text: str, words: str, ends: int, capsys: Captured
) -> None:
    """A misspelt name is an error that names it."""
    (home / "settings.toml").write_text(text)
    assert main(["status", "1", "--config", str(home / "settings.toml")]) == ends
    assert words in capsys.readouterr().err


def test_settings_file_that_was_named_must_be_there(home: Path, capsys: Captured) -> None:
    """The usual one may be missing, one that was asked for may not."""
    assert main(["status", "1", "--config", str(home / "none.toml")]) == 1
    assert "none.toml" in capsys.readouterr().err


def test_reader_that_has_seen_enough_is_no_traceback(home: Path) -> None:
    """`gnexec … | head` may close the pipe early; nothing is complained about."""
    new_keys(home / "keys", home / "public", "pipe.example/log")
    command = [sys.executable, "-m", "gnexec", "keys", "list", "--json", "--data", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_terminal_without_our_signs_gets_the_words(home: Path) -> None:
    """A stream that cannot encode a tick is given a question mark instead of a traceback."""
    ended = subprocess.run(
        [sys.executable, "-m", "gnexec", "doctor", "--data", str(home)],
        env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin", "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "? python" in ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_commands_and_options(shell: str, capsys: Captured) -> None:
    """The script of each shell knows a command and one of its options."""
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "explain" in script
    assert "quorum" in script
