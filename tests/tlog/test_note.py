"""Signed notes, against the examples of Go's sumdb/note and of C2SP, and against everything that is not a note."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gnexec.errors import ProofError
from gnexec.tlog.note import (
    MAX_NOTE_SIZE,
    Signature,
    SignatureKind,
    Verifier,
    cosign,
    cosignature_time,
    cosigned_message,
    open_note,
    parse_note,
    parse_vkey,
    sign,
    unbase64,
)

PETER_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
PETER_KEY = Ed25519PrivateKey.from_private_bytes(PETER_SEED)
PETER_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
ENOCH_VKEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
PETER, ENOCH = parse_vkey(PETER_VKEY), parse_vkey(ENOCH_VKEY)

TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
BAD_PETER_LINE = PETER_LINE.replace("SffcvI", "SffcvJ")

WITNESS_VKEY = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
WITNESS_KEY = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
WITNESS = Verifier.of("witness.example.com/w1", WITNESS_KEY.public_key(), SignatureKind.COSIGNATURE)


def note(*lines: str, text: str = TEXT) -> bytes:
    """Put a note together from its text and signature lines."""
    return f"{text}\n{''.join(lines)}".encode()


def names(signatures: tuple[Signature, ...]) -> list[str]:
    """Return who signed."""
    return [signature.name for signature in signatures]


def test_note_signed_with_the_published_key_equals_the_published_note() -> None:
    """Ed25519 is deterministic, so Go's example comes out byte for byte."""
    assert sign(TEXT, "PeterNeumann", PETER_KEY) == note(PETER_LINE)


@pytest.mark.parametrize("vkey", [PETER_VKEY, ENOCH_VKEY, WITNESS_VKEY])
def test_published_verifier_key_is_read_and_written(vkey: str) -> None:
    """A plus sign in the base64 does not confuse the parser."""
    assert parse_vkey(vkey).vkey == vkey


def test_verifier_key_kind_is_part_of_the_key_id() -> None:
    """The same key under the same name has another id as a witness."""
    assert parse_vkey(WITNESS_VKEY).kind is SignatureKind.COSIGNATURE
    log = Verifier.of("a", WITNESS_KEY.public_key())
    assert log.kind is SignatureKind.ED25519
    assert log.key_id != Verifier.of("a", WITNESS_KEY.public_key(), SignatureKind.COSIGNATURE).key_id


def test_verifier_key_with_plus_signs_in_its_base64_comes_back() -> None:
    """Of 40 keys many have one; all of them are read."""
    keys = [
        Verifier.of("log.example/a", Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32).public_key())
        for i in range(40)
    ]
    assert any(key.vkey.count("+") > 2 for key in keys)
    for key in keys:
        assert parse_vkey(key.vkey).key_id == key.key_id


def test_mangled_verifier_key_is_refused() -> None:
    """Every substring, every letter moved on by one, and padding."""
    cuts = {PETER_VKEY[i:j] for i in range(len(PETER_VKEY)) for j in range(i, len(PETER_VKEY) + 1)} - {PETER_VKEY}
    steps = {PETER_VKEY[:i] + chr(ord(c) + 1) + PETER_VKEY[i + 1 :] for i, c in enumerate(PETER_VKEY)}
    for mangled in cuts | steps:
        with pytest.raises(ValueError, match=r"verifier key|base64|key name"):
            parse_vkey(mangled)


@pytest.mark.parametrize(
    "vkey",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",  # wrong length, id adjusted
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # unknown kind, id adjusted
        PETER_VKEY.replace("c74f20a3", "C74F20A3"),
        PETER_VKEY.replace("c74f20a3", "00c74f20a3"),
        f"{PETER_VKEY}\n",
        f" {PETER_VKEY}",
        f"{PETER_VKEY}=",
        "",
    ],
)
def test_verifier_key_that_is_not_one_is_refused(vkey: str) -> None:
    """Wrong lengths, kinds, and second spellings."""
    with pytest.raises(ValueError, match=r"verifier key|base64|key name"):
        parse_vkey(vkey)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\tb", "a\nb", "a\u00a0b", "a\u2028b", "a\x00b", "a\x1fb"])
def test_key_name_with_a_space_or_plus_is_refused(name: str) -> None:
    """Names that a signature line or a verifier key could not carry."""
    with pytest.raises(ValueError, match="key name"):
        Verifier.of(name, PETER_KEY.public_key())
    with pytest.raises(ValueError, match="key name"):
        sign(TEXT, name, PETER_KEY)


@pytest.mark.parametrize("text", ["", "abc", "a\r\n", "a\tb\n", "\x00\n", "a\n "])
def test_text_that_no_note_can_hold_is_not_signed(text: str) -> None:
    """It must end in a newline and hold no other control character."""
    with pytest.raises(ValueError, match="text"):
        sign(text, "a", PETER_KEY)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=[chr(c) for c in range(32)])))
