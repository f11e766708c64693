"""Job tokens that come back: checked once, then known by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from gnexec.desk.office import Office
from gnexec.errors import Refused
from gnexec.tokens.issued import JobClaims
from gnexec.tokens.reading import read_job_token


@dataclass(frozen=True, slots=True)
class JobToken:
    """A job token that came back, checked.

    Attributes:
        digest: SHA-256 of its text, hexadecimal.
        attempts: attempt number of each job that it names.
    """

    claims: JobClaims
    digest: str
    attempts: Mapping[int, int]

    def attempt_of(self, job: int) -> int:
        """Return the attempt number of a job that the token names.

        Raises:
            Refused: wrong_path.
        """
        attempt = self.attempts.get(job)
        if attempt is None:
            raise Refused("wrong_path", f"The job token is not for job {job}.", mend="Use the token that came with it.")
        return attempt

    @property
    def principal(self) -> str:
        """Whose uploads count for this hand-out: the worker's key, or the hand-out itself in open mode."""
        return f"k:{self.claims.jkt}" if self.claims.jkt is not None else f"a:{self.claims.jti}"


def job_token(office: Office, text: str) -> JobToken:
    """Check a job token: its form and signature, or that this process made it.

    Raises:
        Refused: bad_token, bad_signature, unknown_key, wrong_audience.
    """
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    origin = office.keys.origin  # asked first: if a key was revoked, what was read under it is forgotten
    claims = office.issued.get(digest)
    if claims is None:
        claims = read_job_token(text, office.keyring.known, origin=origin)
        if claims.jkt is None and not office.open_mode:
            raise Refused("wrong_key", "A job token without a worker's key is good in open mode only.")
        office.issued.put(digest, claims)
    return JobToken(claims, digest.hex(), dict(claims.pairs))
