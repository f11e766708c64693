"""Handing out: who gets which job, under which lease, what progress is worth, and how leases end."""

from __future__ import annotations

import msgspec
import pytest

from gnexec.core.commands import EndOutage, NextJobs, NoWork, Progress, Work
from gnexec.core.events import AttemptState, Effort, JobState, Offer
from gnexec.core.terms import Needs
from gnexec.ids import ANONYMOUS
from tests.core.scene import (
    CRASH,
    GOOD,
    OPEN,
    PAIR,
    POLICY,
    PREEMPTED,
    START_MS,
    WALL_S,
    Scene,
    digest,
    draw,
    expect,
    kinds,
    request,
    terms,
)

LEASE_MS = 1000 * POLICY.lease_s
EXP_S = START_MS // 1000 + WALL_S + POLICY.grace_s


@pytest.fixture
def scene() -> Scene:
    """Return a log that was just opened."""
    return Scene()


# Matching.


def test_next_hands_out_first_come_first_served(scene: Scene) -> None:
    """The oldest job goes first, each to one worker."""
    scene.jobs(3)
    vera, wim = scene.enrol("vera"), scene.enrol("wim")
    assert [scene.take(worker).jobs for worker in (vera, wim, vera)] == [[(1, 1)], [(2, 1)], [(3, 1)]]


def test_next_prefers_priority_over_age_across_lines(scene: Scene) -> None:
    """Higher priority first; as high, the older one, whatever the jobs need."""
    low, high = terms(priority=-1), terms(priority=7)
    wide = terms(priority=7, needs=Needs(cores=2, wall_s=WALL_S))
    scene.submit(request(1, low), request(2, wide), request(3, high), request(4, wide))
    assert [job for job, _ in scene.take(scene.enrol("vera"), n=4).jobs] == [2, 3, 4, 1]


def test_next_many_is_one_event_with_one_lease_and_deadline(scene: Scene) -> None:
    """Several attempts to one worker are one entry; the deadline leaves time to run them one after the other."""
    scene.jobs(5)
    held = scene.take(scene.enrol("vera"), n=3)
    assert kinds(scene.new) == ["HandedOut"]
    assert held.jobs == [(1, 1), (2, 1), (3, 1)]
    assert held.exp_s == START_MS // 1000 + 3 * WALL_S + POLICY.grace_s
    assert held.lease_until_ms == START_MS + LEASE_MS


def test_next_answers_with_the_jobs_and_their_attempt_numbers(scene: Scene) -> None:
    """The answer's jobs are those of the log, each with the number of the attempt that was begun."""
    ids = scene.jobs(2)
    worker = scene.enrol("vera")
    work = expect(Work, scene.next(worker, 2))
    assert [(job.id, job.digest, job.spec, number) for job, number in work.jobs] == [
        (job, scene.job(job).digest, scene.job(job).spec, 1) for job in ids
    ]
    assert (work.lease_until_ms, work.at_ms) == (START_MS + LEASE_MS, START_MS)


def test_next_short_job_has_its_lease_end_at_the_deadline(scene: Scene) -> None:
    """No lease outlives the token; a deadline within a second is rounded up."""
    scene.submit(request("short", terms(needs=Needs(wall_s=1))))
    scene.at_ms += 1
    held = scene.take(scene.enrol("vera"))
    assert held.exp_s == START_MS // 1000 + 1 + POLICY.grace_s + 1
    assert held.lease_until_ms == held.exp_s * 1000


@pytest.mark.parametrize("need", ["cores", "memory_bytes", "disk_bytes"])
def test_next_needs_beyond_the_offer_are_an_obstacle(scene: Scene, need: str) -> None:
    """A worker gets nothing that it cannot run, and is told what it lacks; a bigger one gets it."""
    offered = {"cores": 4, "memory_bytes": 4 << 30, "disk_bytes": 4 << 30}
    needs = Needs(**{need: offered[need] + 1}, wall_s=WALL_S)
    scene.submit(request(1, terms(needs=needs)), request(2, terms(needs=needs)))
    worker = scene.enrol("vera")
    assert scene.obstacles(worker) == {need: 2}
    scene.enrol("vera", offer=Offer(**{**offered, need: offered[need] + 1}))
    assert scene.take(worker).jobs == [(1, 1)]


