"""The log as the desk holds it: a store, the world and the tree folded from it, and the one way to add to it.

`record` takes the append lock, catches up, decides in order of arrival, appends the events with the checkpoint that
commits to them, and commits. Only the writer's thread calls anything here.

Rules:
- World and tree are seen whole or not at all: they are folded aside and held against the checkpoint first.
- After a commit that failed, or whose fate is unknown, both are folded anew; whether the entries are in the log is then
  read off its checkpoint. Start-up is the same path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from gnexec.core.commands import Answer, Done, EndOutage, Lapse, NextJobs, OpenLog, TurnKeys, Verdicts
from gnexec.core.decide import decide
from gnexec.core.events import AnyEvent, Submitted, WorkerEnrolled
from gnexec.core.world import World
from gnexec.desk.clock import Clock
from gnexec.desk.facts import Facts, read
from gnexec.desk.folding import FOLD_CHUNK, Folded, fold_all, fold_on
from gnexec.desk.requests import Request, View
from gnexec.desk.sealer import Fresh, Opened, Sealer
from gnexec.desk.snapshots import Snapshots
from gnexec.errors import BadConfiguration, Conflict, Refused, StoreAway
from gnexec.store.contract import Append, Batch, Content, Entry, Head, Reader, Store
from gnexec.wire import encode_event

log = structlog.get_logger("gnexec.desk")

MOST_NEWS: Final = 10_000
"""Events that were missed and are still told one by one; of more it is only told that there were many."""


class Broken(Exception):
    """A command made the laws raise something other than a refusal; nothing of its batch was appended."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.request = request


