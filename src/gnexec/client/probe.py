"""Whether a server can be worked with from here: for those who look for a fault."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

import msgspec

from gnexec.client.transport import Transport, TryAgain
from gnexec.errors import Refused, StrangeAnswer
from gnexec.ids import MAX_SAFE_INT
from gnexec.shapes import HeyView, JobView


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found.

    Attributes:
        hey: who answers.
        ahead_s: how far our clock is ahead of the server's, to about a second; None if it does not tell its time.
        refusal: why the access token, or having none, was refused; None if it was not.
    """

    hey: HeyView
    ahead_s: float | None
    refusal: Refused | None


def probe(url: str, token: str | None) -> Probe:
    """Ask a server, once, who it is, what time it is, and whether it takes our token.

    Raises:
        BadConfiguration: the address cannot be used.
        ServerUnreachable: it does not answer.
        StrangeAnswer: what answers is no gnexec server.
    """
    with closing(Transport(url, token, patience_s=0)) as transport:
        before = time.time()
        try:
            with transport.open("GET", "/hey") as response:
                hey = msgspec.json.decode(response.read(), type=HeyView)
        except TryAgain as err:
            raise err.error from err
        except (msgspec.DecodeError, UnicodeDecodeError) as err:
            msg = f"{url} answers, but not as a gnexec server does."
            raise StrangeAnswer(msg) from err
        middle = (before + time.time()) / 2
        refusal = None
        try:
            # Nobody has this job: who is let in is told so.
            transport.call("GET", f"/v1/jobs/{MAX_SAFE_INT}", JobView)
        except Refused as err:
            refusal = None if err.code == "not_found" else err
    return Probe(hey, _ahead(response.headers.get("Date"), middle), refusal)


def _ahead(date: str | None, now_s: float) -> float | None:
    try:
        told = parsedate_to_datetime(date) if date else None
    except ValueError:
        told = None
    if told is None:
        return None
    # The header has whole seconds, cut off: half a second is the best guess for the rest.
    return now_s - (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp() - 0.5
