"""Hands finished attempts to the server until it has acknowledged them; what is lost on the way is sent again.

Blobs first, those that the server does not hold yet; then the result. The server's answers:

- 200: acknowledged, whatever the verdict; the attempt leaves the spool.
- 409 and 410: another answer was recorded, or it is too late; nobody wants it, and it leaves the spool.
- 400, 413, 415, 422: the server can never take it; it leaves the spool with an error in the log, and the lease lapses.
- any other refusal may be the operator's mistake (a key, a database): tried again until the attempt's deadline.
- no answer: tried again for ever; the spool keeps it beyond the end of this process.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from gnexec.errors import Refused
from gnexec.worker.link import Away, Link, Patience
from gnexec.worker.spool import Entry, Finished

log = structlog.get_logger("gnexec.worker")

_UNWANTED: Final = frozenset({409, 410})
_SMALL: Final = 64 * 1024
_UNUSABLE: Final = frozenset({400, 405, 413, 415, 422})


async def deliver(entry: Entry, finished: Finished, link: Link) -> None:
    """Send a result until it is acknowledged or unwanted, then drop it from the spool.

    Args:
        entry: the attempt.
        finished: its answer.
        link: the server.

    Raises:
        OSError: a file of the spool cannot be read or removed.
    """
    job, patience = entry.attempt.work.id, Patience()
    while True:
        try:
            verdict = await _send(entry, finished, link)
        except Away as err:
            wait_s = patience.wait_s(err.after_s)
            log.warning("result kept, not yet acknowledged", job=job, why=str(err), again_s=round(wait_s, 1))
        except Refused as err:
            wait_s = patience.wait_s()
            if err.status in _UNWANTED:
                log.warning("result not wanted", job=job, outcome=finished.outcome, code=err.code, why=str(err))
                break
            if err.status in _UNUSABLE or link.now_s() > entry.attempt.exp_s:
                log.error(  # noqa: TRY400 -- a refusal is an answer: where it was read does not matter
                    "result refused", job=job, outcome=finished.outcome, code=err.code, why=str(err)
                )
                break
            log.warning("result refused, kept for now", job=job, code=err.code, why=str(err), again_s=round(wait_s, 1))
        else:
            log.info("result acknowledged", job=job, outcome=finished.outcome, verdict=verdict)
            break
        await asyncio.sleep(wait_s)
    await asyncio.to_thread(entry.drop)


async def _send(entry: Entry, finished: Finished, link: Link) -> str:
    attempt = entry.attempt
    obstacle: Refused | None = None
    try:
        for sha256 in finished.blobs:
            path = entry.blobs / sha256
            size = path.stat().st_size
            # An input is there without having been sent by us, which a result needs; and to send little asks less.
            asking = size > _SMALL and sha256 not in attempt.work.inputs.values()
            if not (asking and await link.has_blob(sha256, attempt.token)):
                await link.put_blob(sha256, attempt.token, path, size)
    except Refused as err:
        obstacle = err
    try:
        reply = await link.result(attempt.work.id, attempt.token, finished.body)
    except Refused as err:
        # Past the deadline no blob is taken, yet an answer whose acknowledgement was lost is still acknowledged. A blob
        # that was not taken says more than the complaint that it is missing.
        raise (obstacle if obstacle is not None and err.status not in _UNWANTED else err) from None
    return reply.verdict
