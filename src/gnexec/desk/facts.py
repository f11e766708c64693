"""Facts that a decision needs and the world no longer holds, looked up under the append lock.

A closed job, a closed hand-out, the job of a digest, the request of an idempotency key: each is found by its own
entries and folded from them. Entries that the running batch has decided but not yet appended count too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gnexec.core.commands import Accepted, Cancel, Command, Past, Progress, Report, Submit
from gnexec.core.events import AnyEvent, RefusalNoted, Submitted
from gnexec.core.job import Job, fold
from gnexec.core.refs import digest_key, idempotency_key, job_key, refs
from gnexec.core.world import World
from gnexec.errors import CorruptLog
from gnexec.store.contract import Entry, Reader
from gnexec.wire import open_entry

Told = tuple[int, int, AnyEvent]
"""(seq, at_ms, event)."""


def read(seq: int, entry: Entry) -> Told:
    """Read an entry that the store gave; its payload must be the one that the leaf commits to.

    Raises:
        CorruptLog: it is not; names `seq`.
        UnknownEvent: it was written by a newer gnexec; names `seq`.
    """
    try:
        at_ms, event = open_entry(entry.leaf, entry.salt, entry.payload)
    except CorruptLog as err:
        raise type(err)(err.reason, seq=seq) from err
    return seq, at_ms, event


class Facts:
    """Looks things up in the store, and in what the running batch has decided."""

    def __init__(self, reader: Reader, world: World) -> None:
        """Begin with nothing pending.

        Args:
            reader: the open batch, or the store itself where nothing is being decided.
            world: folded to the batch's head, pending events included.
        """
        self._reader = reader
        self._world = world
        self._noted: list[Told] = []
        self._pending: dict[bytes, list[Told]] = {}
        self._read: dict[int, Told] = {}

    def note(self, told: Told) -> None:
        """Count an event that is decided but not yet appended; filed only when something is looked up."""
        self._noted.append(told)

    def story(self, key: bytes) -> list[Told]:
        """Return everything filed under `key`, in order."""
        for told in self._noted:
            for ref in refs(told[2]):
                self._pending.setdefault(ref, []).append(told)
        self._noted.clear()
        return [self._told(seq, entry) for seq, entry in self._reader.story(key)] + self._pending.get(key, [])

    def job(self, job_id: int) -> Job | None:
        """Return a job, open or closed, or None if there never was one."""
        if not 1 <= job_id < self._world.next_job:
            return None
        return self._world.jobs.get(job_id) or fold(job_id, self.story(job_key(job_id)))

    def with_facts(self, command: Command) -> Command:
        """Return the command with the facts that its decision needs."""
        match command:
            case Submit():
                return replace(command, known=self._known(command), repeated=self._repeated(command))
            case Progress():
                return replace(command, past=self._past(command.jti, command.pairs, [command.job]))
            case Report():
                return replace(command, past=self._past(command.jti, command.pairs, [r.job for r in command.results]))
            case Cancel():
                return replace(command, past=Past(jobs=self._closed(command.jobs)))
            case _:
                return command

    def _told(self, seq: int, entry: Entry) -> Told:
        """Read an entry once, however many stories it is part of."""
        told = self._read.get(seq)
        if told is None:
            told = self._read[seq] = read(seq, entry)
        return told

    def _closed(self, jobs: Iterable[int]) -> dict[int, Job]:
        wanted = [job for job in jobs if job not in self._world.jobs]
        return {job: found for job in wanted if (found := self.job(job)) is not None}

    def _past(self, jti: str, pairs: tuple[tuple[int, int], ...], jobs: Iterable[int]) -> Past:
        closed = self._closed(jobs)
        if jti in self._world.hand_outs:
            return Past(jobs=closed)
        story = self.story(job_key(pairs[0][0]))
        noted = {event.code for _, _, event in story if isinstance(event, RefusalNoted) and event.jti == jti}
        return Past(frozenset(noted), closed)

    def _known(self, command: Submit) -> dict[str, Job]:
        known: dict[str, Job] = {}
        for digest in {request.digest for request in command.jobs if not request.force}:
            newest = 0
            for _, _, event in self.story(digest_key(command.project, digest)):
                if isinstance(event, Submitted):
                    newest = max(event.first + i for i, row in enumerate(event.jobs) if row.digest == digest)
            job = self.job(newest) if newest else None
            if job is not None:
                known[digest] = job
        return known

    def _repeated(self, command: Submit) -> tuple[str, Accepted] | None:
        if command.key is None:
            return None
        for _, _, event in self.story(idempotency_key(command.key)):
            if isinstance(event, Submitted):
                return event.body, Accepted.of(event)
        return None
