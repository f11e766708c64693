"""Receipts: complete, verified offline, and worth nothing for any other leaf, place or log."""

from __future__ import annotations

import base64
import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gnexec.errors import ProofError
from gnexec.tlog.checkpoint import Checkpoint, sign_checkpoint
from gnexec.tlog.note import SignatureKind, Verifier, cosign
from gnexec.tlog.proof import inclusion_proof
from gnexec.tlog.receipt import MAX_RECEIPT_SIZE, Receipt, parse_receipt, verify_receipt
from tests.tlog import oracle

ORIGIN = "gnexec.example/log"
KEY = Ed25519PrivateKey.from_private_bytes(b"l" * 32)
LOG = Verifier.of(ORIGIN, KEY.public_key())
GROWN = oracle.Grown(300)
HEAD = Checkpoint(ORIGIN, 300, GROWN.tree.root())
SIGNED = sign_checkpoint(HEAD, KEY)
LEAVES = oracle.leaves(300)
HASH = base64.b64encode(b"\x01" * 32).decode()


def receipt(index: int, extra: bytes = b"") -> Receipt:
    """Return the receipt of a leaf of the grown tree."""
    return Receipt(index, tuple(inclusion_proof(index, 300, GROWN.node)), SIGNED, extra)


@given(st.integers(0, 299), st.binary(max_size=100))
def test_receipt_comes_back_and_verifies(index: int, extra: bytes) -> None:
    """Written, read and checked with the leaf and the log's key alone."""
    made = receipt(index, extra)
    read = parse_receipt(made.encode())
    assert read == made
    assert verify_receipt(read, LEAVES[index], [LOG], ORIGIN) == HEAD


def test_receipt_has_exactly_the_specified_bytes() -> None:
    """The lines of tlog-proof, and the checkpoint verbatim."""
    made = Receipt(5, (b"\x01" * 32, b"\x02" * 32), SIGNED, b"extra information")
    second = base64.b64encode(b"\x02" * 32).decode()
    head = f"c2sp.org/tlog-proof@v1\nextra ZXh0cmEgaW5mb3JtYXRpb24=\nindex 5\n{HASH}\n{second}\n\n"
    assert made.encode() == head.encode() + SIGNED
    bare = dataclasses.replace(made, proof=(), extra=b"")
    assert bare.encode() == b"c2sp.org/tlog-proof@v1\nindex 5\n\n" + SIGNED


def test_receipt_of_the_only_leaf_has_no_proof_lines() -> None:
    """A log of one entry."""
    grown = oracle.Grown(1)
    signed = sign_checkpoint(Checkpoint(ORIGIN, 1, grown.tree.root()), KEY)
    made = parse_receipt(Receipt(0, (), signed).encode())
    assert verify_receipt(made, LEAVES[0], [LOG], ORIGIN).size == 1


@given(st.integers(0, 299), st.integers(0, 299))
def test_receipt_shown_for_another_leaf_is_refused(index: int, other: int) -> None:
    """It speaks of one leaf."""
    if index != other:
        with pytest.raises(ProofError):
            verify_receipt(receipt(index), LEAVES[other], [LOG], ORIGIN)
        with pytest.raises(ProofError):
            verify_receipt(dataclasses.replace(receipt(index), index=other), LEAVES[index], [LOG], ORIGIN)


@given(st.integers(0, 299), st.data())
def test_receipt_with_any_bit_flipped_is_refused(index: int, data: st.DataObject) -> None:
    """Nothing in it can be changed: every byte is form, place, proof or checkpoint."""
    encoded = bytearray(receipt(index).encode())
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProofError):
        verify_receipt(parse_receipt(bytes(encoded)), LEAVES[index], [LOG], ORIGIN)


def test_receipt_under_another_key_or_origin_is_refused() -> None:
    """The holder must name the log and trust its key."""
    stranger = Verifier.of(ORIGIN, Ed25519PrivateKey.from_private_bytes(b"s" * 32).public_key())
    with pytest.raises(ProofError, match="no known key"):
        verify_receipt(receipt(7), LEAVES[7], [stranger], ORIGIN)
    with pytest.raises(ProofError, match="another log"):
        verify_receipt(receipt(7), LEAVES[7], [LOG], "gnexec.example/other")


