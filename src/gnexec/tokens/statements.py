"""Claims of what others sign: a worker's results and its proof of possession, a submitter's job.

A result statement speaks of one result, written in line, or of up to 64, in a list; `results` gives both the same way.

Rules:
- The worker's outcome is a claim like any other: it is checked for sense, not believed.
- Whose key may sign what is checked in `gnexec.tokens.reading`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Self

import msgspec
from msgspec import Meta

from gnexec.core.events import Outcome
from gnexec.tokens.forms import (
    MAX_JOBS,
    Claims,
    Count,
    Digest,
    JobSubject,
    Number,
    Sixteen,
    Thumbprint,
    Word,
    WorkerId,
    each_once,
    job_number,
)

LIMITS: Final = frozenset({"cpu", "wall", "memory", "disk", "processes", "stopped", "preempted"})
"""What may end an execution from outside."""
_SIGNAL: Final = re.compile(r"SIG[A-Z0-9]{1,16}")
_HIGHEST_EXIT: Final = 255


class Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What an execution used, over its whole process tree; None where the machine could not tell."""

    cpu_ms: Count
    wall_ms: Count
    peak_rss_bytes: Count
    read_bytes: Count | None = None
    write_bytes: Count | None = None


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Where the results were made.

    Attributes:
        os: system and release, such as "Debian 12".
        arch: such as "x86_64".
        sandbox: "wasm", "bubblewrap" or "none", with its version.
        software: version by name, up to 32.
    """

    os: Word
    arch: Word
    sandbox: Word
    software: Annotated[dict[Word, Word], Meta(max_length=32)] = {}


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What came of one job.

    Attributes:
        job: the job id.
        att: the attempt number, or None where the job token says it.
        dig: the job digest.
        outcome: how the execution ended.
        outs: SHA-256 of the manifest blob.
        canon: digest of the declared outputs, which is voted on; needed for success, else it may be None.
        usage: what the execution used.
        started_ms: when it began, milliseconds since 1970 by the worker's clock.
        ended_ms: when it ended; not before `started_ms`.
    """

    job: Number
    att: Number | None = None
    dig: Digest
    outcome: Outcome
    outs: Digest
    canon: Digest | None = None
    usage: Usage
    started_ms: Count
    ended_ms: Count

    def __post_init__(self) -> None:
        check_outcome(self.outcome)
        if self.outcome.exit == 0 and self.outcome.limit is None and self.canon is None:
            msg = "A result with exit status 0 must name the digest of its declared outputs, canon."
            raise ValueError(msg)
        if self.ended_ms < self.started_ms:
            msg = "An execution cannot end before it began."
            raise ValueError(msg)


