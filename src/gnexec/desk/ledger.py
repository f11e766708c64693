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

from gnexec.core.commands import Answer, Done, Lapse, NextJobs, OpenLog, Verdicts
from gnexec.core.decide import decide
from gnexec.core.events import AnyEvent, Submitted, WorkerEnrolled
from gnexec.core.world import World
from gnexec.desk.clock import Clock
from gnexec.desk.facts import Facts, read
from gnexec.desk.requests import Request, View
from gnexec.desk.sealer import Fresh, Opened, Sealer
from gnexec.errors import BadConfiguration, Conflict, CorruptLog, GnexecError, Refused, StoreAway
from gnexec.store.contract import Append, Batch, Content, Entry, Head, Store
from gnexec.tlog.merkle import leaf_hash
from gnexec.tlog.tiles import Tree
from gnexec.wire import encode_event

log = structlog.get_logger("gnexec.desk")

FOLD_CHUNK: Final = 2_000
"""Entries read from the store at one time while folding."""


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

    def __init__(self, store: Store, sealer: Sealer, opening: OpenLog, clock: Clock) -> None:
        """Begin before the first entry; `refold` reads the log.

        Args:
            store: open store.
            sealer: with the log's key.
            opening: whose log it must be.
            clock: watches the store's.
        """
        self.world = World()
        self.stale = True
        self._store = store
        self._sealer = sealer
        self._opening = opening
        self._clock = clock
        self._fresh: dict[int, Entry] = {}

    def refold(self) -> None:
        """Throw world and tree away, and fold the log from its first entry.

        Raises:
            BadConfiguration: it is the log of another origin or key.
            CorruptLog, ProofError: it contradicts itself or its checkpoint.
            StoreAway: no answer.
        """
        self._fold(self._store, self._store.head(), World(), Tree())
        self.stale = False

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
                    append, tree = self._sealer.seal(fresh)
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
        if head.size != self.world.size:
            self._fold(batch, head, self.world, self._sealer.tree.copy())

    def _fold(self, reader: Store | Batch, head: Head, world: World, tree: Tree) -> None:
        """Fold up to `head`; take world and tree over when they hold against its checkpoint."""
        while world.size < head.size:
            entries = reader.entries(world.size, min(head.size, world.size + FOLD_CHUNK))
            if not entries:
                msg = "the log ends before its head"
                raise CorruptLog(msg, seq=world.size)
            for entry in entries:
                _apply(world, entry)
                tree.append(leaf_hash(entry.leaf))
        if head.size:
            decide(world, self._opening, world.at_ms)  # Another server's log: say so, not that its signature is bad.
        self._sealer.check(tree, head, self._opening.vkey)
        self._sealer.advance(tree, head.note)
        self._fresh = {}
        self.world = world

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
        match request.command:
            case Lapse() if self._clock.trouble is not None:
                return [], Done()
            case NextJobs() if self._clock.trouble is not None:
                raise Refused("unready", self._clock.trouble, mend="Try again later.")
            case None:
                return [], Done()
            case command:
                return decide(self.world, facts.with_facts(command), at_ms)


def _apply(world: World, entry: Entry) -> None:
    """Apply a stored entry.

    Raises:
        CorruptLog: it does not fit; names its seq.
    """
    seq = world.size
    try:
        _, at_ms, event = read(seq, entry)
        world.apply(event, at_ms)
    except CorruptLog:
        raise
    except (GnexecError, LookupError, ValueError) as err:
        raise CorruptLog(str(err), seq=seq) from err


def _named(events: Sequence[AnyEvent], requests: Sequence[Request]) -> list[Content]:
    """Return the contents that the events name."""
    names: set[str] = set()
    for event in events:
        if isinstance(event, Submitted):
            names.update(row.spec for row in event.jobs)
        elif isinstance(event, WorkerEnrolled):
            names.add(event.caps)
    return [c for request in requests for c in request.contents if c.digest.hex() in names]