def test_receipt_with_a_cosigned_checkpoint_verifies() -> None:
    """Witness lines travel along, known or not."""
    key = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
    witness = Verifier.of("witness.example/w", key.public_key(), SignatureKind.COSIGNATURE)
    cosigned = SIGNED + cosign(HEAD.text, witness.name, key, 1000)
    made = parse_receipt(dataclasses.replace(receipt(7), checkpoint=cosigned).encode())
    assert verify_receipt(made, LEAVES[7], [LOG, witness], ORIGIN) == HEAD
    assert verify_receipt(made, LEAVES[7], [LOG], ORIGIN) == HEAD


@pytest.mark.parametrize(
    "head",
    [
        "",
        "c2sp.org/tlog-proof@v1",
        "c2sp.org/tlog-proof@v1\n",
        "c2sp.org/tlog-proof@v1\nindex",
        "c2sp.org/tlog-proof@v1\nindex ",
        "c2sp.org/tlog-proof@v1\nindex 05",
        "c2sp.org/tlog-proof@v1\nindex -5",
        "c2sp.org/tlog-proof@v1\nindex +5",
        "c2sp.org/tlog-proof@v1\nindex five",
        "c2sp.org/tlog-proof@v1\nindex \u0665",
        f"c2sp.org/tlog-proof@v1\nindex {2**63}",
        f"c2sp.org/tlog-proof@v1\nindex {'9' * 5000}",
        "c2sp.org/tlog-proof@v1\nindex  5",
        "c2sp.org/tlog-proof@v1\nindex 5 ",
        "c2sp.org/tlog-proof@v1\r\nindex 5",
        "c2sp.org/tlog-proof@v2\nindex 5",
        "c2sp_org/tlog-proof@v1\nindex 5",
        "\nc2sp.org/tlog-proof@v1\nindex 5",
        "index 5",
        "c2sp.org/tlog-proof@v1\nextra AAAA",
        "c2sp.org/tlog-proof@v1\nextra \nindex 5",
        "c2sp.org/tlog-proof@v1\nextra AB==\nindex 5",
        "c2sp.org/tlog-proof@v1\nextra A\nindex 5",
        "c2sp.org/tlog-proof@v1\nextra AAAA\nextra AAAA\nindex 5",
        "c2sp.org/tlog-proof@v1\nindex 5\nextra AAAA",
        "c2sp.org/tlog-proof@v1\nindex 5\nindex 5",
        "c2sp.org/tlog-proof@v1\nindex 5\nAAAA",
        f"c2sp.org/tlog-proof@v1\nindex 5\n{HASH[:-1]}",
        f"c2sp.org/tlog-proof@v1\nindex 5\n {HASH}",
        f"c2sp.org/tlog-proof@v1\nindex 5\n{HASH} ",
        f"c2sp.org/tlog-proof@v1\nindex 5\n{HASH}{HASH}",
        f"c2sp.org/tlog-proof@v1\nindex 5\n{HASH[:-2]}F=",
    ],
)
def test_malformed_receipt_is_refused(head: str) -> None:
    """Strictly the lines of the specification, in their one form."""
    with pytest.raises(ProofError):
        parse_receipt(head.encode() + b"\n\n" + SIGNED)
    with pytest.raises(ProofError):
        parse_receipt(head.encode())


def test_receipt_over_the_cap_is_refused() -> None:
    """Before anything in it is looked at."""
    with pytest.raises(ProofError, match="longer"):
        parse_receipt(receipt(7, b"x" * MAX_RECEIPT_SIZE).encode())


@given(st.binary(max_size=300))
def test_rubbish_is_refused_without_another_error(data: bytes) -> None:
    """Whatever comes in, it is a receipt or a ProofError."""
    with pytest.raises(ProofError):
        parse_receipt(data)
