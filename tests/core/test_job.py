"""The job's state machine: its table, every way to step outside it, and the page that is drawn from it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gnexec.core.events import AttemptState, JobDecided, JobState, Outcome, Reported
from gnexec.core.job import SILENT, TRANSITIONS, Attempt, Job, Trigger, evolve, outcome_state, stricter
from gnexec.core.steps import Compare, Create, Decide, Join, Lapse, Report, Start, Step, Withdraw
from gnexec.core.terms import DataClass
from gnexec.errors import IllegalTransition
from tests.core.job_states import PAGE, TRIGGERS, page
from tests.core.scene import GOOD, ONE, PAIR, digest, terms

AT = 1_000


def attempt(number: int, state: AttemptState) -> Attempt:
    """Return an attempt of hand-out `jti-<number>`."""
    return Attempt(number=number, jti=f"jti-{number}", worker="w", owner=f"o{number}", started_ms=AT, state=state)


def job(state: JobState, *, still_open: int = 0, owners: tuple[str, ...] = ("olga",)) -> Job:
    """Return a job, forced into `state`, with two results and behind them `still_open` open attempts."""
    states = [AttemptState.SUCCEEDED] * 2 + [AttemptState.OPEN] * still_open
    return Job(
        id=7,
        digest=bytes(32),
        spec=bytes(32),
        terms=PAIR,
        project="p",
        owners=owners,
        submitted_ms=AT,
        seq=3,
        state=state,
        attempts=tuple(attempt(number, found) for number, found in enumerate(states, 1)),
    )


def result(number: int, outcome: Outcome = GOOD) -> Report:
    """Return the step with which attempt `number` is answered."""
    reported = Reported(7, number, outcome, digest("canon"), digest("outs"), 10, 9, 8)
    return Report(f"jti-{number}", reported, b"\1" * 32, AT + 5, 11)


def decided(state: JobState, canonical: int | None, revision: int = 1) -> Decide:
    """Return the step that decides."""
    event = JobDecided(job=7, revision=revision, state=state, canonical=canonical, reason="quorum")
    return Decide(event, AT + 5, 12)


def occasion(state: JobState, trigger: Trigger) -> tuple[Job, list[Step]]:
    """Return a job in `state`, and the steps that are `trigger` for it."""
    match trigger:
        case Trigger.JOIN:
            return job(state), [Join("pia", PAIR)]
        case Trigger.START:
            return job(state), [Start(3, "jti-3", "w", "o3", AT)]
        case Trigger.COMPARE:
            return job(state), [Compare(1, 2, equal=True)]
        case Trigger.END:
            return job(state, still_open=2), [result(3), Lapse("jti-4", 4, AttemptState.ABANDONED, AT)]
        case Trigger.DRAIN:
            return job(state, still_open=1), [result(3), Lapse("jti-3", 3, AttemptState.ABANDONED, AT)]
        case Trigger.SUCCEED:
            return job(state), [decided(JobState.SUCCEEDED, 1)]
        case Trigger.FAIL:
            return job(state), [decided(JobState.FAILED, None)]
        case Trigger.WITHDRAW:
            return job(state, owners=("olga", "pia")), [Withdraw("olga", AT, 9)]
        case Trigger.CANCEL:
            return job(state), [Withdraw("olga", AT, 9)]


def refuses(before: Job | None, step: Step) -> None:
    """Make sure that a step is illegal and leaves the job as it was."""
    copy = msgspec.convert(msgspec.to_builtins(before), Job) if before is not None else None
    with pytest.raises(IllegalTransition):
        evolve(before, step)
    assert before == copy


@pytest.mark.parametrize("trigger", Trigger)
@pytest.mark.parametrize("state", JobState)
def test_transition_outside_the_table_raises_and_changes_nothing(state: JobState, trigger: Trigger) -> None:
    """For every state and trigger: what the table has leads where it says, all else is illegal."""
    before, steps = occasion(state, trigger)
    for step in steps:
        if (state, trigger) in TRANSITIONS:
            assert evolve(before, step).state is TRANSITIONS[state, trigger]
        else:
            refuses(before, step)


def test_table_decided_states_are_never_left() -> None:
    """No trigger leads out of a decision, and only decisions lead into one."""
    for (before, trigger), after in TRANSITIONS.items():
        if before in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED):
            assert after is before
        elif after in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED):
            assert trigger in (Trigger.SUCCEED, Trigger.FAIL, Trigger.CANCEL)


@pytest.mark.parametrize(
    "step",
    [
        Create(7, digest(1), digest(2), ONE, "p", "olga", AT, 1),
        Start(2, "jti-9", "w", "o", AT),
        Start(5, "jti-9", "w", "o", AT),
        result(1),
        result(5),
        result(0),
        msgspec.convert({"jti": "jti-4", "result": result(3).result, "answer": b"", "at_ms": 1, "seq": 1}, Report),
        Lapse("jti-1", 1, AttemptState.EXPIRED, AT),
        Lapse("jti-9", 9, AttemptState.EXPIRED, AT),
        Lapse("jti-4", 3, AttemptState.EXPIRED, AT),
        Lapse("jti-3", 3, AttemptState.OPEN, AT),
        Lapse("jti-3", 3, AttemptState.SUCCEEDED, AT),
        Lapse("jti-3", 3, AttemptState.FAILED, AT),
        Compare(1, 3, equal=True),
        Compare(1, 1, equal=True),
        Compare(1, 9, equal=True),
        decided(JobState.SUCCEEDED, 1, revision=2),
        decided(JobState.SUCCEEDED, 1, revision=0),
        decided(JobState.SUCCEEDED, None),
        decided(JobState.SUCCEEDED, 3),
        decided(JobState.SUCCEEDED, 9),
        decided(JobState.FAILED, 1),
        decided(JobState.CANCELLED, None),
        decided(JobState.RUNNING, None),
        Withdraw("pia", AT, 9),
    ],
    ids=repr,
)
def test_step_that_does_not_fit_the_record_raises_and_changes_nothing(step: Step) -> None:
    """A running job with attempts 1 and 2 answered and 3 open takes no step that contradicts that."""
    refuses(job(JobState.RUNNING, still_open=1), step)


def test_step_for_no_job_raises() -> None:
    """Nothing happens to a job that was never handed in."""
    refuses(None, Join("olga", ONE))


def test_start_gives_the_next_number_to_an_open_attempt() -> None:
    """A hand-out adds one attempt, open, with its worker and owner."""
    before = job(JobState.QUEUED)
    after = evolve(before, Start(3, "jti-3", "w9", "o9", AT))
    assert after.attempts[:2] == before.attempts
    assert after.attempt(3) == Attempt(number=3, jti="jti-3", worker="w9", owner="o9", started_ms=AT)
    assert after.open_attempts == 1


def test_report_keeps_what_was_said_and_where() -> None:
    """An answered attempt holds the outcome, the digests, the usage, the time and the entry."""
    found = evolve(job(JobState.RUNNING, still_open=1), result(3)).attempts[2]
    assert (found.state, found.ended_ms, found.seq, found.answer) == (AttemptState.SUCCEEDED, AT + 5, 11, b"\1" * 32)
    assert (found.outcome, found.canon, found.outs) == (
        GOOD,
        bytes.fromhex(digest("canon")),
        bytes.fromhex(digest("outs")),
    )
    assert (found.wall_ms, found.cpu_ms, found.peak_rss_bytes) == (10, 9, 8)


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome(exit=0), AttemptState.SUCCEEDED),
        (Outcome(exit=1), AttemptState.FAILED),
        (Outcome(signal="SIGSEGV"), AttemptState.FAILED),
        (Outcome(exit=0, limit="memory"), AttemptState.FAILED),
        (Outcome(limit="wall"), AttemptState.FAILED),
        (Outcome(limit="preempted"), AttemptState.PREEMPTED),
        (Outcome(limit="stopped"), AttemptState.PREEMPTED),
        (Outcome(), AttemptState.FAILED),
    ],
)
def test_outcome_says_how_an_attempt_ends(outcome: Outcome, state: AttemptState) -> None:
    """Exit 0 alone succeeds; being stopped is nobody's fault; after the decision nothing counts any more."""
    assert outcome_state(job(JobState.RUNNING), outcome) is state
    assert outcome_state(job(JobState.SUCCEEDED), outcome) is AttemptState.UNNEEDED
    assert outcome_state(job(JobState.FAILED), outcome) is AttemptState.UNNEEDED
    assert outcome_state(job(JobState.CANCELLED), outcome) is AttemptState.CANCELLED


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (Outcome(exit=0), "success"),
        (Outcome(exit=3), "failure (exit 3)"),
        (Outcome(signal="SIGSEGV"), "failure (SIGSEGV)"),
        (Outcome(signal="SIGKILL", limit="memory"), "limit (memory)"),
    ],
)
def test_outcome_text_names_the_cause(outcome: Outcome, text: str) -> None:
    """An outcome is said in words."""
    assert outcome.text == text


