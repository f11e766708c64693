"""Signed notes: text, a blank line, and signature lines, each of a key that has a name and a short id.

Two kinds of signature are known: Ed25519 over the text (what a log signs with), and the timestamped cosignature of a
witness. A line by any other key is kept and ignored; a line by a known key must verify, or the note is refused.

This module does not know what a text means (`checkpoint` does), keeps no keys and draws nothing. It refuses what other
readers might read differently: base64 with stray bits, control characters, names with spaces.

Source: C2SP signed-note; C2SP tlog-cosignature for the second kind; golang.org/x/mod/sumdb/note reads the first.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final, Self, assert_never

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gnexec import ed25519
from gnexec.errors import ProofError

MAX_NOTE_SIZE: Final = 256 * 1024
"""Bytes of the longest note that is read: room for 16 post-quantum signatures of strangers, and more."""

MAX_SIGNATURES: Final = 100
"""Signature lines that are read, as in Go's sumdb/note."""

MAX_TIME_S: Final = 2**63 - 1
"""Latest time that a cosignature may state."""

_FORBIDDEN: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_KEY_ID: Final = re.compile(r"[0-9a-f]{8}")
_DASH: Final = "— "


class SignatureKind(IntEnum):
    """Signature types, by the byte that stands for them in key ids and verifier keys."""

    ED25519 = 0x01
    COSIGNATURE = 0x04


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key under a name: what a reader of notes trusts.

    Attributes:
        name: key name; not empty, without spaces and plus signs.
        kind: what its signatures are over.
        public_key: the Ed25519 key.
        key_id: 4 bytes, SHA-256(name ‖ newline ‖ kind ‖ public key)[:4].
    """

    name: str
    kind: SignatureKind
    public_key: Ed25519PublicKey
    key_id: bytes

    @classmethod
    def of(cls, name: str, public_key: Ed25519PublicKey, kind: SignatureKind = SignatureKind.ED25519) -> Self:
        """Name a key.

        Raises:
            ValueError: `name` cannot be a key name.
        """
        return cls(name, kind, public_key, _key_id(name, kind, public_key))

    @property
    def vkey(self) -> str:
        """The verifier key: `<name>+<key id in hexadecimal>+<base64 of kind ‖ public key>`."""
        key = base64.b64encode(bytes([self.kind]) + self.public_key.public_bytes_raw()).decode("ascii")
        return f"{self.name}+{self.key_id.hex()}+{key}"

    def verifies(self, text: str, signature: bytes) -> bool:
        """Tell whether `signature` is this key's over `text`."""
        match self.kind:
            case SignatureKind.ED25519:
                signed, message = signature, text.encode()
            case SignatureKind.COSIGNATURE:
                if len(signature) != 72:
                    return False
                at_s = cosignature_time(signature)
                if at_s > MAX_TIME_S:
                    return False
                signed, message = signature[8:], cosigned_message(text, at_s)
            case _:
                assert_never(self.kind)
        return ed25519.verifies(self.public_key, signed, message)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line.

    Attributes:
        name: the key's name as the line states it.
        key_id: 4 bytes.
        data: the signature proper, at least 1 byte.
    """

    name: str
    key_id: bytes
    data: bytes

    @property
    def line(self) -> str:
        """The line, with its newline."""
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.data).decode('ascii')}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text, and who signed it.

    Attributes:
        text: ends in a newline; to be ignored while `verified` is empty.
        verified: signatures by known keys, each checked.
        unknown: signatures by other keys; they show nothing.
    """

    text: str
    verified: tuple[Signature, ...]
    unknown: tuple[Signature, ...]


def parse_vkey(text: str) -> Verifier:
    """Read a verifier key.

    Raises:
        ValueError: malformed, of a kind not known here, or its key id is not that of its key.
    """
    parts = text.split("+", maxsplit=2)  # the base64 part may hold plus signs of its own
    if len(parts) != 3:
        msg = "a verifier key has the form <name>+<key id>+<base64>"
        raise ValueError(msg)
    name, key_id, key = parts[0], parts[1], unbase64(parts[2])
    if len(key) != 33 or key[0] not in set(SignatureKind):
        msg = "the verifier key is not an Ed25519 key of a known kind"
        raise ValueError(msg)
    verifier = Verifier.of(name, Ed25519PublicKey.from_public_bytes(key[1:]), SignatureKind(key[0]))
    if not _KEY_ID.fullmatch(key_id) or verifier.key_id.hex() != key_id:
        msg = "the verifier key's id does not belong to its name and key"
        raise ValueError(msg)
    return verifier


def sign(text: str, name: str, *private_keys: Ed25519PrivateKey) -> bytes:
    """Write a note with an Ed25519 signature by each of these keys, in order; they share the name.

    Raises:
        ValueError: `text` cannot be a note's (it must end in a newline and hold no other control character),
            `name` cannot be a key name, or there is no key.
    """
    if not private_keys:
        msg = "a note needs a signature"
        raise ValueError(msg)
    if not text.endswith("\n") or _FORBIDDEN.search(text):
        msg = "a note's text ends in a newline and holds no other control character"
        raise ValueError(msg)
    lines = [Signature(name, _own_id(name, key), ed25519.sign(key, text.encode())).line for key in private_keys]
    return f"{text}\n{''.join(lines)}".encode()