def test_next_big_job_does_not_hold_up_the_small_ones_behind_it(scene: Scene) -> None:
    """What a worker cannot run is passed over."""
    scene.submit(request(1, terms(needs=Needs(cores=64), priority=9)), request(2))
    assert scene.take(scene.enrol("vera")).jobs == [(2, 1)]


def test_next_nothing_waiting_says_so(scene: Scene) -> None:
    """An empty hand always has a reason, and writes nothing."""
    assert scene.obstacles(scene.enrol("vera")) == {"no_work": 0}
    assert scene.new == []


def test_next_quota_limits_what_a_worker_holds(scene: Scene) -> None:
    """A worker holds at most `max_open` attempts; answering makes room."""
    scene.jobs(20)
    vera = scene.enrol("vera")
    held = scene.take(vera, n=5)
    assert len(scene.take(vera, n=64).jobs) == POLICY.max_open - 5
    assert scene.obstacles(vera) == {"quota": 0}
    scene.report(held)
    assert len(scene.take(vera, n=64).jobs) == 5


def test_next_quota_is_each_workers_own(scene: Scene) -> None:
    """Two workers of one owner have a quota each."""
    scene.jobs(20)
    scene.take(scene.enrol("vera", "one"), n=64)
    assert len(scene.take(scene.enrol("vera", "two"), n=64).jobs) == POLICY.max_open


def test_next_quorum_job_goes_to_another_owner(scene: Scene) -> None:
    """Where results must agree, an owner has one say: no second attempt for any of its workers."""
    scene.jobs(1, PAIR)
    scene.take(scene.enrol("vera", "one"))
    assert scene.obstacles(scene.enrol("vera", "two")) == {"owner_has_it": 1}
    assert scene.take(scene.enrol("wim")).jobs == [(1, 2)]
    assert scene.obstacles(scene.enrol("xaver")) == {"no_work": 0}


def test_next_single_result_job_gives_a_spare_replica_to_anyone(scene: Scene) -> None:
    """Where one result is enough, replicas only hasten it, and anyone may run them."""
    scene.jobs(1, terms(replicas=2))
    vera = scene.enrol("vera")
    assert [scene.take(vera).jobs, scene.take(vera).jobs] == [[(1, 1)], [(1, 2)]]


def test_next_one_hand_out_has_each_job_once(scene: Scene) -> None:
    """A hand-out of many never holds two attempts of one job."""
    scene.jobs(2, terms(replicas=3))
    assert scene.take(scene.enrol("vera"), n=64).jobs == [(1, 1), (2, 1)]


def test_next_unknown_worker_is_refused(scene: Scene) -> None:
    """A worker that the log does not know, or knows for another owner, gets nothing."""
    scene.jobs(1)
    vera = scene.enrol("vera")
    assert scene.refused(NextJobs("wnobody", "vera", 1, None, draw(1))) == "unknown_key"
    assert scene.refused(NextJobs(vera, "eve", 1, None, draw(1))) == "unknown_key"


def test_next_repeated_request_gets_the_same_again(scene: Scene) -> None:
    """A lost reply costs nothing: the same request id brings the same attempts, and writes nothing."""
    scene.jobs(3)
    vera = scene.enrol("vera")
    first = expect(Work, scene.next(vera, 2, "r1"))
    scene.later(5)
    again = expect(Work, scene.next(vera, 2, "r1"))
    assert (again.hand_out, again.lease_until_ms, again.at_ms) == (first.hand_out, first.lease_until_ms, first.at_ms)
    assert [(job.id, number) for job, number in again.jobs] == [(job.id, number) for job, number in first.jobs]
    assert scene.new == []
    assert scene.take(vera, 2, "r2").jobs == [(3, 1)]


def test_next_repeated_request_shows_what_is_still_open_and_the_lease_as_it_stands(scene: Scene) -> None:
    """Meanwhile answered jobs are left out, and the lease may have been extended."""
    scene.jobs(2)
    vera = scene.enrol("vera")
    held = scene.take(vera, 2, "r1")
    scene.report(held, only=1)
    scene.later(60)
    scene.progress(held, 500_000, job=2)
    again = expect(Work, scene.next(vera, 2, "r1"))
    assert [(job.id, number) for job, number in again.jobs] == [(2, 1)]
    assert (again.hand_out, again.at_ms) == (held, START_MS)
    assert again.lease_until_ms == scene.at_ms + LEASE_MS


