"""From an entry back to the command that it answered, so that the core can decide it anew.

An event names all that its command asked for: the draw of an attempt id is the id itself, and whoever was given three
jobs had asked for three or more. A job token that a command came with says what its hand-out's event says.
"""

from __future__ import annotations

from typing import NoReturn

from gnexec.core.commands import Cancel, Command, EndOutage, Enrol, Lapse, NextJobs, Progress, Report
from gnexec.core.events import (
    AnyEvent,
    AttemptsLapsed,
    HandedOut,
    LeaseExtended,
    OutageEnded,
    OwnerWithdrew,
    ResultsReported,
    WorkerEnrolled,
)
from gnexec.core.records import HandOut
from gnexec.core.world import World
from gnexec.errors import CorruptLog
from gnexec.ids import unb64url
from gnexec.tokens.forms import MAX_JOBS
from gnexec.tokens.statements import ResultClaims


def command_of(world: World, event: AnyEvent, at_ms: int, claims: ResultClaims | None) -> Command | None:
    """Return the command that `event` answers, or None where an event of its kind does not tell.

    Args:
        world: before the event.
        event: an event that is the first of those that its command led to.
        at_ms: its time.
        claims: of the statement that it quotes, or None.

    Raises:
        CorruptLog: no command can have led to it, for a reason that is better told than found by deciding.
        ValueError: an id is none.
    """
    match event:
        case WorkerEnrolled():
            draw = unb64url(event.worker.removeprefix("w"))
            return Enrol(event.owner, event.x, event.kid, event.offer, event.caps, draw)
        case HandedOut():
            return _next_jobs(world, event)
        case LeaseExtended():
            held = _held(world, event.jti).event
            return Progress(event.jti, tuple(held.jobs), event.job, event.effort, held.exp_s)
        case ResultsReported():
            return _report(_held(world, event.jti).event, event, at_ms, claims)
        case AttemptsLapsed():
            return Lapse()
        case OwnerWithdrew():
            return Cancel(event.owner, tuple(event.jobs))
        case OutageEnded():
            return EndOutage(event.since_ms)
        case _:
            return None


def _next_jobs(world: World, event: HandedOut) -> NextJobs:
    record = world.worker(event.worker)
    if record is None:
        _bad(f"work is handed to {event.worker}, which is not enrolled")
    if not 1 <= len(event.jobs) <= MAX_JOBS:
        _bad(f"a hand-out has {len(event.jobs)} attempts; it has 1 to {MAX_JOBS}")
    for number, _ in event.jobs:
        job = world.jobs.get(number)
        if job is not None and event.owner in world.line_of(job).excluded:
            _bad(f"job {number} is handed to owner {event.owner} again, who has had its one say on it")
    return NextJobs(event.worker, record.owner, len(event.jobs), event.req, unb64url(event.jti))


def _report(held: HandedOut, event: ResultsReported, at_ms: int, claims: ResultClaims | None) -> Report:
    if held.worker != event.worker:
        _bad(f"worker {event.worker} answers for what was handed to {held.worker}")
    if at_ms > held.exp_s * 1000:
        _bad(f"a result is taken {at_ms - held.exp_s * 1000} ms after its deadline")
    return Report(
        jti=event.jti,
        pairs=tuple(held.jobs),
        worker=event.worker,
        results=tuple(event.results),
        statement=event.statement,
        answer=event.answer,
        exp_s=held.exp_s,
        digests={result.job: result.dig for result in claims.results} if claims is not None else {},
    )


def _held(world: World, jti: str) -> HandOut:
    held = world.hand_outs.get(jti)
    if held is None:
        _bad(f"the hand-out {jti} is closed, or never was")
    return held


def _bad(reason: str) -> NoReturn:
    raise CorruptLog(reason)
