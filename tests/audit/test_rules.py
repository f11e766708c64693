"""A dishonest dispatcher, whose every hash and checkpoint is right, is found out by the rules, at the right entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
import pytest

from gnexec.audit.verify import Level, verify
from gnexec.core.commands import EndOutage, Lapse, OpenLog
from gnexec.core.events import (
    AnyEvent,
    AttemptsLapsed,
    AttemptState,
    Compared,
    Effort,
    Equivocated,
    HandedOut,
    JobDecided,
    JobsDecided,
    JobState,
    JoinedJob,
    KeyAdded,
    LapsedAttempt,
    LeaseExtended,
    LogOpened,
    NewJob,
    OutageEnded,
    Outcome,
    OwnerWithdrew,
    PolicySet,
    RefusalNoted,
    ResultsCompared,
    Submitted,
    WorkerEnrolled,
)
from gnexec.core.world import World
from gnexec.errors import CorruptLog
from gnexec.ids import b64url
from gnexec.tlog.note import Verifier
from gnexec.tokens import kid_of
from tests.audit.logs import OFFER, ORIGIN, POLICY, VERIFIER, Dispatcher, digest, draw, eventful, key_of, terms, x_of

SMALL_ORDER: Final = b64url(b"\x01" + 31 * b"\x00")


def found(desk: Dispatcher) -> CorruptLog:
    """Verify a desk's log, which must fail, and return the finding."""
    log = desk.log()
    with pytest.raises(CorruptLog) as caught:
        verify(log.header, log.items, VERIFIER)
    return caught.value


def working() -> tuple[Dispatcher, HandedOut]:
    """Return a dispatcher with two owners' workers, two jobs with a quorum of two, one of them handed out."""
    desk = Dispatcher()
    desk.enrol("ann")
    desk.enrol("bob")
    desk.submit(2)
    desk.later(1)
    return desk, desk.take("ann")


def altered(event: HandedOut, **changes: object) -> HandedOut:
    """Return an event with some fields changed."""
    return msgspec.structs.replace(event, **changes)


def next_of(desk: Dispatcher, name: str) -> HandedOut:
    """Return what an honest dispatcher would hand out, without doing so."""
    before = list(desk.told)
    event = desk.take(name)
    desk.told, desk.world = before, World()
    for at_ms, told in before:
        desk.world.apply(told, at_ms)
    return event


def test_honest_log_of_an_eventful_day_is_fully_verified() -> None:
    """A log in which everything happened that can happen reaches the full level."""
    log = eventful().log()
    kinds = {type(event) for _, event in eventful().told}
    result = verify(log.header, log.items, VERIFIER)
    assert (result.level, result.ruled, result.withheld) == (Level.FULL, log.header.size, 0)
    assert result.statements == 9
    assert len(kinds) == 15, "every kind of event"


def test_honest_log_in_open_mode_is_fully_verified() -> None:
    """Where all volunteers are trusted, each hand-out counts as an owner of its own, and nothing is signed."""
    desk = Dispatcher(policy=msgspec.structs.replace(POLICY, distinct_owners=False, open=True))
    desk.submit(2)
    for _ in range(4):
        desk.report_open(desk.take("anonymous"))
    log = desk.log()
    assert verify(log.header, log.items, VERIFIER).level is Level.FULL
    assert all(job.state is JobState.SUCCEEDED for job in desk.closed([1, 2]).values())


# Results that must not count.


def late_result_is_accepted() -> tuple[Dispatcher, int]:
    """A result is taken after the attempt's hard deadline."""
    desk, held = working()
    event, _ = desk.reported(held)
    desk.at_ms = held.exp_s * 1000 + 1
    return desk, desk.forge(event)


def result_of_a_lapsed_attempt_is_accepted() -> tuple[Dispatcher, int]:
    """A result is taken for an attempt that was closed."""
    desk, held = working()
    event, _ = desk.reported(held)
    desk.later(200)
    desk.do(Lapse())
    return desk, desk.forge(event)


def result_is_accepted_twice() -> tuple[Dispatcher, int]:
    """One answer is counted as two."""
    desk, held = working()
    event, _ = desk.reported(held)
    desk.report(held)
    return desk, desk.forge(event)


