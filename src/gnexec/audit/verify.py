"""All checks of a log, in one pass over its entries, in memory that does not grow with it.

Which of TRUST.md's checks are here: (1) the checkpoint's signature, and witnesses' where some are named; (2) that the
log continues the checkpoint that the auditor kept; (3) the root, from the entries; (4) workers' signatures
(`statements`), and that checkpoints are signed by the log keys in force, each of which was vouched for by the one
before; (5) and (6) decisions and rules (`rules`). Re-execution, (7), needs the contents of jobs, which nobody outside
has.

The key that is trusted may be any that the log has had: from there the log is followed to its newest.

Two levels are reached. *Integrity* needs leaves alone: nothing was changed, dropped, reordered or cut off, and time
never goes back. *Full* needs every payload as well: what the log says also keeps its own rules. With payloads withheld,
those that are there are still held against their leaves and signatures, and the rules are applied up to the first gap.

This module reads no file, network or clock, and prints nothing. A check that fails raises, and names the first bad
entry where it can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gnexec.audit.lines import Header, Record, Seal
from gnexec.audit.rules import Rules
from gnexec.audit.statements import Statements
from gnexec.core.events import AnyEvent, Equivocated, ResultsReported, WorkerEnrolled
from gnexec.core.keybook import KeyBook, LogKey
from gnexec.errors import CorruptLog, IllegalTransition, ProofError
from gnexec.tlog.checkpoint import Checkpoint, cosignature_times, open_checkpoint
from gnexec.tlog.merkle import leaf_hash
from gnexec.tlog.note import Verifier, parse_vkey
from gnexec.tlog.tiles import Tree
from gnexec.wire import Leaf, decode_leaf, open_payload

STEP: Final = 1000
"""Entries between two reports of progress."""


class Level(StrEnum):
    """How much was checked."""

    INTEGRITY = "integrity"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Verified:
    """What a log was shown to be.

    Attributes:
        note: its signed checkpoint.
        checkpoint: the same, read.
        level: how much was checked.
        withheld: payloads that were not shown.
        ruled: entries, from the first on, that the rules were applied to.
        statements: workers' signatures that were verified.
        unknown_signers: statements of workers whose enrolment is withheld, so not verified.
        first_ms: time of the first entry; last_ms: of the last.
        continues: size of the kept checkpoint that it continues, or None where none was kept.
        witnesses: when each witness asked for has cosigned, POSIX seconds, by name.
        keys: the log's keys, oldest first, retired ones too; as far as the entries about them were shown.
    """

    note: bytes
    checkpoint: Checkpoint
    level: Level
    withheld: int
    ruled: int
    statements: int
    unknown_signers: int
    first_ms: int
    last_ms: int
    continues: int | None
    witnesses: dict[str, int]
    keys: tuple[LogKey, ...] = ()


def verify(
    header: Header,
    items: Iterable[Record | Seal],
    key: Verifier,
    *,
    kept: Checkpoint | None = None,
    kept_note: bytes | None = None,
    witnesses: Sequence[Verifier] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> Verified:
    """Check a log.

    Args:
        header: what the log says of itself.
        items: its entries from the first on, and its seal.
        key: a key of the log, new or old, trusted.
        kept: newest checkpoint that was verified before, or None.
        kept_note: the same with its signatures, which must be those of keys that this log had then.
        witnesses: keys of witnesses, each of which must have cosigned the checkpoint.
        progress: told how many entries are checked, now and then.

    Raises:
        CorruptLog: an entry, or the log as a whole, is not what it must be; names the first bad entry where it can.
        ProofError: the checkpoint is not signed by the log, or not by a witness.
    """
    check = _Check(header, key, kept, kept_note)
    try:
        for item in items:
            if isinstance(item, Seal):
                return check.seal(item.note, witnesses)
            check.take(item)
            if check.size % STEP == 0:
                progress(check.size)
        msg = "the log breaks off before its checkpoint; this entry and all after it are missing"
        raise CorruptLog(msg, seq=check.size)
    finally:
        check.close()


class _Check:
    """A verification under way; `size` entries are checked."""

    def __init__(self, header: Header, key: Verifier, kept: Checkpoint | None, kept_note: bytes | None) -> None:
        if header.origin != key.name:
            msg = f"the log says that it is {header.origin!r}, not {key.name!r} as its key does"
            raise CorruptLog(msg)
        self._header = header
        self._key = key
        self._kept = kept
        self._kept_note = kept_note
        self._book = KeyBook()
        self._tree = Tree()
        self._statements = Statements(key.name)
        self._rules: Rules | None = Rules(key.name)
        self._kept_root: bytes | None = None
        self._ruled = self._withheld = 0
        self._first_ms = self._last_ms = 0
        self.size = 0
        self._pass_kept()

    def take(self, record: Record) -> None:
        """Check the next entry."""
        seq = self.size
        if record.seq != seq:
            if record.seq > seq:
                msg = f"the entry is missing: entry {record.seq} stands in its place"
            else:
                msg = f"entry {record.seq} stands in its place once more"
            raise CorruptLog(msg, seq=seq)
        hashed = leaf_hash(record.leaf)
        if record.h is not None and record.h != hashed:
            msg = "the leaf is not the one whose hash was kept"
            raise CorruptLog(msg, seq=seq)
        try:
            leaf = decode_leaf(record.leaf)
            self._pass_time(leaf.at)
            self._payload(leaf, record)
        except CorruptLog as err:
            raise type(err)(err.reason, seq=seq) from err
        self._tree.append(hashed)
        self.size = seq + 1
        self._pass_kept()

    def seal(self, note: bytes, witnesses: Sequence[Verifier]) -> Verified:
        """Check the log as a whole."""
        checkpoint = open_checkpoint(note, self._signers(), self._key.name, every=not self._withheld)
        times = cosignature_times(note, witnesses)
        absent = sorted({witness.name for witness in witnesses} - times.keys())
        if absent:
            msg = f"the checkpoint is not cosigned by {', '.join(absent)}"
            raise ProofError(msg)
        self._check_kept()
        self._check_size(checkpoint)
        self._check_roots(checkpoint)
        if not self._withheld and self._rules is not None:
            self._rules.finish()
        return Verified(
            note=note,
            checkpoint=checkpoint,
            level=Level.INTEGRITY if self._withheld else Level.FULL,
            withheld=self._withheld,
            ruled=self._ruled,
            statements=self._statements.checked,
            unknown_signers=self._statements.unknown,
            first_ms=self._first_ms,
            last_ms=self._last_ms,
            continues=self._kept.size if self._kept is not None else None,
            witnesses=times,
            keys=self._book.log,
        )

    def close(self) -> None:
        """Free what the rules hold."""
        if self._rules is not None:
            self._rules.close()
            self._rules = None

    def _payload(self, leaf: Leaf, record: Record) -> None:
        """Check what an entry says, if it is shown; without it, the rules cannot be followed any further."""
        if record.salt is None or record.payload is None:
            self._withheld += 1
            self.close()
            return
        event = open_payload(leaf, record.salt, record.payload)
        claims = None
        if isinstance(event, WorkerEnrolled):
            self._statements.enrol(event)
        elif isinstance(event, ResultsReported | Equivocated):
            claims = self._statements.check(event)
        self._note_key(event)
        if self._rules is not None:
            self._rules.take(leaf.at, event, claims)
            self._ruled += 1

    def _note_key(self, event: AnyEvent) -> None:
        """Follow the log's keys; behind a gap, what does not fit may have its reason there, and counts for nothing."""
        try:
            self._book = self._book.after(event, self.size)
        except IllegalTransition as err:
            if not self._withheld:
                raise CorruptLog(str(err)) from err

    def _signers(self) -> list[Verifier]:
        """Return the keys that must have signed the checkpoint, having made sure that the trusted one leads to them."""
        had = [key.vkey for key in self._book.log]
        if self._key.vkey not in had:
            if self._withheld:
                return [self._key]  # Its entry may be among those that are withheld; then it has to have signed itself.
            words = "key is" if len(had) == 1 else "keys are"
            msg = (
                f"the log says that its {words} {', '.join(had)}, not {self._key.vkey} as trusted here (a copy that "
                "was made before that key is verified with the one before it)"
            )
            raise CorruptLog(msg, seq=0)
        if self._header.vkey not in had:
            msg = f"the log says that its key is {self._header.vkey}, and has never had it"
            raise CorruptLog(msg)
        since = had.index(self._key.vkey)
        in_force = [vkey for vkey in self._book.in_force() if not self._withheld or had.index(vkey) >= since]
        return [parse_vkey(vkey) for vkey in in_force]

    def _check_kept(self) -> None:
        """Make sure that the kept checkpoint was signed by a key of this log: else another key was trusted then."""
        if self._kept is None or self._kept_note is None:
            return
        then = {*self._book.in_force(self._kept.size)} or {self._key.vkey}
        try:
            open_checkpoint(self._kept_note, [parse_vkey(vkey) for vkey in then], self._key.name)
        except ProofError as err:
            msg = (
                f"the checkpoint kept from an earlier verification is not signed by a key that this log had then "
                f"({err}). Either the log's key was changed without the old one's word, which must never happen, or "
                "another one was given before"
            )
            raise ProofError(msg) from err

    def _pass_time(self, at_ms: int) -> None:
        if at_ms < self._last_ms:
            msg = f"time goes back from {self._last_ms} to {at_ms}"
            raise CorruptLog(msg)
        self._first_ms = self._first_ms if self.size else at_ms
        self._last_ms = at_ms

    def _pass_kept(self) -> None:
        """Take the root where the kept checkpoint was made."""
        if self._kept is not None and self._kept.size == self.size:
            self._kept_root = self._tree.root()

    def _check_size(self, checkpoint: Checkpoint) -> None:
        if self._kept is not None and checkpoint.size < self._kept.size:
            msg = (
                f"the log was cut back: it has {checkpoint.size} entries, and had {self._kept.size} when it was "
                "verified before (or this is an older copy of it); this entry is the first that is missing"
            )
            raise CorruptLog(msg, seq=checkpoint.size)
        if self.size < checkpoint.size:
            msg = f"the entry is missing: the checkpoint commits to {checkpoint.size} entries, {self.size} are here"
            raise CorruptLog(msg, seq=self.size)
        if self.size > checkpoint.size:
            msg = f"the entry lies beyond the {checkpoint.size} that the checkpoint commits to"
            raise CorruptLog(msg, seq=checkpoint.size)
        if self._header.size != checkpoint.size:
            msg = f"the log says that it has {self._header.size} entries; its checkpoint commits to {checkpoint.size}"
            raise CorruptLog(msg)

    def _check_roots(self, checkpoint: Checkpoint) -> None:
        whole = self._tree.root() == checkpoint.root
        forked = self._kept is not None and self._kept_root != self._kept.root
        if self._kept is not None and whole and forked:
            msg = (
                f"the log was rewritten: its first {self._kept.size} entries are not those that it committed to when "
                "it was verified before; two signed checkpoints of one log contradict each other"
            )
            raise CorruptLog(msg)
        if not whole:
            known = self._kept.size if self._kept is not None and not forked else 0
            msg = (
                f"the entries are not those that the checkpoint commits to; the first bad one is {known} or a later one"
            )
            raise CorruptLog(msg, seq=known if self.size == known + 1 else None)