@pytest.mark.parametrize("outcome", sorted(SILENT))
def test_lapse_closes_the_attempt(outcome: AttemptState) -> None:
    """An attempt may end without an answer in five ways, and then is closed."""
    after = evolve(job(JobState.SUCCEEDED, still_open=1), Lapse("jti-3", 3, outcome, AT + 9))
    assert (after.attempts[2].state, after.attempts[2].ended_ms) == (outcome, AT + 9)
    assert after.closed


def test_join_takes_the_stricter_redundancy_only_while_undecided() -> None:
    """Who joins may ask for more replicas; a decided job is read as it was decided."""
    strict = terms(replicas=5, quorum=3, priority=2)
    joined = evolve(job(JobState.RUNNING), Join("pia", strict))
    assert joined.owners == ("olga", "pia")
    assert (joined.terms.redundancy, joined.terms.priority) == (strict.redundancy, 2)
    assert evolve(job(JobState.SUCCEEDED), Join("pia", strict)).terms == PAIR
    assert evolve(joined, Join("olga", ONE)).owners == ("olga", "pia")


def test_stricter_never_lowers_a_number() -> None:
    """The stricter of two terms has the larger of each number, whichever comes first."""
    a, b = terms(replicas=4, quorum=1, max_attempts=9), terms(replicas=3, quorum=3, priority=5)
    both = stricter(a, b).redundancy
    assert (both.replicas, both.quorum, both.max_attempts, both.max_failures) == (4, 3, 12, 3)
    assert stricter(b, a).redundancy == both
    assert stricter(a, b).priority == stricter(b, a).priority == 5
    assert stricter(a, a) is a