def test_next_request_id_is_free_again_when_the_hand_out_is_closed(scene: Scene) -> None:
    """After everything was answered the same id asks for new work."""
    scene.jobs(2)
    vera = scene.enrol("vera")
    scene.report(scene.take(vera, 1, "r1"))
    assert scene.take(vera, 1, "r1").jobs == [(2, 1)]


def test_next_request_id_belongs_to_one_worker(scene: Scene) -> None:
    """Two workers that use the same request id do not get each other's work."""
    scene.jobs(2)
    scene.take(scene.enrol("vera"), 1, "r1")
    assert scene.take(scene.enrol("wim"), 1, "r1").jobs == [(2, 1)]


def test_next_predicts_from_what_was_seen_and_else_from_the_guess(scene: Scene) -> None:
    """Seconds, rounded up, for all jobs of the hand-out; nothing where one of them is unknown."""
    scene.submit(request(1, terms(estimate_ms=2500)), request(2, terms(estimate_ms=2500)), request(3))
    vera = scene.enrol("vera")
    first = scene.take(vera, 2)
    assert first.est_s == 5
    second = scene.take(vera)
    assert second.est_s is None
    scene.later(60)
    scene.report(first)  # 1.5 s each
    scene.jobs(1)
    assert scene.take(vera).est_s == 2


def test_anonymous_worker_takes_work_without_enrolment_or_quota() -> None:
    """In open mode any client is the one anonymous worker, which has no offer and no limit."""
    scene = Scene(OPEN)
    scene.jobs(10, terms(needs=Needs(cores=64, wall_s=WALL_S)))
    work = scene.when(NextJobs(ANONYMOUS, ANONYMOUS, 64, None, draw(1)))
    assert len(expect(Work, work).jobs) == 10
    assert scene.world.workers[ANONYMOUS].owner == ANONYMOUS


def test_anonymous_worker_is_given_nothing_where_workers_are_enrolled(scene: Scene) -> None:
    """Nobody can work for no one outside open mode: the log itself would show it."""
    scene.jobs(1)
    assert scene.refused(NextJobs(ANONYMOUS, ANONYMOUS, 1, None, draw(1))) == "unknown_key"


def test_anonymous_worker_has_one_say_on_a_quorum_job() -> None:
    """All clients of open mode are one owner; two of them cannot make a quorum."""
    scene = Scene(OPEN)
    scene.jobs(1, PAIR)
    scene.when(NextJobs(ANONYMOUS, ANONYMOUS, 1, None, draw(1)))
    answer = expect(NoWork, scene.when(NextJobs(ANONYMOUS, ANONYMOUS, 1, None, draw(2))))
    assert [found.code for found in answer.obstacles] == ["owner_has_it"]


def test_trusted_open_mode_counts_each_hand_out_as_an_owner() -> None:
    """Where the operator trusts all volunteers, two hand-outs may agree."""
    scene = Scene(msgspec.structs.replace(OPEN, distinct_owners=False))
    scene.jobs(1, PAIR)
    for turn in (1, 2):
        work = expect(Work, scene.when(NextJobs(ANONYMOUS, ANONYMOUS, 1, None, draw(turn))))
        assert work.hand_out.owner == f"{ANONYMOUS}#{work.hand_out.jti}"
        scene.report(work.hand_out)
    assert scene.job(1).state is JobState.SUCCEEDED
    assert scene.world.workers[ANONYMOUS].owner == ANONYMOUS


# Progress.


def test_progress_first_contact_is_noted_without_extension(scene: Scene) -> None:
    """The first word from the worker is an entry, even with nothing to show: the hand-out was delivered."""
    scene.jobs(1)
    held = scene.take(scene.enrol("vera"))
    told = scene.progress(held)
    assert (told.stop, told.lease_until_ms) == (False, held.lease_until_ms)
    assert kinds(scene.new) == ["LeaseExtended"]
    scene.progress(held)
    assert scene.new == []


