"""`gnexec worker URL`: lend this machine's spare time to a server."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import signal
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import structlog

from gnexec.cli import journal
from gnexec.cli.values import Duration, Flag, Size
from gnexec.core.events import Offer
from gnexec.errors import BadConfiguration
from gnexec.keys.files import read_private
from gnexec.settings import LogFormat, LogLevel, data_home
from gnexec.worker import capabilities
from gnexec.worker.agent import Agent, Exit
from gnexec.worker.contact import Plan
from gnexec.worker.sandbox import Kind, Sandbox, detect, unprivileged
from gnexec.worker.statedir import StateDir

INTERRUPTED = 130
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


def worker(  # noqa: PLR0913 -- one argument for each option
    url: str,
    /,
    *,
    slots: int | None = None,
    cores: int | None = None,
    memory: Size | None = None,
    disk: Size | None = None,
    name: str | None = None,
    owner_token_file: Path | None = None,
    state: Path | None = None,
    sandbox: Literal["auto", "bubblewrap"] = "auto",  # noqa: ARG001 -- one kind so far; auto never means none
    unsafe_no_sandbox: Flag = False,
    readable: list[Path] | None = None,
    run_as: str | None = None,
    once: Flag = False,
    idle_exit: float | None = None,
    wait: Duration = 30,
    drain: Duration = 60,
    grace: Duration = 10,
    cut_off: Duration = 300,
    log_format: LogFormat = LogFormat.TEXT,
    log_level: LogLevel = LogLevel.INFO,
) -> int:
    """Take jobs from a server, run them in a sandbox, and send back signed results.

    The first SIGTERM or interrupt lets running jobs end; the second gives them back. Results that could not be sent
    are kept, and sent at the next start.

    Args:
        url: Address of the server.
        slots: Jobs at a time; the number of cores by default.
        cores: Processors to offer; by default those that this process may use.
        memory: Memory to offer, such as 4GiB; three quarters of this machine's by default.
        disk: Disk space to offer, such as 20GiB; about half of what is free by default.
        name: A name of this worker, for its owner's eyes; the host's by default.
        owner_token_file: File with an access token with the scope enrol, needed on the first start (or GNEXEC_TOKEN).
        state: Directory for the worker's key, its unsent results and its cache.
        sandbox: Kind of sandbox; auto takes the best that works here, and never none.
        unsafe_no_sandbox: Run jobs as plain processes. They can read what you can read.
        readable: File or directory to show to jobs, read-only, such as an interpreter outside /usr; may be repeated.
        run_as: Account that jobs run under where the worker is root; nobody by default.
        once: Do what is there, then exit.
        idle_exit: Exit after so many seconds without work.
        wait: How long the server may hold a request for work.
        drain: How long jobs may run on after the first signal.
        grace: Time between SIGTERM and SIGKILL for a job that is to stop.
        cut_off: How long a job goes on after its lease while the server is not heard of.
        log_format: Form of the log on standard error: text, or json, one document to a line.
        log_level: The least that the log tells.
    """
    journal.set_up(log_format, log_level)
    log = structlog.get_logger("gnexec.worker")
    url = _checked(url)
    box = Sandbox(
        Kind.PLAIN if unsafe_no_sandbox else Kind.BUBBLEWRAP,
        tuple(path.absolute() for path in readable or []),
        unprivileged(run_as),
    )
    found = detect(box)
    if not found.ok:
        msg = f"{found.reason} {found.mend} Nothing was run; --unsafe-no-sandbox would run jobs without protection."
        raise BadConfiguration(msg)
    if unsafe_no_sandbox:
        log.warning("jobs run WITHOUT a sandbox: they can read what you can read")
    if urlsplit(url).scheme == "http" and urlsplit(url).hostname not in _LOCAL:
        log.warning("the connection is not encrypted: whoever listens can answer in this worker's name", url=url)
    with StateDir(state or data_home() / "workers" / _slug(url)) as home:
        measured = capabilities.measure(home.jobs, box)
        slots = next(given for given in (slots, cores, measured.cores) if given is not None)
        plan = Plan(
            url=url,
            slots=_at_least(1, "slots", slots),
            offer=Offer(
                cores=_at_least(1, "cores", max(slots, measured.cores) if cores is None else cores),
                memory_bytes=_at_least(1, "memory", memory or measured.memory_bytes // 4 * 3),
                # A power of two, so that what is offered does not change with each start.
                disk_bytes=_at_least(1, "disk", disk or 1 << (max(2, measured.disk_bytes) // 2).bit_length() - 1),
            ),
            sandbox=box,
            description={
                "name": name or platform.node(),
                "os": measured.os,
                "arch": measured.arch,
                "cpu_model": measured.cpu_model,
                "sandboxes": list(measured.sandboxes),
                "slots": slots,
            },
            access_token=_access_token(owner_token_file),
            wait_s=wait,
            drain_s=drain,
            grace_s=grace,
            cut_off_s=cut_off,
            once=once,
            idle_exit_s=idle_exit,
        )
        return asyncio.run(_work(plan, home))


async def _work(plan: Plan, home: StateDir) -> int:
    agent = Agent(plan, home)
    loop, taken = asyncio.get_running_loop(), list[int]()

    def take(number: int) -> None:
        taken.append(number)
        agent.interrupt()
        if len(taken) > 1:  # a third one ends the process at once: the spool outlives it
            for handled in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(handled)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, take, number)
    ended = await agent.run()
    return INTERRUPTED if ended is Exit.OK and signal.SIGINT in taken else int(ended)


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:
        usable = False
    if not usable:
        msg = f"{url!r} is not a server's address: give one like https://gnexec.example.org"
        raise BadConfiguration(msg)
    return url.rstrip("/")


def _slug(url: str) -> str:
    """Name a server's directory: each server has its own, whatever else this account works for."""
    parts = urlsplit(url)
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"{parts.netloc}{parts.path}")[:100]


def _access_token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("GNEXEC_TOKEN", "").strip() or None
    return read_private(file).decode("ascii", errors="replace").strip()


def _at_least(least: int, option: str, value: int) -> int:
    if value < least:
        msg = f"--{option} {value}: give at least {least}"
        raise BadConfiguration(msg)
    return value
