"""Workers' signed statements, as the log quotes them: each is the worker's own word, and the event says the same.

This needs only the entries in which workers are enrolled, so it also works where other payloads are withheld.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gnexec.core.events import Equivocated, Reported, ResultsReported, WorkerEnrolled
from gnexec.errors import CorruptLog, Refused
from gnexec.ids import ANONYMOUS
from gnexec.tokens.forms import claims_digest
from gnexec.tokens.jwk import kid_of, public_key
from gnexec.tokens.reading import read_result_statement
from gnexec.tokens.statements import Result, ResultClaims


class Statements:
    """Knows the workers' keys, and checks what they signed.

    Attributes:
        checked: statements whose signature was verified.
        unknown: statements of workers whose enrolment is withheld.
    """

    def __init__(self, origin: str) -> None:
        """Begin without workers.

        Args:
            origin: the log's name, which every statement must be meant for.
        """
        self._origin: Final = origin
        self._keys: dict[str, tuple[str, Ed25519PublicKey]] = {}
        self.checked = 0
        self.unknown = 0

    def enrol(self, event: WorkerEnrolled) -> None:
        """Take a worker's key.

        Raises:
            CorruptLog: the key cannot be used, is not that of its id, or the worker had another one.
        """
        try:
            key = public_key(event.x)
        except Refused as err:
            msg = f"worker {event.worker} is enrolled with a key that cannot be used: {err.detail}"
            raise CorruptLog(msg) from err
        if kid_of(key) != event.kid:
            msg = f"worker {event.worker} is enrolled with a kid that is not its key's thumbprint"
            raise CorruptLog(msg)
        if self._keys.setdefault(event.worker, (event.kid, key))[0] != event.kid:
            msg = f"worker {event.worker} changes its key"
            raise CorruptLog(msg)

    def check(self, event: ResultsReported | Equivocated) -> ResultClaims | None:
        """Make sure that the worker signed what the event says that it did.

        Returns:
            The claims; None in open mode, where nothing is signed, and for a worker that is not known.

        Raises:
            CorruptLog: it did not.
        """
        if event.statement is None:
            if event.worker != ANONYMOUS:
                msg = f"worker {event.worker} is said to have answered, but has signed nothing"
                raise CorruptLog(msg)
            return None
        if event.worker not in self._keys:
            self.unknown += 1
            return None
        kid, key = self._keys[event.worker]
        try:
            claims = read_result_statement(event.statement, {kid: key}, origin=self._origin, jkt=kid)
        except Refused as err:
            msg = f"worker {event.worker} did not sign this statement: {err.detail}"
            raise CorruptLog(msg) from err
        if (claims.iss, claims.jti) != (event.worker, event.jti):
            msg = f"the statement is by worker {claims.iss} over hand-out {claims.jti}, not what the entry says"
            raise CorruptLog(msg)
        if claims_digest(claims).hex() != event.answer:
            msg = "the answer's digest is not that of the statement's claims"
            raise CorruptLog(msg)
        _compare(event, {result.job: result for result in claims.results})
        self.checked += 1
        return claims


def _compare(event: ResultsReported | Equivocated, said: dict[int, Result]) -> None:
    """Hold the event against the claims of the statement that it quotes."""
    if isinstance(event, Equivocated):
        claim = said.get(event.job)
        if claim is None or claim.att not in (None, event.attempt):
            msg = f"the statement says nothing about attempt {event.attempt} of job {event.job}"
            raise CorruptLog(msg)
        return
    for result in event.results:
        claim = said.get(result.job)
        if claim is None or _as_reported(claim, result.attempt) != result:
            msg = f"what the entry reports of job {result.job} is not what worker {event.worker} signed"
            raise CorruptLog(msg)


def _as_reported(claim: Result, attempt: int) -> Reported:
    """Return what an event must say of a claim."""
    return Reported(
        job=claim.job,
        attempt=claim.att if claim.att is not None else attempt,
        outcome=claim.outcome,
        canon=claim.canon,
        outs=claim.outs,
        wall_ms=claim.usage.wall_ms,
        cpu_ms=claim.usage.cpu_ms,
        peak_rss_bytes=claim.usage.peak_rss_bytes,
    )
