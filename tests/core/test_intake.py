"""What comes in: opening the log, submitting, joining, cancelling, enrolling."""

from __future__ import annotations

import pytest

from gnexec.core.commands import Accepted, Cancel, Enrol, Enrolled, OpenLog, Submit
from gnexec.core.decide import decide
from gnexec.core.events import JobState, Offer
from gnexec.core.terms import Redundancy, resolve_redundancy
from gnexec.core.world import World
from gnexec.errors import BadConfiguration, Refused
from tests.core.scene import CRASH, OFFER, ONE, ORIGIN, PAIR, POLICY, VKEY, Scene, digest, draw, kinds, request, terms


@pytest.fixture
def scene() -> Scene:
    """Return a log that was just opened."""
    return Scene()


# Opening.


def test_open_new_log_names_it_and_sets_keys_and_policy() -> None:
    """The first entries say whose log this is, which keys sign tokens, and the operator's numbers."""
    events, _ = decide(World(), OpenLog(ORIGIN, VKEY, {"k1": "x1", "k2": "x2"}, POLICY), 5)
    assert kinds(events) == ["LogOpened", "KeyAdded", "KeyAdded", "PolicySet"]


def test_open_known_log_adds_only_what_is_new(scene: Scene) -> None:
    """A restart with the same settings writes nothing; a new key or number is one entry."""
    scene.when(OpenLog(ORIGIN, VKEY, {"kid": "x"}, POLICY))
    assert scene.new == []
    scene.when(OpenLog(ORIGIN, VKEY, {"kid": "x", "new": "y"}, POLICY))
    assert kinds(scene.new) == ["KeyAdded"]
    other = type(POLICY)(lease_s=7, grace_s=1, max_open=1, distinct_owners=True)
    scene.when(OpenLog(ORIGIN, VKEY, {"kid": "x"}, other))
    assert scene.new == [other]
    assert scene.world.policy == other


@pytest.mark.parametrize(("origin", "vkey"), [("other.test/log", VKEY), (ORIGIN, "other")])
def test_open_log_of_another_server_is_bad_configuration(scene: Scene, origin: str, vkey: str) -> None:
    """A log belongs to one origin and one key for ever."""
    with pytest.raises(BadConfiguration, match=ORIGIN):
        scene.when(OpenLog(origin, vkey, {}, POLICY))


# Submitting.


def test_submit_reserves_consecutive_ids_in_one_event(scene: Scene) -> None:
    """Many jobs are one entry, with their terms said once."""
    answer = scene.submit(request("a"), request("b", PAIR), request("c"))
    assert (answer.ids, answer.created) == ((1, 2, 3), frozenset({1, 2, 3}))
    assert kinds(scene.new) == ["Submitted"]
    assert scene.new[0].terms == [ONE, PAIR]  # type: ignore[union-attr]
    assert scene.job(2).terms == PAIR
    assert scene.submit(request("d")).ids == (4,)


def test_submit_same_digest_twice_in_one_request_is_one_job(scene: Scene) -> None:
    """A repeated row joins the first; the answer has one id for each row, in order."""
    answer = scene.submit(request("a"), request("b"), request("a"), request("b"))
    assert answer.ids == (1, 2, 1, 2)
    assert answer.created == frozenset({1, 2})
    assert scene.job(1).owners == ("olga",)


def test_submit_same_digest_twice_in_one_request_takes_the_stricter_terms(scene: Scene) -> None:
    """The row that asks for more decides, wherever it stands."""
    scene.submit(request("a", ONE), request("a", PAIR))
    assert scene.job(1).terms.redundancy == PAIR.redundancy


def test_submit_known_digest_joins_the_open_job(scene: Scene) -> None:
    """Two owners who ask the same share one job, under the stricter of their terms."""
    scene.submit(request("a"))
    answer = scene.submit(request("x"), request("a", PAIR), owner="pia")
    assert (answer.ids, answer.created) == ((2, 1), frozenset({2}))
    assert scene.job(1).owners == ("olga", "pia")
    assert scene.job(1).terms.redundancy == PAIR.redundancy


def test_submit_digest_of_another_project_is_a_new_job(scene: Scene) -> None:
    """A digest answers only within its project."""
    scene.submit(request("a"))
    answer = scene.when(Submit("pia", "another", (request("a"),), digest("body")))
    assert answer == Accepted((2,), frozenset({2}))


def test_submit_known_digest_is_answered_by_the_closed_job(scene: Scene) -> None:
    """What was decided at least as strictly needs no second computation."""
    scene.submit(request("a"))
    scene.report(scene.take(scene.enrol("vera")))
    answer = scene.submit(request("a"), owner="pia")
    assert (answer.ids, answer.created) == ((1,), frozenset())
    assert 1 not in scene.world.jobs
    assert scene.job(1).owners == ("olga", "pia")


