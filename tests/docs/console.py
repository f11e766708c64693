"""Runs a page of the documentation as a reader would type it: its console blocks, in order, in one shell.

A line that begins with `$ ` is a command; a backslash at its end continues it. What follows, up to the next command, is
what it must print, where `…` stands for anything; where nothing follows, anything may be printed. Every command must
succeed, unless the next one is `echo $?`. A block of Python is run as a program between its neighbours.

Three things are not as they are for the reader: addresses become those of servers that run for this test alone;
`gnexec serve` and `gnexec worker`, which never end by themselves, are left running once they are ready, as if in a
terminal of their own; and `make` says what it would do (`--dry-run`), since what it does contains these tests.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SAID: Final = "127.0.0.1:8000"
"""The server of all pages."""
LONGEST_S: Final = 180.0
"""No command of the documentation takes longer."""
_BLOCK: Final = re.compile(r"^(?P<indent> *)```(?P<kind>\S+)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_NEEDS: Final = re.compile(r"^<!-- needs: (?P<what>[a-z, ]+) -->$", re.MULTILINE)
_ENDLESS: Final = re.compile(r"gnexec (?P<what>serve|worker)\b(?!.*(--once|--idle-exit|--help))")
_READY: Final = {"serve": "log key:", "worker": "connected"}


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a page.

    Attributes:
        line: where it stands. text: what is typed. shown: the output that the page promises; empty for none.
        program: the text, of a block of Python.
    """

    line: int
    text: str
    shown: tuple[str, ...] = ()
    program: str | None = None


def blocks(text: str, kind: str) -> list[tuple[int, str]]:
    """Return the fenced blocks of a kind: the line on which each body begins, and the body."""
    return [
        (text.count("\n", 0, found.start("body")) + 1, found["body"])
        for found in _BLOCK.finditer(text)
        if found["kind"] == kind
    ]


def needs(text: str) -> frozenset[str]:
    """Return what a page says that it needs to be run."""
    return frozenset(word.strip() for found in _NEEDS.finditer(text) for word in found["what"].split(","))


def commands(text: str) -> list[Command]:
    """Return the commands of a page in order."""
    found = [command for line, body in blocks(text, "console") for command in _commands(line, body)]
    found += [Command(line, "python", program=body) for line, body in blocks(text, "python")]
    return sorted(found, key=lambda command: command.line)


def _commands(line: int, body: str) -> Iterator[Command]:
    rows = body.splitlines()
    at = 0
    while at < len(rows):
        if not rows[at].startswith("$ "):
            msg = f"line {line + at} of the block is neither a command nor the output of one: {rows[at]!r}"
            raise ValueError(msg)
        first, typed = at, [rows[at][2:]]
        while typed[-1].endswith("\\"):
            at += 1
            typed.append(rows[at])
        at += 1
        shown = []
        while at < len(rows) and not rows[at].startswith("$ "):
            shown.append(rows[at])
            at += 1
        yield Command(line + first, "\n".join(typed), tuple(shown))


def matches(shown: tuple[str, ...], printed: str) -> bool:
    """Tell whether what was printed is what a page shows; a line of its own, `…` stands for any number of lines."""
    pattern, between = "", ""
    for line in shown:
        if line == "…":
            pattern += r"(?:\n.*)?" if between else r"(?:.*\n)?"
            continue
        words = ("[^\n]*" if part == "…" else re.escape(part) for part in re.split("(…)", line.rstrip()))
        pattern, between = f"{pattern}{between}{''.join(words)}", "\n"
    there = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines())
    return re.fullmatch(pattern, there if between else f"{there}\n", re.DOTALL) is not None


class Shell:
    """A shell in a home of its own; started anew for each page."""

    def __init__(self, home: Path, environment: Mapping[str, str], address: str) -> None:
        """Start it.

        Args:
            home: the reader's folder.
            environment: variables beyond PATH and HOME.
            address: host and port of the server that stands in for that of the page, 127.0.0.1:8000.
        """
        self._home = home
        self._said, self._real = SAID, address
        self._background = 0
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-o", "pipefail"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=home,
            env={"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", "NO_COLOR": "1", **environment},
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def run(self, command: Command) -> tuple[int, str]:
        """Run a command; return its exit status and what it printed.

        Raises:
            TimeoutError: it does not end.
        """
        text = command.text.replace(self._said, self._real)
        endless = _ENDLESS.match(text)
        if command.program is not None:
            program = self._home / f"line-{command.line}.py"
            program.write_text(command.program.replace(self._said, self._real))
            status, printed = self._type(f"{text} {program}")
        elif text.startswith("make "):
            status, printed = self._type(f"make --dry-run --directory '{ROOT}' {text.removeprefix('make ')}")
        elif endless is not None:
            status, printed = self._leave_running(text, _READY[endless["what"]])
        else:
            status, printed = self._type(text)
        return status, printed.replace(self._real, self._said)

    def close(self) -> None:
        """End the shell, and whatever it left running."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(20)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._listener.join()
            with suppress(BrokenPipeError):
                assert self._process.stdin is not None
                self._process.stdin.close()

    def _type(self, text: str) -> tuple[int, str]:
        mark = f"end-{os.urandom(8).hex()}"
        assert self._process.stdin is not None
        say = f"printf '\\n%s %d\\n' {mark} $last"
        self._process.stdin.write(f"{{ {text}\n}} </dev/null; last=$?; {say}; (exit $last)\n")
        self._process.stdin.flush()
        printed: list[str] = []
        while True:
            try:
                line = self._lines.get(timeout=LONGEST_S)
            except queue.Empty:
                msg = f"{text!r} does not end; so far it printed: {''.join(printed)}"
                raise TimeoutError(msg) from None
            assert line is not None, f"{text!r} ended the shell: {''.join(printed)}"
            if line.startswith(mark):
                return int(line.split()[1]), "".join(printed).removesuffix("\n")
            printed.append(line)

    def _leave_running(self, text: str, ready: str) -> tuple[int, str]:
        self._background += 1
        log = f"background-{self._background}.log"
        there = f"grep -q '{ready}' {log}"
        wait = f"until {there}; do kill -0 $! 2>/dev/null || break; sleep 0.1; done; cat {log}; {there}"
        return self._type(f": >{log}\n{{ {text}\n}} >{log} 2>&1 &\n{wait}")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)


@contextmanager
def shell(home: Path, environment: Mapping[str, str], address: str) -> Iterator[Shell]:
    """Run a shell, closed in the end; see `Shell`."""
    opened = Shell(home, environment, address)
    try:
        yield opened
    finally:
        opened.close()