def test_progress_extends_only_below_half_of_the_lease(scene: Scene) -> None:
    """Real progress extends the lease, but only when less than half of it remains."""
    scene.jobs(1)
    held = scene.take(scene.enrol("vera"))
    scene.progress(held, 1)
    scene.at_ms = START_MS + LEASE_MS // 2
    assert scene.progress(held, 2).lease_until_ms == START_MS + LEASE_MS
    assert scene.new == []
    scene.at_ms += 1
    assert scene.progress(held, 2).lease_until_ms == scene.at_ms + LEASE_MS
    assert kinds(scene.new) == ["LeaseExtended"]


def test_progress_late_first_contact_extends_at_once(scene: Scene) -> None:
    """A first word with something to show, late in the lease, does both."""
    scene.jobs(1)
    held = scene.take(scene.enrol("vera"))
    scene.later(90)
    assert scene.progress(held, 1).lease_until_ms == scene.at_ms + LEASE_MS


@pytest.mark.parametrize("effort", [Effort(0, 0, 0), Effort(500, 500, 500)])
def test_progress_without_anything_new_does_not_extend(scene: Scene, effort: Effort) -> None:
    """A heartbeat alone keeps nobody's lease: the job must have more to show than when it was last extended."""
    scene.jobs(1)
    held = scene.take(scene.enrol("vera"))
    command = Progress(held.jti, tuple(held.jobs), 1, effort, held.exp_s)
    scene.when(command)
    scene.later(90)
    scene.when(command)
    assert scene.new == []


@pytest.mark.parametrize("effort", [Effort(501, 0, 0), Effort(0, 501, 0), Effort(0, 0, 501)])
def test_progress_of_any_kind_extends(scene: Scene, effort: Effort) -> None:
    """Progress told, processor time used, or output written: each counts, whatever the others do."""
    scene.jobs(1)
    held = scene.take(scene.enrol("vera"))
    scene.when(Progress(held.jti, tuple(held.jobs), 1, Effort(500, 500, 500), held.exp_s))
    scene.later(90)
    scene.when(Progress(held.jti, tuple(held.jobs), 1, effort, held.exp_s))
    assert kinds(scene.new) == ["LeaseExtended"]


def test_progress_never_extends_beyond_the_deadline(scene: Scene) -> None:
    """The token's expiry is the hard deadline; at it, progress writes nothing more."""
    scene.jobs(1)
    held = scene.take(scene.enrol("vera"))
    ppm = 0
    while scene.world.hand_outs[held.jti].lease_until_ms < held.exp_s * 1000:
        scene.later(90)
        ppm += 1
        scene.progress(held, ppm)
    scene.later(5)
    assert scene.progress(held, ppm + 1).lease_until_ms == held.exp_s * 1000
    assert scene.new == []


def test_progress_of_one_job_keeps_the_whole_hand_out(scene: Scene) -> None:
    """One lease holds for all attempts of a hand-out; each job is measured against itself."""
    scene.jobs(2)
    held = scene.take(scene.enrol("vera"), 2)
    scene.progress(held, 900, job=1)
    scene.later(90)
    assert scene.progress(held, 1, job=2).lease_until_ms == scene.at_ms + LEASE_MS


def test_progress_of_a_decided_job_says_stop(scene: Scene) -> None:
    """Who runs what is no longer needed is told so."""
    scene.jobs(1, terms(replicas=2))
    slow, quick = scene.take(scene.enrol("vera")), scene.take(scene.enrol("wim"))
    scene.report(quick)
    told = scene.progress(slow, 5)
    assert (told.stop, told.reason) == (True, "the job is decided")
    assert scene.new == []


def test_progress_after_the_answer_is_too_late(scene: Scene) -> None:
    """An attempt that was answered takes no more progress, open job or closed."""
    scene.jobs(1, PAIR)
    held = scene.take(scene.enrol("vera"))
    scene.report(held)
    assert scene.refused(scene.progress_of(held, 5, 1)) == "too_late"
    scene.report(scene.take(scene.enrol("wim")))
    assert scene.refused(scene.progress_of(held, 5, 1)) == "too_late"


def test_progress_after_the_lapse_or_the_deadline_is_too_late(scene: Scene) -> None:
    """A closed attempt stays closed; past the deadline it is refused even before the lapse is written."""
    scene.jobs(1)
    held = scene.take(scene.enrol("vera"))
    scene.at_ms = held.exp_s * 1000 + 1
    assert scene.refused(scene.progress_of(held, 5, 1)) == "too_late"
    scene.lapse()
    assert scene.refused(scene.progress_of(held, 5, 1)) == "too_late"


