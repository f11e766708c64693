"""The dispatcher over every store: one order, durable before answered, and what becomes of trouble."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.core.commands import (
    Accepted,
    Answer,
    Cancel,
    Command,
    Directive,
    Enrol,
    Lapse,
    NextJobs,
    NoWork,
    Progress,
    Submit,
    Verdict,
    Verdicts,
)
from gnexec.core.decide import decide
from gnexec.core.events import AnyEvent, Effort, HandedOut, JobState, ResultsReported
from gnexec.core.refs import job_key
from gnexec.core.world import World
from gnexec.desk import ledger
from gnexec.desk.clock import Clock
from gnexec.desk.dispatcher import MOST_AT_ONCE, PULSE_MS, Dispatcher, View
from gnexec.desk.facts import read
from gnexec.desk.feed import Feed
from gnexec.desk.sealer import Fresh, Sealer
from gnexec.errors import BadConfiguration, CorruptLog, ProofError, Refused, StoreAway
from gnexec.ids import salted_digest
from gnexec.store.contract import Append, Content, Entry, Grant, Head, Store
from gnexec.store.memory import Fault, MemoryBatch, MemoryStore
from gnexec.tlog.receipt import parse_receipt, verify_receipt
from gnexec.tlog.tiles import Tree
from gnexec.wire import decode_leaf, open_payload
from tests.core.scene import CRASH, OFFER, ORIGIN, PAIR, POLICY, digest, draw, expect, request
from tests.core.summary import summary
from tests.desk.house import (
    KEY,
    VERIFIER,
    Client,
    Time,
    about,
    dispatcher,
    opening,
    passes,
    refolded,
    report,
    run,
    running,
    submission,
    until,
)
from tests.store.stores import Make


class GatedStore(MemoryStore):
    """A store in memory whose batches wait at a gate, and are counted."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        super().__init__(clock_ms=clock_ms)
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        self.appends = 0
        self.faulty = False

    @contextmanager
    def batch(self) -> Iterator[MemoryBatch]:
        """Wait at the gate."""
        if not self.gate.is_set():
            self.waiting.set()
            assert self.gate.wait(60)
        size = self.head().size
        with super().batch() as batch:
            yield batch
            if self.faulty:
                self.faulty = False
                msg = "a fault was asked for"
                raise StoreAway(msg)
        self.appends += self.head().size > size


async def closed_gate(store: GatedStore, desk: Dispatcher) -> asyncio.Future[Any]:
    """Close the gate, and ask something that waits there, so that all that follows is one batch."""
    store.gate.clear()
    store.waiting.clear()
    asked = asyncio.ensure_future(desk.do(Lapse()))
    await asyncio.to_thread(store.waiting.wait, 60)
    return asked


async def queued(desk: Dispatcher, count: int) -> None:
    """Wait until `count` requests are in the queue."""
    await until(lambda: len(desk._queue) >= count)


# The whole path.


def test_desk_hands_out_takes_results_and_decides(store: Store, time: Time) -> None:
    """Submit, enrol, hand out, progress, report: each is answered, and a new server folds the same world."""

    async def main(desk: Dispatcher) -> dict[str, Any]:
        client = Client(desk)
        ids = await client.submit(request(1, PAIR), request(2))
        vera, wim = await client.enrol("vera"), await client.enrol("wim")
        held = await client.take(vera, "vera", 2)
        assert held.jobs == [(1, 1), (2, 1)]
        command = Progress(held.jti, tuple(held.jobs), 1, Effort(5, 5, 5), held.exp_s)
        assert not (await client.answer(Directive, command)).stop
        assert [one.verdict for one in await client.report(held)] == [Verdict.PENDING, Verdict.VALID]
        (judged,) = await client.report(await client.take(wim, "wim"))
        assert judged.verdict is Verdict.VALID
        states = await desk.ask(lambda view: [job.state for job in map(view.job, ids) if job is not None])
        assert states == [JobState.SUCCEEDED, JobState.SUCCEEDED]
        assert await desk.ask(lambda view: view.job(3)) is None
        assert isinstance(await client.answer(NoWork, NextJobs(vera, "vera", 1, None, draw(9))), NoWork)
        return await desk.ask(lambda view: summary(view.world))

    with running(store, time) as desk:
        live = run(main(desk))
    assert summary(refolded(store)) == live