def test_submit_stricter_than_the_decided_job_is_a_new_job(scene: Scene) -> None:
    """One result does not answer who asks for two that agree."""
    scene.submit(request("a"))
    scene.report(scene.take(scene.enrol("vera")))
    assert scene.submit(request("a", PAIR)).created == frozenset({2})


def test_submit_weak_and_strict_rows_of_one_decided_digest_are_answered_each_by_its_own(scene: Scene) -> None:
    """That a weak row is answered by a decided job does not let a strict row of the same request join it."""
    scene.submit(request("a"))
    scene.report(scene.take(scene.enrol("vera")))
    answer = scene.submit(request("a"), request("a", PAIR), request("a"))
    assert (answer.ids, answer.created) == ((1, 2, 2), frozenset({2}))
    assert scene.job(2).terms == PAIR


def test_submit_force_makes_a_new_job_each_time(scene: Scene) -> None:
    """Who forces gets a computation of its own, also within one request."""
    scene.submit(request("a"))
    answer = scene.submit(request("a", force=True), request("a", force=True))
    assert answer.created == frozenset({2, 3})


def test_submit_without_force_finds_the_newest_job_of_the_digest(scene: Scene) -> None:
    """After a forced recomputation its job is the one that answers."""
    scene.submit(request("a"))
    scene.submit(request("a", force=True))
    assert scene.submit(request("a")).ids == (2,)


def test_submit_after_a_failure_joins_unless_a_retry_is_asked_for(scene: Scene) -> None:
    """A failed job is an answer too; `retry_failed` asks for another try, once within a request."""
    scene.submit(request("a"))
    scene.report(scene.take(scene.enrol("vera")), outcome=CRASH)
    assert scene.job(1).state is JobState.FAILED
    assert scene.submit(request("a")).ids == (1,)
    answer = scene.submit(request("a", retry_failed=True), request("a", retry_failed=True))
    assert (answer.ids, answer.created) == ((2, 2), frozenset({2}))
    assert scene.submit(request("a", retry_failed=True)).ids == (2,)


def test_submit_after_a_cancellation_is_a_new_job(scene: Scene) -> None:
    """A cancelled job answers nobody."""
    scene.submit(request("a"))
    scene.cancel(1)
    assert scene.submit(request("a")).created == frozenset({2})


def test_submit_with_a_key_again_answers_the_same_and_writes_nothing(scene: Scene) -> None:
    """A lost reply is asked for again with the same idempotency key."""
    first = scene.submit(request("a"), request("b"), key="k")
    again = scene.submit(request("a"), request("b"), key="k")
    assert (again.ids, again.created, again.again) == (first.ids, first.created, True)
    assert scene.new == []


def test_submit_with_a_key_again_answers_the_same_after_the_jobs_have_gone(scene: Scene) -> None:
    """An idempotency key holds for ever: also for jobs that were cancelled meanwhile."""
    first = scene.submit(request("a"), key="k")
    scene.cancel(1)
    assert scene.submit(request("a"), key="k").ids == first.ids


def test_submit_another_body_with_a_used_key_is_refused(scene: Scene) -> None:
    """A key stands for one request."""
    scene.submit(request("a"), key="k")
    key = digest(("olga", "k"))
    assert scene.refused(Submit("olga", "p", (request("b"),), digest("other"), key=key)) == "key_reused"


def test_submit_same_key_of_another_owner_is_another_key(scene: Scene) -> None:
    """Owners do not see each other's keys."""
    scene.submit(request("a"), key="k")
    assert scene.submit(request("b"), key="k", owner="pia").created == frozenset({2})


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Redundancy(replicas=1, quorum=2), "redundancy.replicas"),
        (Redundancy(replicas=65), "redundancy.replicas"),
        (Redundancy(replicas=0), "redundancy.replicas"),
        (Redundancy(quorum=0), "redundancy.quorum"),
        (Redundancy(replicas=3, max_attempts=2), "redundancy.max_attempts"),
        (Redundancy(max_attempts=1001), "redundancy.max_attempts"),
        (Redundancy(max_failures=-1), "redundancy.max_failures"),
    ],
)
def test_redundancy_out_of_range_is_refused(asked: Redundancy, field: str) -> None:
    """A rule that cannot be met is refused, and the field is named."""
    with pytest.raises(Refused) as caught:
        resolve_redundancy(asked)
    assert (caught.value.code, caught.value.field) == ("invalid", field)


