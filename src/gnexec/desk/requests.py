"""What is asked of the desk, what comes back, and what a question may look at."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from gnexec.core.commands import Answer, Command
from gnexec.core.job import Job
from gnexec.core.world import World
from gnexec.desk.clock import Clock
from gnexec.desk.facts import Facts
from gnexec.desk.sealer import Opened, Sealer
from gnexec.errors import Refused
from gnexec.store.contract import Content, Grant, Store


@dataclass(frozen=True, slots=True)
class Sealed:
    """A durable answer.

    Attributes:
        opened: entries that hold the caller's results, with their receipts, by seq.
    """

    answer: Answer
    opened: dict[int, Opened] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class View:
    """What a question may look at: committed state, in order with all decisions. Read only."""

    world: World
    store: Store
    sealer: Sealer
    clock: Clock

    def job(self, job_id: int) -> Job | None:
        """Return a job, open or closed, or None if there never was one."""
        return Facts(self.store, self.world).job(job_id)

    def open(self, seq: int) -> Opened:
        """Open an entry, with its receipt under the newest checkpoint.

        Raises:
            Refused: not_found.
        """
        entries = self.store.entries(seq, seq + 1)
        if not entries:
            raise Refused("not_found", f"The log has no entry {seq}.")
        return self.sealer.open(seq, entries[0], self.store)


@dataclass(slots=True, eq=False)
class Request:
    """Something asked of the desk: a command, a question, or grants to keep.

    Attributes:
        future: who waits for it, or None for the desk itself.
        answer: what to tell; error: what to raise instead, or None.
    """

    future: asyncio.Future[Any] | None = None
    command: Command | None = None
    question: Callable[[View], Any] | None = None
    contents: tuple[Content, ...] = ()
    grants: tuple[Grant, ...] = ()
    answer: Any = None
    error: BaseException | None = None

    @property
    def changes(self) -> bool:
        """Whether there is something to decide or to keep; questions alone need no transaction."""
        return self.command is not None or bool(self.grants)

    @property
    def given_up(self) -> bool:
        """Whether whoever asked has gone away."""
        return self.future is not None and self.future.done()


_Reply = tuple[asyncio.Future[Any], Any, BaseException | None]
"""What is told to whom; later changes of the request do not reach it."""


def reply(requests: Iterable[Request]) -> None:
    """Give the answers, each in the event loop that waits for it; called from any thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Reply]] = {}
    for request in requests:
        if request.future is not None:
            told = request.future, request.answer, request.error
            by_loop.setdefault(request.future.get_loop(), []).append(told)
    for loop, some in by_loop.items():
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(_resolve, some)


def _resolve(replies: list[_Reply]) -> None:
    for future, answer, error in replies:
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(answer)