def test_progress_with_a_foreign_hand_out_is_too_late(scene: Scene) -> None:
    """A token whose attempt number was never handed out under its jti reaches nothing."""
    scene.jobs(2)
    held = scene.take(scene.enrol("vera"))
    command = Progress("A" * 22, tuple(held.jobs), 1, Effort(1, 1, 1), held.exp_s)
    assert scene.refused(command) == "too_late"
    command = Progress(held.jti, ((2, 1),), 2, Effort(1, 1, 1), held.exp_s)
    assert scene.refused(command) == "too_late"


# Lapsing.


def test_lapse_at_the_very_end_of_the_lease_changes_nothing(scene: Scene) -> None:
    """A lease holds until its last millisecond."""
    scene.jobs(1)
    held = scene.take(scene.enrol("vera"))
    scene.at_ms = held.lease_until_ms
    scene.lapse()
    assert scene.new == []
    scene.at_ms += 1
    scene.lapse()
    assert kinds(scene.new) == ["AttemptsLapsed"]


def test_lapse_without_contact_is_undelivered_and_costs_nothing(scene: Scene) -> None:
    """A hand-out of which nothing was heard is nobody's fault: no budget used, the owner may have it again."""
    scene.jobs(1, terms(replicas=2, quorum=2, max_attempts=2))
    vera = scene.enrol("vera")
    for turn in range(1, 4):
        held = scene.take(vera)
        assert held.jobs == [(1, turn)]
        scene.at_ms = held.lease_until_ms + 1
        scene.lapse()
        assert scene.job(1).attempts[-1].state is AttemptState.UNDELIVERED
    assert scene.job(1).state is JobState.QUEUED
    assert scene.tally(vera) == {"undelivered": 3}


def test_lapse_after_contact_is_abandoned_and_counts(scene: Scene) -> None:
    """A worker that fell silent uses up an attempt; the last one fails the job."""
    scene.jobs(1, terms(max_attempts=2))
    vera = scene.enrol("vera")
    for turn in (1, 2):
        held = scene.take(vera)
        scene.progress(held)
        scene.at_ms = held.lease_until_ms + 1
        scene.lapse()
        assert scene.job(1).attempts[turn - 1].state is AttemptState.ABANDONED
    assert (scene.job(1).state, scene.job(1).reason) == (JobState.FAILED, "attempts")
    assert kinds(scene.new) == ["AttemptsLapsed", "JobsDecided"]
    assert scene.world.jobs == {}


def test_lapse_at_the_deadline_is_expired(scene: Scene) -> None:
    """A worker that was in contact until the deadline ran out of time, not of patience."""
    scene.submit(request("short", terms(needs=Needs(wall_s=60))))
    held = scene.take(scene.enrol("vera"))
    scene.progress(held)
    scene.at_ms = held.exp_s * 1000 + 1
    scene.lapse()
    assert scene.job(1).attempts[0].state is AttemptState.EXPIRED


def test_lapse_of_a_decided_job_is_unneeded_without_blame(scene: Scene) -> None:
    """Who held a job that others decided is not to blame for being silent."""
    scene.jobs(1, terms(replicas=2))
    slow, quick = scene.take(scene.enrol("vera")), scene.take(scene.enrol("wim"))
    scene.progress(slow)
    scene.report(quick)
    scene.at_ms = slow.lease_until_ms + 1
    scene.lapse()
    assert scene.job(1).attempts[0].state is AttemptState.UNNEEDED
    assert kinds(scene.new) == ["AttemptsLapsed"]
    assert scene.world.jobs == {}


def test_lapse_of_a_cancelled_job_is_cancelled(scene: Scene) -> None:
    """Nor is who held what its owner wanted no longer."""
    scene.jobs(1)
    held = scene.take(scene.enrol("vera"))
    scene.progress(held)
    scene.cancel(1)
    scene.at_ms = held.lease_until_ms + 1
    scene.lapse()
    assert scene.job(1).attempts[0].state is AttemptState.CANCELLED
    assert scene.world.jobs == {}


