"""The rules of the core, held against a log that somebody else wrote: each entry is decided anew.

The log has events, not the commands that they answered. But nearly every event names all that its command asked for.
So the command is formed again (`anew`) and decided by the same pure core on the state as it was, and what comes out
must be what the log has: the same jobs handed out with the same lease and deadline, the same attempts closed, no result
taken after its deadline or for a closed attempt, and after each result exactly the comparisons and decisions that it
calls for.

What cannot be decided anew is what has its reason outside the log: whether a server should have closed an attempt or
answered a request earlier, and whether a job was made anew though one of its digest existed (its submitter may ask so).

Source: TRUST.md, section 3, (5) and (6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

import msgspec

from gnexec.audit.anew import command_of
from gnexec.audit.describe import about, name_of
from gnexec.audit.forms import check_form
from gnexec.audit.seen import Seen
from gnexec.core.commands import Command, Verdict
from gnexec.core.decide import decide
from gnexec.core.events import (
    AnyEvent,
    Compared,
    Equivocated,
    HandedOut,
    JobDecided,
    JobsDecided,
    JobState,
    KeyAdded,
    KeyCurrent,
    KeyRetired,
    KeyRevoked,
    LogKeyAdded,
    LogKeyRetired,
    LogOpened,
    PolicySet,
    RefusalNoted,
    ResultsCompared,
    ResultsReported,
    Submitted,
)
from gnexec.core.world import World
from gnexec.errors import CorruptLog, IllegalTransition, Refused
from gnexec.tokens.statements import ResultClaims

_ABSENT: Final = (LookupError, OverflowError, StopIteration)
_FAULTS: Final = (IllegalTransition, Refused, ValueError, *_ABSENT)
"""What the core raises for events that no core has decided."""


_OF_KEYS: Final = LogOpened | KeyAdded | KeyCurrent | KeyRetired | KeyRevoked | LogKeyAdded | LogKeyRetired
"""What may stand before the first policy. Whether a change of keys is lawful, `gnexec.core.keybook` knows."""

_Item = AnyEvent | Compared | JobDecided
"""What must follow an entry: a finding, a decision, or another entry."""


class Rules:
    """Folds a log, and holds each entry against what the core would have decided.

    Attributes:
        world: folded from the entries taken so far.
    """

    def __init__(self, origin: str) -> None:
        """Begin before the first entry.

        Args:
            origin: name of the log.
        """
        self.world = World()
        self._origin = origin
        self._seen = Seen()
        self._due: list[_Item] = []
        self._policy = False
        self._equivocation: tuple[str, str, int] | None = None

    def take(self, at_ms: int, event: AnyEvent, claims: ResultClaims | None = None) -> None:
        """Take the next entry.

        Args:
            at_ms: its time.
            event: what it says.
            claims: of the statement that it quotes, verified; None where it has none.

        Raises:
            CorruptLog: the rules do not allow it, or call for another one; these rules must not be used any more.
        """
        seq = self.world.size
        try:
            check_form(event)
            if self._due:
                self._follow(event, at_ms)
            else:
                self._due = [item for each in self._follows(event, at_ms, claims) for item in _items(each)]
            self._remember(event, at_ms)
            self.world.apply(event, at_ms)
        except _FAULTS as err:
            reason = str(err) or type(err).__name__
            if isinstance(err, _ABSENT):
                reason = f"the event names something that is not there ({reason})"
            raise CorruptLog(reason, seq=seq) from err
        except CorruptLog as err:
            raise CorruptLog(err.reason, seq=seq) from err

    def finish(self) -> None:
        """Make sure that nothing is missing where the log ends: what follows from an entry is committed with it.

        Raises:
            CorruptLog: something is.
        """
        if self._due:
            msg = f"{_words(_entry(self._due[0]))} ought to follow, but the log ends"
            raise CorruptLog(msg, seq=self.world.size)

    def close(self) -> None:
        """Free the memory of what was seen."""
        self._seen.close()

    # What must come next.

    def _follow(self, event: AnyEvent, at_ms: int) -> None:
        """Strike out what an entry says of what must follow; how that is spread over entries is the log's business.

        A gnexec of the first form wrote an entry for each finding and each decision.
        """
        for item in _items(event):
            if item not in self._due or at_ms != self.world.at_ms:
                wanted = _words(_entry(self._due[0])) if self._due else "nothing more"
                _bad(f"{wanted} must follow here at {self.world.at_ms}, not {_words(event)} at {at_ms}")
            self._due.remove(item)

    def _follows(self, event: AnyEvent, at_ms: int, claims: ResultClaims | None) -> list[AnyEvent]:
        """Return the events that must follow `event`, having made sure that it is lawful itself."""
        if not self._policy and not isinstance(event, _OF_KEYS | PolicySet):
            _bad("something happens before there is a policy")
        command = command_of(self.world, event, at_ms, claims)
        if command is not None:
            return self._anew(event, at_ms, command)
        match event:
            case LogOpened() if event.origin != self._origin:
                _bad(f"the log was opened as {event.origin}, which is not the name of the key trusted here")
            case Submitted():
                self._submitted(event)
            case Equivocated():
                return self._equivocated(event, at_ms)
            case RefusalNoted():
                self._refused(event, at_ms)
            case ResultsCompared():
                _bad(f"{_words(event)}: no result calls for this comparison")
            case JobsDecided():
                _bad(f"{_words(event)}: the job's results do not decide it")
            case _:
                pass
        return []

    def _anew(self, event: AnyEvent, at_ms: int, command: Command) -> list[AnyEvent]:
        """Decide `command` and make sure that `event` is what comes first of it; return the rest."""
        wanted, _ = decide(self.world, command, at_ms)
        if wanted and isinstance(event, HandedOut) and isinstance(wanted[0], HandedOut):
            # A prediction binds nobody, and is made better from version to version: it is not held against the log.
            wanted[0] = msgspec.structs.replace(wanted[0], est_s=event.est_s)
        if not wanted or wanted[0] != event:
            self.world.apply(event, at_ms)  # If it does not even fit, that is the better reason.
            raise CorruptLog(_difference(event, wanted))
        return wanted[1:]

    def _remember(self, event: AnyEvent, at_ms: int) -> None:
        fresh = True
        match event:
            case PolicySet():
                self._policy = True
            case Submitted() if event.key is not None:
                fresh = self._seen.add_key(event.key)
            case HandedOut():
                fresh = self._seen.add_hand_out(event.jti, event.worker, event.jobs[0][0])
            case ResultsReported():
                for result in event.results:
                    self._seen.add_answer(event.jti, result.job, event.answer)
            case RefusalNoted():
                fresh = self._seen.add_note(event.jti, event.code)
            case Equivocated():
                self._equivocation = (event.jti, event.answer, at_ms)
            case _:
                pass
        if not fresh:
            _bad(f"{_words(event)}: this was there before, and may be there only once")

    # What has no command to be decided anew.

    def _submitted(self, event: Submitted) -> None:
        """Check the jobs that answer a submission; which of them are new is its submitter's word, see above."""
        ids = event.ids()
        for row in event.joined:
            job = self.world.jobs.get(row.job)
            fits = job is None or (job.project == event.project and job.state is not JobState.CANCELLED)
            if not fits or ids[row.position] != row.job:
                _bad(f"the submission is answered by job {row.job}, which cannot answer it")

    def _equivocated(self, event: Equivocated, at_ms: int) -> list[AnyEvent]:
        """Make sure that the worker had given another answer; the first such finding is noted as a refusal."""
        held = self._seen.hand_out(event.jti)
        before = self._seen.answer(event.jti, event.job)
        if held is None or held[0] != event.worker or before is None or before == event.answer:
            _bad(f"worker {event.worker} is said to have answered twice for job {event.job}, but has not")
        code = Verdict.EQUIVOCATION
        if not self._seen.noted(event.jti, code):
            return [RefusalNoted(jti=event.jti, job=held[1], code=code)]
        if self._equivocation != (event.jti, event.answer, at_ms):
            _bad(f"an equivocation in hand-out {event.jti} was noted before")
        return []

    def _refused(self, event: RefusalNoted, at_ms: int) -> None:
        held = self._seen.hand_out(event.jti)
        if event.code != Verdict.TOO_LATE or held is None or held[1] != event.job:
            _bad(f"no result can have been refused so: {_words(event)}")
        hand_out = self.world.hand_outs.get(event.jti)
        if hand_out is not None and at_ms <= hand_out.event.exp_s * 1000:
            _bad(f"a result for the hand-out {event.jti} was refused as late while it was in time")


def _items(event: AnyEvent) -> Sequence[_Item]:
    """Return the single findings or decisions that an entry holds; any other entry is one item."""
    match event:
        case ResultsCompared():
            return event.found
        case JobsDecided():
            return event.decided
        case _:
            return [event]


def _entry(item: _Item) -> AnyEvent:
    match item:
        case Compared():
            return ResultsCompared(found=[item])
        case JobDecided():
            return JobsDecided(decided=[item])
        case _:
            return item


def _difference(event: AnyEvent, wanted: list[AnyEvent]) -> str:
    """Say how what the log has differs from what the rules give."""
    if not wanted:
        return f"{_words(event)}: the rules allow nothing of the kind here"
    if type(wanted[0]) is not type(event):
        return f"{_words(event)}: the rules give {_words(wanted[0])} instead"
    has, gives = msgspec.to_builtins(event), msgspec.to_builtins(wanted[0])
    field = next(name for name in has if has[name] != gives[name])
    return f"{_words(event)}: {field} is {_short(has[field])}, the rules give {_short(gives[field])}"


def _bad(reason: str) -> NoReturn:
    raise CorruptLog(reason)


def _words(event: AnyEvent) -> str:
    return f"{name_of(event)} ({about(event)})"


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."