def result_of_somebody_elses_attempt_is_accepted() -> tuple[Dispatcher, int]:
    """A worker answers for what was handed to another."""
    desk, held = working()
    desk.names[desk.workers["bob"]] = "bob"
    event, _ = desk.reported(altered(held, worker=desk.workers["bob"]))
    return desk, desk.forge(event)


def result_for_another_attempt_is_accepted() -> tuple[Dispatcher, int]:
    """A worker answers for a job that its hand-out did not have."""
    desk, held = working()
    event, _ = desk.reported(altered(held, jobs=[(2, 1)]))
    return desk, desk.forge(event)


def statement_is_forged() -> tuple[Dispatcher, int]:
    """The dispatcher signs for a worker, with a key of its own."""
    desk, held = working()
    event, _ = desk.reported(held, signer="dispatcher")
    return desk, desk.forge(event)


def statement_is_left_out() -> tuple[Dispatcher, int]:
    """A worker that has a key is said to have answered, without its signature."""
    desk, held = working()
    event, _ = desk.reported(held)
    return desk, desk.forge(msgspec.structs.replace(event, statement=None))


def statement_says_something_else() -> tuple[Dispatcher, int]:
    """The event has another voted digest than the worker signed."""
    desk, held = working()
    event, _ = desk.reported(held)
    result = msgspec.structs.replace(event.results[0], canon=digest("wrong"))
    return desk, desk.forge(msgspec.structs.replace(event, results=[result]))


def statement_is_of_another_hand_out() -> tuple[Dispatcher, int]:
    """A worker's old statement is used again."""
    desk, held = working()
    old, _ = desk.reported(held)
    desk.report(held)
    again = desk.take("ann")
    return desk, desk.forge(msgspec.structs.replace(old, jti=again.jti))


def answer_has_another_identity() -> tuple[Dispatcher, int]:
    """The answer's digest is not that of its claims, so that the same answer could be called another."""
    desk, held = working()
    event, _ = desk.reported(held)
    return desk, desk.forge(msgspec.structs.replace(event, answer=digest("other")))


def statement_names_another_job_digest() -> tuple[Dispatcher, int]:
    """The worker has signed for another piece of work than the log says."""
    desk, held = working()
    job = desk.world.jobs[1]
    desk.world.jobs[1] = msgspec.structs.replace(job, digest=bytes(32))
    event, _ = desk.reported(held)
    desk.world.jobs[1] = job
    return desk, desk.forge(event)


# Decisions that do not follow.


def job_is_decided_without_quorum() -> tuple[Dispatcher, int]:
    """One result of two is declared to be enough."""
    desk, held = working()
    desk.report(held)
    return desk, desk.forge(
        JobsDecided(decided=[JobDecided(job=1, revision=1, state=JobState.SUCCEEDED, canonical=1, reason="quorum")])
    )


def job_is_decided_by_another_result() -> tuple[Dispatcher, int]:
    """A quorum is met, and another result is declared canonical."""
    desk, held = working()
    desk.report(held)
    desk.report(desk.take("bob"))
    at_ms, event = desk.told.pop()
    assert isinstance(event, JobsDecided)
    (decided,) = event.decided
    desk.told.append((at_ms, JobsDecided(decided=[msgspec.structs.replace(decided, canonical=2)])))
    return desk, desk.size - 1


def differing_results_are_called_equal() -> tuple[Dispatcher, int]:
    """A comparison says equal where the voted digests differ."""
    desk, held = working()
    desk.report(held)
    desk.report(desk.take("bob"), "wrong")
    at_ms, event = desk.told.pop()
    assert isinstance(event, ResultsCompared)
    (found,) = event.found
    assert not found.equal
    desk.told.append((at_ms, ResultsCompared(found=[msgspec.structs.replace(found, equal=True, why="")])))
    return desk, desk.size - 1


def comparison_is_made_up() -> tuple[Dispatcher, int]:
    """A comparison comes without a result that calls for it."""
    desk, held = working()
    desk.report(held)
    desk.report(desk.take("bob"), "wrong")
    return desk, desk.forge(ResultsCompared(found=[Compared(job=1, a=1, b=2, equal=True, validator="exact/1", why="")]))


def decision_is_left_out() -> tuple[Dispatcher, int]:
    """A quorum is met, and the log goes on as if it were not."""
    desk, held = working()
    desk.report(held)
    desk.report(desk.take("bob"))
    _, left_out = desk.told.pop()
    assert isinstance(left_out, JobsDecided)
    return desk, desk.forge(LeaseExtended(jti=held.jti, job=1, effort=Effort(), lease_until_ms=0))


