"""The command line: `gnexec COMMAND`, and what all commands have in common.

- A setting is taken from a flag, else from the environment, else from the settings file, else its default. An option's
  variable is `GNEXEC_<COMMAND>_<OPTION>`; what many commands share is said once (`GNEXEC_SERVER`). The file has such
  shared settings at its top, and a table for each command.
- Exit status: 0 success, 1 failure, 2 wrong use, 75 try later, 130 interrupted.
- What went wrong on purpose is told in a sentence, with the way to mend it; a traceback is shown with `--debug` only.
- Commands are named here and imported when they are called, so that `gnexec --help` is fast.

The commands are the other modules of this folder; `output` is how they print.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, CycloptsError, Group, Parameter, UnknownCommandError

from gnexec.cli.configuration import sources
from gnexec.errors import GnexecError, Refused, ServerUnreachable, StoreAway

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2
TRY_LATER: Final = 75
"""EX_TEMPFAIL of sysexits.h."""
INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells count."""

_START = Group("Begin here", sort_key=1)
_JOBS = Group("Hand in work", sort_key=2)
_SERVER = Group("Run a server", sort_key=3)
_CHECK = Group("Check", sort_key=4)

COMMANDS: Final[tuple[tuple[str, str, Group | None, str], ...]] = (
    # name, where it is, among what it is shown, help
    ("demo", "gnexec.cli.demo:app", _START, "Map a trait over real workers, and check the log."),
    ("doctor", "gnexec.cli.doctor:doctor", _START, "Say what this machine can and cannot do, and how to mend it."),
    ("worker", "gnexec.cli.work:worker", _START, "Volunteer this machine to a server."),
    ("run", "gnexec.cli.submit:run", _JOBS, "Hand in a job, wait for it, print what it printed."),
    ("submit", "gnexec.cli.submit:submit", _JOBS, "Hand in a job and print its id."),
    ("status", "gnexec.cli.jobs:status", _JOBS, "Say how jobs stand."),
    ("wait", "gnexec.cli.jobs:wait", _JOBS, "Wait until jobs are decided."),
    ("result", "gnexec.cli.result:result", _JOBS, "Show a job's result, or fetch its files."),
    ("cancel", "gnexec.cli.jobs:cancel", _JOBS, "Withdraw from jobs."),
    ("explain", "gnexec.cli.jobs:explain", _JOBS, "Say why a job is where it is."),
    ("serve", "gnexec.cli.server:serve", _SERVER, "Serve jobs over HTTP."),
    ("keys", "gnexec.cli.keys:app", _SERVER, "Make, list and rotate a server's keys."),
    ("token", "gnexec.cli.token:app", _SERVER, "Issue access tokens."),
    ("db", "gnexec.cli.db:app", _SERVER, "Bring the database to this program's schema."),
    ("log", "gnexec.cli.log:app", _CHECK, "Verify, export, show, prove and replay a log."),
    ("bench", "gnexec.cli.bench:bench", _CHECK, "Measure this machine."),
    ("completion", "gnexec.cli.completion:completion", None, "Print a script that lets a shell complete commands."),
)


def _version() -> str:
    from importlib.metadata import version

    return f"gnexec {version('gnexec')}"


_EPILOGUE: Final = """Options may also be set in the environment, as GNEXEC_<COMMAND>_<OPTION>, or in the settings file.

Exit status: 0 success, 1 failure, 2 wrong use, 75 try later, 130 interrupted."""

app: Final = App(
    name="gnexec",
    help="Hand out jobs to computers you do not own, and show afterwards that the answers can be believed.",
    help_epilogue=_EPILOGUE,
    version=_version,
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    exit_on_error=False,
    print_error=False,
    group_commands=Group("Commands", sort_key=5),
)
for _place, (_name, _where, _group, _help) in enumerate(COMMANDS):
    app.command(_where, name=_name, group=_group, help=_help, sort_key=_place)

_EVERY = Group("For every command", sort_key=6)


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(env_var="GNEXEC_CONFIG", group=_EVERY)] = None,
    debug: Annotated[bool, Parameter(env_var="GNEXEC_DEBUG", group=_EVERY, show_default=False)] = False,
) -> int:
    """Run one command.

    Args:
        tokens: the command and its arguments.
        config: Settings file, TOML.
        debug: Show where an error comes from.
    """
    try:
        app.config = sources(config, {name for name, *_ in COMMANDS})
        status = app(tokens)
    except GnexecError as err:
        if debug:
            raise
        return report(err)
    return status if isinstance(status, int) else OK


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; `sys.argv` if None.

    Returns:
        The exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our signs still gets the words
    try:
        status = app.meta(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
    except CycloptsError as err:
        return misused(err)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough. Nothing may be left to be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    return status if isinstance(status, int) else OK


def report(err: GnexecError) -> int:
    """Say on standard error what went wrong and how to mend it; return the exit status for it."""
    from gnexec.cli.output import complain
    from gnexec.cli.values import Misused

    match err:
        case Refused(code="no_token"):
            complain(
                "The server wants an access token.",
                "Give it with --token-file or GNEXEC_TOKEN; its operator issues it with gnexec token issue.",
            )
            return FAILURE
        case Refused():
            field = f"{err.field}: " if err.field else ""
            complain(f"{field}{err.detail}", err.mend or "")
            return TRY_LATER if err.status in (429, 503, 504) else FAILURE
        case ServerUnreachable():
            complain(str(err), "Is it running, and is the address right? Try again later.")
            return TRY_LATER
        case StoreAway():
            complain(str(err), "Try again later.")
            return TRY_LATER
        case Misused():
            complain(str(err), "See --help.")
            return USAGE
        case _:
            complain(str(err))
            return FAILURE


def misused(err: CycloptsError) -> int:
    """Say on standard error how the command was not used as it is meant to be; return the exit status for it."""
    from gnexec.cli.output import complain

    chain = " ".join(["gnexec", *(err.command_chain or ())])
    # Suggestions of cyclopts would import every command.
    if isinstance(err, UnknownCommandError):
        word = str((err.unused_tokens or ["?"])[0])
        near = difflib.get_close_matches(word, [name for name, *_ in COMMANDS]) if chain == "gnexec" else []
        sentence = f"There is no command {word!r}." + (f" Did you mean {near[0]}?" if near else "")
    else:
        sentence = str(err)
    complain(sentence, f"See {chain} --help.")
    return USAGE
