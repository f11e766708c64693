"""Judging results: the order in which they are judged, every verdict, and what they decide."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gnexec.core.commands import NextJobs, Report, Verdict, Verdicts, Work
from gnexec.core.events import AttemptState, Equivocated, HandedOut, JobState, Outcome, RefusalNoted, Reported
from gnexec.errors import Refused
from gnexec.ids import ANONYMOUS
from tests.core.scene import CRASH, OPEN, PAIR, PREEMPTED, START_MS, Scene, digest, draw, expect, kinds, request, terms

PENDING, VALID, INVALID = Verdict.PENDING, Verdict.VALID, Verdict.INVALID
INCONCLUSIVE, TOO_LATE, UNNEEDED = Verdict.INCONCLUSIVE, Verdict.TOO_LATE, Verdict.UNNEEDED
EQUIVOCATION = Verdict.EQUIVOCATION


@pytest.fixture
def scene() -> Scene:
    """Return a log that was just opened."""
    return Scene()


def past_deadline(scene: Scene, held: HandedOut) -> None:
    """Let the hand-out's deadline pass."""
    scene.at_ms = held.exp_s * 1000 + 1


def taken_by(scene: Scene, *owners: str) -> list[HandedOut]:
    """Give the oldest job that waits to a worker of each owner."""
    return [scene.take(scene.enrol(owner)) for owner in owners]


# What is taken, and what it decides.


def test_report_of_a_single_result_decides_and_is_valid(scene: Scene) -> None:
    """Where one result is enough, the first success is the answer."""
    scene.jobs(1)
    (held,) = taken_by(scene, "vera")
    assert scene.report(held) == [VALID]
    assert kinds(scene.new) == ["ResultsReported", "JobsDecided"]
    job = scene.job(1)
    assert (job.state, job.canonical, job.reason, job.revision) == (JobState.SUCCEEDED, 1, "quorum", 1)
    assert job.decided_seq == len(scene.told) - 1
    assert scene.world.jobs == {}


def test_report_first_of_a_quorum_is_pending_and_the_second_decides(scene: Scene) -> None:
    """Two owners that agree make a quorum of two; the earlier result is the canonical one."""
    scene.jobs(1, PAIR)
    first, second = taken_by(scene, "vera", "wim")
    assert scene.report(second) == [PENDING]
    assert kinds(scene.new) == ["ResultsReported"]
    assert scene.report(first) == [VALID]
    assert kinds(scene.new) == ["ResultsReported", "ResultsCompared", "JobsDecided"]
    assert scene.job(1).canonical == 2
    assert scene.job(1).comparisons == ((2, 1, True),)


def test_report_disagreement_asks_for_another_owner(scene: Scene) -> None:
    """Two that differ decide nothing: one more result is wanted, and the odd one out is invalid."""
    scene.jobs(1, PAIR)
    liar, honest = taken_by(scene, "eve", "vera")
    scene.report(liar, "wrong")
    assert scene.report(honest) == [PENDING]
    assert kinds(scene.new) == ["ResultsReported", "ResultsCompared"]
    assert [found.why != "" for found in scene.new[1].found] == [True]  # type: ignore[union-attr]
    (third,) = taken_by(scene, "wim")
    assert third.jobs == [(1, 3)]
    assert scene.report(third) == [VALID]
    assert scene.job(1).canonical == 2
    assert scene.report(liar, "wrong") == [INVALID]
    assert scene.report(honest) == [VALID]


def test_report_two_owners_that_differ_for_ever_use_up_the_attempts(scene: Scene) -> None:
    """Without agreement the job fails when its attempts are used up, and nobody was proved wrong."""
    scene.jobs(1, terms(replicas=2, quorum=2, max_attempts=3))
    held = taken_by(scene, "vera", "wim")
    scene.report(held[0], "a")
    scene.report(held[1], "b")
    held += taken_by(scene, "xaver")
    assert scene.report(held[2], "c") == [INCONCLUSIVE]
    assert (scene.job(1).state, scene.job(1).reason) == (JobState.FAILED, "attempts")
    assert scene.report(held[0], "a") == [INCONCLUSIVE]


