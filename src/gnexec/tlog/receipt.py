"""Receipts: that a leaf is in the log, shown offline with the log's public key alone.

A receipt holds the leaf's index, its inclusion proof and the signed checkpoint, not the leaf: who holds both the leaf
and the receipt can show to anyone that the log has committed to it.

This module does not store or send receipts, and does not read what a leaf says.

Source: C2SP tlog-proof.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gnexec.errors import ProofError
from gnexec.tlog.checkpoint import Checkpoint, open_checkpoint, parse_number
from gnexec.tlog.merkle import HASH_SIZE, leaf_hash
from gnexec.tlog.note import MAX_NOTE_SIZE, Verifier, unbase64
from gnexec.tlog.proof import verify_inclusion

HEADER: Final = "c2sp.org/tlog-proof@v1"

MAX_RECEIPT_SIZE: Final = MAX_NOTE_SIZE + 64 * 1024
"""Bytes of the longest receipt that is read: the longest note, the longest proof, and some extra data."""

_HEAD: Final = re.compile(
    rf"{re.escape(HEADER)}\n"
    r"(?:extra (?P<extra>[A-Za-z0-9+/=]+)\n)?"
    r"index (?P<index>[0-9]+)"
    r"(?P<proof>(?:\n[A-Za-z0-9+/=]+)*)"
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """An inclusion proof with the checkpoint that it leads to.

    Attributes:
        index: the leaf's place in the log (seq), 0...
        proof: hashes of 32 bytes, from the leaf's sibling up.
        checkpoint: signed note, verbatim.
        extra: anything at all, authenticated by nothing; empty for none.
    """

    index: int
    proof: Sequence[bytes]
    checkpoint: bytes
    extra: bytes = b""

    def encode(self) -> bytes:
        """Write the receipt in tlog-proof form."""
        lines = [HEADER]
        if self.extra:
            lines.append(f"extra {base64.b64encode(self.extra).decode('ascii')}")
        lines.append(f"index {self.index}")
        lines.extend(base64.b64encode(item).decode("ascii") for item in self.proof)
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.checkpoint


def parse_receipt(data: bytes) -> Receipt:
    """Read a receipt without checking what it shows.

    Raises:
        ProofError: malformed, or over the cap.
    """
    if len(data) > MAX_RECEIPT_SIZE:
        msg = f"the receipt is longer than {MAX_RECEIPT_SIZE} bytes"
        raise ProofError(msg)
    head, blank, checkpoint = data.partition(b"\n\n")
    try:
        found = _HEAD.fullmatch(head.decode("ascii")) if blank else None
        if found is None:
            msg = "the receipt is malformed"
            raise ProofError(msg)
        proof = tuple(map(unbase64, found["proof"].split()))
        extra = unbase64(found["extra"] or "")
    except ValueError as err:
        msg = "the receipt holds a line that is not base64"
        raise ProofError(msg) from err
    if any(len(item) != HASH_SIZE for item in proof):
        msg = f"a hash has {HASH_SIZE} bytes"
        raise ProofError(msg)
    return Receipt(parse_number(found["index"]), proof, checkpoint, extra)


def verify_receipt(receipt: Receipt, leaf: bytes, verifiers: Iterable[Verifier], origin: str) -> Checkpoint:
    """Check that the log `origin` has committed to `leaf` at the receipt's index.

    Args:
        receipt: as `parse_receipt` returns it.
        leaf: the leaf's exact bytes.
        verifiers: the log's keys, and witnesses if any are known.
        origin: the log that is trusted to have it.

    Returns:
        The checkpoint, its signature checked.

    Raises:
        ProofError: the receipt does not show it.
    """
    checkpoint = open_checkpoint(receipt.checkpoint, verifiers, origin)
    verify_inclusion(leaf_hash(leaf), receipt.index, checkpoint.size, receipt.proof, checkpoint.root)
    return checkpoint