def log_ends_before_a_decision() -> tuple[Dispatcher, int]:
    """A quorum is met, and the log ends there."""
    desk, held = working()
    desk.report(held)
    desk.report(desk.take("bob"))
    desk.told.pop()
    return desk, desk.size


def decision_comes_later() -> tuple[Dispatcher, int]:
    """A decision has another time than the result that led to it."""
    desk, held = working()
    desk.report(held)
    desk.report(desk.take("bob"))
    at_ms, event = desk.told.pop()
    desk.told.append((at_ms + 1, event))
    return desk, desk.size - 1


# Hand-outs that no rule makes.


def owner_is_counted_twice() -> tuple[Dispatcher, int]:
    """A second worker of one owner is given the job that the owner has had its say on."""
    desk, held = working()
    desk.enrol("ann's other", "o-ann")
    desk.report(held)
    wanted = next_of(desk, "bob")
    forged = altered(wanted, worker=desk.workers["ann's other"], owner="o-ann")
    return desk, desk.forge(forged)


def owner_is_made_up_for_a_worker() -> tuple[Dispatcher, int]:
    """A worker's result is to count for another owner than its own."""
    desk, held = working()
    desk.report(held)
    return desk, desk.forge(altered(next_of(desk, "bob"), owner="o-nobody"))


def worker_is_favoured() -> tuple[Dispatcher, int]:
    """A worker is given another job than the one whose turn it is."""
    desk, _ = working()
    return desk, desk.forge(altered(next_of(desk, "bob"), jobs=[(2, 1)]))


def stranger_is_given_work() -> tuple[Dispatcher, int]:
    """Work is handed to a worker that is not enrolled."""
    desk, _ = working()
    return desk, desk.forge(altered(next_of(desk, "bob"), worker="w" + b64url(draw("stranger"))))


def deadline_is_too_far() -> tuple[Dispatcher, int]:
    """A hand-out gets a later deadline than the rules give."""
    desk, _ = working()
    wanted = next_of(desk, "bob")
    return desk, desk.forge(altered(wanted, exp_s=wanted.exp_s + 1))


def lease_is_too_long() -> tuple[Dispatcher, int]:
    """A hand-out gets a longer lease than the policy in force."""
    desk, _ = working()
    wanted = next_of(desk, "bob")
    return desk, desk.forge(altered(wanted, lease_until_ms=wanted.lease_until_ms + 1))


def attempt_id_is_used_twice() -> tuple[Dispatcher, int]:
    """A hand-out has the id of one that was closed long ago."""
    desk, held = working()
    desk.report(held)
    desk.later(500)
    return desk, desk.forge(altered(next_of(desk, "bob"), jti=held.jti))


def attempt_number_is_skipped() -> tuple[Dispatcher, int]:
    """An attempt has not the next number."""
    desk, _ = working()
    return desk, desk.forge(altered(next_of(desk, "bob"), jobs=[(1, 3)]))


def quota_is_exceeded() -> tuple[Dispatcher, int]:
    """A worker is given more than it may hold."""
    desk, _ = working()
    desk.submit(20)
    wanted = next_of(desk, "bob")
    return desk, desk.forge(altered(wanted, jobs=[(job, 2 if job == 1 else 1) for job in range(1, 10)]))


def empty_hand_out_is_made() -> tuple[Dispatcher, int]:
    """A hand-out has no attempts."""
    desk, _ = working()
    return desk, desk.forge(altered(next_of(desk, "bob"), jobs=[]))


# Leases, lapses, outages.


def lease_is_extended_without_progress() -> tuple[Dispatcher, int]:
    """A lease is extended though nothing was shown."""
    desk, held = working()
    desk.progress(held, 1)
    desk.later(80)
    until = desk.at_ms + 100_000
    return desk, desk.forge(LeaseExtended(jti=held.jti, job=1, effort=Effort(1, 0, 0), lease_until_ms=until))


def lease_is_extended_for_another_job() -> tuple[Dispatcher, int]:
    """A lease is extended by the progress of a job that the hand-out does not have."""
    desk, held = working()
    until = held.lease_until_ms
    return desk, desk.forge(LeaseExtended(jti=held.jti, job=2, effort=Effort(1, 0, 0), lease_until_ms=until))


