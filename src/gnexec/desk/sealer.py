"""Sealing: events to entries, the tree that grows over them, the checkpoint that commits to them.

The tree here is the right edge only. A batch grows a copy; the copy becomes the tree when the batch has committed, so a
failed commit costs nothing but the copy.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.core.events import AnyEvent
from gnexec.core.refs import refs
from gnexec.errors import CorruptLog
from gnexec.store.contract import Append, Entry, Head, Reader
from gnexec.tlog.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from gnexec.tlog.merkle import leaf_hash
from gnexec.tlog.note import parse_vkey
from gnexec.tlog.proof import consistency_proof, inclusion_proof
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
    """Holds the tree and the log's signing key."""

    def __init__(self, origin: str, key: Ed25519PrivateKey) -> None:
        """Begin with the empty tree.

        Args:
            origin: the log's name.
            key: signs checkpoints.
        """
        self.origin = origin
        self._key = key
        self.tree = Tree()
        self.note = b""

    def check(self, tree: Tree, head: Head, vkey: str) -> None:
        """Hold a tree, grown to the head, against the checkpoint that was stored with it.

        Raises:
            CorruptLog: the entries are not those that the checkpoint commits to.
            ProofError: the checkpoint is not signed by the log's key.
        """
        if head.size:
            checkpoint = open_checkpoint(head.note, [parse_vkey(vkey)], self.origin)
            if (checkpoint.size, checkpoint.root) != (tree.size, tree.root()):
                msg = f"the {tree.size} stored entries are not those that the checkpoint commits to"
                raise CorruptLog(msg)

    def seal(self, events: Sequence[Fresh]) -> tuple[Append, Tree]:
        """Turn decided events into what is to be appended, and the tree that follows.

        Args:
            events: at least one, in order.
        """
        tree = self.tree.copy()
        entries: list[Entry] = []
        filed: list[tuple[bytes, int]] = []
        tiles: list[Tile] = []
        salts = secrets.token_bytes(SALT_BYTES * len(events))
        for i, (at_ms, event, payload) in enumerate(events):
            salt = salts[SALT_BYTES * i : SALT_BYTES * (i + 1)]
            leaf = encode_leaf(at_ms, salt, payload)
            seq = tree.size
            filed.extend((key, seq) for key in refs(event))
            entries.append(Entry(leaf, salt, payload))
            tiles.extend(tree.append(leaf_hash(leaf)))
        note = sign_checkpoint(Checkpoint(self.origin, tree.size, tree.root()), self._key)
        return Append(entries, filed, tiles, note), tree

    def advance(self, tree: Tree, note: bytes) -> None:
        """Take over a tree that the log has committed to."""
        self.tree, self.note = tree, note

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
