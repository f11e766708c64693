"""The fold: what it refuses, what leaves it, and its two indexes against plain oracles."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.core import world as world_module
from gnexec.core.commands import OpenLog
from gnexec.core.events import (
    AnyEvent,
    AttemptsLapsed,
    AttemptState,
    Compared,
    Effort,
    HandedOut,
    JobDecided,
    JobsDecided,
    JobState,
    JoinedJob,
    LapsedAttempt,
    LeaseExtended,
    LogOpened,
    NewJob,
    OwnerWithdrew,
    PolicySet,
    ResultsCompared,
    ResultsReported,
    Submitted,
    WorkerEnrolled,
)
from gnexec.core.leases import Leases
from gnexec.core.ready import LineKey, Ready
from gnexec.core.refs import digest_key, idempotency_key, job_key, refs
from gnexec.core.steps import jobs_of, steps, steps_of
from gnexec.core.world import World
from gnexec.errors import IllegalTransition
from gnexec.ids import ANONYMOUS
from tests.core.scene import OFFER, ONE, ORIGIN, PAIR, POLICY, START_MS, VKEY, Scene, digest, request, terms
from tests.core.strategies import any_event
from tests.core.summary import summary


@pytest.fixture
def scene() -> Scene:
    """Return a log with job 1 decided and gone, job 2 held by a worker, and job 3 waiting."""
    scene = Scene()
    scene.jobs(1)
    worker = scene.enrol("vera")
    scene.report(scene.take(worker))
    scene.jobs(2, PAIR)
    scene.take(worker, req="r")
    return scene


def submitted(first: int, *, new: int = 1, joined: tuple[int, ...] = ()) -> Submitted:
    """Return a submission."""
    return Submitted(
        first=first,
        owner="olga",
        project="p",
        key=digest("key"),
        body=digest("body"),
        terms=[ONE],
        jobs=[NewJob(digest(i), digest(("spec", i)), 0) for i in range(new)],
        joined=[JoinedJob(new + i, job, 0) for i, job in enumerate(joined)],
    )


def handed_out(scene: Scene, *pairs: tuple[int, int], **changes: Any) -> HandedOut:  # noqa: ANN401
    """Return a hand-out of `pairs` to the scene's worker."""
    values: dict[str, Any] = {
        "jti": "B" * 22,
        "worker": next(iter(scene.world.workers)),
        "owner": "vera",
        "req": None,
        "jobs": list(pairs),
        "lease_until_ms": scene.at_ms + 1000,
        "exp_s": scene.at_ms // 1000 + 10,
        "est_s": None,
    }
    return HandedOut(**(values | changes))


def open_jti(scene: Scene) -> str:
    """Return the jti of the one open hand-out."""
    (jti,) = scene.world.hand_outs
    return jti


ILLEGAL: dict[str, Any] = {
    "the log is opened twice": lambda _: LogOpened(origin=ORIGIN, vkey=VKEY),
    "ids leave a gap": lambda _: submitted(5),
    "ids are used twice": lambda _: submitted(3),
    "a job that was never handed in is joined": lambda _: submitted(4, new=0, joined=(9,)),
    "a job that was never handed in is given out": lambda s: handed_out(s, (9, 1)),
    "a job zero is given out": lambda s: handed_out(s, (0, 1)),
    "a closed job is given out": lambda s: handed_out(s, (1, 2)),
    "an attempt number is used twice": lambda s: handed_out(s, (2, 1)),
    "an attempt number is left out": lambda s: handed_out(s, (3, 2)),
    "one attempt is given out twice in one hand-out": lambda s: handed_out(s, (3, 1), (3, 1)),
    "a jti is used twice": lambda s: handed_out(s, (3, 1), jti=open_jti(s)),
    "an unknown worker gets work": lambda s: handed_out(s, (3, 1), worker="w" + "C" * 22),
    "a closed hand-out is extended": lambda s: LeaseExtended(
        jti="B" * 22, job=2, effort=Effort(), lease_until_ms=s.at_ms
    ),
    "a lease is shortened": lambda s: LeaseExtended(
        jti=open_jti(s), job=2, effort=Effort(), lease_until_ms=s.world.next_lease_ms() - 1
    ),
    "a lease outlives its token": lambda s: LeaseExtended(
        jti=open_jti(s), job=2, effort=Effort(), lease_until_ms=s.world.hand_outs[open_jti(s)].event.exp_s * 1000 + 1
    ),
    "an answer comes under another hand-out": lambda s: ResultsReported(
        jti="B" * 22,
        worker=next(iter(s.world.workers)),
        statement=None,
        answer=digest(0),
        results=list(Scene.report_of(s, s.world.hand_outs[open_jti(s)].event).results),
    ),
    "a closed job's attempt lapses": lambda _: AttemptsLapsed(
        ends=[LapsedAttempt("B" * 22, 1, 1, AttemptState.ABANDONED)]
    ),
    "a closed job is decided again": lambda _: JobsDecided(
        decided=[JobDecided(job=1, revision=1, state=JobState.FAILED, canonical=None, reason="failures")]
    ),
    "a closed job is withdrawn from": lambda _: OwnerWithdrew(owner="olga", jobs=[1]),
    "a stranger withdraws": lambda _: OwnerWithdrew(owner="eve", jobs=[2]),
    "a result is compared that is not there": lambda _: ResultsCompared(
        found=[Compared(job=2, a=1, b=2, equal=True, validator="exact/1", why="")]
    ),
    "a worker changes its owner": lambda s: WorkerEnrolled(
        worker=next(iter(s.world.workers)), owner="eve", x="x", kid="kid-vera", caps=digest(0), offer=OFFER
    ),
    "a worker changes its key": lambda s: WorkerEnrolled(
        worker=next(iter(s.world.workers)), owner="vera", x="x", kid="another", caps=digest(0), offer=OFFER
    ),
    "a key gets a second worker": lambda _: WorkerEnrolled(
        worker="w" + "C" * 22, owner="vera", x="x", kid="kid-vera", caps=digest(0), offer=OFFER
    ),
}