def attempt_is_closed_too_early() -> tuple[Dispatcher, int]:
    """An attempt is closed while its lease runs."""
    desk, held = working()
    return desk, desk.forge(AttemptsLapsed(ends=[LapsedAttempt(held.jti, 1, 1, AttemptState.UNDELIVERED)]))


def silent_hand_out_is_blamed() -> tuple[Dispatcher, int]:
    """A worker is blamed for a hand-out that never reached it."""
    desk, held = working()
    desk.later(200)
    return desk, desk.forge(AttemptsLapsed(ends=[LapsedAttempt(held.jti, 1, 1, AttemptState.ABANDONED)]))


def outage_is_made_up() -> tuple[Dispatcher, int]:
    """Leases are prolonged by an outage during which the log went on."""
    desk, held = working()
    desk.later(10)
    desk.progress(held, 1)
    return desk, desk.forge(OutageEnded(since_ms=desk.at_ms - 5000, until_ms=desk.at_ms))


def outage_ends_in_the_future() -> tuple[Dispatcher, int]:
    """An outage is longer than it can have been."""
    desk, _ = working()
    desk.later(10)
    return desk, desk.forge(OutageEnded(since_ms=desk.at_ms - 5000, until_ms=desk.at_ms + 1))


# Refusals that are slander.


def worker_is_framed_for_equivocation() -> tuple[Dispatcher, int]:
    """A worker's one answer is called its second."""
    desk, held = working()
    event, _ = desk.reported(held)
    desk.report(held)
    framed = Equivocated(
        jti=held.jti, worker=held.worker, job=1, attempt=1, statement=event.statement, answer=event.answer
    )
    return desk, desk.forge(framed)


def worker_is_framed_with_a_forged_answer() -> tuple[Dispatcher, int]:
    """A second answer is made up, with a signature that is not the worker's."""
    desk, held = working()
    desk.report(held)
    event, _ = desk.reported(held, "wrong", signer="dispatcher")
    framed = Equivocated(
        jti=held.jti, worker=held.worker, job=1, attempt=1, statement=event.statement, answer=event.answer
    )
    return desk, desk.forge(framed)


def result_in_time_is_called_late() -> tuple[Dispatcher, int]:
    """A refusal says that a result was late while its hand-out was open."""
    desk, held = working()
    return desk, desk.forge(RefusalNoted(jti=held.jti, job=1, code="too_late"))


def refusal_is_noted_twice() -> tuple[Dispatcher, int]:
    """A refusal is counted again and again."""
    desk, held = working()
    desk.later(200)
    desk.do(Lapse())
    desk.report(held)
    return desk, desk.forge(RefusalNoted(jti=held.jti, job=1, code="too_late"))


def refusal_of_nothing_is_noted() -> tuple[Dispatcher, int]:
    """A refusal is noted for a hand-out that never was."""
    desk, _ = working()
    return desk, desk.forge(RefusalNoted(jti=b64url(draw("nothing")), job=1, code="too_late"))


# Jobs and their owners.


def job_ids_have_a_gap() -> tuple[Dispatcher, int]:
    """A submission does not begin with the next id."""
    desk, _ = working()
    return desk, desk.forge(submitted(first=4))


def idempotency_key_is_used_twice() -> tuple[Dispatcher, int]:
    """Two submissions have one idempotency key."""
    desk, _ = working()
    desk.submit(1, key=digest("key"))
    return desk, desk.forge(submitted(first=4, key=digest("key")))


def submission_has_no_terms() -> tuple[Dispatcher, int]:
    """A job has terms that are counted from the end."""
    desk, _ = working()
    return desk, desk.forge(submitted(first=3, jobs=[NewJob(digest("a"), digest("b"), -1)]))


def terms_are_not_settled() -> tuple[Dispatcher, int]:
    """A job's redundancy has defaults that were never worked out."""
    desk, _ = working()
    loose = msgspec.structs.replace(terms(), redundancy=msgspec.structs.replace(terms().redundancy, max_attempts=0))
    return desk, desk.forge(submitted(first=3, terms=[loose]))


def submission_is_answered_across_projects() -> tuple[Dispatcher, int]:
    """A job answers somebody of another project."""
    desk, _ = working()
    return desk, desk.forge(submitted(first=3, project="q", jobs=[], joined=[JoinedJob(0, 1, 0)]))


