"""Writes docs/reference/cli.md from the commands themselves: `python -m tests.docs.cli_page` prints it."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cyclopts import App, Argument

from gnexec.cli import app

HEAD: Final = """\
# Command line

Made from the commands themselves by `python -m tests.docs.cli_page`; a test keeps the two equal. On a terminal,
`gnexec COMMAND --help` says the same.

What all commands have in common:

- Results go to standard output, everything said beside them to standard error. `--json` prints one JSON document to a
  line, and nothing else.
- Exit status: 0 success, 1 failure, 2 wrong use, 75 try later (the server is away or busy, or what was asked for is not
  there yet), 130 interrupted.
- An option is taken from the command line, else from the environment, else from [the settings file](settings.md), else
  its default. Its variable is `GNEXEC_<COMMAND>_<OPTION>`, unless the table names another.
- A size is written like `512MiB` or `2GB`, a time like `90s`, `10m` or `1h30m`.
- `--debug` shows where an error comes from. `NO_COLOR` is honoured.
"""


def page() -> str:
    """Return the page."""
    return HEAD + "".join(part for name in app if not name.startswith("-") for part in _command(app[name], [name]))


def _command(command: App, names: list[str]) -> Iterator[str]:
    inner = [name for name in command if not name.startswith("-")]
    if command.default_command is not None:
        arguments = list(command.assemble_argument_collection(parse_docstring=True).filter_by(show=True))
        words = " ".join(_position(each) for each in arguments if each.index is not None)
        yield f"\n## gnexec {' '.join(names)}\n\n"
        yield f"    gnexec {' '.join(names)}{' ' * bool(words)}{words}\n\n{_doc(command)}\n"
        yield from _table(arguments)
    for name in inner:
        yield from _command(command[name], [*names, name])


def _doc(command: App) -> str:
    text = inspect.getdoc(command.default_command) or ""
    return re.split(r"\n+(?:Args|Returns|Raises):\n", text)[0]


def _table(arguments: list[Argument]) -> Iterator[str]:
    if arguments:
        yield "\n| Option | Meaning | Default |\n|---|---|---|\n"
    for each in arguments:
        names = [name for name in each.names if not name.startswith(("--no-", "--empty-"))]
        if each.index is not None:
            names = [_position(each).strip("[]…")]
        metavar = "" if each.hint is bool or each.index is not None else f" {_metavar(each)}"
        variable = "".join(f" Variable: `{name}`." for name in each.parameter.env_var or ())
        meaning = " ".join((each.parameter.help or "").split()).replace("|", r"\|")
        yield f"| `{', '.join(names)}{metavar}` | {meaning}{variable} | {_default(each)} |\n"


def _position(each: Argument) -> str:
    many = str(each.hint).startswith("tuple") or each.field_info.kind is inspect.Parameter.VAR_POSITIONAL
    name = each.parameter.metavar or each.names[0].lstrip("-").upper()
    return f"{name}{'…' if many else ''}" if each.required else f"[{name}{'…' if many else ''}]"


def _metavar(each: Argument) -> str:
    if each.parameter.metavar:
        return str(each.parameter.metavar)
    plain = str(each.hint).replace(" | None", "")
    if found := re.search(r"Literal\[(.*)\]", plain):
        return found[1].replace("'", "").replace(", ", "\\|")
    known = {"pathlib.Path": "PATH", "list[pathlib.Path]": "PATH", "<class 'pathlib.Path'>": "PATH"}
    known |= {"<class 'int'>": "N", "int": "N", "float": "N", "<class 'float'>": "N"}
    return known.get(plain, "TEXT")


def _default(each: Argument) -> str:
    value: Any = each.field_info.default
    shown = each.parameter.show_default
    if value is None or value is False or value in (inspect.Parameter.empty, ()) or shown is False:
        return ""
    if callable(shown):
        return f"{shown(value)}"
    return str(value).replace(str(Path.home()), "~")


if __name__ == "__main__":
    sys.stdout.write(page())
