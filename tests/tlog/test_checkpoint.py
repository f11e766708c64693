"""Checkpoints: the strict form, real ones of a foreign log, and who must have signed."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gnexec.errors import ProofError
from gnexec.tlog.checkpoint import Checkpoint, cosignature_times, open_checkpoint, parse_checkpoint, sign_checkpoint
from gnexec.tlog.merkle import EMPTY_ROOT
from gnexec.tlog.note import SignatureKind, Verifier, cosign, parse_vkey, sign

ORIGIN = "gnexec.example/log"
KEY = Ed25519PrivateKey.from_private_bytes(b"l" * 32)
LOG = Verifier.of(ORIGIN, KEY.public_key())
WITNESS_KEY = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
WITNESS = Verifier.of("witness.example/w", WITNESS_KEY.public_key(), SignatureKind.COSIGNATURE)
ROOT = b"\x01" * 32
ROOT64 = base64.b64encode(ROOT).decode()
HEAD = Checkpoint(ORIGIN, 42, ROOT)

SUMDB = parse_vkey("sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8")
SUMDB_CHECKPOINTS = [
    (
        6476701,
        "mb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=",
        "Az3grsLX85Gz+s1SiTbgkuqxgItqFq7gsMUEyVnrsa9LM7Us9S+1xbFIGu95949rj4nPRYfvimWEPWL+o3GeoWwOoAw=",
    ),
    (
        10680630,
        "k1UQFwFXWQa7MF1BREWVQxIhScvUdgRepXuyRS3sRuE=",
        "Az3grqgyWctiMcdUtITQpkGSxEoEvbaAq7J3FpbaVlW1Zo47LX/jmeeE7LiBktpmR2d/1RsdocLU9HMXYXxHCVyf/AQ=",
    ),
    (
        28891140,
        "++pUIeKTwGvykMUkmM3AT97PwQipMT6H/p7t86E0Sp0=",
        "Az3grqNvOILDz7xwAKugtVFZwd+I9IyB/mHrUYzcVaS9zKsRVdRLNGLFpnAcLhyoBBkdIYEzK/+7Eu4wanYttLrPsQo=",
    ),
]


@pytest.mark.parametrize(("size", "root", "signature"), SUMDB_CHECKPOINTS)
def test_real_checkpoint_of_the_go_checksum_database_opens(size: int, root: str, signature: str) -> None:
    """Signed by strangers; its origin is not its key's name and holds spaces."""
    data = f"go.sum database tree\n{size}\n{root}\n\n— sum.golang.org {signature}\n".encode()
    opened = open_checkpoint(data, [SUMDB], "go.sum database tree")
    assert opened == Checkpoint("go.sum database tree", size, base64.b64decode(root))
    with pytest.raises(ProofError, match="does not verify"):
        open_checkpoint(data.replace(b"database", b"Database"), [SUMDB], "go.sum Database tree")


def test_checkpoint_has_exactly_the_specified_bytes() -> None:
    """Origin, size, root, blank line, one signature line by the key named as the origin."""
    data = sign_checkpoint(HEAD, KEY)
    text = f"{ORIGIN}\n42\n{ROOT64}\n"
    signature = base64.b64encode(LOG.key_id + KEY.sign(text.encode())).decode()
    assert data == f"{text}\n— {ORIGIN} {signature}\n".encode()


@given(
    st.integers(1, 2**63 - 1),
    st.binary(min_size=32, max_size=32),
    st.lists(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1), max_size=3),
)
def test_signed_checkpoint_comes_back(size: int, root: bytes, extensions: list[str]) -> None:
    """Signing and opening are inverse."""
    head = Checkpoint(ORIGIN, size, root, tuple(extensions))
    assert open_checkpoint(sign_checkpoint(head, KEY), [LOG], ORIGIN) == head