def submission_is_answered_by_no_job() -> tuple[Dispatcher, int]:
    """A submission is answered by a job that does not exist."""
    desk, _ = working()
    return desk, desk.forge(submitted(first=3, jobs=[], joined=[JoinedJob(0, 7, 0)]))


def stranger_cancels_a_job() -> tuple[Dispatcher, int]:
    """Somebody withdraws from a job that is another's."""
    desk, _ = working()
    return desk, desk.forge(OwnerWithdrew(owner="mallory", jobs=[1]))


# Keys, policy, time.


def time_goes_back() -> tuple[Dispatcher, int]:
    """An entry is earlier than the one before."""
    desk, _ = working()
    event = next_of(desk, "bob")
    desk.at_ms -= 1
    return desk, desk.forge(event)


def worker_has_a_key_of_small_order() -> tuple[Dispatcher, int]:
    """A worker is enrolled with a key under which one signature fits many messages."""
    desk, _ = working()
    return desk, desk.forge(enrolled("eve", x=SMALL_ORDER))


def worker_has_the_thumbprint_of_another_key() -> tuple[Dispatcher, int]:
    """A worker is enrolled with a kid that is not its key's."""
    desk, _ = working()
    return desk, desk.forge(enrolled("eve", kid=kid_of(key_of("ann").public_key())))


def worker_changes_its_key() -> tuple[Dispatcher, int]:
    """A worker's key is replaced by one that the dispatcher holds."""
    desk, held = working()
    return desk, desk.forge(msgspec.structs.replace(enrolled("eve"), worker=held.worker, owner="o-ann"))


def worker_changes_its_owner() -> tuple[Dispatcher, int]:
    """A worker is enrolled again for another owner."""
    desk, _ = working()
    return desk, desk.forge(enrolled("ann"))


def token_key_is_added_twice() -> tuple[Dispatcher, int]:
    """A token key is added that is there already."""
    desk, _ = working()
    key = key_of("tokens")
    return desk, desk.forge(KeyAdded(kid=kid_of(key.public_key()), x=x_of(key)))


def log_was_opened_for_another_key() -> tuple[Dispatcher, int]:
    """The first entry names another key than the one that signs the checkpoints."""
    desk, _ = working()
    vkey = Verifier.of(ORIGIN, key_of("eve").public_key()).vkey
    desk.told[0] = desk.told[0][0], LogOpened(origin=ORIGIN, vkey=vkey)
    return desk, 0


def log_has_no_policy() -> tuple[Dispatcher, int]:
    """Something happens before there is a policy to judge it by."""
    desk, _ = working()
    del desk.told[2]
    return desk, 2


def policy_has_no_lease() -> tuple[Dispatcher, int]:
    """A policy gives leases of no length."""
    desk, _ = working()
    return desk, desk.forge(msgspec.structs.replace(POLICY, lease_s=0))


def log_is_opened_again() -> tuple[Dispatcher, int]:
    """A log has two beginnings."""
    desk, _ = working()
    return desk, desk.forge(desk.told[0][1])


def submitted(first: int, **changes: object) -> Submitted:
    """Return a submission of one job, with some fields changed."""
    plain = Submitted(
        first=first,
        owner="olga",
        project="p",
        key=None,
        body=digest("body"),
        terms=[terms()],
        jobs=[NewJob(digest("job"), digest("spec"), 0)],
        joined=[],
    )
    return msgspec.structs.replace(plain, **changes)


def enrolled(name: str, x: str | None = None, kid: str | None = None) -> WorkerEnrolled:
    """Return a worker's enrolment, with another key or kid."""
    key = key_of(name)
    return WorkerEnrolled(
        worker="w" + b64url(draw(("forged", name))),
        owner="o-eve",
        x=x or x_of(key),
        kid=kid or kid_of(key.public_key()),
        caps=digest(name),
        offer=OFFER,
    )