def test_signed_text_comes_back(line: str) -> None:
    """Any text without control characters, blank lines and lines that look like signatures included."""
    text = f"{line}\n\n{line}\n— {line}\n"
    opened = open_note(sign(text, "PeterNeumann", PETER_KEY), [PETER])
    assert opened.text == text
    assert names(opened.verified) == ["PeterNeumann"]


def test_note_signed_by_one_known_key_leaves_the_other_unknown() -> None:
    """A stranger's line is kept apart and shows nothing."""
    opened = open_note(note(PETER_LINE, ENOCH_LINE), [PETER])
    assert opened.text == TEXT
    assert names(opened.verified) == ["PeterNeumann"]
    assert names(opened.unknown) == ["EnochRoot"]
    assert opened.unknown[0].line == ENOCH_LINE


def test_note_signed_by_two_known_keys_has_both() -> None:
    """Both lines are checked."""
    opened = open_note(note(PETER_LINE, ENOCH_LINE), [ENOCH, PETER])
    assert names(opened.verified) == ["PeterNeumann", "EnochRoot"]
    assert opened.unknown == ()


def test_note_read_without_keys_has_nothing_verified() -> None:
    """Parsing shows who claims to have signed, no more."""
    parsed = parse_note(note(PETER_LINE, ENOCH_LINE))
    assert (parsed.text, parsed.verified) == (TEXT, ())
    assert "".join(signature.line for signature in parsed.unknown) == PETER_LINE + ENOCH_LINE


@pytest.mark.parametrize(
    "lines",
    [
        (BAD_PETER_LINE,),
        (PETER_LINE, BAD_PETER_LINE),  # a good signature does not excuse a bad one of the same key
        (BAD_PETER_LINE, PETER_LINE),
        (ENOCH_LINE, BAD_PETER_LINE),
        (PETER_LINE[:60] + "ABCD" + PETER_LINE[60:],),
        ("— PeterNeumann x08gowA=\n",),
    ],
)
def test_bad_signature_of_a_known_key_refuses_the_note(lines: tuple[str, ...]) -> None:
    """A known key that fails is an attack, whatever stands beside it."""
    with pytest.raises(ProofError, match=r"PeterNeumann\+c74f20a3 does not verify"):
        open_note(note(*lines), [PETER, ENOCH])


@pytest.mark.parametrize(
    ("lines", "verifiers"),
    [
        ((PETER_LINE, ENOCH_LINE), []),
        ((ENOCH_LINE,), [PETER]),
        ((PETER_LINE.replace("PeterNeumann", "CarmenSandiego"),), [PETER]),  # known id under another name
        ((PETER_LINE.replace("x08g", "xxxx"),), [PETER]),  # known name under another id
    ],
)
def test_note_without_a_known_signature_is_refused(lines: tuple[str, ...], verifiers: list[Verifier]) -> None:
    """Name and key id must both be known."""
    with pytest.raises(ProofError, match="no known key"):
        open_note(note(*lines), verifiers)


def test_repeated_good_signature_is_accepted() -> None:
    """Repetition is harmless."""
    assert names(open_note(note(PETER_LINE, PETER_LINE), [PETER]).verified) == ["PeterNeumann"] * 2


def test_two_keys_of_one_name_and_id_are_refused() -> None:
    """The reader's own configuration is wrong, and it is told."""
    with pytest.raises(ValueError, match="two keys"):
        open_note(note(PETER_LINE), [PETER, parse_vkey(PETER_VKEY)])


@given(st.integers(0, len(TEXT) - 1), st.characters(exclude_categories=["Cs"], min_codepoint=32))
def test_changed_text_is_refused(at: int, letter: str) -> None:
    """One letter is enough."""
    changed = TEXT[:at] + letter + TEXT[at + 1 :]
    if changed != TEXT:
        with pytest.raises(ProofError):
            open_note(note(PETER_LINE, text=changed), [PETER])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        TEXT.encode(),
        note(),
        note(PETER_LINE)[:-1],
        note(PETER_LINE, "\n"),
        note(PETER_LINE, "Unexpected line.\n"),
        note(PETER_LINE, text="\x01" + TEXT),
        note(PETER_LINE, text=TEXT + "\r\n"),
        note(PETER_LINE, text="a\tb\n"),
        b"\xff" + note(PETER_LINE),
        b"\xed\xa0\x80" + note(PETER_LINE),
        TEXT.encode() + PETER_LINE.encode(),
        note(PETER_LINE.replace("\n", "\r\n")),
        note(PETER_LINE.replace("—", "-")),
        note(PETER_LINE.replace("—", "–")),
        note(PETER_LINE.replace("— ", "—")),
        note(PETER_LINE.replace("— ", "—  ")),
        note(PETER_LINE.replace("— ", "— a+")),
        note(PETER_LINE.replace("— ", " — ")),
        note(PETER_LINE.replace("PeterNeumann", "Peter Neumann")),
        note(PETER_LINE.replace("PeterNeumann ", "")),
        note(PETER_LINE.replace("PeterNeumann", "Peter\u00a0Neumann")),
        note(PETER_LINE.replace("=", "")),
        note(PETER_LINE.replace("=", "= ")),
        note(PETER_LINE.replace("nAM=", "nAN=")),  # stray bits
        note(PETER_LINE.replace("/", "_")),
        note("— PeterNeumann \n"),
        note("— PeterNeumann\n"),
        note("— PeterNeumann x08gow==\n"),  # a key id without a signature
        note("—\n"),
        note(PETER_LINE * 101),
        note(PETER_LINE, text="x" * MAX_NOTE_SIZE + "\n"),
    ],
)
def test_malformed_note_is_refused(data: bytes) -> None:
    """Strictly the form of the specification, within the caps."""
    with pytest.raises(ProofError):
        open_note(data, [PETER])
    with pytest.raises(ProofError):
        parse_note(data)