def test_desk_restarted_goes_on_where_it_was(store: Store, time: Time) -> None:
    """Another server over the same store knows hand-outs, workers and keys, and writes nothing at its start."""

    async def before(desk: Dispatcher) -> HandedOut:
        client = Client(desk)
        await client.submit(request(1), request(2), key="k")
        return await client.take(await client.enrol("vera"), "vera")

    async def after(desk: Dispatcher, held: HandedOut) -> None:
        client = Client(desk)
        assert desk.worker_key(held.worker) == ("kid-vera", "x-vera")
        assert desk.worker_by_kid("kid-vera") == held.worker
        assert await client.take(held.worker, "vera") == held
        assert await client.submit(request(1), request(2), key="k") == [1, 2]
        assert [one.verdict for one in await client.report(held)] == [Verdict.VALID]

    with running(store, time) as desk:
        held = run(before(desk))
    size = store.head().size
    with running(store, time) as desk:
        assert store.head().size == size
        run(after(desk, held))


# Receipts.


def test_receipt_in_the_reply_proves_that_the_log_holds_the_result(store: Store, time: Time) -> None:
    """Every reported result comes back with its entry and a receipt that verifies offline, at any size of the log."""

    async def main(desk: Dispatcher) -> None:
        client = Client(desk)
        worker = await client.enrol("vera")
        for turn in range(40):
            await client.submit(*(request((turn, i)) for i in range(turn % 7 + 1)))
            held = await client.take(worker, "vera", turn % 7 + 1, f"r{turn}")
            sealed = await client.do(report(held))
            (judged, *_) = expect(Verdicts, sealed.answer).judged
            opened = sealed.opened[judged.seq]
            receipt = parse_receipt(opened.proof)
            assert receipt.index == judged.seq
            checkpoint = verify_receipt(receipt, opened.entry.leaf, [VERIFIER], ORIGIN)
            assert checkpoint.size == store.head().size
            event = open_payload(decode_leaf(opened.entry.leaf), opened.entry.salt, opened.entry.payload)
            assert isinstance(event, ResultsReported)
            assert event.jti == held.jti
            again = await client.do(report(held))
            assert set(again.opened) == {judged.seq}
            verify_receipt(parse_receipt(again.opened[judged.seq].proof), opened.entry.leaf, [VERIFIER], ORIGIN)

    with running(store, time) as desk:
        run(main(desk))
    assert store.head().size > 256 // 2


def test_receipt_is_not_given_for_what_was_refused(store: Store, time: Time) -> None:
    """An equivocation opens no entry; the good results beside it do."""

    async def main(desk: Dispatcher) -> None:
        client = Client(desk)
        await client.submit(request(1), request(2))
        held = await client.take(await client.enrol("eve"), "eve", 2)
        await client.do(about(report(held, "a"), 1))
        sealed = await client.do(report(held, "b"))
        verdicts = [one.verdict for one in expect(Verdicts, sealed.answer).judged]
        assert verdicts == [Verdict.EQUIVOCATION, Verdict.VALID]
        (opened,) = sealed.opened.values()
        assert isinstance(read(opened.seq, opened.entry)[2], ResultsReported)

    with running(store, time) as desk:
        run(main(desk))


def test_any_entry_can_be_opened_with_its_receipt(store: Store, time: Time) -> None:
    """Each entry proves itself under the newest checkpoint; one that is not there is not found."""

    async def main(desk: Dispatcher) -> None:
        await Client(desk).submit(*(request(i) for i in range(3)))
        for seq in range(store.head().size):
            opened = await desk.ask(lambda view, seq=seq: view.open(seq))  # type: ignore[misc]
            verify_receipt(parse_receipt(opened.proof), opened.entry.leaf, [VERIFIER], ORIGIN)
        with pytest.raises(Refused):
            await desk.ask(lambda view: view.open(store.head().size))

    with running(store, time) as desk:
        run(main(desk))


# One order.


def test_group_commit_takes_together_whatever_waits(time: Time) -> None:
    """Hundreds of requests that come in during one commit are one append, each with its own answer."""

    async def main(desk: Dispatcher, store: GatedStore) -> None:
        asked = await closed_gate(store, desk)
        before = store.appends
        tasks = [asyncio.ensure_future(desk.do(submission(request(i)))) for i in range(500)]
        await queued(desk, 500)
        store.gate.set()
        answers = [expect(Accepted, sealed.answer) for sealed in await asyncio.gather(*tasks)]
        await asked
        assert store.appends - before == 1
        assert [answer.ids for answer in answers] == [(i + 1,) for i in range(500)]

    store = GatedStore(time.wall)
    with running(store, time) as desk:
        run(main(desk, store))


def test_group_commit_is_bounded(time: Time) -> None:
    """More requests than a batch may hold are several batches, in order."""

    async def main(desk: Dispatcher, store: GatedStore) -> None:
        asked = await closed_gate(store, desk)
        before = store.appends
        tasks = [asyncio.ensure_future(desk.do(submission(request(i)))) for i in range(MOST_AT_ONCE + 1)]
        await queued(desk, MOST_AT_ONCE + 1)
        store.gate.set()
        answers = [expect(Accepted, sealed.answer) for sealed in await asyncio.gather(*tasks)]
        await asked
        assert store.appends - before == 2
        assert [answer.ids for answer in answers] == [(i + 1,) for i in range(MOST_AT_ONCE + 1)]

    store = GatedStore(time.wall)
    with running(store, time) as desk:
        run(main(desk, store))