ATTACKS: Final[list[Callable[[], tuple[Dispatcher, int]]]] = [
    late_result_is_accepted,
    result_of_a_lapsed_attempt_is_accepted,
    result_is_accepted_twice,
    result_of_somebody_elses_attempt_is_accepted,
    result_for_another_attempt_is_accepted,
    statement_is_forged,
    statement_is_left_out,
    statement_says_something_else,
    statement_is_of_another_hand_out,
    answer_has_another_identity,
    statement_names_another_job_digest,
    job_is_decided_without_quorum,
    job_is_decided_by_another_result,
    differing_results_are_called_equal,
    comparison_is_made_up,
    decision_is_left_out,
    log_ends_before_a_decision,
    decision_comes_later,
    owner_is_counted_twice,
    owner_is_made_up_for_a_worker,
    worker_is_favoured,
    stranger_is_given_work,
    deadline_is_too_far,
    lease_is_too_long,
    attempt_id_is_used_twice,
    attempt_number_is_skipped,
    quota_is_exceeded,
    empty_hand_out_is_made,
    lease_is_extended_without_progress,
    lease_is_extended_for_another_job,
    attempt_is_closed_too_early,
    silent_hand_out_is_blamed,
    outage_is_made_up,
    outage_ends_in_the_future,
    worker_is_framed_for_equivocation,
    worker_is_framed_with_a_forged_answer,
    result_in_time_is_called_late,
    refusal_is_noted_twice,
    refusal_of_nothing_is_noted,
    job_ids_have_a_gap,
    idempotency_key_is_used_twice,
    submission_has_no_terms,
    terms_are_not_settled,
    submission_is_answered_across_projects,
    submission_is_answered_by_no_job,
    stranger_cancels_a_job,
    time_goes_back,
    worker_has_a_key_of_small_order,
    worker_has_the_thumbprint_of_another_key,
    worker_changes_its_key,
    worker_changes_its_owner,
    token_key_is_added_twice,
    log_was_opened_for_another_key,
    log_has_no_policy,
    policy_has_no_lease,
    log_is_opened_again,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_dishonest_dispatcher_is_found_out_at_the_entry(attack: Callable[[], tuple[Dispatcher, int]]) -> None:
    """Each lie is found at the entry that tells it, although the checkpoint over it is valid."""
    desk, seq = attack()
    error = found(desk)
    assert (error.seq, bool(error.reason)) == (seq, True), error


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (late_result_is_accepted, "1 ms after its deadline"),
        (statement_is_forged, "did not sign"),
        (job_is_decided_without_quorum, "results do not decide it"),
        (owner_is_counted_twice, "has had its one say"),
        (attempt_id_is_used_twice, "may be there only once"),
        (time_goes_back, "time goes back"),
        (decision_is_left_out, "must follow here"),
        (lease_is_too_long, "lease_until_ms is"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_finding_says_what_is_wrong(attack: Callable[[], tuple[Dispatcher, int]], words: str) -> None:
    """The reason is told in words that an auditor can go by."""
    assert words in found(attack()[0]).reason


def test_whole_table_of_attacks_covers_every_kind_of_event() -> None:
    """No kind of event can be forged without an attack here that tries it."""
    tried: set[type[AnyEvent]] = set()
    for attack in ATTACKS:
        desk, seq = attack()
        tried.add(type(desk.told[min(seq, desk.size - 1)][1]))
    assert len(tried) == 15
    assert PolicySet in tried


def test_lease_after_an_outage_is_what_the_rules_give() -> None:
    """Leases that an outage prolonged lapse later, and the log that says so is right."""
    desk, _ = working()
    desk.later(50)
    desk.do(EndOutage(desk.at_ms - 40_000))
    desk.later(139)
    desk.do(Lapse())
    log = desk.log()
    assert verify(log.header, log.items, VERIFIER).level is Level.FULL
    assert isinstance(desk.told[-1][1], OutageEnded | AttemptsLapsed)


def test_policy_that_changes_holds_from_there_on() -> None:
    """A hand-out under a new policy is judged by the new one."""
    desk, _ = working()
    desk.do(OpenLog(ORIGIN, VERIFIER.vkey, {}, msgspec.structs.replace(POLICY, lease_s=7)))
    held = desk.take("bob")
    assert held.lease_until_ms == desk.at_ms + 7000
    log = desk.log()
    assert verify(log.header, log.items, VERIFIER).level is Level.FULL


def test_crash_of_both_owners_is_a_failure_that_the_rules_give() -> None:
    """Failures decide a job as well, and an auditor comes to the same decision."""
    desk, held = working()
    desk.report(held, outcome=Outcome(exit=1))
    desk.report(desk.take("bob"), outcome=Outcome(exit=1))
    assert isinstance(desk.told[-1][1], JobsDecided)
    log = desk.log()
    assert verify(log.header, log.items, VERIFIER).level is Level.FULL
