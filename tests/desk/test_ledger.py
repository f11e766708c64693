"""The ledger beside the plain scene: the same commands in any order, the same events, answers and refusals.

The scene looks its facts up by folding everything; the ledger asks the store's references, or the batch that is being
decided. So this is the test of `gnexec.desk.facts`, and of sealing and refolding under any history.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis.stateful import rule

from gnexec.core.commands import Answer, Command, OpenLog, Verdict
from gnexec.core.events import AnyEvent, NewJob, OwnerWithdrew, Submitted
from gnexec.core.job import fold
from gnexec.core.refs import job_key
from gnexec.desk.clock import Clock
from gnexec.desk.facts import Facts, read
from gnexec.desk.ledger import Ledger
from gnexec.desk.requests import Request
from gnexec.desk.sealer import Fresh, Sealer
from gnexec.errors import CorruptLog, Refused, UnknownEvent
from gnexec.ids import salted_digest
from gnexec.store.contract import Entry, Store
from gnexec.store.memory import MemoryStore
from gnexec.wire import encode_event
from tests.core.scene import ONE, ORIGIN, PAIR, POLICY, START_MS, Scene, digest, kinds, request
from tests.core.summary import summary
from tests.core.test_machine import Laws
from tests.desk.house import KEY, VERIFIER, opening, refolded, submission
from tests.desk.test_faults import check_store


@dataclass
class SealedScene(Scene):
    """A scene that has a ledger do the same, and compares.

    Attributes:
        waiting: commands that the ledger is to decide in one batch, with the answer or the code of the refusal.
    """

    store: MemoryStore = field(default_factory=MemoryStore)
    many: bool = False
    waiting: list[tuple[Command, Answer | str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Open the log, in both."""
        self.store = MemoryStore(clock_ms=lambda: self.at_ms)
        self.ledger = Ledger(self.store, Sealer(ORIGIN, KEY), opening(self.policy), Clock(lambda: self.at_ms))
        self.ledger.refold()
        super().__post_init__()

    def when(self, command: Command) -> Answer:
        """Decide a command here, and have the ledger do it now or with others later."""
        if isinstance(command, OpenLog):
            command = OpenLog(ORIGIN, VERIFIER.vkey, command.keys, command.policy)
        outcome: Answer | str = ""
        try:
            outcome = super().when(command)
        except Refused as err:
            outcome = err.code
            raise
        finally:
            self.waiting.append((command, outcome))
            if not self.many:
                self.catch_up()
        return outcome

    def later(self, seconds: float) -> None:
        """Let time pass; what waits was asked before."""
        self.catch_up()
        super().later(seconds)

    def catch_up(self) -> None:
        """Have the ledger decide what waits, as one batch, and compare."""
        requests = [Request(command=command) for command, _ in self.waiting]
        start = self.ledger.world.size
        events = self.ledger.record(requests)
        assert events == [event for _, event in self.told[start:]]
        for asked, (_, outcome) in zip(requests, self.waiting, strict=True):
            found = asked.error.code if isinstance(asked.error, Refused) else asked.answer
            assert found == outcome
        self.waiting.clear()
        assert summary(self.ledger.world) == summary(self.world)


class SealedLaws(Laws):
    """The laws' machine, with a ledger beside it."""

    def __init__(self) -> None:
        """Begin with a new store."""
        super().__init__()
        self.sealed = SealedScene()
        self.scene = self.sealed

    @rule()
    def gather(self) -> None:
        """What comes from now on is decided in one batch."""
        self.sealed.many = True

    @rule()
    def commit(self) -> None:
        """The batch is taken."""
        self.sealed.many = False
        self.sealed.catch_up()

    def teardown(self) -> None:
        """The store holds the whole log: a new ledger folds the same world, and finds every job by its references."""
        self.sealed.catch_up()
        store = self.sealed.store
        check_store(store)
        ledger = Ledger(store, Sealer(ORIGIN, KEY), opening(self.sealed.policy), Clock(lambda: 0))
        ledger.refold()
        assert summary(ledger.world) == summary(self.scene.world)
        for job in range(1, self.scene.world.next_job):
            assert Facts(store, ledger.world).job(job) == self.scene.job(job)