@pytest.mark.parametrize("what", ILLEGAL)
def test_world_refuses_an_entry_that_does_not_fit(scene: Scene, what: str) -> None:
    """Whatever no server would write makes the fold stop."""
    event: AnyEvent = ILLEGAL[what](scene)
    with pytest.raises(IllegalTransition):
        scene.given(event)


def test_world_refuses_time_that_goes_back(scene: Scene) -> None:
    """An entry is never earlier than the one before it; the same millisecond is fine."""
    scene.given(POLICY)
    scene.at_ms -= 1
    with pytest.raises(IllegalTransition, match="time goes back"):
        scene.given(POLICY)


def test_world_refuses_a_log_that_does_not_begin_with_its_name() -> None:
    """The first entry opens the log."""
    with pytest.raises(IllegalTransition, match="opened"):
        World().apply(POLICY, START_MS)


def test_closed_job_leaves_the_world_and_may_be_joined(scene: Scene) -> None:
    """What is decided and closed is not held in memory; somebody else may still ask for it."""
    assert set(scene.world.jobs) == {2, 3}
    scene.given(submitted(4, new=0, joined=(1,)))
    assert set(scene.world.jobs) == {2, 3}


def test_refold_gives_the_same_world(scene: Scene) -> None:
    """Throwing the world away loses nothing."""
    assert summary(scene.refolded()) == summary(scene.world)


def test_policy_change_sorts_the_queue_anew(scene: Scene) -> None:
    """Whether owners are told apart decides who may have a job, at once for those that wait."""
    vera = next(iter(scene.world.workers))
    scene.take(vera)
    assert scene.obstacles(vera) == {"owner_has_it": 2}
    trusting = PolicySet(lease_s=100, grace_s=10, max_open=8, distinct_owners=False)
    scene.when(OpenLog(ORIGIN, VKEY, {"kid": "x"}, trusting))
    assert scene.take(vera).jobs == [(2, 2)]


def test_queued_counts_the_open_jobs_without_an_open_attempt(scene: Scene) -> None:
    """Job 3 waits; job 2 is running although it needs another attempt."""
    assert scene.world.jobs.count(JobState.QUEUED) == 1


def test_anonymous_record_is_made_by_the_log_and_not_by_asking() -> None:
    """Looking at the anonymous worker leaves no trace in the world."""
    world = World()
    assert world.worker(ANONYMOUS) is not None
    assert world.worker("w" + "A" * 22) is None
    assert world.workers == {}


def test_terms_are_held_once(scene: Scene) -> None:
    """Jobs of different submissions under equal terms share one record of them."""
    scene.submit(request("x", terms(replicas=2, quorum=2)))
    assert scene.world.jobs[4].terms is scene.world.jobs[3].terms


# Refs.


def test_refs_of_a_submission_are_its_jobs_digests_and_key() -> None:
    """A submission is found by each job, new or joined, by each new digest in its project, and by its key."""
    assert refs(submitted(24, new=1, joined=(1,))) == {
        job_key(24),
        job_key(1),
        digest_key("p", digest(0)),
        idempotency_key(digest("key")),
    }


@given(any_event(), st.integers(1, 5))
def test_steps_of_one_job_are_its_among_all_steps(event: AnyEvent, job: int) -> None:
    """Asking for one job's steps, without taking the whole event apart, gives the same ones in the same order."""
    if isinstance(event, Submitted):
        rows = [msgspec.structs.replace(row, terms=0, digest=digest(0), spec=digest(1)) for row in event.jobs]
        joined = [msgspec.structs.replace(row, terms=0, job=row.job % 6) for row in event.joined]
        event = msgspec.structs.replace(event, first=event.first % 6, terms=[ONE], jobs=rows, joined=joined)
    if isinstance(event, ResultsReported):
        event = msgspec.structs.replace(event, answer=digest(0))
    wanted = [step for about, step in steps(event, 3, 4) if about == job]
    assert list(steps_of(job, event, 3, 4)) == wanted
    assert (job in jobs_of(event)) or not wanted


