"""What happened to a job, for its owner: one line for each step, in the order of the log.

Each line has a place, by which a reader that was cut off goes on: one entry may hold several steps of a job.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec

from gnexec.core.refs import job_key
from gnexec.core.steps import Compare, Create, Decide, Join, Lapse, Report, Start, Step, Withdraw, steps
from gnexec.desk.dispatcher import View
from gnexec.desk.facts import Facts
from gnexec.desk.office import Caller, Office
from gnexec.desk.ownership import own_job
from gnexec.errors import GnexecError

_PLACE: Final = re.compile(r"(?P<seq>[0-9]{1,15})(\.(?P<step>[0-9]{1,6}))?")
_BEHIND: Final = 1 << 53


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


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a job's story: behind step `step` of entry `seq`; None stands for its last step.

    Written as the entry's seq where the step is its last one, as "seq.step" otherwise.
    """

    seq: int
    step: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a place; before everything where it is none."""
        found = _PLACE.fullmatch(text)
        return cls(int(found["seq"]), int(found["step"]) if found["step"] else None) if found else cls(-1)

    def __str__(self) -> str:
        """Write it."""
        return str(self.seq) if self.step is None else f"{self.seq}.{self.step}"

    def before(self, other: Place) -> bool:
        """Tell whether `other` comes after this place."""
        mine, others = (_BEHIND if place.step is None else place.step for place in (self, other))
        return (self.seq, mine) < (other.seq, others)


@dataclass(frozen=True, slots=True)
class Story:
    """All that has happened to a job so far, each with its place, and whether nothing more can happen."""

    happenings: list[tuple[Place, Happening]]
    closed: bool


class Following:
    """Those who follow one job for one caller: what they all want to know is read once for each commit."""

    def __init__(self, office: Office, caller: Caller, job_id: int) -> None:
        """Begin; nothing is read."""
        self._office = office
        self._caller = caller
        self._job_id = job_id
        self._read: tuple[int, asyncio.Task[Story]] | None = None

    async def story(self) -> Story:
        """Return the story up to the last commit that this event loop was told of, or a later one.

        To be called by those who watch the job.

        Raises:
            Refused: not_found.
        """
        turn = self._office.feed.turn(self._job_id)
        if self._read is None or self._read[0] != turn:
            self._read = turn, asyncio.create_task(tell(self._office, self._caller, self._job_id))
        try:
            return await asyncio.shield(self._read[1])
        except GnexecError:
            self._read = None
            raise


def follow(office: Office, caller: Caller, job_id: int) -> Following:
    """Return what a caller shares with others that follow the same job for the same account."""
    key = job_id, caller
    found = office.followed.get(key)
    if not isinstance(found, Following):
        office.followed[key] = found = Following(office, caller, job_id)
    return found


async def tell(office: Office, caller: Caller, job_id: int) -> Story:
    """Return what happened to a job.

    Raises:
        Refused: not_found.
    """

    def look(view: View) -> Story:
        job = own_job(view, caller, job_id)
        found: list[tuple[Place, Happening]] = []
        for seq, at_ms, event in Facts(view.store, view.world).story(job_key(job_id)):
            told = [_told(step) for about, step in steps(event, seq, at_ms) if about == job_id]
            found.extend(
                (Place(seq, i if i < len(told) else None), Happening(seq=seq, at_ms=at_ms, **each))
                for i, each in enumerate(told, 1)
            )
        return Story(found, job.closed)

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
            return {"what": "decided", "attempt": step.decided.canonical, "detail": str(step.decided.state)}
        case Withdraw():
            return {"what": "withdrawn"}