def test_rules_across_requests_hold_within_one_batch(time: Time) -> None:
    """Same digest, same idempotency key, quota, one owner a quorum: decided in order, though nothing is durable yet."""

    async def main(desk: Dispatcher, store: GatedStore) -> None:
        client = Client(desk)
        vera = await client.enrol("vera")
        asked = await closed_gate(store, desk)
        commands: list[Command] = [
            submission(request("a", PAIR), key="k"),
            submission(request("a", PAIR), key="k"),
            submission(request("a", PAIR), owner="pia"),
            NextJobs(vera, "vera", 8, None, draw(1)),
            NextJobs(vera, "vera", 8, None, draw(2)),
            Cancel("olga", (1,)),
            Cancel("pia", (1,)),
            submission(request("a", PAIR), key="k"),
            submission(request("a", PAIR), key="new"),
        ]
        tasks = [asyncio.ensure_future(desk.do(command)) for command in commands]
        await queued(desk, len(commands))
        before = store.appends
        store.gate.set()
        answers = [sealed.answer for sealed in await asyncio.gather(*tasks)]
        await asked
        assert store.appends - before == 1
        ids = [answer.ids for answer in answers if isinstance(answer, Accepted)]
        assert ids == [(1,), (1,), (1,), (1,), (2,)]
        assert isinstance(answers[4], NoWork)
        job = await desk.ask(lambda view: view.job(1))
        assert job is not None
        assert (job.state, job.former_owners) == (JobState.CANCELLED, ("olga", "pia"))

    store = GatedStore(time.wall)
    with running(store, time) as desk:
        run(main(desk, store))
    assert summary(refolded(store))["next_job"] == 3