class ResultClaims(Claims, frozen=True, kw_only=True):
    """The result statement, signed with the worker's key.

    Attributes:
        iss: the worker id.
        jti: the attempt id of the hand-out that is answered.
        tok: SHA-256 (hexadecimal) of the job token's text.
        salt: 16 random bytes in base64url, so that a digest of the statement tells nothing of it.
        env: where the results were made.
        sub: the job id in decimal, when there is one result; the claims after it are those of `Result`.
        many: the results, 1 to 64, when there are several; "results" on the wire.
    """

    TYP: ClassVar[str] = "gnexec-result+jwt"
    MAX_CHARS: ClassVar[int] = 65_536

    iss: WorkerId
    tok: Digest
    salt: Sixteen
    env: Environment
    sub: JobSubject | None = None
    att: Number | None = None
    dig: Digest | None = None
    outcome: Outcome | None = None
    outs: Digest | None = None
    canon: Digest | None = None
    usage: Usage | None = None
    started_ms: Count | None = None
    ended_ms: Count | None = None
    many: Annotated[tuple[Result, ...], Meta(min_length=1, max_length=MAX_JOBS)] | None = msgspec.field(
        default=None, name="results"
    )

    def __post_init__(self) -> None:
        named = [self.sub, self.att, self.dig, self.outcome, self.outs, self.canon, self.usage]
        if self.many is not None and any(claim is not None for claim in [*named, self.started_ms, self.ended_ms]):
            msg = "A statement has one result in line, or a list of results, not both."
            raise ValueError(msg)
        each_once(result.job for result in self.results)

    @classmethod
    def of(
        cls,
        results: Sequence[Result],
        *,
        iss: str,
        aud: str,
        jti: str,
        tok: str,
        iat: int,
        salt: str,
        env: Environment,
    ) -> Self:
        """Form the statement over `results`: in line if there is one, else as a list.

        Args:
            results: 1 to 64, each job once.
            iss: the worker id.
            aud: the log's origin.
            jti: the attempt id.
            tok: SHA-256 (hexadecimal) of the job token.
            iat: now, seconds.
            salt: 16 random bytes in base64url.
            env: where the results were made.
        """
        one = results[0] if len(results) == 1 else None
        return cls(
            iss=iss,
            aud=aud,
            jti=jti,
            tok=tok,
            iat=iat,
            salt=salt,
            env=env,
            sub=str(one.job) if one else None,
            att=one.att if one else None,
            dig=one.dig if one else None,
            outcome=one.outcome if one else None,
            outs=one.outs if one else None,
            canon=one.canon if one else None,
            usage=one.usage if one else None,
            started_ms=one.started_ms if one else None,
            ended_ms=one.ended_ms if one else None,
            many=None if one else tuple(results),
        )

    @property
    def results(self) -> tuple[Result, ...]:
        """All results, in both forms.

        Raises:
            ValueError: a claim of the one result is missing (never, once the claims are made).
        """
        if self.many is not None:
            return self.many
        if (
            self.sub is None
            or self.dig is None
            or self.outcome is None
            or self.outs is None
            or self.usage is None
            or self.started_ms is None
            or self.ended_ms is None
        ):
            msg = "A result needs sub, dig, outcome, outs, usage, started_ms and ended_ms."
            raise ValueError(msg)
        return (
            Result(
                job=job_number(self.sub),
                att=self.att,
                dig=self.dig,
                outcome=self.outcome,
                outs=self.outs,
                canon=self.canon,
                usage=self.usage,
                started_ms=self.started_ms,
                ended_ms=self.ended_ms,
            ),
        )


class ProofClaims(Claims, frozen=True, kw_only=True):
    """The enrolment proof: whoever enrols holds the private key, and made this for one access token.

    Attributes:
        ath: SHA-256 (hexadecimal) of the access token that it is sent with (compare RFC 9449, section 4.2).
    """

    TYP: ClassVar[str] = "gnexec-enrol+jwt"

    ath: Digest


class JobspecClaims(Claims, frozen=True, kw_only=True):
    """The job statement: a submitter's word that a job is theirs, so that a stolen server cannot push code.

    Attributes:
        iss: thumbprint of the submitter's key.
        sub: the job digest.
        spec: SHA-256 (hexadecimal) of the specification's canonical JSON (RFC 8785).
    """

    TYP: ClassVar[str] = "gnexec-jobspec+jwt"

    iss: Thumbprint
    sub: Digest
    spec: Digest


def check_outcome(outcome: Outcome) -> None:
    """Make sure that an outcome makes sense: an exit status or a signal, not both, or a limit.

    Raises:
        ValueError: a value outside its range, a contradiction, or nothing at all.
    """
    if outcome.exit is not None and not 0 <= outcome.exit <= _HIGHEST_EXIT:
        msg = "An exit status is 0 to 255."
    elif outcome.signal is not None and not _SIGNAL.fullmatch(outcome.signal):
        msg = "A signal is named like SIGSEGV."
    elif outcome.limit is not None and outcome.limit not in LIMITS:
        msg = "A limit is cpu, wall, memory, disk, processes, stopped or preempted."
    elif outcome.exit is not None and outcome.signal is not None:
        msg = "An execution ends with an exit status or with a signal, not with both."
    elif outcome == Outcome():
        msg = "An execution ends with an exit status, a signal or a limit."
    else:
        return
    raise ValueError(msg)