class Ledger:
    """Folds the log and adds to it.

    Attributes:
        world: the fold; while `record` runs it holds decisions that are not yet durable.
        stale: whether `world` may differ from the log, so that `refold` is due.
    """

    def __init__(
        self, store: Store, sealer: Sealer, opening: OpenLog, clock: Clock, snapshots: Snapshots | None = None
    ) -> None:
        """Begin before the first entry; `refold` reads the log.

        Args:
            store: open store.
            sealer: with the log's key.
            opening: whose log it must be.
            clock: watches the store's.
            snapshots: of this log; None for none.
        """
        self.world = World()
        self.stale = True
        self._store = store
        self._sealer = sealer
        self._opening = opening
        self._clock = clock
        self._snapshots = snapshots
        self._fresh: dict[int, Entry] = {}
        self._news: list[AnyEvent] = []
        self._many = False
        self._told: int | None = None

    def refold(self) -> None:
        """Throw world and tree away, and fold the log from its newest usable snapshot, else from its first entry.

        Raises:
            BadConfiguration: it is the log of another origin or key, or ends before what was published of it.
            CorruptLog, ProofError: it contradicts itself or its checkpoint.
            StoreAway: no answer.
        """
        promised = self._sealer.promised()
        head = self._store.head()
        if self._told is not None:  # This log was folded here before: what is too short now is told at little cost.
            self._sealer.check_length(promised, head.size)
        folded = fold_all(self._store, head, self._sealer, self._opening, self._snapshots)
        self._sealer.check_promised(promised, folded.tree, self._store)
        self._take_over(folded, head)
        if self._told is not None:
            self._many = head.size - self._told > MOST_NEWS
            self._news = [] if self._many else self._events(self._told, head.size)
        self.stale = False

    def follow(self) -> None:
        """Fold what other processes have appended, without the append lock; nothing where there is nothing new.

        Raises:
            StoreAway: no answer; world and log agree unless `stale`.
            GnexecError: the log cannot be used; `stale`.
        """
        head = self._store.head()
        if head.size > self.world.size:
            self.stale = True
            self._fold(self._store, head, Folded(self.world, self._sealer.tree.copy()))
            self.stale = False

    def news(self) -> list[AnyEvent] | None:
        """Return the events that were committed since this was last asked, whoever decided them; once each, in order.

        What was in the log before the first call is no news.

        Returns:
            None where more than `MOST_NEWS` were missed.
        """
        known, self._told = self._told, self.world.size
        news, self._news = self._news, []
        many, self._many = self._many, False
        if known is None:
            return []
        return None if many else news

    def record(self, requests: Sequence[Request]) -> list[AnyEvent]:
        """Decide what is asked, and append what was decided, in one transaction.

        Args:
            requests: in order of arrival; each is given its answer or its error. Questions are left alone.

        Returns:
            The new events, durable.

        Raises:
            Broken: nothing was appended; `stale`.
            StoreAway: the commit failed; world and log agree again.
            GnexecError: the log, or the store, cannot be used; `stale`.
        """
        fresh: list[Fresh] = []
        append: Append | None = None
        self.stale = True
        try:
            with self._store.batch() as batch:
                self._catch_up(batch)
                at_ms = max(self._clock.read(batch.clock_ms()), self.world.at_ms)
                facts = Facts(batch, self.world)
                for request in requests:
                    if request.command is not None:
                        self._decide(request, at_ms, facts, fresh)
                kept = _named([each.event for each in fresh], requests)
                grants = [grant for request in requests if request.error is None for grant in request.grants]
                if fresh:
                    append, tree = self._sealer.seal(fresh, self.world.keys.in_force())
                    batch.append(append)
                if kept or grants:
                    batch.keep(kept, grants)
        except (StoreAway, Conflict) as err:
            log.warning("the commit failed or its fate is unknown", error=str(err))
            if fresh or self.world.size != self._sealer.tree.size:
                self.refold()
            self.stale = False
            if append is None or self._sealer.note != append.note:
                raise StoreAway(str(err)) from err
        else:
            if append is not None:
                self._sealer.advance(tree, append.note)
                self._fresh = dict(enumerate(append.entries, self.world.size - len(fresh)))
                self._news.extend(each.event for each in fresh)
        self.stale = False
        return [each.event for each in fresh]

    def view(self) -> View:
        """Return what questions may look at."""
        return View(self.world, self._store, self._sealer, self._clock)

    def receipts(self, answer: Answer) -> dict[int, Opened]:
        """Open the entries that hold the results a worker reported, by seq."""
        if not isinstance(answer, Verdicts):
            return {}
        opened = {}
        for seq in {judged.seq for judged in answer.judged if judged.seq >= 0}:
            entry = self._fresh.get(seq) or self._store.entries(seq, seq + 1)[0]
            opened[seq] = self._sealer.open(seq, entry, self._store)
        return opened

    def _catch_up(self, batch: Batch) -> None:
        """Fold what was appended since; nothing where this is the only process."""
        head = batch.head()
        if head.size != self.world.size or head.note != self._sealer.note:
            # The same size under another checkpoint is another log: a database that lost commits, and was written to.
            self._fold(batch, head, Folded(self.world, self._sealer.tree.copy()))

    def _fold(self, reader: Reader, head: Head, folded: Folded) -> None:
        """Fold on up to `head`; take world and tree over when they hold against its checkpoint."""
        many = head.size - folded.world.size > MOST_NEWS
        fold_on(reader, head, folded, self._sealer, self._opening, None if many else self._news)
        self._many |= many
        self._take_over(folded, head)

    def _events(self, start: int, stop: int) -> list[AnyEvent]:
        """Read the events start..stop-1, some at a time."""
        events: list[AnyEvent] = []
        for first in range(start, stop, FOLD_CHUNK):
            entries = self._store.entries(first, min(stop, first + FOLD_CHUNK))
            events += [read(seq, entry)[2] for seq, entry in enumerate(entries, first)]
        return events

    def _take_over(self, folded: Folded, head: Head) -> None:
        self._sealer.advance(folded.tree, head.note)
        self._fresh = {}
        self.world = folded.world

    def _decide(self, request: Request, at_ms: int, facts: Facts, fresh: list[Fresh]) -> None:
        """Give a request its answer or its error, and the world what was decided."""
        request.answer = request.error = None
        try:
            events, request.answer = self._answer(request, at_ms, facts)
            for event in events:
                fresh.append(Fresh(at_ms, event, encode_event(event)))
                facts.note((self.world.size, at_ms, event))
                self.world.apply(event, at_ms)
        except (Refused, BadConfiguration) as err:
            request.error = err
        except (StoreAway, Conflict):
            raise
        except Exception as err:
            raise Broken(request) from err

    def _answer(self, request: Request, at_ms: int, facts: Facts) -> tuple[list[AnyEvent], Answer]:
        keys_missing = self._sealer.keys_missing(self.world.keys)
        match request.command:
            case OpenLog() | TurnKeys() as command:
                return self._turned(command, at_ms)
            case Lapse() | EndOutage() if keys_missing is not None:
                return [], Done()
            case command if command is not None and keys_missing is not None:
                raise Refused("unready", keys_missing, mend="Try again later.")
            case Lapse() if self._clock.trouble is not None:
                return [], Done()
            case NextJobs() if self._clock.trouble is not None:
                raise Refused("unready", self._clock.trouble, mend="Try again later.")
            case None:
                return [], Done()
            case command:
                return decide(self.world, facts.with_facts(command), at_ms)

    def _turned(self, command: OpenLog | TurnKeys, at_ms: int) -> tuple[list[AnyEvent], Answer]:
        """Decide about keys: the one thing that may be decided while some are missing, if it makes them complete.

        Raises:
            BadConfiguration: some are missing still.
        """
        events, answer = decide(self.world, command, at_ms)
        book = self.world.keys
        for seq, event in enumerate(events, self.world.size):
            book = book.after(event, seq)
        missing = self._sealer.keys_missing(book)
        if missing is not None:
            raise BadConfiguration(missing)
        return events, answer

    def keys_missing(self) -> str | None:
        """Say which keys of the log this server has not got, or None if it has all; from any thread."""
        return self._sealer.keys_missing(self.world.keys)


def _named(events: Sequence[AnyEvent], requests: Sequence[Request]) -> list[Content]:
    """Return the contents that the events name."""
    names: set[str] = set()
    for event in events:
        if isinstance(event, Submitted):
            names.update(row.spec for row in event.jobs)
        elif isinstance(event, WorkerEnrolled):
            names.add(event.caps)
    return [c for request in requests for c in request.contents if c.digest.hex() in names]
