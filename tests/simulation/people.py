"""Those who use the servers: volunteers of all kinds, and submitters; each asks until it is answered.

A person has a life: when it crashes, whatever it was about to do is forgotten, but not what it had written down (the
request that has no reply, hand-outs, results). Statements carry real signatures; in a universe of signed tokens, both
token and statement are read by the real code before the command is made, as the doors do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from gnexec.core.commands import (
    Accepted,
    Cancel,
    Cancelled,
    Directive,
    Enrol,
    Enrolled,
    JobRequest,
    NextJobs,
    NoWork,
    Progress,
    Report,
    Submit,
    Verdicts,
    Work,
)
from gnexec.core.events import Effort, HandedOut, Outcome, Reported
from gnexec.core.terms import Needs, Redundancy, Terms, resolve_redundancy
from gnexec.desk.requests import Sealed
from gnexec.errors import Refused, StoreAway
from gnexec.ids import b64url, sha256_hex
from gnexec.tokens import Environment, JobClaims, Result, ResultClaims, Usage, claims_digest, kid_of, sign
from gnexec.tokens.reading import read_job_token, read_result_statement
from tests.audit.logs import key_of, x_of
from tests.core.scene import CRASH, GOOD, OFFER, ORIGIN, PREEMPTED, START_MS, digest
from tests.simulation.machines import TOKEN_KEY, TOKEN_KEYS, Ask
from tests.simulation.network import Network
from tests.simulation.universe import Trouble, Universe
from tests.store.stores import content

PROGRAM: Final = digest("program")


def rule(priority: int = 0, wall_s: int = 1000, **numbers: int) -> Terms:
    """Return the terms of a job."""
    redundancy = resolve_redundancy(Redundancy(**numbers))
    return Terms(program=PROGRAM, needs=Needs(wall_s=wall_s), redundancy=redundancy, priority=priority)


TERMS: Final = [
    rule(),
    rule(priority=1),
    rule(replicas=2, wall_s=150),
    rule(replicas=2, quorum=2),
    rule(replicas=3, quorum=2, max_attempts=6),
    rule(replicas=3, quorum=3, wall_s=300),
]


class Kind(StrEnum):
    """What a volunteer is like."""

    HONEST = "honest"
    SLOW = "slow"
    LATE = "late"
    CRASHING = "crashing"
    VANISHING = "vanishing"
    LYING = "lying"
    CONTRADICTING = "contradicting"
    HOARDING = "hoarding"
    REPEATING = "repeating"
    BROKEN = "broken"


@dataclass
class Person:
    """Somebody who asks, and asks again until there is an answer."""

    universe: Universe
    network: Network
    name: str
    life: int = 0

    def __post_init__(self) -> None:
        """Take a stream of chance of one's own."""
        self.chance = self.universe.stream(f"person {self.name}")

    def begin(self) -> None:
        """Start, or go on where one was."""
        raise NotImplementedError

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something later, unless one crashes before."""
        life = self.life
        self.universe.after(1000 * seconds, lambda: action() if life == self.life else None)

    def insist(self, ask: Ask, settle: Callable[[Any], None], patience_s: float = 3.0) -> None:
        """Ask until there is an answer or a refusal; `settle` is called once."""
        open_ = True

        def heard(told: Any) -> None:  # noqa: ANN401 -- Sealed, or an error
            nonlocal open_
            if not open_ or life != self.life or isinstance(told, StoreAway):
                return
            if isinstance(told, Refused) and told.code == "unready":
                return
            assert not (isinstance(told, Refused) and told.code == "internal"), told
            open_ = False
            settle(told.answer if isinstance(told, Sealed) else told)

        def again(wait_s: float) -> None:
            if open_:
                self.network.call(ask, heard)
                self.later(wait_s, lambda: again(min(30.0, wait_s * self.chance.uniform(1, 2))))

        life = self.life
        again(patience_s)


@dataclass
class Holding:
    """A hand-out on a volunteer's disk.

    Attributes:
        token: as it came. statements: results that are ready, with the jobs they are about.
    """

    event: HandedOut
    token: str
    digests: dict[int, str]
    statements: list[tuple[str, ResultClaims]] = field(default_factory=list)
    left: set[int] = field(default_factory=set)


@dataclass
class Volunteer(Person):
    """A volunteer's worker.

    Attributes:
        signed: whether tokens are real.
        asking: the request that has no reply yet.
    """

    kind: Kind = Kind.HONEST
    owner: str = ""
    signed: bool = False
    worker: str = ""
    asking: str = ""
    asked: int = 0
    spool: dict[str, Holding] = field(default_factory=dict)
    gone: bool = False

    def begin(self) -> None:
        """Start: enrol, or go on where one was."""
        key = key_of(self.name)
        kid = kid_of(key.public_key())

        def enrolled(told: Any) -> None:  # noqa: ANN401 -- an answer
            assert isinstance(told, Enrolled), told
            assert self.worker in ("", told.worker), "a worker's id changes"
            self.worker = told.worker
            for holding in list(self.spool.values()):
                self._work(holding)
            self._ask()

        def enrol() -> Enrol:
            return Enrol(self.owner, x_of(key), kid, OFFER, digest(self.name), self._draw())

        self.insist(Ask(enrol), enrolled)
        if self.kind is Kind.CRASHING:
            self.later(self.chance.uniform(20, 300), self._crash)

    def _crash(self) -> None:
        if self.universe.calm:
            return
        self.universe.counts["volunteers crashed"] += 1
        self.life += 1
        self.later(self.chance.uniform(1, 90), self.begin)

    def _ask(self) -> None:
        if self.gone:
            return
        if not self.asking:
            self.asked += 1
            self.asking = f"{self.name} {self.asked}"
        n = 8 if self.kind is Kind.HOARDING else self.chance.choice((1, 1, 2, 4))
        worker, req = self.worker, sha256_hex(self.asking.encode())
        self.insist(Ask(lambda: NextJobs(worker, self.owner, n, req, self._draw())), self._given)

    def _draw(self) -> bytes:
        """Draw, as a server does for each request that arrives."""
        return self.universe.stream("draws").randbytes(16)

    def _given(self, told: Any) -> None:  # noqa: ANN401 -- an answer
        if isinstance(told, NoWork):
            self.asking = ""
            self.later(self.chance.uniform(3, 40), self._ask)
            return
        assert isinstance(told, Work), told
        event = told.hand_out
        if event.jti not in self.spool:
            digests = {job.id: job.digest.hex() for job, _ in told.jobs}
            left = {job.id for job, _ in told.jobs}
            self.spool[event.jti] = Holding(event, self._token(told), digests, left=left)
            self._work(self.spool[event.jti])
        if self.kind is not Kind.REPEATING or self.chance.random() < 0.3:
            self.asking = ""
        if self.kind is Kind.VANISHING and self.chance.random() < 0.3 and not self.universe.calm:
            self.universe.counts["volunteers vanished"] += 1
            self.gone = True
            self.life += 1
            return
        self.later(self.chance.uniform(1, 30), self._ask)

    def _token(self, work: Work) -> str:
        event = work.hand_out
        if not self.signed:
            return f"token of {event.jti}"
        claims = JobClaims.of(
            event.jobs,
            origin=ORIGIN,
            jti=event.jti,
            iat=work.at_ms // 1000,
            exp=event.exp_s,
            dig=work.jobs[0][0].digest.hex(),
            jkt=kid_of(key_of(self.name).public_key()),
            est=event.est_s,
        )
        return sign(claims, TOKEN_KEY)

    def _work(self, holding: Holding) -> None:
        """Work on what is left of a hand-out, tell how it goes, and answer."""
        for job in sorted(holding.left):
            took_s = self._takes_s(holding)
            if self.kind is Kind.HOARDING and self.chance.random() < 0.6:
                continue
            for part in range(1, 6 if self.kind is Kind.LATE else self.chance.choice((1, 1, 2, 6))):
                self.later(took_s * part / 6, lambda job=job, part=part: self._tell(holding, job, part))  # type: ignore[misc]
            self.later(took_s, lambda job=job: self._finish(holding, job))  # type: ignore[misc]
        for text, claims in holding.statements:
            self._report(holding, text, claims)

    def _takes_s(self, holding: Holding) -> float:
        """Return how long it works on a job."""
        match self.kind:
            case Kind.SLOW:
                return self.chance.uniform(60, 500)
            case Kind.LATE:
                left_ms = holding.event.exp_s * 1000 - START_MS - self.universe.now_ms
                return max(1.0, left_ms / 1000 + self.chance.uniform(0.1, 20))
            case _:
                return self.chance.expovariate(1 / 15)

    def _tell(self, holding: Holding, job: int, part: int) -> None:
        held = holding.event
        command = Progress(held.jti, tuple(held.jobs), job, Effort(part * 100_000, 0, 0), held.exp_s)

        def told(answer: Any) -> None:  # noqa: ANN401 -- Sealed, or an error
            if isinstance(answer, Refused):
                assert answer.code in ("too_late", "unready"), answer
            elif not isinstance(answer, StoreAway):
                assert isinstance(answer.answer, Directive), answer

        self.network.call(Ask(lambda: command), told)

    def _finish(self, holding: Holding, job: int) -> None:
        """Sign the result of one job, or of all that are left, and write it down before it is sent."""
        if job not in holding.left:
            return
        about = sorted(holding.left) if self.chance.random() < 0.3 else [job]
        holding.left -= set(about)
        contradict = self.kind is Kind.CONTRADICTING and self.chance.random() < 0.7
        for turn in range(3 if contradict else 1):
            text, claims = self._statement(holding, about, turn)
            holding.statements.append((text, claims))
            self._report(holding, text, claims)

    def _statement(self, holding: Holding, about: list[int], turn: int) -> tuple[str, ResultClaims]:
        numbers = dict(holding.event.jobs)
        wall_ms = START_MS + self.universe.now_ms + self.chance.randrange(-3_600_000, 3_600_000)  # nobody sets clocks
        results = []
        for job in about:
            outcome = self._outcome()
            said = self._said(job, turn)
            results.append(
                Result(
                    job=job,
                    att=numbers[job],
                    dig=holding.digests[job],
                    outcome=outcome,
                    outs=digest(("outs", said)),
                    canon=digest(said) if outcome == GOOD else None,
                    usage=Usage(cpu_ms=10, wall_ms=20, peak_rss_bytes=1 << 20),
                    started_ms=wall_ms,
                    ended_ms=wall_ms + 20,
                )
            )
        claims = ResultClaims.of(
            results,
            iss=self.worker,
            aud=ORIGIN,
            jti=holding.event.jti,
            tok=sha256_hex(holding.token.encode()),
            iat=wall_ms // 1000,
            salt=b64url(self.chance.randbytes(16)),
            env=Environment(os="Debian 12", arch="x86_64", sandbox="none"),
        )
        return sign(claims, key_of(self.name)), claims

    def _said(self, job: int, turn: int) -> object:
        if self.kind is Kind.LYING and self.chance.random() < 0.6:
            return ("wrong", job) if self.chance.random() < 0.5 else ("wrong", job, self.name)
        return ("right", job) if turn == 0 else ("otherwise", job, turn)

    def _outcome(self) -> Outcome:
        share = {Kind.BROKEN: 0.7, Kind.HONEST: 0.0}.get(self.kind, 0.05)
        if self.chance.random() < share:
            return self.chance.choice((CRASH, PREEMPTED))
        return GOOD

    def _report(self, holding: Holding, text: str, claims: ResultClaims) -> None:
        def command() -> Report:
            held, said = holding.event, claims
            pairs, exp_s, jti = tuple(held.jobs), held.exp_s, held.jti
            if self.signed:
                token = read_job_token(holding.token, TOKEN_KEYS, origin=ORIGIN)
                pairs, exp_s, jti = token.pairs, token.exp, token.jti
                kid = kid_of(key_of(self.name).public_key())
                said = read_result_statement(text, {kid: key_of(self.name).public_key()}, origin=ORIGIN, jkt=kid)
            return Report(
                jti=jti,
                pairs=pairs,
                worker=said.iss,
                results=tuple(
                    Reported(
                        one.job,
                        dict(pairs)[one.job],
                        one.outcome,
                        one.canon,
                        one.outs,
                        one.usage.wall_ms,
                        one.usage.cpu_ms,
                        one.usage.peak_rss_bytes,
                    )
                    for one in said.results
                ),
                statement=text,
                answer=claims_digest(said).hex(),
                exp_s=exp_s,
                digests={one.job: one.dig for one in said.results},
            )

        def told(answer: Any) -> None:  # noqa: ANN401 -- an answer
            assert isinstance(answer, Verdicts), answer
            for judged in answer.judged:
                self.universe.counts[f"verdict {judged.verdict}"] += 1
            holding.statements = [kept for kept in holding.statements if kept[0] != text]
            if self.chance.random() < 0.1:
                self.later(self.chance.uniform(1, 200), lambda: self._report(holding, text, claims))

        self.insist(Ask(command), told)


@dataclass
class Submitter(Person):
    """Somebody with work to be done.

    Attributes:
        names: of jobs that anybody may think of.
        most: submissions that are made.
    """

    names: int = 30
    most: int = 8
    mine: list[int] = field(default_factory=list)

    def begin(self) -> None:
        """Hand something in, again and again."""
        if self.most:
            self.most -= 1
            self._submit(f"key {self.most}")
            self.later(self.chance.uniform(1, 130), self.begin)

    def _submit(self, key: str) -> None:
        rows = []
        for _ in range(self.chance.choice((1, 2, 3, 10))):
            name = self.chance.randrange(self.names)
            asked = TERMS[name % len(TERMS)] if self.chance.random() < 0.7 else self.chance.choice(TERMS)
            kept = content(f"{name} {self.chance.random()}".encode())
            force, retry = self.chance.random() < 0.05, self.chance.random() < 0.3
            rows.append((JobRequest(digest(name), kept.digest.hex(), asked, force=force, retry_failed=retry), kept))
        jobs = tuple(row for row, _ in rows)
        whole = sha256_hex(f"{self.name} {key}".encode())
        command = Submit(self.name, "p", jobs, digest(jobs), key=whole)

        def told(answer: Any) -> None:  # noqa: ANN401 -- an answer
            assert isinstance(answer, Accepted), answer
            self.mine.extend(answer.ids)
            if self.chance.random() < 0.3:
                self.later(self.chance.uniform(1, 300), lambda: self.insist(ask, again))
            if self.chance.random() < 0.2:
                other = Submit(self.name, "p", jobs[:1], digest("other"), key=whole)
                self.insist(Ask(lambda: other), refused)
            if self.universe.strikes(Trouble.CANCEL, 0.3):
                self.later(self.chance.uniform(0, 100), self._cancel)

        def again(answer: Any) -> None:  # noqa: ANN401 -- an answer
            assert isinstance(answer, Accepted), answer

        def refused(answer: Any) -> None:  # noqa: ANN401 -- an answer
            assert isinstance(answer, Refused), answer
            assert answer.code == "key_reused", answer

        ask = Ask(lambda: command, tuple(kept for _, kept in rows))
        self.insist(ask, told)

    def _cancel(self) -> None:
        jobs = tuple(self.chance.sample(sorted(set(self.mine)), min(len(set(self.mine)), 2)))

        def told(answer: Any) -> None:  # noqa: ANN401 -- an answer
            assert isinstance(answer, Cancelled), answer

        self.insist(Ask(lambda: Cancel(self.name, jobs)), told)
