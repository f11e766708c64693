"""Where settings come from, below flags: the environment, then the settings file.

The file is TOML. What many commands share stands at its top (`server`, `token-file`, `data`); everything else in a
table that has the command's name, by the names of the options without their hyphens in front:

```toml
server = "https://gnexec.example.org"

[run]
quorum = 2
```

A name that no command knows is an error: a misspelt setting must not be ignored.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

from cyclopts.config import Dict, Env

from gnexec.errors import BadConfiguration
from gnexec.settings import config_home

SHARED: Final = frozenset({"server", "token-file", "data"})
"""Settings that many commands share; `cli.connection` and `cli.folders` say what they are."""


def sources(file: Path | None, commands: AbstractSet[str]) -> list[Callable[..., Any]]:
    """Return where cyclopts is to look for what no flag says, in this order.

    Args:
        file: the settings file; None for the one in the user's configuration folder, if it is there.
        commands: names of all commands.

    Raises:
        BadConfiguration: the file is not there, is no TOML, or has a name at its top that nobody knows.
    """
    settings = _read(file or config_home() / "config.toml", needed=file is not None)
    name = str(file or config_home() / "config.toml")
    shared = {key.replace("_", "-"): value for key, value in settings.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in settings.items() if isinstance(value, dict)}
    for unknown in sorted((shared.keys() - SHARED) | (tables.keys() - commands)):
        msg = f"{name} has {unknown!r}, which no command knows. At its top are {', '.join(sorted(SHARED))}, and tables."
        raise BadConfiguration(msg)
    return [
        Env("GNEXEC_", show=False),
        Dict(tables, source=name),
        Dict(shared, source=name, use_commands_as_keys=False, allow_unknown=True),
    ]


def _read(file: Path, *, needed: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        if not needed:
            return {}
        msg = f"There is no settings file {file}."
        raise BadConfiguration(msg) from err
    except OSError as err:
        msg = f"The settings file {file} cannot be read: {err.strerror or err}."
        raise BadConfiguration(msg) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        msg = f"The settings file {file} is not TOML: {err}."
        raise BadConfiguration(msg) from err