def test_report_quorum_of_three_needs_three_owners(scene: Scene) -> None:
    """Three results must agree with the earliest of them."""
    scene.jobs(1, terms(replicas=3, quorum=3))
    held = taken_by(scene, "vera", "wim", "xaver")
    assert [scene.report(each) for each in held] == [[PENDING], [PENDING], [VALID]]
    assert [(a, b) for a, b, _ in scene.job(1).comparisons] == [(1, 2), (1, 3), (2, 3)]


def test_report_replicas_beyond_the_quorum_are_unneeded(scene: Scene) -> None:
    """What comes in after the decision is recorded, and not needed."""
    scene.jobs(1, terms(replicas=3, quorum=2))
    held = taken_by(scene, "vera", "wim", "xaver")
    assert [scene.report(each) for each in held] == [[PENDING], [VALID], [UNNEEDED]]
    assert kinds(scene.new) == ["ResultsReported"]
    assert scene.job(1).attempts[2].state is AttemptState.UNNEEDED
    assert scene.world.jobs == {}


def test_report_of_a_cancelled_job_is_unneeded(scene: Scene) -> None:
    """A result that nobody wants any more is no fault."""
    scene.jobs(1)
    (held,) = taken_by(scene, "vera")
    scene.cancel(1)
    assert scene.report(held) == [UNNEEDED]
    assert scene.job(1).attempts[0].state is AttemptState.CANCELLED
    assert scene.report(held) == [UNNEEDED]


def test_report_failure_decides_where_one_is_enough(scene: Scene) -> None:
    """A program that fails by its own making is an answer too."""
    scene.jobs(1)
    (held,) = taken_by(scene, "vera")
    assert scene.report(held, outcome=CRASH) == [VALID]
    job = scene.job(1)
    assert (job.state, job.reason, job.canonical) == (JobState.FAILED, "failures", None)


def test_report_failures_must_be_as_many_as_the_quorum(scene: Scene) -> None:
    """One failure in a quorum of two asks for another attempt by another owner; the second decides."""
    scene.jobs(1, PAIR)
    first, second = taken_by(scene, "vera", "wim")
    assert scene.report(first, outcome=CRASH) == [PENDING]
    (third,) = taken_by(scene, "xaver")
    assert scene.report(second, outcome=Outcome(signal="SIGSEGV")) == [VALID]
    assert scene.job(1).reason == "failures"
    assert scene.report(third) == [UNNEEDED]
    assert scene.report(first, outcome=CRASH) == [VALID]


def test_report_success_of_a_job_that_failed_is_inconclusive(scene: Scene) -> None:
    """A lone success beside enough failures was neither confirmed nor refuted."""
    scene.jobs(1, terms(replicas=3, quorum=2, max_failures=2))
    held = taken_by(scene, "vera", "wim", "xaver")
    scene.report(held[0])
    scene.report(held[1], outcome=CRASH)
    scene.report(held[2], outcome=CRASH)
    assert scene.job(1).state is JobState.FAILED
    assert scene.report(held[0]) == [INCONCLUSIVE]


def test_report_failure_of_a_job_that_succeeded_is_invalid(scene: Scene) -> None:
    """Who reports a crash where a quorum computed an answer was wrong."""
    scene.jobs(1, PAIR)
    first, second = taken_by(scene, "eve", "vera")
    scene.report(first, outcome=CRASH)
    scene.report(second)
    scene.report(taken_by(scene, "wim")[0])
    assert scene.report(first, outcome=CRASH) == [INVALID]


def test_report_preempted_costs_nothing_and_the_job_goes_out_again(scene: Scene) -> None:
    """A volunteer takes the machine back: no blame, no budget, and its owner may have the job again."""
    scene.jobs(1, terms(replicas=2, quorum=2, max_attempts=2))
    vera = scene.enrol("vera")
    for turn in range(1, 5):
        held = scene.take(vera)
        assert held.jobs == [(1, turn)]
        assert scene.report(held, outcome=PREEMPTED) == [UNNEEDED]
    assert scene.job(1).state is JobState.QUEUED


def test_report_many_results_is_one_event_with_a_verdict_each(scene: Scene) -> None:
    """A statement over n results is one entry; all verdicts name it."""
    scene.jobs(2)
    scene.submit(request("pair", PAIR))
    held = scene.take(scene.enrol("vera"), 3)
    answer = expect(Verdicts, scene.when(scene.report_of(held)))
    assert [(one.job, one.verdict) for one in answer.judged] == [(1, VALID), (2, VALID), (3, PENDING)]
    assert kinds(scene.new) == ["ResultsReported", "JobsDecided"]
    assert {one.seq for one in answer.judged} == {len(scene.told) - 2}


