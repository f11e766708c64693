"""Logs for auditors: made by the real core and sealed with a real key, by a dispatcher that may also lie.

`Dispatcher.do` decides as any server does. `Dispatcher.forge` writes whatever it is told to, under the same valid
checkpoint: what an auditor must find by rules and signatures, since every hash is right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.audit.lines import Header, Record, Seal, write_header, write_item
from gnexec.core.commands import (
    Accepted,
    Answer,
    Cancel,
    Command,
    EndOutage,
    Enrol,
    Enrolled,
    JobRequest,
    Lapse,
    NextJobs,
    NoWork,
    OpenLog,
    Past,
    Progress,
    Report,
    Submit,
    Verdict,
    Verdicts,
    Work,
)
from gnexec.core.decide import decide
from gnexec.core.events import (
    AnyEvent,
    Effort,
    HandedOut,
    Offer,
    Outcome,
    PolicySet,
    RefusalNoted,
    Reported,
    ResultsReported,
)
from gnexec.core.job import Job, fold
from gnexec.core.terms import DataClass, Needs, Redundancy, Terms, resolve_redundancy
from gnexec.core.world import World
from gnexec.desk.sealer import Fresh, Sealer
from gnexec.ids import ANONYMOUS, b64url
from gnexec.store.contract import Append
from gnexec.store.sqlite import SqliteStore
from gnexec.tlog.note import Verifier
from gnexec.tokens import Environment, Result, ResultClaims, Usage, claims_digest, kid_of, sign
from gnexec.wire import encode_event

ORIGIN: Final = "audit.test/log"
START_MS: Final = 1_800_000_000_000
POLICY: Final = PolicySet(lease_s=100, grace_s=10, max_open=8, distinct_owners=True)
OFFER: Final = Offer(cores=4, memory_bytes=4 << 30, disk_bytes=4 << 30)
GOOD: Final = Outcome(exit=0)
LOG_KEY: Final = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"log").digest())
VERIFIER: Final = Verifier.of(ORIGIN, LOG_KEY.public_key())

A = TypeVar("A", bound=Answer)


def digest(of: object) -> str:
    """Return a SHA-256 (hexadecimal) that stands for `of`."""
    return hashlib.sha256(repr(of).encode()).hexdigest()


def draw(of: object) -> bytes:
    """Return 16 bytes that stand for the random draw named `of`."""
    return hashlib.sha256(repr(of).encode()).digest()[:16]


def key_of(name: str) -> Ed25519PrivateKey:
    """Return the private key of whoever has that name."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"key of {name}".encode()).digest())


def x_of(key: Ed25519PrivateKey) -> str:
    """Return the public part of a key as the log has it."""
    return b64url(key.public_key().public_bytes_raw())


def terms(quorum: int = 2, data_class: DataClass = DataClass.PROJECT) -> Terms:
    """Return the terms of a job that needs `quorum` results that agree."""
    rule = resolve_redundancy(Redundancy(replicas=quorum, quorum=quorum))
    return Terms(program=digest("program"), needs=Needs(wall_s=1000), redundancy=rule, data_class=data_class)


