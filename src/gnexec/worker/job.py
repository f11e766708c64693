"""One attempt, from its hand-out to the answer in the spool: directory, inputs, run, heartbeat, outputs, cleaning up.

`perform` returns when an answer is kept, or when the attempt is dropped; sending is `gnexec.worker.report`. Orders come
from the server by the heartbeat, or from the worker when it leaves; the job then gets SIGTERM, and SIGKILL after its
grace.

A job finds, beside what it asks for: HOME (its work directory, also the current one), TMPDIR, PATH, LANG=C.UTF-8,
GNEXEC_JOB_ID, GNEXEC_ATTEMPT, GNEXEC_SEED (where it has a seed), and GNEXEC_PROGRESS, a file into which it may write a
number from 0 to 1. Nothing of the worker's environment is passed on.

Rules:
- What keeps a job from being run at all (an input, the sandbox, the disk) is never the job's fault: the attempt is
  given back as preempted, with the reason at the end of its standard error.
- Whatever happens, the work directory is removed, and no process of the job is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from gnexec.core.events import Outcome
from gnexec.errors import BadConfiguration
from gnexec.shapes import JobWork
from gnexec.worker.answer import Signer, answer
from gnexec.worker.execute import Ended, start
from gnexec.worker.inputs import Inputs, InputUnavailable
from gnexec.worker.limits import Halt, Limits, Usage
from gnexec.worker.link import Link
from gnexec.worker.pulse import PROGRESS_FILE, Order, Pulse, Told
from gnexec.worker.sandbox import WORK, Kind, Sandbox, SandboxUnavailable
from gnexec.worker.slots import Slots
from gnexec.worker.spool import Attempt, Entry
from gnexec.worker.statedir import StateDir
from gnexec.worker.workdir import clear

T = TypeVar("T")
log = structlog.get_logger("gnexec.worker")


class _Ordered(Exception):
    """There is an order, and nothing runs yet."""

    def __init__(self, told: Told) -> None:
        super().__init__(told.reason)
        self.told = told


@dataclass(slots=True)
class Bench:
    """What an attempt is performed with.

    Attributes:
        link: the server. inputs: the cache of inputs. slots: what the machine offers. sandbox: how jobs are kept apart.
        state: where work directories are made.
        signer: None in open mode; another one when the worker had to enrol anew.
        grace_s: seconds between SIGTERM and SIGKILL for a job that is to stop.
        cut_off_s: see `gnexec.worker.pulse`.
    """

    link: Link
    inputs: Inputs
    slots: Slots
    sandbox: Sandbox
    state: StateDir
    signer: Signer | None
    grace_s: float
    cut_off_s: float


async def perform(entry: Entry, bench: Bench, leave: asyncio.Event) -> bool:
    """Perform an attempt: afterwards it has an answer in the spool, or is dropped.

    Args:
        entry: the attempt, as it was handed out.
        bench: what it is performed with.
        leave: set when the worker wants to leave: the attempt is given back.

    Returns:
        Whether the job could be run; False where this worker is to blame.

    Raises:
        OSError: the spool's disk does not take the answer.
    """
    pulse = Pulse(bench.link, entry, cut_off_s=bench.cut_off_s)
    orders = asyncio.create_task(_orders(pulse, leave))
    work = bench.state.jobs / entry.folder.name
    try:
        await _unless(orders, bench.slots.take(entry.attempt.needs))
        try:
            return await _perform(entry, bench, pulse, orders, work)
        finally:
            bench.slots.give(entry.attempt.needs)
    except _Ordered as err:
        _obey(entry, bench, err.told)
        return True
    except (BadConfiguration, InputUnavailable, SandboxUnavailable, OSError, ValueError) as err:
        log.warning("the job cannot be run here", job=entry.attempt.work.id, why=str(err))
        give_back(entry, bench, f"the job could not be run: {err}")
        return False
    finally:
        orders.cancel()
        if work.exists():
            await _clear(work)


async def _clear(work: Path) -> None:
    """Remove a work directory; what resists is left for the next start, and keeps no result from being sent."""
    try:
        await asyncio.to_thread(clear, work)
    except OSError as err:
        log.warning("a work directory could not be removed", why=str(err))


def give_back(entry: Entry, bench: Bench, reason: str) -> None:
    """Keep the answer of an attempt that did not come to its end here: preempted, or stopped by the server.

    Raises:
        OSError: the spool's disk does not take it.
    """
    _withdraw(entry, bench, Halt.PREEMPTED, reason)


async def _perform(entry: Entry, bench: Bench, pulse: Pulse, orders: asyncio.Task[Told], work: Path) -> bool:
    attempt = entry.attempt
    await asyncio.to_thread(bench.state.new_work, entry.folder.name)
    await _unless(orders, bench.inputs.provide(attempt.work.inputs, work, attempt.token, attempt.needs.disk_bytes))
    limits = limits_of(attempt)
    env = environment(attempt, WORK if bench.sandbox.kind is Kind.BUBBLEWRAP else work)
    run = await start(command(attempt.work), work, env, limits, bench.sandbox, entry.stdout, entry.stderr)
    pulse.run, pulse.work = run, work
    log.info("job started", job=attempt.work.id, attempt=attempt.number)
    waiting = asyncio.create_task(run.wait())
    try:
        await asyncio.wait({waiting, orders}, return_when=asyncio.FIRST_COMPLETED)
        told = None if waiting.done() else orders.result()
        if told is not None:
            log.info("job stopping", job=attempt.work.id, why=told.reason)
            halt = Halt.PREEMPTED if told.order is Order.LEAVE else Halt.STOPPED
            await run.stop(halt.value, bench.grace_s)
    except BaseException:
        await run.stop(Halt.PREEMPTED.value, 0)
        raise
    ended = await waiting
    if told is not None and told.order is Order.DROP:
        entry.drop()
        return True
    note = told.reason if told is not None else ""
    await asyncio.to_thread(answer, entry, ended, work, bench.signer, now_s=int(bench.link.now_s()), note=note)
    log.info(
        "job ended",
        job=attempt.work.id,
        attempt=attempt.number,
        outcome=entry.finished.outcome if entry.finished else "",
        wall_ms=ended.usage.wall_ms,
    )
    return True


def command(work: JobWork) -> list[str]:
    """Return what is executed: the words as they are, or a raw command line under a shell."""
    return ["/bin/sh", "-c", work.cmd] if work.argv is None else work.argv


def limits_of(attempt: Attempt) -> Limits:
    """Return what an attempt may use."""
    needs = attempt.needs
    return Limits(
        cores=needs.cores,
        memory_bytes=needs.memory_bytes,
        wall_s=needs.wall_s,
        disk_bytes=needs.disk_bytes,
        processes=needs.processes,
    )


def environment(attempt: Attempt, home: Path) -> dict[str, str]:
    """Return the variables that a job gets from us, beside the sandbox's defaults.

    Args:
        attempt: what is to be run.
        home: the work directory, as the job sees it.
    """
    own = {
        "GNEXEC_JOB_ID": str(attempt.work.id),
        "GNEXEC_ATTEMPT": str(attempt.number),
        "GNEXEC_PROGRESS": str(home / PROGRESS_FILE),
    }
    if attempt.work.seed is not None:
        own["GNEXEC_SEED"] = str(attempt.work.seed)
    return {**attempt.work.env, **own}


async def _orders(pulse: Pulse, leave: asyncio.Event) -> Told:
    """Wait for the first order, from the server or from the worker itself."""
    watching, leaving = asyncio.create_task(pulse.watch()), asyncio.create_task(leave.wait())
    try:
        await asyncio.wait({watching, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return watching.result() if watching.done() else Told(Order.LEAVE, "the worker is leaving")
    finally:
        watching.cancel()
        leaving.cancel()


async def _unless(orders: asyncio.Task[Told], preparing: Coroutine[Any, Any, T]) -> T:
    """Do something that may take long, unless an order comes first.

    Raises:
        _Ordered: it came.
    """
    task = asyncio.create_task(preparing)
    try:
        await asyncio.wait({task, orders}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _Ordered(orders.result())
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


def _obey(entry: Entry, bench: Bench, told: Told) -> None:
    log.info("job not started", job=entry.attempt.work.id, why=told.reason)
    match told.order:
        case Order.DROP:
            entry.drop()
        case Order.STOP:
            _withdraw(entry, bench, Halt.STOPPED, told.reason)
        case Order.LEAVE:
            _withdraw(entry, bench, Halt.PREEMPTED, told.reason)


def _withdraw(entry: Entry, bench: Bench, halt: Halt, reason: str) -> None:
    now_ms = time.time_ns() // 1_000_000
    ended = Ended(Outcome(limit=halt.value), Usage(0, 0, 0), now_ms, now_ms)
    answer(entry, ended, None, bench.signer, now_s=int(bench.link.now_s()), note=reason)
