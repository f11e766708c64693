"""Decide: from the world and a command to new events and an answer. Pure; changes nothing.

`decide(world, command, at_ms)` is the only way in. The caller appends the events, applies them to the world, and gives
the answer once they are durable. A command that the rules refuse raises `Refused` and makes no event; a refusal that is
itself to be remembered comes as an answer with an event.

The rules stand in one module for each question: `intake` (submit, cancel, enrol), `handout` (next jobs, progress,
lapse), `judge` (results).
"""

from __future__ import annotations

from typing import assert_never

from gnexec.core import handout, intake, judge
from gnexec.core.commands import (
    Answer,
    Cancel,
    Command,
    Done,
    EndOutage,
    Enrol,
    Lapse,
    NextJobs,
    OpenLog,
    Progress,
    Report,
    Submit,
    TurnKeys,
)
from gnexec.core.events import AnyEvent, KeyAdded, LogOpened
from gnexec.core.turn import check_log, turned
from gnexec.core.world import World

Decided = tuple[list[AnyEvent], Answer]


def decide(world: World, command: Command, at_ms: int) -> Decided:
    """Answer a command.

    Args:
        world: folded up to the log's head; only read.
        command: with its draws and looked-up facts.
        at_ms: the time of the entries to come, not before the world's.

    Returns:
        New events in order (may be none), and the answer to give once they are durable.

    Raises:
        Refused: the rules do not allow it; no event.
        BadConfiguration: the log belongs to another origin or log key.
    """
    match command:
        case OpenLog():
            return _open(world, command)
        case TurnKeys():
            return list(turned(world.keys, command)), Done()
        case EndOutage():
            return handout.end_outage(world, command, at_ms)
        case Lapse():
            return handout.lapse(world, at_ms)
        case Enrol():
            return intake.enrol(world, command)
        case Submit():
            return intake.submit(world, command)
        case Cancel():
            return intake.cancel(world, command, at_ms)
        case NextJobs():
            return handout.next_jobs(world, command, at_ms)
        case Progress():
            return handout.progress(world, command, at_ms)
        case Report():
            return judge.report(world, command, at_ms)
        case _:
            assert_never(command)


def _open(world: World, command: OpenLog) -> Decided:
    events: list[AnyEvent] = []
    if world.size == 0:
        events.append(LogOpened(origin=command.origin, vkey=command.vkey))
    else:
        check_log(world, command)
    events.extend(KeyAdded(kid=kid, x=x) for kid, x in command.keys.items() if kid not in world.keys.tokens)
    if command.turn is not None:
        book = world.keys
        for seq, event in enumerate(events, world.size):
            book = book.after(event, seq)
        events.extend(turned(book, command.turn))
    if world.size == 0 or world.policy != command.policy:
        events.append(command.policy)
    return events, Done()
