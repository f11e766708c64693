"""Open mode's results: exit status and output within the body, nothing signed.

The manifest that a worker of secured mode uploads is made here, so that what is recorded has one form in both modes.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, NamedTuple

import msgspec

from gnexec.core.canonical import canonical
from gnexec.core.commands import Report
from gnexec.core.events import AttemptState, Outcome, Reported
from gnexec.core.spec import (
    MAX_FILES,
    STDOUT,
    Manifest,
    Spec,
    Stored,
    check_path,
    encode_manifest,
    manifest_digests,
    voted_digest,
)
from gnexec.desk.dispatcher import Sealed, View
from gnexec.desk.jobtokens import JobToken
from gnexec.desk.office import Office
from gnexec.desk.specifications import specs_of_jobs
from gnexec.errors import Refused
from gnexec.ids import ANONYMOUS, sha256_hex
from gnexec.shapes import InlineFile, ResultBody, UsageBody
from gnexec.tokens.statements import check_outcome


class _File(NamedTuple):
    """A file of a result: its name and size, and its bytes unless they were uploaded before."""

    stored: Stored
    data: bytes | None


class _Standing(NamedTuple):
    """Whether an attempt is still open, and whether its job is decided."""

    is_open: bool
    decided: bool


_NOTHING: Final = UsageBody()


async def report_open(office: Office, token: JobToken, job: int, body: ResultBody) -> Sealed:
    """Hand a result of open mode to the log.

    Raises:
        Refused: invalid.
    """
    if body.statement is not None:
        raise Refused(
            "invalid", "In open mode nothing is signed.", field="statement", mend="Send exit_code and stdout."
        )
    outcome = _outcome(body)
    manifest, files = await office.aside(lambda: _manifest(office, token, body))
    data = encode_manifest(manifest)
    outs = sha256_hex(data)
    attempt = token.attempt_of(job)
    standing = await office.desk.ask(lambda view: _standing(view, token, job))
    canon, flaws = await _voted(office, job, outcome, manifest)
    if standing.is_open and (standing.decided or not flaws):
        for blob in {*(file.data for file in files if file.data is not None), data}:
            await office.put_blob(blob)
    usage = body.usage or _NOTHING
    command = Report(
        jti=token.claims.jti,
        pairs=token.claims.pairs,
        worker=ANONYMOUS,
        results=(
            Reported(
                job=job,
                attempt=attempt,
                outcome=outcome,
                canon=canon,
                outs=outs,
                wall_ms=usage.wall_ms,
                cpu_ms=usage.cpu_ms,
                peak_rss_bytes=usage.peak_rss_bytes,
            ),
        ),
        statement=None,
        answer=sha256_hex(canonical({"job": job, "outcome": msgspec.to_builtins(outcome), "outs": outs})),
        exp_s=token.claims.exp,
        flaws={} if standing.decided else flaws,
    )
    return await office.desk.do(command)


def _standing(view: View, token: JobToken, number: int) -> _Standing:
    job = view.job(number)
    attempt = job.attempt(token.attempt_of(number)) if job is not None else None
    if job is None or attempt is None or attempt.jti != token.claims.jti:
        return _Standing(is_open=False, decided=False)
    return _Standing(attempt.state is AttemptState.OPEN, job.decided)


async def _voted(
    office: Office, job: int, outcome: Outcome, manifest: Manifest
) -> tuple[str | None, dict[int, Refused]]:
    """Return the voted digest of a success, or what keeps it from being one."""
    if outcome.text != "success":
        return None, {}
    named = (await specs_of_jobs(office, [job])).get(job)
    try:
        return voted_digest(named.spec if named else Spec(), 0, manifest_digests(manifest)), {}
    except Refused as err:
        return None, {job: err}


def _outcome(body: ResultBody) -> Outcome:
    if body.exit_code is None and body.limit is None:
        raise Refused("invalid", "A result needs exit_code.", field="exit_code", mend="Give a number from 0 to 255.")
    outcome = Outcome(exit=body.exit_code, limit=body.limit)
    try:
        check_outcome(outcome)
    except ValueError as err:
        raise Refused("invalid", str(err), field="limit") from err
    return outcome


def _manifest(office: Office, token: JobToken, body: ResultBody) -> tuple[Manifest, list[_File]]:
    if STDOUT in body.outputs:
        raise Refused("invalid", "The name stdout is reserved.", field="outputs.stdout", mend="Send it as stdout.")
    if len(body.outputs) > MAX_FILES:
        raise Refused("invalid", f"{len(body.outputs)} outputs are too many; at most {MAX_FILES}.", field="outputs")
    files = {
        check_path(path, "outputs"): _file(office, token, value, f"outputs.{path}")
        for path, value in body.outputs.items()
    }
    stdout, stderr = _file(office, token, body.stdout, "stdout"), _file(office, token, body.stderr, "stderr")
    outputs = {path: file.stored for path, file in files.items()}
    return Manifest(outputs=outputs, stderr=stderr.stored, stdout=stdout.stored), [*files.values(), stdout, stderr]


def _file(office: Office, token: JobToken, value: str | InlineFile, field: str) -> _File:
    if isinstance(value, str):
        data = value.encode()
    elif value.base64 is not None and value.sha256 is None:
        try:
            data = base64.b64decode(value.base64, validate=True)
        except (binascii.Error, ValueError) as err:
            raise Refused("invalid", "This is not base64.", field=field) from err
    elif value.sha256 is not None and value.base64 is None:
        if not office.store.granted(token.principal, [value.sha256]):
            raise Refused(
                "invalid", "This blob was not uploaded.", field=field, mend=f"PUT it to /v1/blobs/{value.sha256} first."
            )
        return _File(Stored(value.sha256, office.blobs.size(value.sha256)), None)
    else:
        raise Refused("invalid", "Give text, or exactly one of base64 and sha256.", field=field)
    return _File(Stored(sha256_hex(data), len(data)), data)