def test_checkpoint_of_the_empty_log_has_the_empty_root() -> None:
    """And no other."""
    head = Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    assert open_checkpoint(sign_checkpoint(head, KEY), [LOG], ORIGIN) == head
    with pytest.raises(ProofError):
        parse_checkpoint(Checkpoint(ORIGIN, 0, ROOT).text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"{ORIGIN}\n42\n",
        f"{ORIGIN}\n42\n{ROOT64}",
        f"{ORIGIN}\n42\n{ROOT64}\n\n",
        f"{ORIGIN}\n42\n{ROOT64}\n\nextension\n",
        f"{ORIGIN}\n42\n{ROOT64}\nextension",
        f"\n42\n{ROOT64}\n",
        f"{ORIGIN}\n\n{ROOT64}\n",
        f"{ORIGIN}\n042\n{ROOT64}\n",
        f"{ORIGIN}\n00\n{ROOT64}\n",
        f"{ORIGIN}\n+42\n{ROOT64}\n",
        f"{ORIGIN}\n-42\n{ROOT64}\n",
        f"{ORIGIN}\n4_2\n{ROOT64}\n",
        f"{ORIGIN}\n 42\n{ROOT64}\n",
        f"{ORIGIN}\n42 \n{ROOT64}\n",
        f"{ORIGIN}\n42.0\n{ROOT64}\n",
        f"{ORIGIN}\n0x2a\n{ROOT64}\n",
        f"{ORIGIN}\n\u0664\u0662\n{ROOT64}\n",
        f"{ORIGIN}\n{2**63}\n{ROOT64}\n",
        f"{ORIGIN}\n{'9' * 5000}\n{ROOT64}\n",
        f"{ORIGIN}\n42\n{ROOT64[:-1]}\n",
        f"{ORIGIN}\n42\n{ROOT64} \n",
        f"{ORIGIN}\n42\n{ROOT64[:-2]}F=\n",
        f"{ORIGIN}\n42\n{base64.b64encode(ROOT[:31]).decode()}\n",
        f"{ORIGIN}\n42\n{base64.b64encode(ROOT + ROOT).decode()}\n",
        f"{ORIGIN}\n42\n{base64.urlsafe_b64encode(bytes([255] * 32)).decode()}\n",
        f"{ORIGIN}\n42\n{ROOT.hex()}\n",
        f"{ORIGIN}\n0\n{ROOT64}\n",
    ],
)
def test_malformed_checkpoint_is_refused(text: str) -> None:
    """One size and one root have one text."""
    with pytest.raises(ProofError):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "head",
    [
        Checkpoint("", 1, ROOT),
        Checkpoint("two\nlines", 1, ROOT),
        Checkpoint("gnexec.example/log with spaces", 1, ROOT),
        Checkpoint("a+b", 1, ROOT),
        Checkpoint(ORIGIN, -1, ROOT),
        Checkpoint(ORIGIN, 2**63, ROOT),
        Checkpoint(ORIGIN, 1, ROOT[:-1]),
        Checkpoint(ORIGIN, 0, ROOT),
        Checkpoint(ORIGIN, 1, ROOT, ("",)),
        Checkpoint(ORIGIN, 1, ROOT, ("two\nlines",)),
    ],
)
def test_checkpoint_that_could_not_be_read_back_is_not_signed(head: Checkpoint) -> None:
    """A signature is for ever, so the form is checked before it is made."""
    with pytest.raises(ValueError, match=r"checkpoint|number|key name"):
        sign_checkpoint(head, KEY)


def test_checkpoint_of_another_log_is_refused() -> None:
    """The same key may sign for two logs; each answers for itself."""
    other = sign("gnexec.example/other\n42\n" + ROOT64 + "\n", ORIGIN, KEY)
    with pytest.raises(ProofError, match="another log"):
        open_checkpoint(other, [LOG], ORIGIN)


def test_signed_text_that_is_no_checkpoint_is_refused() -> None:
    """A good signature does not make a checkpoint."""
    with pytest.raises(ProofError, match="three lines"):
        open_checkpoint(sign("hello\n", ORIGIN, KEY), [LOG], ORIGIN)


def test_checkpoint_signed_by_a_stranger_under_the_logs_name_is_refused() -> None:
    """The name alone shows nothing."""
    with pytest.raises(ProofError, match="no known key"):
        open_checkpoint(sign_checkpoint(HEAD, WITNESS_KEY), [LOG], ORIGIN)


def test_checkpoint_carried_by_witnesses_alone_is_refused() -> None:
    """A witness vouches for consistency, not for the log."""
    data = f"{HEAD.text}\n".encode() + cosign(HEAD.text, WITNESS.name, WITNESS_KEY, 1000)
    with pytest.raises(ProofError, match="not signed by a key of the log"):
        open_checkpoint(data, [LOG, WITNESS], ORIGIN)


def test_checkpoint_with_a_cosignature_opens_and_tells_its_time() -> None:
    """With the witness known or unknown; the latest of its times counts."""
    data = sign_checkpoint(HEAD, KEY)
    for at_s in (1000, 3000, 2000):
        data += cosign(HEAD.text, WITNESS.name, WITNESS_KEY, at_s)
    assert open_checkpoint(data, [LOG], ORIGIN) == HEAD
    assert open_checkpoint(data, [LOG, WITNESS], ORIGIN) == HEAD
    assert cosignature_times(data, [WITNESS]) == {WITNESS.name: 3000}
    stranger = Verifier.of("witness.example/absent", WITNESS_KEY.public_key(), SignatureKind.COSIGNATURE)
    assert cosignature_times(data, [stranger]) == {}


def test_cosignature_of_another_checkpoint_is_refused() -> None:
    """Moved from one head to the next, it does not verify."""
    data = sign_checkpoint(HEAD, KEY) + cosign(Checkpoint(ORIGIN, 41, ROOT).text, WITNESS.name, WITNESS_KEY, 1000)
    with pytest.raises(ProofError, match="does not verify"):
        open_checkpoint(data, [LOG, WITNESS], ORIGIN)
    with pytest.raises(ProofError, match="does not verify"):
        cosignature_times(data, [WITNESS])


def test_logs_own_key_is_no_witness() -> None:
    """A plain signature carries no time."""
    assert cosignature_times(sign_checkpoint(HEAD, KEY), [LOG]) == {}


@given(st.data())
def test_signed_checkpoint_with_any_bit_flipped_is_refused(data: st.DataObject) -> None:
    """In the text, the name, the key id, the signature or the line's form."""
    signed = bytearray(sign_checkpoint(HEAD, KEY))
    bit = data.draw(st.integers(0, len(signed) * 8 - 1))
    signed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProofError):
        open_checkpoint(bytes(signed), [LOG], ORIGIN)
