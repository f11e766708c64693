"""Receipts: made for any entry, and checked offline with the log's public key alone.

A receipt is the JSON that servers hand out (`gnexec.shapes.ReceiptView`): an entry, and the proof that the log has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from gnexec.audit.lines import Record
from gnexec.audit.logkeys import signed_at
from gnexec.audit.source import Provable
from gnexec.core.events import AnyEvent
from gnexec.errors import BadConfiguration, CorruptLog, ProofError
from gnexec.shapes import LogKeyView, ReceiptView
from gnexec.tlog.checkpoint import Checkpoint, parse_checkpoint
from gnexec.tlog.merkle import leaf_hash
from gnexec.tlog.note import Verifier, parse_note, parse_vkey
from gnexec.tlog.proof import inclusion_proof, verify_inclusion
from gnexec.tlog.receipt import Receipt, parse_receipt, verify_receipt
from gnexec.wire import decode_leaf, open_payload


@dataclass(frozen=True, slots=True)
class Shown:
    """What a receipt shows.

    Attributes:
        seq: the entry's place. at_ms: its time.
        event: what it says, or None where the receipt does not open it.
        checkpoint: the log's, which commits to it.
    """

    seq: int
    at_ms: int
    event: AnyEvent | None
    checkpoint: Checkpoint


def prove(log: Provable, seq: int) -> ReceiptView:
    """Make the receipt of an entry under the newest checkpoint.

    Args:
        log: a server's log or a store.
        seq: the entry.

    Returns:
        The receipt; salt and payload are empty where they are withheld. Its signature is not verified.

    Raises:
        BadConfiguration: there is no such entry.
        CorruptLog: the log's entries, tiles and checkpoint do not fit together.
        ProofError: the checkpoint is malformed.
    """
    size = log.header.size
    record = next((item for item in log.items(seq) if isinstance(item, Record)), None) if 0 <= seq < size else None
    if record is None:
        msg = f"The log has the entries 0 to {size - 1}; there is no entry {seq}."
        raise BadConfiguration(msg)
    proof = inclusion_proof(seq, size, log.node)
    checkpoint = parse_checkpoint(parse_note(log.note).text)
    try:
        verify_inclusion(leaf_hash(record.leaf), seq, checkpoint.size, proof, checkpoint.root)
        return ReceiptView(
            log=log.header.origin,
            seq=seq,
            leaf=record.leaf.decode(),
            salt=(record.salt or b"").hex(),
            payload=(record.payload or b"").decode(),
            proof=Receipt(seq, proof, log.note).encode().decode(),
        )
    except (ProofError, UnicodeDecodeError) as err:
        msg = f"its place under the log's own checkpoint cannot be proved: {err}"
        raise CorruptLog(msg, seq=seq) from err


def read_receipts(data: bytes) -> list[ReceiptView]:
    """Read the receipts in a file: one, a list of them, or a server's answer that has `receipt` or `receipts` in it.

    Raises:
        ProofError: there is none.
    """
    try:
        found = msgspec.json.decode(data)
        if isinstance(found, dict):
            inner = found.get("receipts", found.get("receipt", found))
            found = inner if isinstance(inner, list) else [inner]
        receipts = msgspec.convert(found, list[ReceiptView])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        msg = f"this is no receipt: {err}"
        raise ProofError(msg) from err
    if not receipts:
        msg = "there is no receipt in it"
        raise ProofError(msg)
    return receipts


def check_receipt(receipt: ReceiptView, key: Verifier, history: Sequence[LogKeyView] = ()) -> Shown:
    """Check that the log of `key` has committed to the entry of a receipt.

    Args:
        receipt: what it is.
        key: the log's, trusted.
        history: further keys of the log that are trusted, and when each was in force: a checkpoint of a size at which
            its key was not in force counts for nothing, since the key may have been stolen later.

    Raises:
        ProofError: the receipt does not show it.
        CorruptLog: the entry is not what its leaf commits to.
    """
    if receipt.log != key.name:
        msg = f"the receipt is of the log {receipt.log!r}, and the key of {key.name!r}"
        raise ProofError(msg)
    proof = parse_receipt(receipt.proof.encode())
    if proof.index != receipt.seq:
        msg = f"the proof is of entry {proof.index}, not of entry {receipt.seq}"
        raise ProofError(msg)
    leaf = receipt.leaf.encode()
    checkpoint = verify_receipt(proof, leaf, _signers(proof, key, history), key.name)
    read = decode_leaf(leaf)
    event = None
    if receipt.salt or receipt.payload:
        try:
            salt = bytes.fromhex(receipt.salt)
        except ValueError as err:
            msg = "the receipt's salt is not hexadecimal"
            raise ProofError(msg) from err
        event = open_payload(read, salt, receipt.payload.encode())
    return Shown(receipt.seq, read.at, event, checkpoint)


def _signers(proof: Receipt, key: Verifier, history: Sequence[LogKeyView]) -> list[Verifier]:
    """Return the keys that were in force for the checkpoint of a receipt, by its own word for its size.

    Raises:
        ProofError: the checkpoint is malformed, or a key is.
    """
    if not history:
        return [key]
    size = parse_checkpoint(parse_note(proof.checkpoint).text).size
    try:
        return [parse_vkey(each.vkey) for each in history if signed_at(each, size)]
    except ValueError as err:
        raise ProofError(str(err)) from err