TestSealedLaws = SealedLaws.TestCase
TestSealedLaws.settings = settings(max_examples=settings().max_examples // 4, stateful_step_count=25)


@pytest.fixture
def sealed() -> SealedScene:
    """Return a scene with a ledger beside it."""
    return SealedScene()


def test_facts_of_closed_hand_outs_and_jobs_are_found_by_their_references(sealed: SealedScene) -> None:
    """Late, repeated and contradicting answers about what has left the world, and a job joined after its decision."""
    ids = sealed.submit(request("a"), request("b", PAIR), key="k").ids
    vera, wim = sealed.enrol("vera"), sealed.enrol("wim")
    held = sealed.take(vera, 2)
    sealed.report(held)
    sealed.report(sealed.take(wim))
    assert sealed.world.jobs == {}
    assert sealed.report(held) == [Verdict.VALID, Verdict.VALID]
    assert sealed.report(held, "another") == [Verdict.EQUIVOCATION, Verdict.EQUIVOCATION]
    assert sealed.report(held, "a third") == [Verdict.EQUIVOCATION, Verdict.EQUIVOCATION]
    assert sealed.new == []
    assert sealed.submit(request("a"), owner="pia").ids == (1,)
    assert sealed.submit(request("a"), request("b", PAIR), key="k").ids == ids
    assert [job.owners for job in sealed.cancel(*ids)] == [("olga", "pia"), ("olga",)]


def test_facts_count_what_the_running_batch_has_decided(sealed: SealedScene) -> None:
    """Within one batch: a job that is handed in, done and gone is known to what comes after it."""
    vera = sealed.enrol("vera")
    sealed.many = True
    sealed.submit(request("a"), key="k")
    held = sealed.take(vera)
    sealed.report(held)
    assert sealed.report(held, "another") == [Verdict.EQUIVOCATION]
    assert sealed.report(held, "a third") == [Verdict.EQUIVOCATION]
    assert sealed.submit(request("a"), owner="pia").ids == (1,)
    assert sealed.submit(request("a"), key="k").ids == (1,)
    sealed.cancel(1)
    sealed.catch_up()


def test_facts_tell_the_notes_of_one_hand_out_from_those_of_another(sealed: SealedScene) -> None:
    """Two hand-outs of one job that both lapsed, in one log: each late answer is noted, once."""
    sealed.jobs(1)
    late = []
    for owner in ("vera", "wim"):
        late.append(sealed.take(sealed.enrol(owner)))
        sealed.later(POLICY.lease_s + 1)
        sealed.lapse()
    for held in late:
        assert sealed.report(held) == [Verdict.TOO_LATE]
        assert kinds(sealed.new) == ["RefusalNoted"]
        assert sealed.report(held) == [Verdict.TOO_LATE]
        assert sealed.new == []


def test_facts_know_no_job_outside_the_ids(sealed: SealedScene) -> None:
    """Job 0, a job to come and a negative one are none."""
    sealed.jobs(1)
    facts = Facts(sealed.store, sealed.ledger.world)
    assert [facts.job(job) for job in (-1, 0, 2, 1 << 70)] == [None] * 4


def test_stories_of_many_jobs_in_one_entry_fold_each_for_itself(sealed: SealedScene) -> None:
    """An entry about sixty-four jobs is among the entries of each, and tells each only its own."""
    sealed.policy = sealed.world.policy
    sealed.submit(*(request(i) for i in range(64)))
    sealed.report(sealed.take(sealed.enrol("vera"), 8))
    for job in (1, 8, 9, 64):
        story = [read(seq, entry) for seq, entry in sealed.store.story(job_key(job))]
        assert fold(job, story) == sealed.job(job)


def submission_of(first: int, terms: int = 0) -> Submitted:
    """Return a submission of one job with the id `first`, under the terms of an index."""
    row = NewJob(digest("x"), digest("y"), terms)
    return Submitted(first=first, owner="o", project="p", key=None, body=digest(""), terms=[ONE], jobs=[row], joined=[])


def entry(payload: bytes, at_ms: int = 5) -> Entry:
    """Return an entry that commits to a payload."""
    salt = bytes(16)
    return Entry(b'{"at":%d,"d":"%s","v":1}' % (at_ms, salted_digest(salt, payload).hex().encode()), salt, payload)


def test_read_names_the_entry_that_is_bad() -> None:
    """Damage and news from the future are told apart, and both say where."""
    with pytest.raises(UnknownEvent) as unknown:
        read(17, entry(b'{"t":"from-the-future/1"}'))
    with pytest.raises(CorruptLog) as corrupt:
        read(18, Entry(b"{}", bytes(16), b"{}"))
    assert not isinstance(corrupt.value, UnknownEvent)
    assert (unknown.value.seq, corrupt.value.seq) == (17, 18)


def forged(store: Store, *payloads: tuple[AnyEvent, bytes]) -> None:
    """Append entries as a server would that has lost its mind: any payload, under a good checkpoint."""
    sealer = Sealer(ORIGIN, KEY)
    Ledger(store, sealer, opening(), Clock(lambda: 0)).refold()
    append, _ = sealer.seal([Fresh(START_MS, event, payload) for event, payload in payloads])
    with store.batch() as batch:
        batch.append(append)


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (encode_event(OwnerWithdrew(owner="eve", jobs=[1])), CorruptLog),
        (encode_event(submission_of(5)), CorruptLog),
        (encode_event(submission_of(2, terms=7)), CorruptLog),
        (b'{"t":"from-the-future/1"}', UnknownEvent),
        (b"no event", CorruptLog),
    ],
)
def test_refold_stops_at_an_entry_that_does_not_fit_and_names_it(
    sealed: SealedScene, payload: bytes, kind: type[CorruptLog]
) -> None:
    """A sealed entry that contradicts the log, or is from a newer gnexec, is never skipped."""
    sealed.jobs(1)
    size = sealed.store.head().size
    forged(sealed.store, (POLICY, encode_event(POLICY)), (POLICY, payload))
    with pytest.raises(CorruptLog) as caught:
        refolded(sealed.store)
    assert (type(caught.value), caught.value.seq) == (kind, size + 1)


