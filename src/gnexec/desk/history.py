"""What happened to a job, for its owner: one line for each step, in the order of the log."""

from __future__ import annotations

from typing import Any

import msgspec

from gnexec.core.refs import job_key
from gnexec.core.steps import Compare, Create, Decide, Join, Lapse, Report, Start, Step, Withdraw, steps
from gnexec.desk.dispatcher import View
from gnexec.desk.facts import Facts
from gnexec.desk.office import Caller, Office
from gnexec.desk.ownership import own_job


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to a job.

    Attributes:
        seq: the log entry. at_ms: when.
        what: submitted, joined, started, reported, lapsed, compared, decided, withdrawn.
        attempt: the attempt concerned, or None.
        detail: outcome, state or reason, in a word or two.
    """

    seq: int
    at_ms: int
    what: str
    attempt: int | None = None
    detail: str = ""


async def since(office: Office, caller: Caller, job_id: int, after: int) -> tuple[list[Happening], bool]:
    """Return what happened to a job behind entry `after`, and whether nothing more can happen.

    Raises:
        Refused: not_found.
    """

    def look(view: View) -> tuple[list[Happening], bool]:
        job = own_job(view, caller, job_id)
        found: list[Happening] = []
        for seq, at_ms, event in Facts(view.store, view.world).story(job_key(job_id)):
            if seq > after:
                found.extend(
                    Happening(seq=seq, at_ms=at_ms, **_told(step))
                    for about, step in steps(event, seq, at_ms)
                    if about == job_id
                )
        return found, job.closed

    return await office.desk.ask(look)


def _told(step: Step) -> dict[str, Any]:
    match step:
        case Create():
            return {"what": "submitted"}
        case Join():
            return {"what": "joined"}
        case Start():
            return {"what": "started", "attempt": step.number}
        case Report():
            return {"what": "reported", "attempt": step.result.attempt, "detail": step.result.outcome.text}
        case Lapse():
            return {"what": "lapsed", "attempt": step.attempt, "detail": str(step.outcome)}
        case Compare():
            return {"what": "compared", "attempt": step.b, "detail": "equal" if step.equal else "different"}
        case Decide():
            return {"what": "decided", "attempt": step.event.canonical, "detail": str(step.event.state)}
        case Withdraw():
            return {"what": "withdrawn"}