def test_refs_file_every_entry_about_a_job_under_it(scene: Scene) -> None:
    """Each entry that changes a job, or tells of it, is among the job's own entries."""
    filed = [seq for seq, _, event in scene.entries() if job_key(1) in refs(event)]
    names = [type(scene.told[seq][1]).__name__ for seq in filed]
    assert names[:4] == ["Submitted", "HandedOut", "ResultsReported", "JobsDecided"]
    mine = [seq for seq, _, event in scene.entries() if 1 in jobs_of(event)]
    assert set(mine) <= set(filed)


def test_refs_of_entries_about_no_job_are_none() -> None:
    """Keys, policy, workers and outages are found by reading the log."""
    assert refs(POLICY) == set()


def test_job_keys_are_in_the_order_of_the_ids() -> None:
    """Consecutive jobs have consecutive keys, so that their index grows at its end."""
    keys = [job_key(job) for job in (1, 2, 255, 256, 1 << 40)]
    assert keys == sorted(keys)


# The indexes, against plain oracles.


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 20), st.booleans()), max_size=40), st.integers(0, 60))
def test_leases_equal_a_plain_table(steps: list[tuple[str, int, bool]], at_ms: int) -> None:
    """Leases that are set, moved forward and ended in any order: the passed ones and the next are those of a dict."""
    leases = Leases()
    plain: dict[str, int] = {}
    for jti, more, ends in steps:
        if ends and jti in plain:
            leases.end(jti)
            del plain[jti]
        else:
            plain[jti] = plain.get(jti, 0) + more
            leases.set(jti, plain[jti])
        assert leases.next_ms() == min(plain.values(), default=None)
        passed = sorted((until, jti) for jti, until in plain.items() if until < at_ms)
        assert leases.passed(at_ms) == [jti for _, jti in passed]


@given(
    st.lists(
        st.tuples(st.integers(1, 8), st.sampled_from(["out", "a", "b"]), st.integers(-1, 1), st.booleans()), max_size=40
    )
)
def test_ready_equals_a_plain_sort(steps: list[tuple[int, str, int, bool]]) -> None:
    """Jobs that move between lines in any order: best first is a sort by priority and age."""
    place: dict[int, LineKey] = {}
    ready = Ready(lambda job, key: place.get(job) == key)
    for job, owner, priority, move in steps:
        old = place.pop(job, None)
        if move or old is None:
            new = LineKey(terms(priority=priority), frozenset() if owner == "out" else frozenset({owner}))
            place[job] = new
            if new != old:
                ready.add(job, new)
        if old is not None and place.get(job) != old:
            ready.trim(old)
        expected = sorted(place, key=lambda job: (-place[job].terms.priority, job))
        assert list(ready.best_first(lambda _: True)) == expected
        for_a = [job for job in expected if "a" not in place[job].excluded]
        assert list(ready.best_first(lambda key: "a" not in key.excluded)) == for_a
        assert set(ready.lines()) == set(place.values()), "a line of jobs that have all left was kept"
        assert len(place) <= len(ready)


def test_ready_counts_who_goes_before() -> None:
    """Before a job go those of higher priority, and the older ones of its own; each with the attempts that it needs."""
    low, high = LineKey(terms(), frozenset()), LineKey(terms(replicas=3, priority=1), frozenset())
    half = LineKey(PAIR, frozenset({"vera"}))
    ready = Ready(lambda _job, _key: True)
    for job, key in ((1, low), (2, half), (3, high), (4, low), (5, low)):
        ready.add(job, key)
    assert [ready.ahead(1, low), ready.ahead(4, low), ready.ahead(3, high)] == [(1, 3), (3, 5), (0, 0)]


def test_statistics_of_the_series_that_rested_longest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gives each job a program of its own does not make the world grow without end."""
    scene = Scene()
    monkeypatch.setattr(world_module, "MOST_SERIES", 2)
    worker = scene.enrol("vera")
    for name in ("one", "two", "one", "three"):
        scene.submit(request(f"{name}-{scene.world.next_job}", msgspec.structs.replace(terms(), program=digest(name))))
        scene.report(scene.take(worker))
    assert [series.rpartition("/")[2] for series in scene.world.statistics] == [digest("one"), digest("three")]


def test_terms_that_all_differ_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """One object stands for equal terms; which, may change, and no job leaves its line for it."""
    scene = Scene()
    monkeypatch.setattr(world_module, "MOST_TERMS", 4)
    jobs = [scene.submit(request(i, terms(estimate_ms=i + 1))).ids[0] for i in range(20)]
    assert len(scene.world._terms) <= 4
    assert list(scene.world.ready.best_first(lambda _: True)) == jobs
    worker = scene.enrol("vera")
    assert [scene.take(worker).jobs[0][0] for _ in range(8)] == jobs[:8]


def test_leases_of_what_has_ended_are_not_kept_for_ever() -> None:
    """One slow hand-out at the top of the heap does not keep all that ended behind it in memory."""
    leases = Leases()
    leases.set("slow", 1)
    for i in range(20_000):
        leases.set(f"{i}", 2 + i)
        leases.end(f"{i}")
    assert len(leases._heap) < 2000
    assert leases.next_ms() == 1
    assert leases.passed(10**9) == ["slow"]
