"""A log key vouches for the next one, in a form that says nothing else and cannot be taken for anything else."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.errors import ProofError
from gnexec.tlog.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from gnexec.tlog.merkle import EMPTY_ROOT
from gnexec.tlog.note import SignatureKind, Verifier, parse_note, sign
from gnexec.tlog.succession import CONTEXT, check_endorsement, endorse

ORIGIN = "a.test/log"
OLD, NEW, EVE = (Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i in (1, 2, 3))


def vkey(key: Ed25519PrivateKey, name: str = ORIGIN, kind: SignatureKind = SignatureKind.ED25519) -> str:
    """Return a key's verifier key."""
    return Verifier.of(name, key.public_key(), kind).vkey


def test_endorsement_is_a_signed_note_that_others_can_read() -> None:
    """Three lines and one signature, in the form of C2SP."""
    note = parse_note(endorse(ORIGIN, vkey(NEW), OLD).encode())
    assert note.text == f"{CONTEXT}\n{ORIGIN}\n{vkey(NEW)}\n"
    assert [signature.name for signature in note.unknown] == [ORIGIN]
    check_endorsement(endorse(ORIGIN, vkey(NEW), OLD), ORIGIN, vkey(NEW), vkey(OLD))


@pytest.mark.parametrize(
    ("endorsement", "newer", "older"),
    [
        ("", vkey(NEW), vkey(OLD)),
        ("\ud800", vkey(NEW), vkey(OLD)),
        (endorse(ORIGIN, vkey(NEW), EVE), vkey(NEW), vkey(OLD)),
        (endorse(ORIGIN, vkey(EVE), OLD), vkey(NEW), vkey(OLD)),
        (endorse(ORIGIN, vkey(NEW), OLD), vkey(EVE), vkey(OLD)),
        (endorse("b.test/log", vkey(NEW), OLD), vkey(NEW), vkey(OLD)),
        (sign(f"x\n{ORIGIN}\n{vkey(NEW)}\n", ORIGIN, OLD).decode(), vkey(NEW), vkey(OLD)),
        (endorse(ORIGIN, vkey(NEW, "b.test/log"), OLD), vkey(NEW, "b.test/log"), vkey(OLD)),
        (
            endorse(ORIGIN, vkey(NEW, kind=SignatureKind.COSIGNATURE), OLD),
            vkey(NEW, kind=SignatureKind.COSIGNATURE),
            vkey(OLD),
        ),
        (endorse(ORIGIN, "nonsense", OLD), "nonsense", vkey(OLD)),
    ],
    ids=[
        "none",
        "no text",
        "stranger",
        "of another",
        "for another",
        "another log",
        "another text",
        "another name",
        "of a witness",
        "no key",
    ],
)
def test_endorsement_that_is_none_is_refused(endorsement: str, newer: str, older: str) -> None:
    """Only the older key's word for exactly this key of exactly this log counts."""
    with pytest.raises(ProofError):
        check_endorsement(endorsement, ORIGIN, newer, older)


def test_endorsement_is_no_checkpoint() -> None:
    """Nobody can be shown one for the other."""
    endorsement = endorse(ORIGIN, vkey(NEW), OLD)
    with pytest.raises(ProofError):
        open_checkpoint(endorsement.encode(), [Verifier.of(ORIGIN, OLD.public_key())], ORIGIN)
    checkpoint = sign_checkpoint(Checkpoint(ORIGIN, 0, EMPTY_ROOT), OLD).decode()
    with pytest.raises(ProofError):
        check_endorsement(checkpoint, ORIGIN, vkey(NEW), vkey(OLD))


def test_checkpoint_of_two_keys_is_read_with_either_and_demanded_of_both() -> None:
    """Who knows one of them reads it; who knows that both must sign misses the one that did not."""
    both = sign_checkpoint(Checkpoint(ORIGIN, 0, EMPTY_ROOT), OLD, NEW)
    alone = sign_checkpoint(Checkpoint(ORIGIN, 0, EMPTY_ROOT), NEW)
    old, new = (Verifier.of(ORIGIN, key.public_key()) for key in (OLD, NEW))
    for keys in ([old], [new], [old, new]):
        assert open_checkpoint(both, keys, ORIGIN, every=True).size == 0
    assert open_checkpoint(alone, [old, new], ORIGIN).size == 0
    with pytest.raises(ProofError, match=old.key_id.hex()):
        open_checkpoint(alone, [old, new], ORIGIN, every=True)


def test_note_without_a_key_is_not_made() -> None:
    """Unsigned, it would be read as malformed."""
    with pytest.raises(ValueError, match="signature"):
        sign("text\n", ORIGIN)