def test_lapse_closes_many_hand_outs_in_one_event_in_order_of_their_leases(scene: Scene) -> None:
    """All that lapsed is one entry; what was answered of a hand-out is left out."""
    scene.jobs(4)
    vera = scene.enrol("vera")
    first = scene.take(vera, 2)
    scene.report(first, only=1)
    scene.later(1)
    scene.take(vera, 2)
    scene.later(POLICY.lease_s + 1)
    scene.lapse()
    assert kinds(scene.new) == ["AttemptsLapsed"]
    ended = [(end.job, end.outcome) for end in scene.new[0].ends]  # type: ignore[union-attr]
    assert ended == [(2, "abandoned"), (3, "undelivered"), (4, "undelivered")]
    assert scene.world.hand_outs == {}
    assert scene.world.next_lease_ms() is None


def test_lapsed_job_goes_out_again_with_the_next_number(scene: Scene) -> None:
    """Expiry leads to a new attempt."""
    scene.jobs(1)
    held = scene.take(scene.enrol("vera"))
    scene.at_ms = held.lease_until_ms + 1
    scene.lapse()
    assert scene.take(scene.enrol("wim")).jobs == [(1, 2)]


# Outages.


def test_outage_prolongs_open_leases_by_its_length(scene: Scene) -> None:
    """Time in which no server could be told anything counts against nobody, up to the deadline."""
    scene.jobs(1)
    held = scene.take(scene.enrol("vera"))
    scene.later(500)
    scene.when(EndOutage(START_MS + 50_000))
    assert kinds(scene.new) == ["OutageEnded"]
    assert scene.world.hand_outs[held.jti].lease_until_ms == held.lease_until_ms + 450_000
    assert scene.world.due(scene.at_ms) == []


def test_outage_never_prolongs_beyond_the_deadline(scene: Scene) -> None:
    """The token's expiry does not move."""
    scene.jobs(1)
    held = scene.take(scene.enrol("vera"))
    scene.later(100_000)
    scene.when(EndOutage(START_MS + 1))
    assert scene.world.hand_outs[held.jti].lease_until_ms == held.exp_s * 1000


def test_outage_leaves_leases_that_had_passed_before_it(scene: Scene) -> None:
    """What had lapsed before the server went away has lapsed."""
    scene.jobs(1)
    held = scene.take(scene.enrol("vera"))
    scene.later(500)
    scene.when(EndOutage(held.lease_until_ms + 1))
    assert scene.world.hand_outs[held.jti].lease_until_ms == held.lease_until_ms
    assert scene.world.due(scene.at_ms) == [held.jti]


def test_outage_begins_at_the_last_entry_at_the_earliest(scene: Scene) -> None:
    """A pulse that is older than the last entry is no proof of an outage."""
    scene.jobs(1)
    scene.take(scene.enrol("vera"))
    scene.when(EndOutage(0))
    assert scene.new == []
    scene.later(1)
    scene.when(EndOutage(0))
    assert scene.new[0].since_ms == START_MS  # type: ignore[union-attr]


def test_outage_without_open_leases_is_not_worth_an_entry(scene: Scene) -> None:
    """Nothing to prolong, nothing to write."""
    scene.later(1000)
    scene.when(EndOutage(START_MS))
    assert scene.new == []


# Statistics and records.


def test_worker_record_counts_each_outcome(scene: Scene) -> None:
    """What a worker's attempts came to is counted by outcome, and what it holds."""
    scene.jobs(5, terms(max_failures=9))
    vera = scene.enrol("vera")
    for outcome in (GOOD, CRASH, PREEMPTED):
        scene.report(scene.take(vera), outcome=outcome)
    scene.take(vera)
    assert scene.tally(vera) == {"succeeded": 1, "failed": 1, "preempted": 1}
    assert scene.world.workers[vera].open == 1


def test_statistics_are_of_successes_by_program(scene: Scene) -> None:
    """Only successful attempts tell how long a program takes."""
    scene.jobs(2, terms(max_failures=9))
    vera = scene.enrol("vera")
    scene.report(scene.take(vera), outcome=CRASH)
    assert scene.world.statistics == {}
    scene.report(scene.take(vera))
    assert scene.world.statistics[f"p/{digest('program')}"].n == 1
