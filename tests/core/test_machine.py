"""Anything in any order: the laws against a small model of a job, with the invariants after every step.

The model knows no events, comparisons or indexes. It keeps, for each job, what was handed out and answered, and reads
the rule off that: equal outputs are grouped, owners are counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from gnexec.core import openjobs
from gnexec.core.commands import Cancel, EndOutage, NoWork, OpenLog, Verdict
from gnexec.core.events import (
    AttemptsLapsed,
    AttemptState,
    HandedOut,
    JobState,
    Offer,
    Outcome,
    PolicySet,
    RefusalNoted,
)
from gnexec.core.terms import Needs, Terms
from gnexec.core.world import World
from gnexec.wire import decode_event, encode_event
from tests.core.scene import CRASH, GOOD, ORIGIN, PREEMPTED, VKEY, Scene, request, terms
from tests.core.summary import line_name, summary

OWNERS = ["vera", "wim", "xaver", "yara"]
TERMS = [
    terms(),
    terms(replicas=2),
    terms(replicas=2, quorum=2, max_attempts=4),
    terms(replicas=3, quorum=2, max_attempts=3, priority=1),
    terms(replicas=3, quorum=3, max_attempts=5, needs=Needs(cores=4, wall_s=150)),
]
SAY = st.sampled_from(["right", "right", "right", "wrong", "odd"])
OUTCOME = st.sampled_from([GOOD, GOOD, GOOD, GOOD, CRASH, PREEMPTED])


@dataclass
class Slot:
    """The model's attempt.

    Attributes:
        fate: "open"; "said" what counts; "crashed"; "free" of any cost; "lost"; "over": too late to matter.
        answer: what exactly was answered; output: what is voted on; turn: when it came.
    """

    owner: str
    fate: str = "open"
    answer: object = None
    output: str = ""
    turn: int = 0


@dataclass
class ModelJob:
    """The model's job.

    Attributes:
        paired: whether a quorum was asked for from the beginning.
        state: "open", or how it was decided.
        winner: number of the accepted attempt, or 0.
    """

    paired: bool
    quorum: int
    failures: int
    attempts: int
    owners: set[str]
    state: str = "open"
    winner: int = 0
    slots: list[Slot] = field(default_factory=list)

    def count(self, *fates: str) -> int:
        """Count the attempts with one of these fates."""
        return sum(slot.fate in fates for slot in self.slots)

    def decide(self) -> None:
        """Read the rule off what was said."""
        if self.state != "open":
            return
        said = [(slot.turn, number, slot) for number, slot in enumerate(self.slots, 1) if slot.fate == "said"]
        voters = {
            output: {s.owner for _, _, s in said if s.output == output} for output in {s.output for _, _, s in said}
        }
        winners = [(turn, number) for turn, number, slot in said if len(voters[slot.output]) >= self.quorum]
        if winners:
            self.state, self.winner = "succeeded", min(winners)[1]
        else:
            used_up = self.count("said", "crashed", "lost") >= self.attempts and not self.count("open")
            if used_up or self.count("crashed") >= self.failures:
                self.state = "failed"

    def verdict(self, number: int) -> Verdict:
        """Say what the answer of attempt `number` is worth."""
        slot = self.slots[number - 1]
        if slot.fate in ("free", "over") or self.state == "cancelled":
            return Verdict.UNNEEDED
        if self.state == "open":
            return Verdict.PENDING
        if self.state == "failed":
            enough = self.count("crashed") >= self.failures
            return Verdict.VALID if slot.fate == "crashed" and enough else Verdict.INCONCLUSIVE
        agrees = slot.fate == "said" and slot.output == self.slots[self.winner - 1].output
        return Verdict.VALID if agrees else Verdict.INVALID


class Laws(RuleBasedStateMachine):
    """Volunteers, submitters, time and trouble, in any order."""

    workers: Bundle[str] = Bundle("workers")
    held: Bundle[HandedOut] = Bundle("held")
    told: Bundle[tuple[HandedOut, str, Outcome, int]] = Bundle("told")

    def __init__(self) -> None:
        """Open a log; the model is empty."""
        super().__init__()
        self.scene = Scene()
        self.model: dict[int, ModelJob] = {}
        self.equivocated: Counter[str] = Counter()
        self.noted: set[tuple[str, str]] = set()
        self.turn = 0

    # Who comes, and what for.

    @initialize(target=workers)
    def first_workers(self) -> Any:  # noqa: ANN401 -- hypothesis' own type
        """Every owner has a worker from the beginning."""
        return multiple(*(self.scene.enrol(owner) for owner in OWNERS))

    @rule(target=workers, owner=st.sampled_from(OWNERS), which=st.integers(0, 1), cores=st.sampled_from([2, 8]))
    def enrol(self, owner: str, which: int, cores: int) -> str:
        """A worker comes, or tells anew what it offers."""
        return self.scene.enrol(owner, f"{owner}{which}", Offer(cores=cores, memory_bytes=1 << 40, disk_bytes=1 << 40))

    @rule(
        owner=st.sampled_from(["olga", "pia"]),
        names=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(TERMS)), min_size=1, max_size=3),
        force=st.sampled_from([False, False, True]),
        retry=st.booleans(),
    )
    def submit(self, owner: str, names: list[tuple[int, Terms]], *, force: bool, retry: bool) -> None:
        """Somebody hands jobs in: new ones, known ones, the same one twice."""
        requests = [request(name, asked, force=force, retry_failed=retry) for name, asked in names]
        before = self.scene.world.next_job
        answer = self.scene.submit(*requests, owner=owner)
        assert sorted(answer.created) == list(range(before, self.scene.world.next_job))
        for job, (_, asked) in zip(answer.ids, names, strict=True):
            wanted = asked.redundancy
            found = self.model.get(job)
            if found is None:
                assert job in answer.created
                rule_ = wanted.quorum, wanted.max_failures, wanted.max_attempts
                self.model[job] = ModelJob(wanted.quorum > 1, *rule_, owners={owner})
                continue
            assert found.state != "cancelled"
            assert not (force and job not in answer.created)
            assert not (retry and found.state == "failed")
            found.owners.add(owner)
            if found.state == "open":
                found.quorum = max(found.quorum, wanted.quorum)
                found.failures = max(found.failures, wanted.max_failures)
                found.attempts = max(found.attempts, wanted.max_attempts)
            else:
                assert found.quorum >= wanted.quorum

    @rule(owner=st.sampled_from(["olga", "pia"]), job=st.integers(1, 12))
    def cancel(self, owner: str, job: int) -> None:
        """An owner, or somebody who never was one, wants a job no longer."""
        found = self.model.get(job)
        if found is None or owner not in found.owners:
            assert self.scene.refused(Cancel(owner, (job,))) == "not_found"
            return
        (after,) = self.scene.cancel(job, owner=owner)
        assert after == self.scene.job(job)
        if found.state == "open" and not after.owners:
            found.state = "cancelled"
        assert after.state == (found.state if found.state != "open" else after.state)

    @rule(target=held, worker=workers, n=st.integers(1, 4), req=st.sampled_from([None, "r1", "r2"]))
    def next(self, worker: str, n: int, req: str | None) -> Any:  # noqa: ANN401 -- hypothesis' own type
        """A worker asks for work."""
        work = self.scene.next(worker, n, req)
        if isinstance(work, NoWork):
            assert work.obstacles
            return multiple()
        if not self.scene.new:
            assert all(self.model[job.id].slots[number - 1].fate == "open" for job, number in work.jobs)
            return multiple()
        assert len(work.hand_out.jobs) <= n
        for job_id, number in work.hand_out.jobs:
            found = self.model[job_id]
            assert found.state == "open"
            found.slots.append(Slot(self.scene.world.workers[worker].owner))
            assert number == len(found.slots)
        return work.hand_out

    @rule(
        team=st.lists(st.tuples(workers, SAY, OUTCOME), min_size=1, max_size=4, unique_by=lambda member: member[0]),
        n=st.integers(1, 4),
    )
    def work(self, team: list[tuple[str, str, Outcome]], n: int) -> None:
        """Workers take what there is for them, and answer at once, in the order in which they came."""
        taken = [(self.next(worker, n, None), say, outcome) for worker, say, outcome in team]
        for hand_out, say, outcome in taken:
            if isinstance(hand_out, HandedOut):
                self.answer(hand_out, say, outcome, 0)

    # What workers say.

    @rule(hand_out=held, which=st.integers(0, 3), ppm=st.integers(0, 3))
    def progress(self, hand_out: HandedOut, which: int, ppm: int) -> None:
        """A worker tells how a job goes; it is told to stop exactly when the job is decided."""
        job, number = hand_out.jobs[which % len(hand_out.jobs)]
        is_open = self.model[job].slots[number - 1].fate == "open"
        if is_open and self.scene.at_ms <= hand_out.exp_s * 1000:
            assert self.scene.progress(hand_out, ppm, job).stop == (self.model[job].state != "open")
        else:
            assert self.scene.refused(self.scene.progress_of(hand_out, ppm, job)) == "too_late"

    @rule(
        target=told,
        hand_out=held,
        say=SAY,
        outcome=OUTCOME,
        which=st.integers(0, 4),
    )
    def report(self, hand_out: HandedOut, say: str, outcome: Outcome, which: int) -> Any:  # noqa: ANN401 -- as above
        """A worker answers for one of its jobs, or for all."""
        only = hand_out.jobs[which][0] if which < len(hand_out.jobs) else 0
        self.answer(hand_out, say, outcome, only)
        return hand_out, say, outcome, only

    @rule(command=told)
    def report_again(self, command: tuple[HandedOut, str, Outcome, int]) -> None:
        """A worker that lost the reply says the same again."""
        self.answer(*command)

    def answer(self, hand_out: HandedOut, say: str, outcome: Outcome, only: int) -> None:
        """Report, and hold each verdict against the model's."""
        self.turn += 1
        late = self.scene.at_ms > hand_out.exp_s * 1000
        identity = (say, outcome.text, only)
        about = [(job, number) for job, number in hand_out.jobs if only in (0, job)]
        refusals: dict[int, Verdict] = {}
        for job, number in about:
            found, slot = self.model[job], self.model[job].slots[number - 1]
            if slot.answer is not None:
                if slot.answer != identity:
                    refusals[job] = Verdict.EQUIVOCATION
            elif late or slot.fate != "open":
                refusals[job] = Verdict.TOO_LATE
            else:
                slot.answer, slot.output, slot.turn = identity, say, self.turn
                slot.fate = "said" if outcome is GOOD else "free" if outcome is PREEMPTED else "crashed"
                slot.fate = slot.fate if found.state == "open" else "over"
                found.decide()
        expected = [refusals.get(job) or self.model[job].verdict(number) for job, number in about]
        assert self.scene.report(hand_out, say, outcome, only=only) == expected
        first = {(hand_out.jti, str(code)) for code in refusals.values()} - self.noted
        assert {(e.jti, e.code) for e in self.scene.new if isinstance(e, RefusalNoted)} == first
        self.noted |= first
        if (hand_out.jti, "equivocation") in first:
            self.equivocated[hand_out.worker] += list(refusals.values()).count(Verdict.EQUIVOCATION)

    # Time, and the server's own troubles.

    @rule(seconds=st.sampled_from([1, 40, 60, 120, 1200]), lapses=st.booleans())
    def later(self, seconds: int, *, lapses: bool) -> None:
        """Time passes, and perhaps the desk looks what has lapsed."""
        self.scene.later(seconds)
        if lapses:
            self.lapse()

    @precondition(lambda self: self.scene.world.hand_outs)
    @rule(seconds=st.sampled_from([10, 300]))
    def outage(self, seconds: int) -> None:
        """No server runs for a while."""
        since = self.scene.at_ms
        before = {jti: held.lease_until_ms for jti, held in self.scene.world.hand_outs.items()}
        self.scene.later(seconds)
        self.scene.when(EndOutage(since))
        for jti, held in self.scene.world.hand_outs.items():
            until = min(before[jti] + 1000 * seconds, held.event.exp_s * 1000)
            assert held.lease_until_ms == (max(until, before[jti]) if before[jti] >= since else before[jti])

    @precondition(lambda self: self.scene.world.hand_outs)
    @rule(lease_s=st.sampled_from([50, 100]), max_open=st.sampled_from([2, 8]))
    def policy(self, lease_s: int, max_open: int) -> None:
        """The operator changes the numbers."""
        policy = PolicySet(lease_s=lease_s, grace_s=10, max_open=max_open, distinct_owners=True)
        self.scene.when(OpenLog(ORIGIN, VKEY, {"kid": "x"}, policy))

    def lapse(self) -> None:
        """Close what has lapsed, and tell the model."""
        leases = {jti: held.lease_until_ms for jti, held in self.scene.world.hand_outs.items()}
        self.scene.lapse()
        ends = [end for event in self.scene.new if isinstance(event, AttemptsLapsed) for end in event.ends]
        assert {end.jti for end in ends} == {jti for jti, until in leases.items() if until < self.scene.at_ms}
        for end in ends:
            slot = self.model[end.job].slots[end.attempt - 1]
            assert slot.fate == "open"
            if self.model[end.job].state == "open":
                slot.fate = "free" if end.outcome is AttemptState.UNDELIVERED else "lost"
            else:
                assert end.outcome in (AttemptState.UNNEEDED, AttemptState.CANCELLED)
                slot.fate = "over"
        for job in {end.job for end in ends}:
            self.model[job].decide()

    # What always holds.

    @invariant()
    def world_equals_its_refold(self) -> None:
        """Folding the entries' bytes anew gives the very same world, indexes included, however jobs are kept."""
        world = World()
        with patch.object(openjobs, "FEW", self.turn % 3):
            for at_ms, event in self.scene.told:
                world.apply(decode_event(encode_event(event)), at_ms)
        assert summary(world) == summary(self.scene.world)

    @invariant()
    def jobs_are_what_the_model_says(self) -> None:
        """Every job, open or closed, has the model's state, winner, owners and fates."""
        fates = {
            AttemptState.OPEN: "open",
            AttemptState.SUCCEEDED: "said",
            AttemptState.FAILED: "crashed",
            AttemptState.PREEMPTED: "free",
            AttemptState.UNDELIVERED: "free",
            AttemptState.ABANDONED: "lost",
            AttemptState.EXPIRED: "lost",
            AttemptState.UNNEEDED: "over",
            AttemptState.CANCELLED: "over",
        }
        for job_id, model in self.model.items():
            job = self.scene.job(job_id)
            waits = JobState.RUNNING if model.count("open") else JobState.QUEUED
            assert job.state == (waits if model.state == "open" else model.state)
            assert (job.canonical or 0) == model.winner
            assert {*job.owners, *job.former_owners} == model.owners
            assert [fates[a.state] for a in job.attempts] == [slot.fate for slot in model.slots]
            assert [a.owner for a in job.attempts] == [slot.owner for slot in model.slots]

    @invariant()
    def attempts_are_numbered_and_within_budget(self) -> None:
        """Attempt numbers have no gap, and what counts is never more than the terms allow."""
        for job_id in self.model:
            job = self.scene.job(job_id)
            assert [a.number for a in job.attempts] == list(range(1, len(job.attempts) + 1))
            assert (
                self.model[job_id].count("open", "said", "crashed", "lost", "over") <= job.terms.redundancy.max_attempts
            )

    @invariant()
    def owners_have_one_say(self) -> None:
        """On a job with a quorum no owner has two attempts that are open or were answered."""
        for job in self.scene.world.jobs.values():
            if self.model[job.id].paired:
                says = Counter(a.owner for a in job.attempts if a.state in ("open", "succeeded", "failed"))
                assert max(says.values(), default=0) <= 1

    @invariant()
    def world_holds_exactly_what_is_open(self) -> None:
        """A job is in the world until it is decided and no attempt is open; a hand-out until all its attempts ended."""
        world = self.scene.world
        open_jobs = {job for job, model in self.model.items() if model.state == "open" or model.count("open")}
        assert set(world.jobs) == open_jobs
        pairs = {(job, n) for job, m in self.model.items() for n, s in enumerate(m.slots, 1) if s.fate == "open"}
        assert {pair for held in world.hand_outs.values() for pair in held.open} == pairs
        assert all(held.open for held in world.hand_outs.values())

    @invariant()
    def queue_is_exactly_what_needs_attempts(self) -> None:
        """The ready index has each job that needs attempts, once, in its own line, and no other."""
        world = self.scene.world
        lines: dict[str, list[int]] = {}
        for job in sorted(world.jobs):
            if world.needed(world.jobs[job]):
                lines.setdefault(line_name(world.line_of(world.jobs[job])), []).append(job)
        assert {line_name(key): list(world.ready.jobs(key)) for key in world.ready.lines()} == lines

    @invariant()
    def job_that_is_open_can_still_be_decided(self) -> None:
        """An undecided job has an open attempt or needs one: nothing waits for ever by mistake."""
        for job in self.scene.world.jobs.values():
            assert job.decided or job.open_attempts or self.scene.world.needed(job)

    @invariant()
    def leases_and_requests_belong_to_open_hand_outs(self) -> None:
        """No lease outlives its token, and a request id leads to an open hand-out of that worker."""
        world = self.scene.world
        for held in world.hand_outs.values():
            assert held.event.lease_until_ms <= held.lease_until_ms <= held.event.exp_s * 1000
        assert set(world.due(1 << 62)) == set(world.hand_outs)
        assert world.next_lease_ms() == min((held.lease_until_ms for held in world.hand_outs.values()), default=None)
        for (worker, req), jti in world.requests.items():
            assert (world.hand_outs[jti].event.worker, world.hand_outs[jti].event.req) == (worker, req)

    @invariant()
    def records_add_up(self) -> None:
        """Each worker's tallies and open attempts are those of its attempts, and decisions are counted once."""
        tallies: dict[str, Counter[str]] = {worker: Counter() for worker in self.scene.world.workers}
        for job_id in self.model:
            for attempt in self.scene.job(job_id).attempts:
                tallies[attempt.worker][str(attempt.state)] += 1
        for worker, record in self.scene.world.workers.items():
            expected = tallies[worker]
            assert record.open == expected.pop("open", 0)
            if self.equivocated[worker]:
                expected["equivocated"] = self.equivocated[worker]
            assert self.scene.tally(worker) == expected
        states = Counter(model.state for model in self.model.values() if model.state != "open")
        assert {str(state): n for state, n in self.scene.world.decided.items()} == states

    @invariant()
    def time_never_goes_back(self) -> None:
        """Entries are in order of their times."""
        times = [at_ms for at_ms, _ in self.scene.told]
        assert times == sorted(times)


TestLaws = Laws.TestCase
TestLaws.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=40)