def test_report_verdicts_come_in_the_order_asked(scene: Scene) -> None:
    """Whatever happens to each result, the answer's order is the report's."""
    scene.jobs(3)
    held = scene.take(scene.enrol("vera"), 3)
    scene.report(held, "early", only=2)
    command = scene.report_of(held)
    command = replace(command, results=tuple(reversed(command.results)))
    answer = expect(Verdicts, scene.when(command))
    assert [(one.job, one.verdict) for one in answer.judged] == [(3, VALID), (2, EQUIVOCATION), (1, VALID)]


def test_report_part_by_part_closes_the_hand_out_with_the_last(scene: Scene) -> None:
    """Each job of a hand-out may be answered when it is done."""
    scene.jobs(3)
    held = scene.take(scene.enrol("vera"), 3)
    for job in (2, 1):
        assert scene.report(held, only=job) == [VALID]
        assert held.jti in scene.world.hand_outs
    assert scene.report(held, only=3) == [VALID]
    assert scene.world.hand_outs == {}


def test_report_naming_a_job_twice_is_refused_and_nothing_is_recorded(scene: Scene) -> None:
    """Two results for one attempt in one statement contradict each other."""
    scene.jobs(1)
    (held,) = taken_by(scene, "vera")
    command = scene.report_of(held)
    assert scene.refused(replace(command, results=command.results * 2)) == "invalid"
    assert scene.job(1).attempts[0].state is AttemptState.OPEN


def test_report_of_another_jobs_digest_is_refused_and_may_be_mended(scene: Scene) -> None:
    """A statement about other work is no answer; nothing is recorded, so the right one still counts."""
    scene.jobs(1)
    (held,) = taken_by(scene, "vera")
    command = scene.report_of(held)
    assert scene.refused(replace(command, digests={1: digest("another job")})) == "invalid"
    scene.when(replace(command, digests={1: scene.job(1).digest.hex()}))
    assert scene.job(1).state is JobState.SUCCEEDED


def test_report_with_a_flaw_is_refused_only_where_it_would_be_taken(scene: Scene) -> None:
    """What is wrong with outputs matters for a result that is to be recorded, not for one that is judged otherwise."""
    scene.jobs(1, PAIR)
    (held,) = taken_by(scene, "vera")
    flawed = replace(scene.report_of(held), flaws={1: Refused("invalid", "The manifest was never uploaded.")})
    assert scene.refused(flawed) == "invalid"
    scene.report(held)
    assert expect(Verdicts, scene.when(flawed)).judged[0].verdict is PENDING
    past_deadline(scene, held)
    late = scene.take(scene.enrol("wim"))
    past_deadline(scene, late)
    flawed = replace(scene.report_of(late), flaws={1: Refused("invalid", "The manifest was never uploaded.")})
    assert expect(Verdicts, scene.when(flawed)).judged[0].verdict is TOO_LATE


# Answered before.


def test_same_answer_again_gets_the_current_verdict_and_writes_nothing(scene: Scene) -> None:
    """A lost reply is asked for again: the verdict is today's, the entry the first one."""
    scene.jobs(1, PAIR)
    first, second = taken_by(scene, "vera", "wim")
    before = expect(Verdicts, scene.when(scene.report_of(first))).judged[0]
    again = expect(Verdicts, scene.when(scene.report_of(first))).judged[0]
    assert again == before
    assert scene.new == []
    scene.report(second)
    after = expect(Verdicts, scene.when(scene.report_of(first))).judged[0]
    assert (after.verdict, after.seq) == (VALID, before.seq)


def test_same_answer_after_the_deadline_still_gets_its_verdict(scene: Scene) -> None:
    """What was taken in time is not too late when it is repeated."""
    scene.jobs(1)
    (held,) = taken_by(scene, "vera")
    scene.report(held)
    past_deadline(scene, held)
    assert scene.report(held) == [VALID]
    assert scene.new == []


