"""`gnexec doctor`: what this machine can and cannot do, line by line, each fault with the way to mend it.

Every check looks at the thing itself; none changes anything.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from gnexec.cli.connection import Connection
from gnexec.cli.folders import Folder
from gnexec.cli.output import Json, clean, json_line, out
from gnexec.cli.values import show_duration, show_size

LEAST_DISK_BYTES: Final = 2 << 30
"""Less than this is too little for the default disk need of one job, and a log beside it."""
_PROC: Final = Path("/proc/sys")


class Grade(StrEnum):
    """How a check ended."""

    GOOD = "good"
    BAD = "bad"
    NOTE = "note"
    """Neither: the thing is not there, and need not be."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; `mend` is empty unless it is bad."""

    subject: str
    grade: Grade
    detail: str
    mend: str = ""


def doctor(
    *,
    folder: Folder | None = None,
    server: Annotated[str | None, Parameter(env_var="GNEXEC_SERVER")] = None,
    token_file: Annotated[Path | None, Parameter(env_var="GNEXEC_TOKEN_FILE")] = None,
    json: Json = False,
) -> int:
    """Say what this machine can and cannot do, and how to mend it.

    Succeeds if nothing is wrong.

    Args:
        folder: see `Folder`.
        server: Server whose connection is to be checked as well.
        token_file: File with the access token for it, else as for `gnexec submit`.
        json: see `Json`.
    """
    from gnexec.cli import FAILURE, OK

    bad = False
    for finding in _examine(folder or Folder(), server, token_file):
        bad = bad or finding.grade is Grade.BAD
        if json:
            json_line(finding)
        else:
            _show(finding)
    return FAILURE if bad else OK


def _examine(folder: Folder, server: str | None, token_file: Path | None) -> Iterator[Finding]:
    yield python()
    yield sqlite()
    yield user_namespaces()
    yield sandbox()
    yield disk(folder.data)
    yield keys(folder)
    yield log(folder)
    if server is None:
        yield Finding("server", Grade.NOTE, "none named; --server ADDRESS checks one")
    else:
        yield from connection(Connection(server=server, token_file=token_file))


def python() -> Finding:
    """Look at the interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):  # noqa: UP036 -- a doctor takes nobody's word for it
        return Finding("python", Grade.BAD, version, "Install Python 3.11 or newer.")
    return Finding("python", Grade.GOOD, version)


def sqlite() -> Finding:
    """Look at the SQLite that Python brings."""
    import sqlite3

    if sqlite3.sqlite_version_info < (3, 37):
        return Finding("sqlite", Grade.BAD, sqlite3.sqlite_version, "Use a Python with SQLite 3.37 or newer.")
    return Finding("sqlite", Grade.GOOD, sqlite3.sqlite_version)


def user_namespaces(proc: Path = _PROC) -> Finding:
    """Look whether the kernel's switches let ordinary users make namespaces, which the sandbox is made of."""
    switches = (
        ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
        ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
    )
    for name, off, command in switches:
        if _setting(proc / name) == off:
            return Finding("user namespaces", Grade.BAD, f"switched off by {name.replace('/', '.')}", f"Run: {command}")
    if _setting(proc / "kernel/apparmor_restrict_unprivileged_userns") == "1":
        return Finding("user namespaces", Grade.NOTE, "AppArmor allows them to named programs only; see the sandbox")
    return Finding("user namespaces", Grade.GOOD, "allowed by the kernel")


def sandbox() -> Finding:
    """Run a command in the sandbox, as a worker would."""
    from gnexec.worker.sandbox import detect

    found = detect()
    if not found.ok:
        return Finding("sandbox", Grade.BAD, found.reason, found.mend)
    return Finding("sandbox", Grade.GOOD, f"{found.kind} works")


def disk(data: Path) -> Finding:
    """Look at the space where data is kept, or would be."""
    place = next(path for path in (data, *data.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < LEAST_DISK_BYTES:
        need = show_size(LEAST_DISK_BYTES)
        return Finding("disk", Grade.BAD, f"{show_size(free)} free at {place}", f"Free some: jobs want {need}.")
    return Finding("disk", Grade.GOOD, f"{show_size(free)} free at {place}")


def keys(folder: Folder) -> Finding:
    """Look whether a server's keys are whole and private."""
    from gnexec.errors import BadConfiguration
    from gnexec.keys import load

    private = folder.settings.private_keys
    if not (private / "ring.json").exists():
        return Finding("server keys", Grade.NOTE, f"none in {private}; only a server needs them")
    try:
        loaded = load(private)
    except BadConfiguration as err:
        detail, _, mend = str(err).partition(": ")
        return Finding("server keys", Grade.BAD, detail, mend)
    return Finding("server keys", Grade.GOOD, f"of {loaded.origin}, private")


def log(folder: Folder) -> Finding:
    """Look whether the log can be read, and reaches as far as what was published of it."""
    from gnexec.audit.local import LocalLog
    from gnexec.audit.source import DATABASE
    from gnexec.errors import GnexecError
    from gnexec.store.published import newest_published

    database = folder.data / DATABASE
    if not database.exists():
        return Finding("log", Grade.NOTE, f"none in {database}; only a server with SQLite has one there")
    try:
        newest = newest_published(folder.settings.published)
        with LocalLog(database) as found:
            size = found.head().size
    except GnexecError as err:
        return Finding("log", Grade.BAD, str(err), "See docs/operate.md, 'When something is wrong'.")
    if newest is not None and newest.size > size:
        detail = f"{size} entries, but a checkpoint of {newest.size} was published"
        return Finding("log", Grade.BAD, detail, "See docs/operate.md, 'A backup that is too short'.")
    return Finding("log", Grade.GOOD, f"{size} entries")


def connection(to: Connection) -> Iterator[Finding]:
    """Ask the server who it is, and compare clocks."""
    from gnexec.client.probe import probe
    from gnexec.errors import GnexecError
    from gnexec.tokens import CLOCK_SKEW_S

    try:
        found = probe(to.server, to.token())
    except GnexecError as err:
        yield Finding("server", Grade.BAD, str(err), "Check the address, the network and whether the server runs.")
        return
    mode = ", in open mode" if found.hey.open else ""
    yield Finding("server", Grade.GOOD, f"{found.hey.origin}, gnexec {found.hey.version}{mode}")
    if found.ahead_s is None:
        yield Finding("clock", Grade.NOTE, "the server does not tell its time")
    elif abs(found.ahead_s) >= CLOCK_SKEW_S:
        detail = f"{show_duration(abs(found.ahead_s))} {'ahead of' if found.ahead_s > 0 else 'behind'} the server's"
        yield Finding("clock", Grade.BAD, detail, "Set it: timedatectl set-ntp true")
    else:
        yield Finding("clock", Grade.GOOD, f"within {show_duration(max(1.0, abs(found.ahead_s)))} of the server's")
    if found.refusal is not None:
        yield Finding("access token", Grade.BAD, found.refusal.detail, "Ask the operator: gnexec token issue")
    elif not found.hey.open:
        yield Finding("access token", Grade.GOOD, "accepted")


def _setting(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _show(finding: Finding) -> None:
    from rich.text import Text

    mark, style = {Grade.GOOD: ("✓", "green"), Grade.BAD: ("✗", "bold red"), Grade.NOTE: ("–", "dim")}[finding.grade]
    text = Text.assemble(
        (mark, style), f" {finding.subject:<16} ", (clean(finding.detail), "" if mark != "–" else "dim")
    )
    out().print(text, soft_wrap=True)
    if finding.mend:
        out().print(f"  {'':<16} → {clean(finding.mend)}", soft_wrap=True)
