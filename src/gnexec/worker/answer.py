"""What came of an attempt, in the form in which the server takes it: a signed statement, or open mode's plain body.

Signed: outputs and logs are blobs, a manifest names them all and is a blob itself, the statement names the manifest.
Open mode: small outputs lie within the body, larger ones are blobs as well.

Rules:
- An answer is made once and kept; what is sent again is the same bytes.
- A job that ends with exit status 0 without its declared outputs has not succeeded: it is reported with exit status 73
  (EX_CANTCREAT of sysexits.h), and its standard error says what was missing.
- What was stopped or given back has no outputs, and of its logs only what the worker itself has to say.
"""

from __future__ import annotations

import base64
import platform
import re
import secrets
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.core.events import Outcome
from gnexec.core.spec import STDOUT, Manifest, Spec, Stored, encode_manifest, manifest_digests, voted_digest
from gnexec.ids import attempt_id, sha256_hex
from gnexec.shapes import InlineFile, ResultBody, UsageBody
from gnexec.tokens import Environment, Result, ResultClaims, Usage, sign
from gnexec.worker.collect import Output, collect, keep
from gnexec.worker.execute import MAX_LOG_BYTES, Ended
from gnexec.worker.limits import Halt
from gnexec.worker.spool import Attempt, Entry, Finished

CANNOT_CREATE: Final = 73
"""EX_CANTCREAT: an output that was declared is not there."""
INLINE_BYTES: Final = 64 * 1024
"""Largest output that lies within the body in open mode."""
_INLINE_IN_ALL: Final = 1 << 20
_LOG_SPACE: Final = MAX_LOG_BYTES + (1 << 16)  # the note on a cut, and the worker's own words


@dataclass(frozen=True, slots=True)
class Signer:
    """Who answers, in secured mode.

    Attributes:
        worker: its id. origin: the server's name. key: its key.
        environment: where results are made.
    """

    worker: str
    origin: str
    key: Ed25519PrivateKey = field(repr=False)
    environment: Environment


def environment(sandbox: str) -> Environment:
    """Describe where results are made.

    Args:
        sandbox: kind of sandbox, "none" for plain processes.
    """
    return Environment(
        os=_word(f"{platform.system()} {platform.release()}"),
        arch=_word(platform.machine()),
        sandbox=sandbox,
        software={"python": platform.python_version()},
    )


def answer(entry: Entry, ended: Ended, work: Path | None, signer: Signer | None, *, now_s: int, note: str = "") -> None:
    """Collect what an attempt left, and keep the answer in its folder.

    Args:
        entry: the attempt, with its logs.
        ended: how it ended.
        work: its work directory, or None where it has none.
        signer: None in open mode.
        now_s: seconds since 1970 by the server's clock.
        note: what the worker has to say, for the end of standard error.

    Raises:
        OSError: the disk does not take it.
    """
    attempt, outcome = entry.attempt, ended.outcome
    withdrawn = outcome.limit in {Halt.STOPPED, Halt.PREEMPTED}
    notes = [note] if note else []
    outputs: dict[str, Output] = {}
    if work is not None and outcome.exit is not None:
        declared = [path for path in attempt.work.outputs if path != STDOUT]
        found = collect(work, declared, entry.blobs, attempt.needs.disk_bytes)
        outputs = found.outputs
        notes += [f"output {name!r} was not taken: {why}" for name, why in found.refused.items()]
        if found.refused and outcome.exit == 0:
            outcome = Outcome(exit=CANNOT_CREATE)
    for log in (entry.stdout, entry.stderr):
        with log.open("wb" if withdrawn else "ab") as file:
            if log == entry.stderr:
                file.write("".join(f"[gnexec: {line}]\n" for line in notes).encode(errors="replace"))
    stdout, stderr = (keep(log, entry.blobs, _LOG_SPACE) for log in (entry.stdout, entry.stderr))
    ended = Ended(outcome, ended.usage, ended.started_ms, max(ended.started_ms, ended.ended_ms))
    if signer is None:
        finished = _plain(ended, outputs, stdout, stderr)
    else:
        finished = _signed(attempt, ended, outputs, stdout, stderr, entry.blobs, signer, now_s)
    entry.finish(finished)


