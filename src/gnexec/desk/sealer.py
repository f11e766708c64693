"""Sealing: events to entries, the tree that grows over them, the checkpoint that commits to them.

The tree here is the right edge only. A batch grows a copy; the copy becomes the tree when the batch has committed, so a
failed commit costs nothing but the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.core.events import AnyEvent
from gnexec.core.keybook import KeyBook
from gnexec.core.refs import refs
from gnexec.desk.draws import draw
from gnexec.desk.held import Held
from gnexec.errors import BadConfiguration, CorruptLog, ProofError
from gnexec.store.contract import Append, Entry, Head, Reader
from gnexec.store.published import Published
from gnexec.tlog.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from gnexec.tlog.merkle import leaf_hash
from gnexec.tlog.note import parse_vkey
from gnexec.tlog.proof import consistency_proof, inclusion_proof, verify_consistency
from gnexec.tlog.receipt import Receipt
from gnexec.tlog.tiles import Tile, TileName, Tree
from gnexec.wire import SALT_BYTES, encode_leaf


@dataclass(frozen=True, slots=True)
class Opened:
    """An entry that is opened to someone, with the proof that the log holds it.

    Attributes:
        seq: its place. entry: leaf, salt and payload. proof: C2SP tlog-proof, checkpoint included.
    """

    seq: int
    entry: Entry
    proof: bytes


class Fresh(NamedTuple):
    """An event that was decided and is yet to be sealed: its time, and its exact bytes."""

    at_ms: int
    event: AnyEvent
    payload: bytes


class Sealer:
    """Holds the tree and the log's signing keys.

    Attributes:
        held: the keys; another one is put in its place when they turn.
        renew: looks whether there are newer keys than those held, and puts them there; None where there can be none.
        published: the newest checkpoint that was shown to anybody; None where nobody keeps it.
    """

    def __init__(self, origin: str, *keys: Ed25519PrivateKey) -> None:
        """Begin with the empty tree.

        Args:
            origin: the log's name.
            keys: sign checkpoints.
        """
        self.origin = origin
        self.held = Held(origin, keys)
        self.renew: Callable[[], bool] | None = None
        self.published: Published | None = None
        self.tree = Tree()
        self.note = b""

    def keys_missing(self, book: KeyBook) -> str | None:
        """Say which keys of the log are not held, even after a look for newer ones; None if none is."""
        missing = self.held.trouble(book)
        if missing is not None and self.renew is not None and self.renew():
            missing = self.held.trouble(book)
        return missing

    def check(self, tree: Tree, head: Head, vkeys: Sequence[str]) -> None:
        """Hold a tree, grown to the head, against the checkpoint that was stored with it.

        Args:
            tree: over all entries.
            head: as stored.
            vkeys: the log's keys in force there, each of which must have signed.

        Raises:
            CorruptLog: the entries are not those that the checkpoint commits to.
            ProofError: the checkpoint is not signed by the log's keys.
        """
        if head.size:
            checkpoint = open_checkpoint(head.note, [parse_vkey(vkey) for vkey in vkeys], self.origin, every=True)
            if (checkpoint.size, checkpoint.root) != (tree.size, tree.root()):
                msg = f"the {tree.size} stored entries are not those that the checkpoint commits to"
                raise CorruptLog(msg)

    def seal(self, events: Sequence[Fresh], vkeys: Sequence[str] | None = None) -> tuple[Append, Tree]:
        """Turn decided events into what is to be appended, and the tree that follows.

        Args:
            events: at least one, in order.
            vkeys: the log's keys in force after them, each of which signs; None for all that are held.
        """
        tree = self.tree.copy()
        entries: list[Entry] = []
        filed: list[tuple[bytes, int]] = []
        tiles: list[Tile] = []
        salts = draw(SALT_BYTES * len(events))
        for i, (at_ms, event, payload) in enumerate(events):
            salt = salts[SALT_BYTES * i : SALT_BYTES * (i + 1)]
            leaf = encode_leaf(at_ms, salt, payload)
            seq = tree.size
            filed.extend((key, seq) for key in refs(event))
            entries.append(Entry(leaf, salt, payload))
            tiles.extend(tree.append(leaf_hash(leaf)))
        note = sign_checkpoint(Checkpoint(self.origin, tree.size, tree.root()), *self.held.of(vkeys))
        return Append(entries, filed, tiles, note), tree

    def advance(self, tree: Tree, note: bytes) -> None:
        """Take over a tree that the log has committed to."""
        self.tree, self.note = tree, note
        if self.published is not None:
            self.published.keep(note)

    def promised(self) -> Checkpoint | None:
        """Return the newest checkpoint that was shown to anybody, or None; to be asked before the head is read."""
        return self.published.newest() if self.published is not None else None

    def check_promised(self, newest: Checkpoint | None, tree: Tree, reader: Reader) -> None:
        """Make sure that a tree goes on from the newest checkpoint that was shown to anybody.

        Args:
            newest: that checkpoint.
            tree: over all entries.
            reader: has its full tiles.

        Raises:
            BadConfiguration: it ends before, or has another history: it may not be served.
        """
        if newest is None or self.published is None:
            return
        self.check_length(newest, tree.size)
        if not _follows(newest, tree, reader):
            fault = f"The log is another one than that of which a checkpoint of {newest.size} entries was published"
            raise _second_history(fault, self.published)

    def check_length(self, newest: Checkpoint | None, size: int) -> None:
        """Make sure that a log of `size` entries can go on from the newest checkpoint that was shown to anybody.

        Raises:
            BadConfiguration: it ends before, or that checkpoint is of a log with another name.
        """
        if newest is None or self.published is None:
            return
        if newest.origin != self.origin:
            msg = (
                f"{self.published.path} is a checkpoint of the log {newest.origin}, and this is {self.origin}: "
                "give the new log a data folder of its own."
            )
            raise BadConfiguration(msg)
        if newest.size > size:
            fault = f"The log has {size} entries, and a checkpoint of {newest.size} was published"
            raise _second_history(fault, self.published)

    def open(self, seq: int, entry: Entry, store: Reader) -> Opened:
        """Make the receipt of an entry under the newest checkpoint."""
        node = partial(self.tree.node, read_tile=store.tile)
        proof = inclusion_proof(seq, self.tree.size, node)
        return Opened(seq, entry, Receipt(seq, proof, self.note).encode())

    def consistency(self, old: int, store: Reader) -> list[bytes]:
        """Prove that the tree of `old` entries is a prefix of the newest.

        Raises:
            ProofError: the tree has never had that size.
        """
        return consistency_proof(old, self.tree.size, partial(self.tree.node, read_tile=store.tile))

    def tile(self, name: TileName, store: Reader) -> bytes | None:
        """Return a tile of hashes, full or partial, or None where the tree has not grown that far."""
        return self.tree.tile(name, store.tile)


def _second_history(fault: str, published: Published) -> BadConfiguration:
    """Return the error for a log that does not go on from what was published."""
    return BadConfiguration(
        f"{fault} ({published.path}): it comes from an old backup, or its newest entries are lost. "
        "To serve it would make a second history. Restore a newer backup, or keep it as an archive and begin "
        "another log: docs/operate.md, 'A backup that is too short'."
    )


def _follows(old: Checkpoint, tree: Tree, reader: Reader) -> bool:
    """Tell whether a tree has the history that a checkpoint commits to, which is of no more entries."""
    try:
        proof = consistency_proof(old.size, tree.size, partial(tree.node, read_tile=reader.tile))
        verify_consistency(old.size, tree.size, proof, old.root, tree.root())
    except ProofError:
        return False
    return True