def test_stricter_is_public_only_where_both_are() -> None:
    """Who joins with closed data closes the job's entries."""
    closed, public = ONE, msgspec.structs.replace(ONE, data_class=DataClass.PUBLIC)
    assert stricter(closed, public).data_class is stricter(public, closed).data_class is DataClass.PROJECT
    assert stricter(public, public).data_class is DataClass.PUBLIC


def test_withdraw_moves_the_owner_to_the_former_ones_and_back() -> None:
    """Who has withdrawn may still read the job, and may want it again."""
    both = job(JobState.RUNNING, owners=("olga", "pia"))
    after = evolve(both, Withdraw("olga", AT, 9))
    assert (after.owners, after.former_owners) == (("pia",), ("olga",))
    again = evolve(after, Join("olga", PAIR))
    assert (again.owners, again.former_owners) == (("pia", "olga"), ())


def test_cancel_is_a_decision_with_its_entry() -> None:
    """The last owner's withdrawal decides the job, and names the entry that did it."""
    after = evolve(job(JobState.RUNNING, still_open=1), Withdraw("olga", AT + 1, 9))
    assert (after.state, after.reason, after.decided_ms, after.decided_seq) == (
        JobState.CANCELLED,
        "cancelled",
        AT + 1,
        9,
    )
    assert after.decided
    assert not after.closed


def test_page_of_job_states_is_what_the_table_gives() -> None:
    """The documentation shows the table that is in force; `python -m tests.core.job_states` writes it anew."""
    assert set(TRIGGERS) == set(Trigger)
    assert PAGE.read_text(encoding="utf-8") == page()


def test_page_of_job_states_changes_with_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row more in the table is a change of the page."""
    before: Any = page()
    monkeypatch.setitem(TRANSITIONS, (JobState.CANCELLED, Trigger.JOIN), JobState.QUEUED)
    assert page() != before
