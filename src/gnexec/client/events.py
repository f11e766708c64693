"""What happens to a job, as it happens: server-sent events, taken up again where the stream broke."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import msgspec

from gnexec.client.transport import Transport
from gnexec.errors import StrangeAnswer


class JobEvent(msgspec.Struct, frozen=True):
    """Something that happened to a job.

    Attributes:
        id: its place in the stream, by which the stream is taken up again; the entry's seq in the log.
        kind: what happened, one word.
        data: all that is told of it.
    """

    id: str
    kind: str
    data: dict[str, Any]


def stream(transport: Transport, path: str, last: str) -> Iterator[JobEvent]:
    """Yield the events behind the one whose id is `last` ("" for all), until the server ends the stream.

    Raises:
        TryAgain: the stream broke; take it up again.
        Refused: there is no such job.
        StrangeAnswer: it is no stream of events.
    """
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
    with ExitStack() as stack:

        def connect() -> httpx2.Response:
            return stack.enter_context(transport.open("GET", path, headers=headers))

        for event in httpx2.EventSource(transport.persist(connect)):
            if not event.data:
                continue
            try:
                data = json.loads(event.data)
            except ValueError as err:
                msg = f"{transport.url}{path} sent an event that is not understood: {err}."
                raise StrangeAnswer(msg) from err
            yield JobEvent(id=event.id, kind=event.event, data=data)