def test_redundancy_defaults_leave_room_for_trouble() -> None:
    """Unless asked otherwise: attempts four times the replicas, at least 8; failures as many as the quorum."""
    found = resolve_redundancy(Redundancy(replicas=3, quorum=2))
    assert (found.max_attempts, found.max_failures) == (12, 2)
    assert resolve_redundancy(Redundancy()).max_attempts == 8


# Cancelling.


def test_cancel_by_the_last_owner_stops_the_job(scene: Scene) -> None:
    """A job that nobody wants is cancelled, and leaves the world at once if no attempt is open."""
    scene.jobs(2)
    (found,) = scene.cancel(1)
    assert found == scene.job(1)
    assert found.state is JobState.CANCELLED
    assert set(scene.world.jobs) == {2}
    assert scene.world.decided == {JobState.CANCELLED: 1}


def test_cancel_of_several_jobs_is_one_event(scene: Scene) -> None:
    """Many is the native form; a job named twice is cancelled once."""
    scene.jobs(3)
    found = scene.cancel(1, 3, 1)
    assert [job.id for job in found] == [1, 3]
    assert kinds(scene.new) == ["OwnerWithdrew"]


def test_cancel_by_one_of_several_owners_leaves_the_job_to_the_others(scene: Scene) -> None:
    """An owner withdraws for itself only; the last one stops it."""
    scene.submit(request("a"))
    scene.submit(request("a"), owner="pia")
    (found,) = scene.cancel(1)
    assert (found.state, found.owners, found.former_owners) == (JobState.QUEUED, ("pia",), ("olga",))
    (found,) = scene.cancel(1, owner="pia")
    assert found.state is JobState.CANCELLED


def test_cancel_again_changes_nothing(scene: Scene) -> None:
    """A repeated cancellation answers with the job as it is, open or closed."""
    scene.submit(request("a"))
    scene.submit(request("a"), owner="pia")
    scene.cancel(1)
    assert scene.cancel(1) == (scene.job(1),)
    assert scene.new == []
    scene.cancel(1, owner="pia")
    assert scene.cancel(1) == (scene.job(1),)
    assert scene.new == []


def test_cancel_of_a_decided_job_changes_nothing(scene: Scene) -> None:
    """What was decided stays decided."""
    scene.jobs(1)
    scene.report(scene.take(scene.enrol("vera")))
    (found,) = scene.cancel(1)
    assert (found.state, scene.new) == (JobState.SUCCEEDED, [])


def test_cancel_of_a_strangers_job_is_not_found(scene: Scene) -> None:
    """A job that is another's looks like one that never was; nothing is cancelled, not even one's own beside it."""
    scene.jobs(1)
    scene.submit(request("mine"), owner="eve")
    assert scene.refused(Cancel("eve", (2, 1))) == scene.refused(Cancel("eve", (2, 99))) == "not_found"
    assert scene.job(2).state is JobState.QUEUED


def test_cancel_while_running_keeps_the_job_until_its_attempts_end(scene: Scene) -> None:
    """A cancelled job's open attempt is still answered or lapses, and then the job is closed."""
    scene.jobs(1)
    held = scene.take(scene.enrol("vera"))
    scene.cancel(1)
    assert set(scene.world.jobs) == {1}
    assert scene.progress(held).stop
    assert scene.progress(held).reason == "cancelled"
    scene.report(held)
    assert scene.world.jobs == {}
    assert scene.job(1).state is JobState.CANCELLED


# Enrolling.


def test_enrol_new_key_is_a_new_worker(scene: Scene) -> None:
    """A worker is admitted with its key, its owner and what it offers."""
    worker = scene.enrol("vera")
    record = scene.world.workers[worker]
    assert (record.owner, record.kid, record.offer) == ("vera", "kid-vera", OFFER)


def test_enrol_known_key_is_the_same_worker_with_a_new_offer(scene: Scene) -> None:
    """Enrolling again keeps the id, whatever was drawn."""
    worker = scene.enrol("vera")
    small = Offer(cores=1, memory_bytes=1, disk_bytes=1)
    answer = scene.when(Enrol("vera", "x-vera", "kid-vera", small, digest("caps"), draw("another")))
    assert answer == Enrolled(worker, created=False)
    assert scene.world.workers[worker].offer == small


def test_enrol_key_of_another_owner_is_refused(scene: Scene) -> None:
    """Nobody takes over another owner's worker."""
    scene.enrol("vera")
    assert scene.refused(Enrol("eve", "x-vera", "kid-vera", OFFER, digest("caps"), draw(1))) == "conflict"


def test_priority_and_estimate_are_kept_in_the_terms(scene: Scene) -> None:
    """A submission's terms are the job's."""
    asked = terms(priority=5, estimate_ms=1234)
    scene.submit(request("a", asked))
    assert scene.job(1).terms == asked