@dataclass
class Dispatcher:
    """A dispatcher over a log in a list.

    Attributes:
        told: (at_ms, event) of every entry.
        at_ms: the time of the next entries.
    """

    policy: PolicySet = POLICY
    origin: str = ORIGIN
    key: Ed25519PrivateKey = LOG_KEY
    told: list[tuple[int, AnyEvent]] = field(default_factory=list)
    world: World = field(default_factory=World)
    at_ms: int = START_MS
    workers: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] | None = None

    def __post_init__(self) -> None:
        """Open the log, with one token key, or those of a ring."""
        token_key = key_of("tokens")
        keys = {kid_of(token_key.public_key()): x_of(token_key)} if self.tokens is None else self.tokens
        self.do(OpenLog(self.origin, self.verifier.vkey, keys, self.policy))

    @property
    def verifier(self) -> Verifier:
        """The log's public key."""
        return Verifier.of(self.origin, self.key.public_key())

    @property
    def size(self) -> int:
        """Entries so far."""
        return len(self.told)

    def do(self, command: Command) -> Answer:
        """Decide honestly."""
        events, answer = decide(self.world, command, self.at_ms)
        for event in events:
            self.world.apply(event, self.at_ms)
            self.told.append((self.at_ms, event))
        return answer

    def forge(self, event: AnyEvent) -> int:
        """Write an event that nobody decided, as the last one; return its seq."""
        self.told.append((self.at_ms, event))
        return self.size - 1

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.at_ms += round(seconds * 1000)

    # What happens, in short.

    def enrol(self, name: str, owner: str = "") -> str:
        """Enrol a worker under its real key, of an owner of its own if none is named; return its id."""
        key = key_of(name)
        kid = kid_of(key.public_key())
        command = Enrol(owner or f"o-{name}", x_of(key), kid, OFFER, digest(name), draw(name))
        worker = expect(Enrolled, self.do(command)).worker
        self.workers[name], self.names[worker] = worker, name
        return worker

    def submit(self, count: int = 1, asked: Terms | None = None, key: str | None = None) -> tuple[int, ...]:
        """Hand in new jobs; return their ids."""
        start = self.world.next_job
        asked = asked or terms()
        jobs = tuple(JobRequest(digest((start, i)), digest(("spec", start, i)), asked) for i in range(count))
        return expect(Accepted, self.do(Submit("olga", "p", jobs, digest((start, count)), key=key))).ids

    def take(self, name: str, n: int = 1) -> HandedOut:
        """Ask for work that is there."""
        return expect(Work, self.ask(name, n)).hand_out

    def ask(self, name: str, n: int = 1) -> Work | NoWork:
        """Ask for work."""
        worker = self.workers.get(name, name)
        owner = ANONYMOUS if worker == ANONYMOUS else self.world.workers[worker].owner
        answer = self.do(NextJobs(worker, owner, n, None, draw(("attempt", self.size, name))))
        assert isinstance(answer, Work | NoWork)
        return answer

    def progress(self, held: HandedOut, ppm: int) -> None:
        """Tell how the first job of a hand-out goes."""
        self.do(Progress(held.jti, tuple(held.jobs), held.jobs[0][0], Effort(ppm, 0, 0), held.exp_s))

    def report(self, held: HandedOut, say: object = "right", outcome: Outcome = GOOD) -> list[Verdict]:
        """Answer for all jobs of a hand-out, with outputs that stand for `say`."""
        event, digests = self.reported(held, say, outcome)
        command = Report(
            past=self.past(held),
            jti=held.jti,
            pairs=tuple(held.jobs),
            worker=held.worker,
            results=tuple(event.results),
            statement=event.statement,
            answer=event.answer,
            exp_s=held.exp_s,
            digests=digests,
        )
        return [judged.verdict for judged in expect(Verdicts, self.do(command)).judged]

    def report_open(self, held: HandedOut, say: object = "right") -> None:
        """Answer for all jobs of a hand-out, unsigned, as in open mode."""
        results = tuple(
            Reported(job, number, GOOD, digest(say), digest(("outs", say)), 1500, 1000, 1 << 20)
            for job, number in held.jobs
        )
        answer, past = digest((held.jti, say)), self.past(held)
        self.do(Report(held.jti, tuple(held.jobs), held.worker, results, None, answer, held.exp_s, past=past))

    def reported(
        self, held: HandedOut, say: object = "right", outcome: Outcome = GOOD, signer: str = ""
    ) -> tuple[ResultsReported, dict[int, str]]:
        """Return the event of a report, signed by the worker (or by somebody else), and the jobs' digests."""
        canon = digest(say) if outcome == GOOD else None
        every = {**self.world.jobs, **self.closed(job for job, _ in held.jobs)}
        digests = {job: every[job].digest.hex() for job, _ in held.jobs}
        results = [
            Result(
                job=job,
                att=number,
                dig=digests[job],
                outcome=outcome,
                outs=digest(("outs", say)),
                canon=canon,
                usage=Usage(cpu_ms=1000, wall_ms=1500, peak_rss_bytes=1 << 20),
                started_ms=self.at_ms,
                ended_ms=self.at_ms,
            )
            for job, number in held.jobs
        ]
        claims = ResultClaims.of(
            results,
            iss=held.worker,
            aud=self.origin,
            jti=held.jti,
            tok=digest(held.jti),
            iat=self.at_ms // 1000,
            salt=b64url(draw(held.jti)),
            env=Environment(os="Debian 12", arch="x86_64", sandbox="none"),
        )
        event = ResultsReported(
            jti=held.jti,
            worker=held.worker,
            statement=sign(claims, key_of(signer or self.names[held.worker])),
            answer=claims_digest(claims).hex(),
            results=[Reported(r.job, r.att or 0, outcome, canon, r.outs, 1500, 1000, 1 << 20) for r in results],
        )
        return event, digests

    def past(self, held: HandedOut) -> Past:
        """Look up what the world no longer holds about a hand-out."""
        noted = {e.code for _, e in self.told if isinstance(e, RefusalNoted) and e.jti == held.jti}
        return Past(frozenset(noted), self.closed(job for job, _ in held.jobs))

    def closed(self, among: Iterable[int]) -> dict[int, Job]:
        """Fold those of some jobs that have left the world."""
        gone = [job for job in among if job not in self.world.jobs]
        entries = [(seq, at_ms, event) for seq, (at_ms, event) in enumerate(self.told)] if gone else []
        return {job: found for job in gone if (found := fold(job, entries)) is not None}

    def sealed(self) -> Append:
        """Seal all entries."""
        fresh = [Fresh(at_ms, event, encode_event(event)) for at_ms, event in self.told]
        return Sealer(self.origin, self.key).seal(fresh)[0]

    def log(self) -> Log:
        """Return the log as an auditor gets it."""
        append = self.sealed()
        records = [Record(seq, e.leaf, None, e.salt, e.payload) for seq, e in enumerate(append.entries)]
        return Log(Header(origin=self.origin, vkey=self.verifier.vkey, size=self.size), records, append.note)

    def store(self, data: Path) -> Path:
        """Write the log into a new data folder, as a server keeps it; return the folder."""
        data.mkdir(parents=True, exist_ok=True)
        store = SqliteStore(data / "log.sqlite", create=True)
        with store.batch() as batch:
            batch.append(self.sealed())
        store.close()
        return data