def _signed(
    attempt: Attempt,
    ended: Ended,
    outputs: Mapping[str, Output],
    stdout: Output,
    stderr: Output,
    into: Path,
    signer: Signer,
    now_s: int,
) -> Finished:
    manifest = Manifest(
        outputs={name: Stored(output.sha256, output.size) for name, output in outputs.items()},
        stderr=Stored(stderr.sha256, stderr.size),
        stdout=Stored(stdout.sha256, stdout.size),
    )
    draft = into / "manifest"
    draft.write_bytes(encode_manifest(manifest))
    outs = keep(draft, into, _LOG_SPACE).sha256
    canon = None
    if ended.outcome.exit == 0:
        canon = voted_digest(Spec(outputs=tuple(attempt.work.outputs)), 0, manifest_digests(manifest))
    result = Result(
        job=attempt.work.id,
        att=attempt.number,
        dig=attempt.work.digest,
        outcome=ended.outcome,
        outs=outs,
        canon=canon,
        usage=Usage(cpu_ms=ended.usage.cpu_ms, wall_ms=ended.usage.wall_ms, peak_rss_bytes=ended.usage.peak_rss_bytes),
        started_ms=ended.started_ms,
        ended_ms=ended.ended_ms,
    )
    claims = ResultClaims.of(
        [result],
        iss=signer.worker,
        aud=signer.origin,
        jti=attempt.jti,
        tok=sha256_hex(attempt.token.encode()),
        iat=now_s,
        salt=attempt_id(secrets.token_bytes(16)),
        env=signer.environment,
    )
    files = [output.sha256 for output in (*outputs.values(), stdout, stderr)]
    return Finished(
        body=ResultBody(statement=sign(claims, signer.key)),
        blobs=tuple(dict.fromkeys([*files, outs])),  # the manifest last: once it is there, all that it names is
        outcome=ended.outcome.text,
    )


def _plain(ended: Ended, outputs: Mapping[str, Output], stdout: Output, stderr: Output) -> Finished:
    room = _INLINE_IN_ALL
    blobs: list[str] = []

    def form(output: Output) -> str | InlineFile:
        nonlocal room
        if output.size > min(INLINE_BYTES, room):
            blobs.append(output.sha256)
            return InlineFile(sha256=output.sha256)
        room -= output.size
        data = output.path.read_bytes()
        try:
            return data.decode()
        except UnicodeDecodeError:
            return InlineFile(base64=base64.b64encode(data).decode("ascii"))

    outcome = ended.outcome
    exit_code = outcome.exit
    if outcome.signal is not None:
        exit_code = 128 + _number(outcome.signal)
    body = ResultBody(
        exit_code=exit_code,
        limit=outcome.limit,
        stdout=form(stdout),
        stderr=form(stderr),
        outputs={name: form(output) for name, output in outputs.items()},
        usage=UsageBody(
            cpu_ms=ended.usage.cpu_ms, wall_ms=ended.usage.wall_ms, peak_rss_bytes=ended.usage.peak_rss_bytes
        ),
    )
    return Finished(body=body, blobs=tuple(dict.fromkeys(blobs)), outcome=outcome.text)


def _word(text: str) -> str:
    """Return what may stand in a claim: plain ASCII, at most 64 characters."""
    return re.sub(r"[^A-Za-z0-9._+:/ ~()-]", "-", text)[:64].lstrip("._+:/ ~()-") or "unknown"


def _number(name: str) -> int:
    try:
        return int(signal.Signals[name])
    except KeyError:
        return int(name.removeprefix("SIG"))