def test_other_answer_is_equivocation_recorded_with_its_evidence(scene: Scene) -> None:
    """Another answer for an answered attempt is an entry that holds the second statement; the first one stands."""
    scene.jobs(1, PAIR)
    (held,) = taken_by(scene, "eve")
    scene.report(held, "a")
    assert scene.report(held, "b") == [EQUIVOCATION]
    assert kinds(scene.new) == ["Equivocated", "RefusalNoted"]
    evidence = scene.new[0]
    assert isinstance(evidence, Equivocated)
    assert (evidence.worker, evidence.job, evidence.attempt) == (held.worker, 1, 1)
    assert evidence.statement == scene.report_of(held, "b").statement
    assert scene.tally(held.worker) == {"succeeded": 1, "equivocated": 1}
    assert scene.report(held, "a") == [PENDING]


def test_equivocation_is_noted_once_for_each_hand_out(scene: Scene) -> None:
    """Nobody fills the log with second thoughts: open hand-out or closed, once is enough."""
    scene.jobs(2)
    held = scene.take(scene.enrol("eve"), 2)
    scene.report(held, "a", only=1)
    scene.report(held, "b", only=1)
    assert scene.report(held, "c", only=1) == [EQUIVOCATION]
    assert scene.new == []
    scene.report(held, "a", only=2)
    assert scene.world.hand_outs == {}
    assert scene.report(held, "d", only=2) == [EQUIVOCATION]
    assert scene.new == []
    assert scene.tally(held.worker)["equivocated"] == 1


def test_equivocation_about_many_at_once_names_each_and_notes_one(scene: Scene) -> None:
    """A second statement over several jobs is evidence for each, and one refusal."""
    scene.jobs(2, PAIR)
    held = scene.take(scene.enrol("eve"), 2)
    scene.report(held, "a")
    assert scene.report(held, "b") == [EQUIVOCATION, EQUIVOCATION]
    assert kinds(scene.new) == ["Equivocated", "RefusalNoted", "Equivocated"]


def test_equivocation_after_the_job_has_left_the_world_is_found(scene: Scene) -> None:
    """A decided job is read from its own entries, so its answer still binds its worker."""
    scene.jobs(1)
    (held,) = taken_by(scene, "eve")
    scene.report(held, "a")
    assert scene.world.jobs == {}
    assert scene.report(held, "b") == [EQUIVOCATION]
    assert kinds(scene.new) == ["Equivocated", "RefusalNoted"]


def test_equivocation_beside_good_results_does_not_taint_them(scene: Scene) -> None:
    """Each result of a report is judged for itself, and the evidence comes first."""
    scene.jobs(2)
    held = scene.take(scene.enrol("eve"), 2)
    scene.report(held, "a", only=1)
    answer = expect(Verdicts, scene.when(scene.report_of(held, "b")))
    assert [one.verdict for one in answer.judged] == [EQUIVOCATION, VALID]
    assert kinds(scene.new) == ["Equivocated", "RefusalNoted", "ResultsReported", "JobsDecided"]
    assert scene.told[answer.judged[1].seq][1] is scene.new[2]
    assert answer.judged[0].seq == -1


# Too late.


def test_result_past_the_deadline_is_too_late_even_before_the_lapse_is_written(scene: Scene) -> None:
    """The token's expiry alone closes the attempt for an answer."""
    scene.jobs(1)
    (held,) = taken_by(scene, "vera")
    scene.at_ms = held.exp_s * 1000
    scene.progress(held, 1)
    past_deadline(scene, held)
    assert scene.report(held) == [TOO_LATE]
    assert scene.new == [RefusalNoted(jti=held.jti, job=1, code="too_late")]


def test_result_at_the_last_millisecond_is_taken(scene: Scene) -> None:
    """Until the deadline the answer counts."""
    scene.jobs(1)
    (held,) = taken_by(scene, "vera")
    scene.at_ms = held.exp_s * 1000
    assert scene.report(held) == [VALID]


def test_late_result_after_the_lapse_is_too_late(scene: Scene) -> None:
    """A lapsed attempt is closed, whatever its token says."""
    scene.jobs(1)
    (held,) = taken_by(scene, "vera")
    scene.at_ms = held.lease_until_ms + 1
    scene.lapse()
    assert scene.report(held) == [TOO_LATE]
    assert scene.job(1).state is JobState.QUEUED


def test_late_result_after_quorum_is_too_late(scene: Scene) -> None:
    """A lapsed attempt of a decided job, gone from the world, is still too late and not unneeded."""
    scene.jobs(1, terms(replicas=2))
    slow, quick = taken_by(scene, "vera", "wim")
    scene.report(quick)
    scene.at_ms = slow.lease_until_ms + 1
    scene.lapse()
    assert scene.world.jobs == {}
    assert scene.report(slow) == [TOO_LATE]