@dataclass(frozen=True)
class Log:
    """A log as an auditor gets it; `lines` is its export."""

    header: Header
    records: list[Record]
    note: bytes

    @property
    def items(self) -> list[Record | Seal]:
        """The entries and the seal."""
        return [*self.records, Seal(self.note)]

    @property
    def lines(self) -> list[bytes]:
        """The lines of its export."""
        return [write_header(self.header), *map(write_item, self.items)]

    def write(self, path: Path) -> Path:
        """Write its export."""
        return write_lines(path, self.lines)


def write_lines(path: Path, lines: Iterable[bytes]) -> Path:
    """Write lines to a file and return it."""
    path.write_bytes(b"".join(lines))
    return path


def expect(kind: type[A], answer: Any) -> A:  # noqa: ANN401 -- whatever was answered
    """Return an answer that must be of one kind."""
    assert isinstance(answer, kind), answer
    return answer


def eventful() -> Dispatcher:
    """Return an honest dispatcher after a day on which everything has happened."""
    desk = Dispatcher()
    for name in ("ann", "bob", "cem"):
        desk.enrol(name)
    desk.submit(3, key=digest("key"))
    desk.submit(1, terms(quorum=1, data_class=DataClass.PUBLIC))
    desk.later(1)
    ann, bob = desk.take("ann", 3), desk.take("bob", 4)
    desk.later(20)
    desk.progress(ann, 100_000)
    desk.later(40)
    desk.progress(ann, 500_000)
    desk.report(bob)
    assert desk.report(bob, "otherwise") == [Verdict.EQUIVOCATION] * 4
    desk.report(ann, "wrong")
    desk.later(5)
    assert desk.report(desk.take("cem", 3)) == [Verdict.VALID] * 3
    desk.submit(2)
    held = desk.take("ann", 2)
    desk.later(2)
    desk.do(EndOutage(desk.at_ms - 1500))
    desk.do(Cancel("olga", (held.jobs[1][0],)))
    desk.later(200)
    desk.do(Lapse())
    assert desk.report(held) == [Verdict.TOO_LATE] * 2
    desk.report(desk.take("bob"), "crash", Outcome(signal="SIGSEGV"))
    desk.report(desk.take("cem"), "crash", Outcome(exit=3))
    desk.do(OpenLog(ORIGIN, VERIFIER.vkey, {}, PolicySet(lease_s=50, grace_s=10, max_open=8, distinct_owners=True)))
    desk.submit(1)
    desk.take("ann")
    return desk


def long(
    rounds: int = 80,
    *,
    data_class: DataClass = DataClass.PUBLIC,
    origin: str = ORIGIN,
    key: Ed25519PrivateKey = LOG_KEY,
    tokens: dict[str, str] | None = None,
) -> Dispatcher:
    """Return an honest dispatcher with a log longer than a tile: four entries for each of many jobs."""
    desk = Dispatcher(origin=origin, key=key, tokens=tokens)
    desk.enrol("ann")
    for _ in range(rounds):
        desk.submit(1, terms(quorum=1, data_class=data_class))
        desk.later(1)
        desk.report(desk.take("ann"))
    return desk


@cache
def honest() -> Log:
    """Return the log of `eventful`."""
    return eventful().log()
