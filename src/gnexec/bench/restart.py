"""How long a server takes to start over a long log, with a snapshot and without, and what it then holds in memory.

The log is a real one: the ledger decides every entry, workers sign their statements, and the store is the server's own,
so `gnexec log verify` passes on it. Only HTTP is left out, and tokens, which leave no trace in a log. It is made in
constant memory. What stays open is the same however long the log is: memory must not grow with history.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec import keys
from gnexec.bench.servers import ORIGIN, serving
from gnexec.bench.volunteer import CANON, ENV, OUTS
from gnexec.core.commands import (
    Answer,
    Command,
    Enrol,
    Enrolled,
    JobRequest,
    NextJobs,
    OpenLog,
    Report,
    Submit,
    Work,
)
from gnexec.core.events import Offer, Outcome, Reported
from gnexec.core.spec import NamedSpec, Spec, encode_named, job_digest
from gnexec.core.terms import Needs, Redundancy, Terms, resolve_redundancy
from gnexec.desk.clock import Clock
from gnexec.desk.ledger import Ledger
from gnexec.desk.requests import Request
from gnexec.desk.sealer import Sealer
from gnexec.ids import b64url, pseudonym, salted_digest, sha256_hex
from gnexec.settings import SNAPSHOT_EVERY, ServerSettings
from gnexec.store import open_store
from gnexec.store.contract import Content
from gnexec.tokens.forms import claims_digest
from gnexec.tokens.jwk import kid_of
from gnexec.tokens.reading import sign
from gnexec.tokens.statements import Result, ResultClaims, Usage

WORKERS = 64
A_TURN = 1024
"""Requests in one commit."""
A_SUBMISSION = 1000
"""Jobs in one request."""
TELL_EVERY = 100_000


@dataclass(frozen=True, slots=True)
class Start:
    """What starting took, in a server process of its own.

    Attributes:
        wall_s: from the command to the first answer. cpu_s: processor time of it, steadier on a busy machine.
        resident_bytes: memory afterwards.
    """

    wall_s: float
    cpu_s: float
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class Restart:
    """Starts over one log.

    Attributes:
        entries: of the log. tail: of them, those behind the snapshot, at least.
        with_snapshot, without: the starts; the second is None if it was left out.
        snapshot_bytes: length of the snapshot.
    """

    entries: int
    tail: int
    with_snapshot: Start
    without: Start | None
    snapshot_bytes: int


def restart_seconds(
    data: Path,
    entries: int,
    *,
    waiting: int = 10_000,
    tail: int = SNAPSHOT_EVERY,
    cold: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Restart:
    """Make a log and measure how long `gnexec serve` takes to start over it.

    Args:
        data: an empty folder with room for 1.2 kB an entry.
        entries: in the log, at least; above `tail`.
        waiting: jobs that wait at its end.
        tail: entries behind the snapshot: those that a server may have added when it ends.
        cold: measure the start without any snapshot too; takes as long as folding all of the log.
        tell: called with a line before each step and now and then.
    """
    settings = ServerSettings(data=data, allow_raw=True, max_open=100_000)
    keys.new_keys(settings.private_keys, data / "public", ORIGIN)
    maker = LogMaker(settings, waiting)
    try:
        maker.grow(entries - tail, tell)
        tell("making the snapshot")
        file_bytes = _snapshot(data)
        size = maker.grow(entries, tell)
    finally:
        maker.close()
    tell(f"starting over {size:,} entries, with the snapshot")
    warm = _start(data)
    without = None
    if cold:
        tell(f"starting over {size:,} entries, without")
        (data / "snapshots").rename(data / "snapshots-aside")
        without = _start(data)
    return Restart(size, tail, warm, without, file_bytes)


class LogMaker:
    """Volunteers and a submitter around one ledger."""

    def __init__(self, settings: ServerSettings, waiting: int) -> None:
        """Open the log and enrol the workers.

        Args:
            settings: of the server that is to start over it; its keys are there, its log may be.
            waiting: jobs that are to wait.
        """
        ring = keys.load(settings.private_keys)
        tokens = {kid: b64url(key.public_bytes_raw()) for kid, key in ring.token_public.items()}
        opening = OpenLog(ring.origin, ring.log_verifier.vkey, tokens, settings.policy)
        self._store = open_store(settings.database_url, create=True)
        self._ledger = Ledger(self._store, Sealer(ring.origin, ring.log_key), opening, Clock())
        self._ledger.refold()
        self._waiting = waiting
        self._owner = pseudonym("o", ring.pseudonym_secret, "bench")
        self._project = pseudonym("p", ring.pseudonym_secret, "bench")
        self._decide([opening])
        self._keys = {self._enrol(key): key for key in (Ed25519PrivateKey.generate() for _ in range(WORKERS))}

    def grow(self, entries: int, tell: Callable[[str], None]) -> int:
        """Let work go on until the log has that many entries; return how many it has."""
        told = self._ledger.world.size
        while (size := self._ledger.world.size) < entries:
            if size - told >= TELL_EVERY:
                told = size
                tell(f"{size:,} of {entries:,} entries")
            while len(self._ledger.world.ready) < self._waiting + A_TURN:
                self._submit()
            self._turn()
        return self._ledger.world.size

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def _turn(self) -> None:
        """Each worker takes some jobs, one a request, and answers for them."""
        names = [name for name in self._keys for _ in range(A_TURN // WORKERS)]
        answers = self._decide([NextJobs(name, self._owner, 1, None, secrets.token_bytes(16)) for name in names])
        self._decide([self._report(work) for work in answers if isinstance(work, Work)])

    def _submit(self) -> None:
        made = [_job() for _ in range(A_SUBMISSION)]
        requests = tuple(request for request, _ in made)
        body = sha256_hex(msgspec.json.encode([request.digest for request in requests]))
        command = Submit(self._owner, self._project, requests, body)
        self._decide([command], tuple(content for _, content in made))

    def _enrol(self, key: Ed25519PrivateKey) -> str:
        public, draw = key.public_key(), secrets.token_bytes(16)
        offer = Offer(cores=1, memory_bytes=1 << 34, disk_bytes=1 << 40)
        content = _content(b"{}")
        x = b64url(public.public_bytes_raw())
        command = Enrol(self._owner, x, kid_of(public), offer, content.digest.hex(), draw)
        (answer,) = self._decide([command], (content,))
        if not isinstance(answer, Enrolled):
            raise TypeError(answer)
        return answer.worker

    def _report(self, work: Work) -> Report:
        event = work.hand_out
        ended = Outcome(exit=0)
        results = [
            Result(
                job=job.id,
                att=number,
                dig=job.digest.hex(),
                outcome=ended,
                outs=OUTS,
                canon=CANON,
                usage=Usage(cpu_ms=1, wall_ms=1, peak_rss_bytes=1),
                started_ms=work.at_ms,
                ended_ms=work.at_ms,
            )
            for job, number in work.jobs
        ]
        claims = ResultClaims.of(
            results,
            iss=event.worker,
            aud=ORIGIN,
            jti=event.jti,
            tok=sha256_hex(event.jti.encode()),
            iat=work.at_ms // 1000,
            salt=b64url(secrets.token_bytes(16)),
            env=ENV,
        )
        reported = tuple(Reported(one.job, one.att or 0, ended, CANON, OUTS, 1, 1, 1) for one in results)
        digests = {one.job: one.dig for one in results}
        statement, answer = sign(claims, self._keys[event.worker]), claims_digest(claims).hex()
        pairs = tuple((job, number) for job, number in event.jobs)
        return Report(event.jti, pairs, event.worker, reported, statement, answer, event.exp_s, digests)

    def _decide(self, commands: list[Command], contents: tuple[Content, ...] = ()) -> list[Answer]:
        """Have commands decided in one commit.

        Raises:
            GnexecError: one of them was refused.
        """
        requests = [Request(command=command, contents=contents) for command in commands]
        self._ledger.record(requests)
        self._ledger.news()
        for request in requests:
            if request.error is not None:
                raise request.error
        return [request.answer for request in requests]


def _job() -> tuple[JobRequest, Content]:
    spec = Spec(argv=("true",))
    content = _content(encode_named(NamedSpec(name="", spec=spec)))
    terms = Terms(program=sha256_hex(b"true"), needs=Needs(), redundancy=resolve_redundancy(Redundancy()))
    return JobRequest(job_digest(spec), content.digest.hex(), terms, force=True), content


def _content(data: bytes) -> Content:
    salt = secrets.token_bytes(16)
    return Content(salted_digest(salt, data), salt, data)


def _snapshot(data: Path) -> int:
    """Have a snapshot made, as a server would; return its length."""
    command = [sys.executable, "-m", "gnexec", "db", "snapshot", "--data", str(data), "--json"]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return int(msgspec.json.decode(made.stdout)["bytes"])


def _start(data: Path) -> Start:
    """Start a server."""
    began = time.perf_counter()
    with serving(data) as server:
        wall_s = time.perf_counter() - began
        used = psutil.Process(server.process.pid).cpu_times()
        return Start(wall_s, used.user + used.system, server.resident_bytes())