def test_too_late_is_noted_once_for_each_hand_out_and_code(scene: Scene) -> None:
    """The first late answer is an entry, repeats are not: while others of the hand-out are open, and after."""
    scene.jobs(2, terms(max_attempts=9))
    held = scene.take(scene.enrol("vera"), 2)
    past_deadline(scene, held)
    assert scene.report(held) == [TOO_LATE, TOO_LATE]
    assert kinds(scene.new) == ["RefusalNoted"]
    for _ in range(2):
        scene.report(held)
        assert scene.new == []
        scene.lapse()
    assert scene.world.hand_outs == {}
    assert scene.report(held, "another") == [TOO_LATE, TOO_LATE]
    assert scene.new == []


def test_too_late_first_noted_after_the_hand_out_has_left_the_world(scene: Scene) -> None:
    """A hand-out that lapsed entirely gets its one note, and no second."""
    scene.jobs(1)
    (held,) = taken_by(scene, "vera")
    past_deadline(scene, held)
    scene.lapse()
    scene.report(held)
    assert kinds(scene.new) == ["RefusalNoted"]
    scene.report(held)
    assert scene.new == []


def test_too_late_and_equivocation_are_noted_each(scene: Scene) -> None:
    """One note for each code."""
    scene.jobs(2)
    held = scene.take(scene.enrol("eve"), 2)
    scene.report(held, "a", only=1)
    scene.report(held, "b", only=1)
    past_deadline(scene, held)
    scene.lapse()
    scene.report(held, "a", only=2)
    assert kinds(scene.new) == ["RefusalNoted"]


def test_stale_attempt_number_reaches_nothing(scene: Scene) -> None:
    """A token for another hand-out than the attempt's is too late, and not worth an entry: it names no attempt."""
    scene.jobs(1)
    (held,) = taken_by(scene, "vera")
    scene.at_ms = held.lease_until_ms + 1
    scene.lapse()
    (second,) = taken_by(scene, "wim")
    forged = replace(scene.report_of(second), jti=held.jti)
    assert expect(Verdicts, scene.when(forged)).judged[0].verdict is TOO_LATE
    assert scene.new == []
    unknown = replace(scene.report_of(second), results=(Reported(99, 1, CRASH, None, None, 0, 0, 0),))
    assert expect(Verdicts, scene.when(unknown)).judged[0].verdict is TOO_LATE
    assert scene.job(1).attempts[1].state is AttemptState.OPEN


# Open mode.


def test_unsigned_answer_is_refused_where_workers_are_enrolled(scene: Scene) -> None:
    """Only open mode takes a result that nobody signed."""
    scene.jobs(1)
    command = replace(scene.report_of(scene.take(scene.enrol("vera"))), statement=None)
    assert scene.refused(command) == "invalid"


def test_anonymous_answer_is_judged_without_a_statement() -> None:
    """In open mode the job token alone carries the right to answer."""
    scene = Scene(OPEN)
    scene.jobs(1)
    work = expect(Work, scene.when(NextJobs(ANONYMOUS, ANONYMOUS, 1, None, draw(1))))
    command = replace(scene.report_of(work.hand_out), statement=None)
    assert expect(Verdicts, scene.when(command)).judged[0].verdict is VALID
    again = replace(command, answer=digest("another"))
    assert expect(Verdicts, scene.when(again)).judged[0].verdict is EQUIVOCATION
    assert scene.tally(ANONYMOUS) == {"succeeded": 1, "equivocated": 1}


def test_report_is_contact(scene: Scene) -> None:
    """A worker that answered for one job of a hand-out and then fell silent has abandoned the rest."""
    scene.jobs(2)
    held = scene.take(scene.enrol("vera"), 2)
    scene.report(held, only=1)
    scene.at_ms = held.lease_until_ms + 1
    scene.lapse()
    assert scene.job(2).attempts[0].state is AttemptState.ABANDONED
    assert scene.at_ms > START_MS


def test_report_command_is_what_the_token_says() -> None:
    """The command of these tests is complete: every field that judging reads is set."""
    scene = Scene()
    scene.jobs(1)
    held = scene.take(scene.enrol("vera"))
    command = scene.report_of(held)
    assert isinstance(command, Report)
    assert command.pairs == ((1, 1),)