def cosign(text: str, name: str, private_key: Ed25519PrivateKey, at_s: int) -> bytes:
    """Make a witness's signature line over a checkpoint's text, to be put after the note's own lines.

    A witness says by it that it saw no larger consistent tree of that log; that is for the caller to have checked.

    Args:
        text: text of the note that is cosigned.
        name: the witness's key name.
        private_key: used for this witness alone: the signature does not cover the name.
        at_s: POSIX time in seconds, 0..2**63 - 1.

    Raises:
        ValueError: the time is out of range, or `name` cannot be a key name.

    Source: C2SP tlog-cosignature, cosignature/v1.
    """
    if not 0 <= at_s <= MAX_TIME_S:
        msg = "a cosignature's time is 0 to 2**63 - 1 seconds"
        raise ValueError(msg)
    key_id = _key_id(name, SignatureKind.COSIGNATURE, private_key.public_key())
    data = struct.pack(">Q", at_s) + ed25519.sign(private_key, cosigned_message(text, at_s))
    return Signature(name, key_id, data).line.encode()


def cosigned_message(text: str, at_s: int) -> bytes:
    """Return the bytes that a witness signs: header, time, and the checkpoint's text."""
    return f"cosignature/v1\ntime {at_s}\n{text}".encode()


def cosignature_time(data: bytes) -> int:
    """Return the POSIX time in seconds that a cosignature (`Signature.data`, 72 bytes) states."""
    return int.from_bytes(data[:8], "big")


def parse_note(data: bytes) -> Note:
    """Read a note without checking any signature: all of them come back as unknown.

    Raises:
        ProofError: malformed, or over the caps.
    """
    if len(data) > MAX_NOTE_SIZE:
        msg = f"the note is longer than {MAX_NOTE_SIZE} bytes"
        raise ProofError(msg)
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError as err:
        msg = "the note is not UTF-8"
        raise ProofError(msg) from err
    text, blank, lines = whole.rpartition("\n\n")
    if not blank or not lines.endswith("\n") or _FORBIDDEN.search(whole):
        msg = "the note is malformed"
        raise ProofError(msg)
    rows = lines[:-1].split("\n")
    if len(rows) > MAX_SIGNATURES:
        msg = f"the note has more than {MAX_SIGNATURES} signatures"
        raise ProofError(msg)
    return Note(f"{text}\n", (), tuple(_parse_line(row) for row in rows))


def open_note(data: bytes, verifiers: Iterable[Verifier]) -> Note:
    """Read a note and check every signature by a known key.

    Args:
        data: the note.
        verifiers: the known keys; no two of one name and key id.

    Raises:
        ProofError: malformed, a known key's signature does not verify (even beside a good one), or no known key
            has signed.
        ValueError: two verifiers have the same name and key id.
    """
    known: dict[tuple[str, bytes], Verifier] = {}
    for verifier in verifiers:
        if known.setdefault((verifier.name, verifier.key_id), verifier) is not verifier:
            msg = f"two keys are known as {verifier.name}+{verifier.key_id.hex()}"
            raise ValueError(msg)
    note = parse_note(data)
    verified: list[Signature] = []
    unknown: list[Signature] = []
    for signature in note.unknown:
        by = known.get((signature.name, signature.key_id))
        if by is None:
            unknown.append(signature)
        elif by.verifies(note.text, signature.data):
            verified.append(signature)
        else:
            msg = f"the signature of {signature.name}+{signature.key_id.hex()} does not verify"
            raise ProofError(msg)
    if not verified:
        msg = "no known key has signed the note"
        raise ProofError(msg)
    return Note(note.text, tuple(verified), tuple(unknown))


def unbase64(text: str) -> bytes:
    """Decode base64 with padding (RFC 4648, section 4).

    Raises:
        ValueError: not base64, or not the one canonical form of its bytes.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as err:
        msg = "not base64"
        raise ValueError(msg) from err
    if base64.b64encode(data).decode("ascii") != text:
        msg = "not canonical base64"
        raise ValueError(msg)
    return data


def _parse_line(row: str) -> Signature:
    """Read a signature line without its newline.

    Raises:
        ProofError: malformed.
    """
    name, _, encoded = row.removeprefix(_DASH).partition(" ")
    try:
        data = unbase64(encoded)
    except ValueError as err:
        msg = "a signature line is malformed"
        raise ProofError(msg) from err
    if not row.startswith(_DASH) or not _is_name(name) or len(data) < 5:
        msg = "a signature line is malformed"
        raise ProofError(msg)
    return Signature(name, data[:4], data[4:])


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(map(str.isspace, name)) and not _FORBIDDEN.search(name)


@lru_cache(maxsize=64)
def _own_id(name: str, key: Ed25519PrivateKey) -> bytes:
    """Return the key id under which a log signs, again and again."""
    return _key_id(name, SignatureKind.ED25519, ed25519.public_key_of(key))


def _key_id(name: str, kind: SignatureKind, public_key: Ed25519PublicKey) -> bytes:
    if not _is_name(name):
        msg = f"{name!r} is not a key name: it must not be empty and holds no space and no plus sign"
        raise ValueError(msg)
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public_key.public_bytes_raw()).digest()[:4]