def test_ledger_catches_up_with_what_another_process_appended(sealed: SealedScene) -> None:
    """Two ledgers over one store take turns: each decides on the whole log, and one order comes of it."""
    other = Ledger(sealed.store, Sealer(ORIGIN, KEY), opening(), Clock(lambda: sealed.at_ms))
    other.refold()
    for turn in range(4):
        for ledger, owner in ((sealed.ledger, "olga"), (other, "pia")):
            asked = Request(command=submission(request(turn), request((turn, owner)), owner=owner))
            ledger.record([asked])
    assert asked.answer.ids == (10, 12)
    check_store(sealed.store)
    assert summary(other.world) == summary(refolded(sealed.store))


def test_log_that_fell_back_and_grew_to_the_same_size_is_not_written_on() -> None:
    """A database that lost commits, and got others from another server, is another log: never sign a fork of it."""
    store = MemoryStore(clock_ms=lambda: START_MS)
    first = Ledger(store, Sealer(ORIGIN, KEY), opening(), Clock(lambda: START_MS))
    first.refold()
    first.record([Request(command=opening())])
    shelf, head = copy.deepcopy(store._shelf), store._head
    first.record([Request(command=submission(request("a")))])
    store._shelf, store._head = shelf, head
    other = Ledger(store, Sealer(ORIGIN, KEY), opening(), Clock(lambda: START_MS))
    other.refold()
    other.record([Request(command=submission(request("b")))])
    assert first.world.size == other.world.size
    with pytest.raises(CorruptLog):
        first.record([Request(command=submission(request("c")))])
    assert refolded(store).size == other.world.size
