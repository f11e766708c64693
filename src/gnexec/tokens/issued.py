"""Claims of the tokens that the server issues: job, enrolment and access tokens.

Each is signed with the token key, names the log's origin as `iss` and `aud`, and lives at most `LONGEST_S`, so that a
key that was retired need not be kept for ever.

Rules:
- Claims are checked against each other when they are made as well as when they are read.
- Whether a time has passed is not judged here: `gnexec.tokens.reading.check_times` gets the time as an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, ClassVar, Final, Self

from msgspec import Meta

from gnexec.tokens.forms import (
    MAX_JOBS,
    Claims,
    Confirmation,
    Count,
    Digest,
    JobSubject,
    Name,
    Number,
    OwnerId,
    WorkerId,
    each_once,
    job_number,
)

LONGEST_S: Final = 400 * 24 * 3600
"""Longest life of any token, seconds: a year and a month."""


class Scope(StrEnum):
    """What a token allows."""

    SUBMIT = "submit"
    """Hand in jobs, cancel one's own."""
    READ = "read"
    """Read one's own jobs and results."""
    AUDIT = "audit"
    """Read released payloads of all jobs."""
    OPERATE = "operate"
    """Change the server's rules."""
    ENROL = "enrol"
    """Enrol workers under one's own account."""
    WORK = "work"
    """Take jobs and report results: enrolment tokens only."""


class _Issued(Claims, frozen=True, kw_only=True):
    """A token of the server's, with an end.

    Attributes:
        iss: the log's origin, the same as `aud`.
        exp: seconds since 1970; from then on the token is expired.
    """

    iss: Name
    exp: Count

    def __post_init__(self) -> None:
        if not self.iat < self.exp <= self.iat + LONGEST_S:
            msg = "A token must end after it begins, and within 400 days."
            raise ValueError(msg)


class JobClaims(_Issued, frozen=True, kw_only=True):
    """The job token: one hand-out, of one job (`sub`, `att`, `dig`) or of several (`jobs`).

    Attributes:
        nbf: the hand-out's time, as `iat`.
        exp: the hard deadline of its attempts; never renewed, since the lease lives in the log.
        sub: the job id in decimal, when there is one job.
        att: the attempt number, with `sub`.
        dig: the job digest, with `sub`.
        jobs: (job id, attempt number) pairs, 1 to 64, when there are several.
        cnf: the worker's key, or None in open mode.
        prog: name of the program, or None.
        est: predicted wall time of all its jobs one after the other, seconds, or None.
    """

    TYP: ClassVar[str] = "gnexec-job+jwt"

    nbf: Count
    sub: JobSubject | None = None
    att: Number | None = None
    dig: Digest | None = None
    jobs: Annotated[tuple[tuple[Number, Number], ...], Meta(min_length=1, max_length=MAX_JOBS)] | None = None
    cnf: Confirmation | None = None
    prog: Name | None = None
    est: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.iat <= self.nbf < self.exp:
            msg = "A token must be valid for some time after it was made."
            raise ValueError(msg)
        one = (self.sub, self.att, self.dig)
        if (None in one) if self.jobs is None else (one != (None, None, None)):
            msg = "A job token names one job by sub, att and dig, or several by jobs."
            raise ValueError(msg)
        each_once(job for job, _ in self.pairs)

    @classmethod
    def of(  # noqa: PLR0913 -- one argument for each claim that a hand-out decides
        cls,
        pairs: Sequence[tuple[int, int]],
        *,
        origin: str,
        jti: str,
        iat: int,
        exp: int,
        dig: str | None = None,
        jkt: str | None = None,
        prog: str | None = None,
        est: int | None = None,
    ) -> Self:
        """Form the claims of a hand-out: of one job if there is one pair, else of several.

        Args:
            pairs: (job id, attempt number), 1 to 64, each job once.
            origin: the log's name.
            jti: the attempt id.
            iat: time of the hand-out, seconds.
            exp: hard deadline, seconds.
            dig: the job's digest; needed for one job, left out for several.
            jkt: thumbprint of the worker's key, or None in open mode.
            prog: name of the program, or None.
            est: predicted seconds, or None.
        """
        only = pairs[0] if len(pairs) == 1 else None
        return cls(
            iss=origin,
            aud=origin,
            jti=jti,
            iat=iat,
            nbf=iat,
            exp=exp,
            sub=str(only[0]) if only else None,
            att=only[1] if only else None,
            dig=dig if only else None,
            jobs=None if only else tuple((job, attempt) for job, attempt in pairs),
            cnf=None if jkt is None else Confirmation(jkt=jkt),
            prog=prog,
            est=est,
        )

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """All (job id, attempt number) pairs, in both forms."""
        if self.sub is not None and self.att is not None:
            return ((job_number(self.sub), self.att),)
        return self.jobs or ()

    @property
    def jkt(self) -> str | None:
        """Thumbprint of the worker's key, or None in open mode."""
        return None if self.cnf is None else self.cnf.jkt

    def names(self, job: int) -> bool:
        """Tell whether the token is for this job."""
        return any(job == named for named, _ in self.pairs)


class EnrolmentClaims(_Issued, frozen=True, kw_only=True):
    """The enrolment token: a worker that proved to hold its key.

    Attributes:
        sub: the worker id.
        cnf: the worker's key.
        owner: pseudonym of the account behind it.
        scope: "work".
        caps: digest of its capabilities.
    """

    TYP: ClassVar[str] = "gnexec-worker+jwt"

    sub: WorkerId
    cnf: Confirmation
    owner: OwnerId
    caps: Digest
    scope: str = Scope.WORK.value

    def __post_init__(self) -> None:
        super().__post_init__()
        if read_scope(self.scope) != (Scope.WORK,):
            msg = "An enrolment token has the scope work."
            raise ValueError(msg)

    @property
    def jkt(self) -> str:
        """Thumbprint of the worker's key."""
        return self.cnf.jkt

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """What the token allows."""
        return read_scope(self.scope)


class AccessClaims(_Issued, frozen=True, kw_only=True):
    """The access token of a person or a service.

    Attributes:
        sub: the account's name.
        scope: what it allows, words separated by one space (RFC 6749, section 3.3); `write_scope` makes it.
        project: where its jobs belong.
    """

    TYP: ClassVar[str] = "gnexec-access+jwt"

    sub: Name
    scope: str
    project: Name

    def __post_init__(self) -> None:
        super().__post_init__()
        if Scope.WORK in read_scope(self.scope):
            msg = "An access token cannot have the scope work."
            raise ValueError(msg)

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """What the token allows."""
        return read_scope(self.scope)


def write_scope(scopes: Iterable[Scope]) -> str:
    """Return the scopes as a claim: in a fixed order, separated by spaces."""
    wanted = set(scopes)
    return " ".join(scope.value for scope in Scope if scope in wanted)


def read_scope(text: str) -> tuple[Scope, ...]:
    """Return the scopes in a claim.

    Raises:
        ValueError: none, an unknown one, one named twice, or more than one space between two.
    """
    try:
        scopes = tuple(Scope(word) for word in text.split(" "))
    except ValueError:
        msg = "A scope is not known: submit, read, audit, operate and enrol are."
        raise ValueError(msg) from None
    each_once(scopes)
    return scopes
