"""Whatever an honest dispatcher is asked, in whatever order and how late, an auditor has nothing to object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gnexec.audit.verify import Level, verify
from gnexec.core.commands import Cancel, EndOutage, JobRequest, Lapse, NoWork, OpenLog, Submit
from gnexec.core.events import HandedOut, Outcome, PolicySet
from gnexec.core.terms import Terms
from gnexec.errors import Refused
from tests.audit.logs import POLICY, Dispatcher, digest, terms

T = TypeVar("T")
NAMES = ("ann", "ann's other", "bob", "cem", "dan")
OUTCOMES = (
    Outcome(exit=0),
    Outcome(exit=0),
    Outcome(exit=2),
    Outcome(signal="SIGKILL"),
    Outcome(limit="memory"),
    Outcome(limit="preempted"),
)


HAPPENINGS = ("submit", "take", "take", "report", "report", "tell", "lapse", "cancel", "outage", "policy")


@dataclass
class Day:
    """A dispatcher, and what its workers hold."""

    draw: st.DataObject
    desk: Dispatcher
    held: list[HandedOut] = field(default_factory=list)

    def happen(self) -> None:
        """Let one thing happen, and perhaps time pass."""
        getattr(self, self.pick(HAPPENINGS))()
        self.desk.later(self.pick((0, 0, 0.5, 30, 60, 1100)))

    def submit(self) -> None:
        """Hand in jobs, some of them again."""
        jobs = tuple(
            JobRequest(digest(self.pick(range(6))), digest("spec"), self.terms(), force=self.pick((False, False, True)))
            for _ in range(self.pick((1, 2, 5)))
        )
        every = {**self.desk.world.jobs, **self.desk.closed(range(1, self.desk.world.next_job))}
        known = {found.digest.hex(): found for _, found in sorted(every.items())}
        self.desk.do(Submit(self.pick(("olga", "omar")), "p", jobs, digest(jobs), known=known))

    def take(self) -> None:
        """Ask for work."""
        name = self.pick(NAMES) if self.desk.policy.distinct_owners else "anonymous"
        answer = self.desk.ask(name, self.pick((1, 2, 4)))
        if not isinstance(answer, NoWork):
            self.held.append(answer.hand_out)

    def report(self) -> None:
        """Answer for a hand-out, perhaps once more, perhaps too late, perhaps in another way."""
        if self.held:
            held = self.pick(self.held)
            if self.desk.policy.distinct_owners:
                self.desk.report(held, self.pick(("right", "right", "wrong")), self.pick(OUTCOMES))
            else:
                self.desk.report_open(held, self.pick(("right", "wrong")))

    def tell(self) -> None:
        """Tell how a hand-out goes; the server may not want to hear it any more."""
        if self.held:
            try:
                self.desk.progress(self.pick(self.held), self.pick((0, 1000, 500_000)))
            except Refused as err:
                assert err.code == "too_late"  # noqa: PT017 -- it need not be raised at all

    def lapse(self) -> None:
        """Close what has lapsed."""
        self.desk.do(Lapse())

    def cancel(self) -> None:
        """Withdraw from some jobs that are open."""
        owner = self.pick(("olga", "omar"))
        own = [job for job, found in self.desk.world.jobs.items() if owner in found.owners]
        if own:
            self.desk.do(Cancel(owner, (self.pick(own),)))

    def outage(self) -> None:
        """Come back after some time without a server."""
        since = self.desk.at_ms
        self.desk.later(self.pick((1, 50)))
        self.desk.do(EndOutage(since))

    def policy(self) -> None:
        """Start again with other numbers."""
        policy = msgspec.structs.replace(self.desk.policy, lease_s=self.pick((20, 100)), max_open=self.pick((2, 8)))
        self.desk.do(OpenLog(self.desk.origin, self.desk.verifier.vkey, {}, policy))

    def terms(self) -> Terms:
        """Return one of several terms."""
        asked = terms(self.pick((1, 2, 3)))
        return msgspec.structs.replace(asked, priority=self.pick((0, 0, 5)))

    def pick(self, choices: Sequence[T]) -> T:
        """Choose one."""
        return self.draw.draw(st.sampled_from(choices))


def audited(policy: PolicySet, draw: st.DataObject) -> None:
    """Let a day pass and verify its log."""
    day = Day(draw, Dispatcher(policy=policy))
    if policy.distinct_owners:
        for name in NAMES:
            day.desk.enrol(name, f"o-{name.split(chr(39))[0]}")
    day.submit()
    for _ in range(draw.draw(st.integers(1, 40))):
        day.happen()
    log = day.desk.log()
    result = verify(log.header, log.items, day.desk.verifier)
    assert (result.level, result.ruled) == (Level.FULL, day.desk.size)


@given(st.data())
def test_honest_log_of_any_day_is_fully_verified(data: st.DataObject) -> None:
    """No false alarm, whatever happens among enrolled workers."""
    audited(POLICY, data)


@given(st.data())
def test_honest_log_of_any_day_in_open_mode_is_fully_verified(data: st.DataObject) -> None:
    """No false alarm in open mode, where every hand-out counts for itself."""
    audited(msgspec.structs.replace(POLICY, distinct_owners=False, open=True), data)