def test_concurrent_submitters_from_many_loops_keep_one_order(store: Store, time: Time) -> None:
    """Four threads with a loop each: ids without a gap, each submitter's in the order in which it asked."""
    seen: dict[int, list[int]] = {}

    async def submitter(desk: Dispatcher, which: int) -> None:
        client = Client(desk)
        for turn in range(20):
            seen.setdefault(which, []).extend(await client.submit(request((which, turn)), owner=f"o{which}"))

    with running(store, time) as desk:
        threads = [threading.Thread(target=lambda w=which: run(submitter(desk, w))) for which in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(job for ids in seen.values() for job in ids) == list(range(1, 81))
    for ids in seen.values():
        assert ids == sorted(ids)
    times = [decode_leaf(entry.leaf).at for entry in store.entries(0, store.head().size)]
    assert times == sorted(times)
    refolded(store)


# Content and grants.


def content(data: bytes) -> Content:
    """Return data as content, under a fixed salt."""
    salt = bytes(16)
    return Content(salted_digest(salt, data), salt, data)


def test_content_is_kept_with_the_event_that_names_it_and_else_not(store: Store, time: Time) -> None:
    """A specification is stored in the commit of its job; what no event names, or was refused, is not stored."""
    named, stray, caps = content(b"named"), content(b"stray"), content(b"caps")

    async def main(desk: Dispatcher) -> None:
        asked = replace(request(1), spec=named.digest.hex())
        await desk.do(submission(asked), contents=[named, stray])
        enrolment = Enrol("vera", "x", "kid", OFFER, caps.digest.hex(), draw(1))
        await desk.do(enrolment, contents=[caps])
        again = replace(request(1), spec=stray.digest.hex())
        await desk.do(submission(again), contents=[stray])  # Joins job 1, whose own specification stands.
        with pytest.raises(Refused):
            await desk.do(Cancel("eve", (1,)), contents=[stray], grants=[Grant("eve", digest("blob"))])

    with running(store, time) as desk:
        run(main(desk))
    assert set(store.content([named.digest, stray.digest, caps.digest])) == {named.digest, caps.digest}
    assert store.granted("eve", [digest("blob")]) == set()


def test_grants_are_kept_alone_or_with_a_command(store: Store, time: Time) -> None:
    """An upload is a grant, with no event at all."""

    async def main(desk: Dispatcher) -> None:
        await desk.keep([Grant("k:vera", digest("a"))])
        await desk.do(submission(request(1)), grants=[Grant("o:olga", digest("b"))])

    with running(store, time) as desk:
        run(main(desk))
    assert store.granted("k:vera", [digest("a"), digest("b")]) == {digest("a")}
    assert store.granted("o:olga", [digest("b")]) == {digest("b")}


# Trouble with a request.


class Poison(Exception):
    """Something that no law raises."""


def poisoned(world: World, command: Command, at_ms: int) -> tuple[list[AnyEvent], Answer]:
    """Decide, but break on what comes from eve: halfway through, as a bug would."""
    events, answer = decide(world, command, at_ms)
    if isinstance(command, Submit) and command.owner == "eve":
        raise Poison
    return events, answer


def test_poison_command_does_not_take_others_with_it(monkeypatch: pytest.MonkeyPatch, time: Time) -> None:
    """One command that breaks the laws is a failure of the server; the rest of its batch is decided without it."""

    async def main(desk: Dispatcher, store: GatedStore) -> None:
        asked = await closed_gate(store, desk)
        owners = ["olga", "eve", "pia", "eve", "quin"]
        tasks = [asyncio.ensure_future(desk.do(submission(request(o), owner=o))) for o in owners]
        await queued(desk, len(owners))
        store.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await asked
        codes = [result.code if isinstance(result, Refused) else "" for result in results]
        assert codes == ["", "internal", "", "internal", ""]
        good = [expect(Accepted, result.answer) for result in results if not isinstance(result, BaseException)]
        assert [answer.ids for answer in good] == [(1,), (2,), (3,)]
        assert desk.trouble() is None

    monkeypatch.setattr(ledger, "decide", poisoned)
    store = GatedStore(time.wall)
    with running(store, time) as desk:
        run(main(desk, store))
    assert refolded(store).next_job == 4


def test_poison_event_that_cannot_be_written_does_not_take_others_with_it(time: Time) -> None:
    """A text that no JSON can hold is found before the batch is sealed."""

    async def main(desk: Dispatcher, store: GatedStore) -> None:
        asked = await closed_gate(store, desk)
        tasks = [asyncio.ensure_future(desk.do(submission(request(o), owner=o))) for o in ("olga", "\ud800", "pia")]
        await queued(desk, 3)
        store.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await asked
        assert isinstance(results[1], Refused)
        assert results[1].code == "internal"
        assert not isinstance(results[0], BaseException)
        assert not isinstance(results[2], BaseException)

    store = GatedStore(time.wall)
    with running(store, time) as desk:
        run(main(desk, store))
    assert refolded(store).next_job == 3


def test_failure_inside_the_server_answers_the_batch_and_the_next_is_served(
    monkeypatch: pytest.MonkeyPatch, store: Store, time: Time
) -> None:
    """Whatever goes wrong while sealing: nobody is left waiting, nothing is half written, and the desk goes on."""
    seal = Sealer.seal
    broken = [True]

    def sometimes(self: Sealer, events: Sequence[Fresh], vkeys: Sequence[str] | None = None) -> tuple[Append, Tree]:
        if broken:
            broken.clear()
            raise Poison
        return seal(self, events, vkeys)

    async def main(desk: Dispatcher) -> None:
        client = Client(desk)
        monkeypatch.setattr(Sealer, "seal", sometimes)
        with pytest.raises(Refused) as caught:
            await client.submit(request(1))
        assert caught.value.code == "internal"
        assert await client.submit(request(2)) == [1]

    with running(store, time) as desk:
        run(main(desk))
    assert refolded(store).next_job == 2


def test_question_that_fails_is_the_askers_own_trouble(store: Store, time: Time) -> None:
    """An error in a question goes to who asked, as it is."""

    async def main(desk: Dispatcher) -> None:
        with pytest.raises(ZeroDivisionError):
            await desk.ask(lambda _: 1 // 0)
        assert await desk.ask(lambda _: 7) == 7

    with running(store, time) as desk:
        run(main(desk))


def test_asker_that_went_away_before_its_turn_is_not_served(time: Time) -> None:
    """A disconnected long poll hands out nothing."""

    async def main(desk: Dispatcher, store: GatedStore) -> None:
        client = Client(desk)
        await client.submit(request(1))
        vera = await client.enrol("vera")
        asked = await closed_gate(store, desk)
        gone = asyncio.ensure_future(desk.do(NextJobs(vera, "vera", 1, None, draw(1))))
        await queued(desk, 1)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        store.gate.set()
        await asked
        assert await desk.ask(lambda view: view.world.hand_outs) == {}
        assert (await client.take(vera, "vera")).jobs == [(1, 1)]

    store = GatedStore(time.wall)
    with running(store, time) as desk:
        run(main(desk, store))


# Committed state only.


@pytest.mark.parametrize("fault", Fault)
def test_question_never_sees_what_was_not_committed(make: Make, time: Time, fault: Fault) -> None:
    """After a commit that failed, a question sees what the log has, and only that."""
    faults = iter([None, None, None, fault])

    async def main(desk: Dispatcher) -> None:
        submitted, asked = await asyncio.gather(
            desk.do(submission(request(1))), desk.ask(lambda view: set(view.world.jobs)), return_exceptions=True
        )
        held = store.head().size
        now = await desk.ask(lambda view: (view.world.size, set(view.world.jobs), view.job(1) is not None))
        there = {1} if held == 4 else set()
        assert now == (held, there, bool(there))
        assert isinstance(asked, StoreAway) or asked == there
        assert isinstance(submitted, StoreAway) == (held == 3)
        assert fault is Fault.FAILED or held == 4

    store = make(clock_ms=time.wall, faults=(next(faults, None) for _ in iter(int, 1)))
    with running(store, time) as desk:
        run(main(desk))
    refolded(store)


# Start and stop.


def test_start_with_another_key_or_origin_is_bad_configuration(store: Store, time: Time) -> None:
    """A server that is started with the wrong keys says so, and serves nothing."""
    with running(store, time):
        pass
    other = Ed25519PrivateKey.generate()
    for sealer, first in (
        (Sealer(ORIGIN, other), opening(key=other)),
        (Sealer("other.test/log", KEY), opening(origin="other.test/log")),
    ):
        with pytest.raises(BadConfiguration, match="Start it with the keys"):
            Dispatcher(store, sealer, first, Clock(time.steady)).start()


def test_start_over_a_store_that_is_away_says_so(time: Time) -> None:
    """No answer from the store is no start."""
    store = MemoryStore(clock_ms=time.wall)
    store.close()
    with pytest.raises(StoreAway):
        dispatcher(store, time).start()


def test_stop_answers_what_waits_and_takes_nothing_more(time: Time) -> None:
    """Requests that were taken in are answered; later ones are told that the server is shutting down."""

    async def main(desk: Dispatcher, store: GatedStore) -> None:
        asked = await closed_gate(store, desk)
        tasks = [asyncio.ensure_future(desk.do(submission(request(i)))) for i in range(10)]
        await queued(desk, 10)
        stopping = asyncio.create_task(asyncio.to_thread(desk.stop))
        await until(lambda: desk._stopping)
        with pytest.raises(Refused) as caught:
            await desk.do(submission(request("late")))
        assert caught.value.code == "unready"
        store.gate.set()
        await asyncio.gather(asked, stopping)
        assert [expect(Accepted, sealed.answer).ids for sealed in await asyncio.gather(*tasks)] == [
            (i + 1,) for i in range(10)
        ]
        assert desk.trouble() == "The writer is not running."
        assert not desk.broken(), "it was told to end"

    store = GatedStore(time.wall)
    desk = dispatcher(store, time)
    desk.start()
    run(main(desk, store))
    assert refolded(store).next_job == 11


def test_stop_when_the_store_is_away_ends_and_leaves_nobody_waiting(time: Time) -> None:
    """A store that never comes back does not hold up a shutdown."""

    async def main(desk: Dispatcher, store: MemoryStore) -> None:
        await Client(desk).submit(request(1))
        store.close()
        results = await asyncio.gather(*(desk.do(submission(request(i))) for i in range(5)), return_exceptions=True)
        assert all(isinstance(result, StoreAway | Refused) for result in results)
        await asyncio.to_thread(desk.stop)

    store = MemoryStore(clock_ms=time.wall)
    desk = dispatcher(store, time)
    desk.start()
    run(main(desk, store))


class MovableStore(MemoryStore):
    """A store in memory that can be away for a while, and whose entries can be tampered with."""

    away = False

    def ping(self) -> None:
        """Say whether it is there."""
        if self.away:
            msg = "away"
            raise StoreAway(msg)
        super().ping()

    def head(self) -> Head:
        """Return the head, if it is there."""
        self.ping()
        return super().head()

    def entries(self, start: int, stop: int) -> list[Entry]:
        """Return entries, if it is there."""
        self.ping()
        return super().entries(start, stop)


def test_store_that_comes_back_is_used_again(time: Time) -> None:
    """While the store is away everybody is told to come again; afterwards the log is as it was acknowledged."""

    async def main(desk: Dispatcher, store: MovableStore) -> None:
        client = Client(desk)
        await client.submit(request(1))
        store.away = True
        refused = 0
        while refused < 3:
            try:
                await client.submit(request(2))
            except StoreAway:
                refused += 1
            except Refused as err:
                assert err.status == 503  # noqa: PT017 -- one of two ways in which it may be told
                refused += 1
        store.away = False
        await until(lambda: desk.trouble() is None)
        assert await client.submit(request(2)) == [2]

    store = MovableStore(clock_ms=time.wall)
    with running(store, time) as desk:
        run(main(desk, store))
    assert refolded(store).next_job == 3


def tampered(entries: list[Entry], what: str) -> list[Entry]:
    """Return entries with something wrong at seq 3."""
    bad = entries[3]
    match what:
        case "payload":
            entries[3] = Entry(bad.leaf, bad.salt, bad.payload.replace(b"olga", b"eve4"))
        case "salt":
            entries[3] = Entry(bad.leaf, bad.salt[::-1], bad.payload)
        case "leaf time":
            entries[3] = Entry(bad.leaf.replace(b'"at":1', b'"at":2'), bad.salt, bad.payload)
        case "leaf form":
            entries[3] = Entry(bad.leaf + b" ", bad.salt, bad.payload)
        case "unknown event":
            payload = b'{"t":"from-the-future/1"}'
            digest_ = salted_digest(bad.salt, payload).hex().encode()
            leaf = b'{"at":%d,"d":"%s","v":1}' % (decode_leaf(bad.leaf).at, digest_)
            entries[3] = Entry(leaf, bad.salt, payload)
        case "swapped":
            entries[3], entries[4] = entries[4], entries[3]
        case _:
            entries[4] = entries[3]
    return entries


@pytest.mark.parametrize("what", ["payload", "salt", "leaf time", "leaf form", "unknown event", "swapped", "repeated"])
def test_start_over_a_tampered_log_is_refused(time: Time, what: str) -> None:
    """The dispatcher does not trust its own disk: any byte changed, any entry moved, is found at the start."""
    store = MemoryStore(clock_ms=time.wall)

    async def main(desk: Dispatcher) -> None:
        for i in range(3):
            time.later(1)
            await Client(desk).submit(request(i))

    with running(store, time) as desk:
        run(main(desk))
    store._shelf.entries[:] = tampered(store._shelf.entries[:], what)
    with pytest.raises(CorruptLog) as caught:
        dispatcher(store, time).start()
    if what in ("payload", "salt", "leaf form", "unknown event"):
        assert caught.value.seq == 3


def test_start_over_a_log_with_another_checkpoint_is_refused(time: Time) -> None:
    """A checkpoint that somebody else signed, or that is of another size, does not pass for the log's."""
    store = MemoryStore(clock_ms=time.wall)
    with running(store, time) as desk:
        run(Client(desk).submit(request(1)))
    good = store._head
    store._head = replace(good, note=good.note.replace(ORIGIN.encode(), b"eve.test/log"))
    with pytest.raises(ProofError):
        dispatcher(store, time).start()
    store._head = replace(good, size=good.size - 1)
    with pytest.raises(CorruptLog):
        dispatcher(store, time).start()


def test_log_that_cannot_be_folded_any_more_leaves_nobody_waiting(time: Time) -> None:
    """When a refold finds the log damaged, everybody is refused at once, and the desk says why."""

    async def main(desk: Dispatcher) -> None:
        client = Client(desk)
        await client.submit(request(1))
        assert not desk.broken()
        store._shelf.entries[:] = tampered(store._shelf.entries, "payload")
        results = await asyncio.gather(*(desk.do(submission(request(i))) for i in range(20)), return_exceptions=True)
        assert all(isinstance(result, Refused | StoreAway) for result in results)
        await until(lambda: desk.trouble() is not None)
        assert "entry 3" in str(desk.trouble())
        await until(desk.broken)
        with pytest.raises(Refused) as caught:
            await client.submit(request(2))
        assert caught.value.status == 503

    faults = iter([None] * 4)
    store = MemoryStore(clock_ms=time.wall, faults=(next(faults, Fault.FAILED) for _ in iter(int, 1)))
    with running(store, time) as desk:
        run(main(desk))


@pytest.mark.parametrize("damaged", [False, True])
def test_requests_that_wait_while_the_log_is_folded_anew_are_answered(time: Time, *, damaged: bool) -> None:
    """A batch fails, and others wait behind it: they are served after the refold, or refused if it cannot be done."""

    async def main(desk: Dispatcher) -> None:
        await Client(desk).submit(request("first"))
        asked = await closed_gate(store, desk)
        store.gate.set()
        await asked
        store.gate.clear()
        store.waiting.clear()
        store.faulty = True
        failing = asyncio.ensure_future(desk.do(submission(request("second"))))
        await asyncio.to_thread(store.waiting.wait, 60)
        behind = [asyncio.ensure_future(desk.do(submission(request(i)))) for i in range(5)]
        await queued(desk, 5)
        if damaged:
            store._shelf.entries[:] = tampered(store._shelf.entries, "payload")
        store.gate.set()
        results = await asyncio.gather(failing, *behind, return_exceptions=True)
        assert isinstance(results[0], StoreAway | Refused)
        for result in results[1:]:
            assert isinstance(result, Refused) if damaged else not isinstance(result, BaseException)

    store = GatedStore(time.wall)
    with running(store, time) as desk:
        run(main(desk))


def test_world_is_never_seen_half_folded(time: Time) -> None:
    """While the log is folded anew, what was known before still is: a worker's key does not vanish for a moment."""
    missing: list[str] = []

    class Watched(MemoryStore):
        desk: Dispatcher | None = None
        worker = ""

        def entries(self, start: int, stop: int) -> list[Entry]:
            if self.desk is not None and self.desk.worker_key(self.worker) is None:
                missing.append(f"while reading {start}")
            return super().entries(start, stop)

    async def main(desk: Dispatcher) -> None:
        client = Client(desk, patient=True)
        store.worker = await client.enrol("vera")
        store.desk = desk
        for i in range(5):
            await client.submit(request(i), key=str(i))
        assert client.again

    faults = iter([None] * 5 + [Fault.FAILED, None, None] * 5)
    store = Watched(clock_ms=time.wall, faults=faults)
    with running(store, time) as desk:
        run(main(desk))
    assert missing == []


# Time.


def test_clock_jump_stops_hand_outs_and_lapses_and_spares_results(store: Store, time: Time) -> None:
    """A wall clock that jumps a day ahead ends no lease and makes no result late; set right, all goes on."""

    async def main(desk: Dispatcher) -> None:
        client = Client(desk)
        await client.submit(request(1), request(2), request(3))
        vera = await client.enrol("vera")
        held, kept = await client.take(vera, "vera", req="r1"), await client.take(vera, "vera", req="r2")
        time.jump(86_400)
        assert [one.verdict for one in await client.report(held)] == [Verdict.VALID]
        assert await desk.ask(lambda view: set(view.world.hand_outs)) == {kept.jti}
        assert await client.submit(request(4)) == [4]
        with pytest.raises(Refused) as caught:
            await client.take(vera, "vera", req="r3")
        assert caught.value.code == "unready"
        assert "jumped" in str(desk.trouble())
        await passes(desk, time, POLICY.lease_s + 1)
        assert await desk.ask(lambda view: set(view.world.hand_outs)) == {kept.jti}
        time.jump(-86_400)
        time.later(1)
        assert (await client.take(vera, "vera", req="r3")).jobs == [(2, 2)]
        assert desk.trouble() is None
        await passes(desk, time, POLICY.lease_s + 1)
        assert await desk.ask(lambda view: view.world.hand_outs) == {}

    with running(store, time) as desk:
        run(main(desk))
    times = [decode_leaf(entry.leaf).at for entry in store.entries(0, store.head().size)]
    assert times == sorted(times)
    assert times[-1] < times[0] + 86_400_000, "the jumped clock entered the log"


def test_clock_that_goes_back_does_not_take_the_log_with_it(store: Store, time: Time) -> None:
    """A clock set back within the tolerance: entries keep the last one's time until it has been caught up with."""

    async def main(desk: Dispatcher) -> None:
        client = Client(desk)
        await client.submit(request(1))
        time.jump(-20)
        await client.submit(request(2))
        time.later(50)
        await client.submit(request(3))

    with running(store, time) as desk:
        run(main(desk))
    times = [decode_leaf(entry.leaf).at for entry in store.entries(0, store.head().size)]
    assert times == sorted(times)
    assert times[-1] - times[-2] == 30_000


def test_lapsed_attempts_are_closed_before_anything_else_in_a_batch(store: Store, time: Time) -> None:
    """The very request that comes when a lease has passed finds the job free, and the late answer too late."""

    async def main(desk: Dispatcher) -> None:
        client = Client(desk)
        await client.submit(request(1))
        vera, wim = await client.enrol("vera"), await client.enrol("wim")
        held = await client.take(vera, "vera")
        await passes(desk, time, POLICY.lease_s)
        time.later(1)
        assert (await client.take(wim, "wim")).jobs == [(1, 2)]
        assert [one.verdict for one in await client.report(held)] == [Verdict.TOO_LATE]

    with running(store, time) as desk:
        run(main(desk))


def test_lease_lapses_without_any_request(store: Store, time: Time) -> None:
    """The writer looks for itself: whoever watches a job is told of its lapse."""

    async def main(desk: Dispatcher) -> None:
        feed = Feed(asyncio.get_running_loop())
        desk.add_feed(feed)
        client = Client(desk)
        await client.submit(request(1))
        held = await client.take(await client.enrol("vera"), "vera")
        await passes(desk, time, POLICY.lease_s)
        async with feed.watching(1) as told:
            time.later(1)
            await told.wait()
        job = await desk.ask(lambda view: view.job(1))
        assert job is not None
        assert [attempt.state for attempt in job.attempts] == ["undelivered"]
        assert held.jobs == [(1, 1)]

    with running(store, time) as desk:
        run(main(desk))


def test_outage_between_two_servers_prolongs_leases(store: Store, time: Time) -> None:
    """A hand-out whose lease would have passed while no server ran is open at the next start, and may be answered."""

    async def before(desk: Dispatcher) -> HandedOut:
        client = Client(desk)
        await client.submit(request(1))
        return await client.take(await client.enrol("vera"), "vera")

    async def after(desk: Dispatcher, held: HandedOut) -> None:
        client = Client(desk)
        lease = await desk.ask(lambda view: view.world.hand_outs[held.jti].lease_until_ms)
        assert lease == held.lease_until_ms + 500_000
        assert [one.verdict for one in await client.report(held)] == [Verdict.VALID]

    with running(store, time) as desk:
        held = run(before(desk))
    time.later(500)
    with running(store, time) as desk:
        run(after(desk, held))


def test_lease_that_passed_before_the_outage_lapses_at_the_start(make: Make, time: Time) -> None:
    """A server that was killed long after a lease had passed does not revive it: the pulse says when it was alive."""
    store = make(clock_ms=time.wall)

    async def before(desk: Dispatcher) -> HandedOut:
        client = Client(desk)
        await client.submit(request(1))
        return await client.take(await client.enrol("vera"), "vera")

    with running(store, time) as desk:
        held = run(before(desk))
    store.pulse(held.lease_until_ms + 1)
    time.later(500)
    with running(store, time) as desk:
        assert run(desk.ask(lambda view: view.world.hand_outs)) == {}


def test_machine_that_slept_prolongs_leases_before_any_of_them_lapses(store: Store, time: Time) -> None:
    """A laptop that was closed for an hour was an outage of the server, and its volunteers are not to blame."""

    async def main(desk: Dispatcher) -> None:
        client = Client(desk)
        await client.submit(request(1))
        held = await client.take(await client.enrol("vera"), "vera")
        await desk.ask(lambda _: None)
        time.later(POLICY.lease_s + 500)
        lease = await desk.ask(lambda view: view.world.hand_outs[held.jti].lease_until_ms)
        assert lease == held.lease_until_ms + (POLICY.lease_s + 500) * 1000
        assert [one.verdict for one in await client.report(held)] == [Verdict.VALID]

    with running(store, time) as desk:
        run(main(desk))


# Feeds, end to end.


def test_feed_is_told_after_the_commit_of_what_can_then_be_read(store: Store, time: Time) -> None:
    """Whoever is woken finds what woke it; whoever waits for work is woken by a submission."""

    async def main(desk: Dispatcher) -> None:
        feed = Feed(asyncio.get_running_loop())
        desk.add_feed(feed)
        client = Client(desk)
        async with feed.idling() as work:
            await client.submit(request(1))
            await work.wait()
        vera = await client.enrol("vera")
        held = await client.take(vera, "vera")
        async with feed.watching(1) as told:
            await client.report(held, outcome=CRASH)
            await told.wait()
            job = await desk.ask(lambda view: view.job(1))
            assert job is not None
            assert job.state is JobState.FAILED

    with running(store, time) as desk:
        run(main(desk))


def test_view_reads_a_closed_job_from_its_own_entries(store: Store, time: Time) -> None:
    """A job that has left the world is folded from what is filed under it, and equals what it was."""

    async def main(desk: Dispatcher) -> None:
        client = Client(desk)
        await client.submit(request(1))
        held = await client.take(await client.enrol("vera"), "vera")
        await client.report(held)

        def look(view: View) -> tuple[bool, Any, int]:
            return 1 in view.world.jobs, view.job(1), len(view.store.story(job_key(1)))

        is_open, job, filed = await desk.ask(look)
        assert (is_open, job.state, job.attempts[0].jti, filed) == (False, JobState.SUCCEEDED, held.jti, 4)

    with running(store, time) as desk:
        run(main(desk))


def test_desk_that_cannot_write_is_not_ready_until_it_can(time: Time) -> None:
    """Reading still works on a full disk; a server that refuses every request must not call itself ready."""

    class Full(MemoryStore):
        full = False

        @contextmanager
        def batch(self) -> Iterator[MemoryBatch]:
            with super().batch() as batch:
                yield batch
                if self.full:
                    msg = "database or disk is full"
                    raise StoreAway(msg)

        def pulse(self, at_ms: int) -> None:
            if self.full:
                msg = "database or disk is full"
                raise StoreAway(msg)
            super().pulse(at_ms)

    async def main(desk: Dispatcher) -> None:
        await Client(desk).submit(request("first"))
        assert desk.trouble() is None
        store.full = True
        with pytest.raises(StoreAway):
            await desk.do(submission(request("second")))
        trouble = desk.trouble()
        assert trouble is not None
        assert "disk is full" in trouble
        store.full = False
        time.later(PULSE_MS / 1000)
        await desk.do(submission(request("third")))
        await until(lambda: desk.trouble() is None)

    store = Full(clock_ms=time.wall)
    with running(store, time) as desk:
        run(main(desk))