def test_note_of_a_hundred_signatures_is_read() -> None:
    """The specification asks for 16 at least."""
    assert len(open_note(note(PETER_LINE, ENOCH_LINE * 99), [PETER]).unknown) == 99


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_rubbish_is_refused_without_another_error(data: bytes) -> None:
    """Whatever comes in, it is a note of a known key or a ProofError."""
    with pytest.raises(ProofError):
        open_note(data, [PETER])
    with pytest.raises(ProofError):
        open_note(note(PETER_LINE)[:-1] + data + b"\n\n", [PETER])


@given(st.binary(max_size=40))
def test_base64_has_one_form(data: bytes) -> None:
    """What is read is what would be written."""
    assert unbase64(base64.b64encode(data).decode()) == data


@pytest.mark.parametrize(
    "text", ["A", "AB", "AB=", "AB==x", "AC==", "AAB=", "A===", "AA==\n", " AA==", "ÄA==", "A-==", "="]
)
def test_base64_in_another_form_is_refused(text: str) -> None:
    """Missing padding, stray bits, foreign letters, white space."""
    with pytest.raises(ValueError, match="base64"):
        unbase64(text)


def test_cosigned_message_is_that_of_the_specification() -> None:
    """The worked example of tlog-cosignature."""
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    assert cosigned_message(text, 1679315147) == b"cosignature/v1\ntime 1679315147\n" + text.encode()


@pytest.mark.parametrize(
    ("encoded", "at_s"),
    [
        (
            "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==",
            1679315147,
        ),
        (
            "ZGhGuQAAAABm/qTPeyKXD+R2rzyQsxPiP8mXum7qq/iF0u4vanlqJyocWODBt97w9uL+8qT7S5gxEHWWOworDcFiEBYJXORmnFBOBA==",
            1727964367,
        ),
    ],
)
def test_time_of_a_published_cosignature_is_read(encoded: str, at_s: int) -> None:
    """The time stands before the signature, 64 bits, big-endian."""
    parsed = parse_note(note(f"— witness {encoded}\n"))
    assert len(parsed.unknown[0].data) == 72
    assert cosignature_time(parsed.unknown[0].data) == at_s


@pytest.mark.parametrize("at_s", [0, 1, 1679315147, 2**63 - 1])
def test_cosignature_verifies_beside_the_logs_signature(at_s: int) -> None:
    """A witness's line is put after the note's own."""
    line = cosign(TEXT, WITNESS.name, WITNESS_KEY, at_s)
    opened = open_note(note(PETER_LINE) + line, [PETER, WITNESS])
    assert names(opened.verified) == ["PeterNeumann", WITNESS.name]
    assert cosignature_time(opened.verified[1].data) == at_s


@pytest.mark.parametrize("at_s", [-1, 2**63])
def test_cosignature_at_an_impossible_time_is_not_made(at_s: int) -> None:
    """The specification ends time at 2**63 - 1 seconds."""
    with pytest.raises(ValueError, match="time"):
        cosign(TEXT, WITNESS.name, WITNESS_KEY, at_s)


def test_cosignature_stating_an_impossible_time_is_refused() -> None:
    """Though its signature is right."""
    data = (2**63).to_bytes(8, "big") + WITNESS_KEY.sign(cosigned_message(TEXT, 2**63))
    line = Signature(WITNESS.name, WITNESS.key_id, data).line
    with pytest.raises(ProofError, match="does not verify"):
        open_note(note(line), [WITNESS])


def test_cosignature_with_its_time_moved_is_refused() -> None:
    """The time is covered by the signature."""
    signature = parse_note(note(cosign(TEXT, WITNESS.name, WITNESS_KEY, 1000).decode())).unknown[0]
    moved = Signature(WITNESS.name, WITNESS.key_id, (1001).to_bytes(8, "big") + signature.data[8:])
    with pytest.raises(ProofError, match="does not verify"):
        open_note(note(moved.line), [WITNESS])


def test_plain_signature_of_a_witness_key_is_not_a_cosignature() -> None:
    """Neither 64 bytes nor 72 of the wrong message pass."""
    for data in (WITNESS_KEY.sign(TEXT.encode()), b"\x00" * 8 + WITNESS_KEY.sign(TEXT.encode())):
        with pytest.raises(ProofError, match="does not verify"):
            open_note(note(Signature(WITNESS.name, WITNESS.key_id, data).line), [WITNESS])
