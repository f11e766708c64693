"""Checkpoints: the signed head of a log's tree, as a note of three lines (origin, size, root).

This module does not decide which checkpoint may be signed: whoever signs must never sign a smaller or an inconsistent
one, and whoever reads must check a new one against the newest that it holds (`proof.verify_consistency`).

Source: C2SP tlog-checkpoint; C2SP tlog-cosignature for witnesses.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.errors import ProofError
from gnexec.tlog.merkle import EMPTY_ROOT, HASH_SIZE
from gnexec.tlog.note import SignatureKind, Verifier, cosignature_time, open_note, parse_note, sign, unbase64

MAX_SIZE: Final = 2**63 - 1
"""Largest tree size that every reader can hold (Go's int64)."""

_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log's tree.

    Attributes:
        origin: the log's identity; one line, not empty.
        size: leaves in the tree, 0..2**63 - 1.
        root: 32 bytes, RFC 6962 root of that tree.
        extensions: further lines, not empty; ours have none, and nothing may be concluded from those of others.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The note's text."""
        root = base64.b64encode(self.root).decode("ascii")
        return "".join(f"{line}\n" for line in (self.origin, self.size, root, *self.extensions))


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint from a note's text; says nothing about who signed it.

    Raises:
        ProofError: malformed, or not in canonical form (leading zeros, stray bits in the base64).
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop() != "" or not all(lines):
        msg = "a checkpoint has three lines or more, none of them empty"
        raise ProofError(msg)
    origin, size, encoded, *extensions = lines
    try:
        root = unbase64(encoded)
    except ValueError as err:
        msg = "the checkpoint's root is not base64"
        raise ProofError(msg) from err
    checkpoint = Checkpoint(origin, parse_number(size), root, tuple(extensions))
    if len(root) != HASH_SIZE or (checkpoint.size == 0 and root != EMPTY_ROOT):
        msg = "the checkpoint's root cannot be that of such a tree"
        raise ProofError(msg)
    return checkpoint


def sign_checkpoint(checkpoint: Checkpoint, *private_keys: Ed25519PrivateKey) -> bytes:
    """Sign a checkpoint as the log that it names, with each of its keys: their name is the origin.

    Raises:
        ValueError: the checkpoint would not be read back as it is, its origin cannot be a key name, or there is no key.
    """
    try:
        readable = parse_checkpoint(checkpoint.text) == checkpoint
    except ProofError as err:
        raise ValueError(str(err)) from err
    if not readable:
        msg = "a line of the checkpoint holds a newline"
        raise ValueError(msg)
    return sign(checkpoint.text, checkpoint.origin, *private_keys)


def open_checkpoint(data: bytes, verifiers: Iterable[Verifier], origin: str, *, every: bool = False) -> Checkpoint:
    """Read a signed checkpoint of the log `origin`.

    Args:
        data: the signed note.
        verifiers: the log's keys, and witnesses if any are known. Witnesses alone do not make a checkpoint.
        origin: the log that is asked for.
        every: whether each of the log's keys must have signed, rather than one of them.

    Raises:
        ProofError: malformed, of another log, not signed by a key of the log, or a known key's signature is bad.
    """
    keys = tuple(verifiers)
    note = open_note(data, keys)
    logs = {(key.name, key.key_id) for key in keys if key.kind is SignatureKind.ED25519}
    signed = logs & {(signature.name, signature.key_id) for signature in note.verified}
    if every and (absent := sorted(f"{name}+{key_id.hex()}" for name, key_id in logs - signed)):
        msg = f"the checkpoint is not signed by {', '.join(absent)}"
        raise ProofError(msg)
    if not signed:
        msg = "the checkpoint is not signed by a key of the log"
        raise ProofError(msg)
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != origin:
        msg = f"the checkpoint is of another log: {checkpoint.origin!r}, not {origin!r}"
        raise ProofError(msg)
    return checkpoint


def cosignature_times(data: bytes, witnesses: Iterable[Verifier]) -> dict[str, int]:
    """Return when each of `witnesses` cosigned a note, by key name, as POSIX seconds; absent ones are left out.

    Args:
        data: the signed note; the log's own signature is `open_checkpoint`'s to check.
        witnesses: keys of kind COSIGNATURE, one for each name. Where one signed twice, its latest time counts.

    Raises:
        ProofError: malformed, or a witness's signature does not verify.
    """
    known = {(key.name, key.key_id): key for key in witnesses if key.kind is SignatureKind.COSIGNATURE}
    note = parse_note(data)
    times: dict[str, int] = {}
    for signature in note.unknown:
        by = known.get((signature.name, signature.key_id))
        if by is None:
            continue
        if not by.verifies(note.text, signature.data):
            msg = f"the cosignature of {signature.name} does not verify"
            raise ProofError(msg)
        times[by.name] = max(cosignature_time(signature.data), times.get(by.name, 0))
    return times


def parse_number(text: str) -> int:
    """Read a size or an index: decimal, no leading zeros, 0..2**63 - 1.

    Raises:
        ProofError: anything else.
    """
    if not _NUMBER.fullmatch(text) or int(text) > MAX_SIZE:
        msg = "not a decimal number from 0 to 2**63 - 1 without leading zeros"
        raise ProofError(msg)
    return int(text)
