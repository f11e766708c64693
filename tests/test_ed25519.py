"""Signatures are the same whichever library makes them, and neither takes a bad one."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from gnexec import ed25519

VECTORS = [  # RFC 8032, section 7.1: secret key, public key, message, signature
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
]
PRIME = 2**255 - 19
ORDER_8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
SMALL_ORDER_Y = [0, 1, PRIME - 1, ORDER_8, PRIME - ORDER_8]
ORDER = 2**252 + 27742317777372353535851937790883648493


def without_libsodium() -> ModuleType:
    """Return the module as it is where the extra `fast` is not installed."""
    spec = importlib.util.find_spec("gnexec.ed25519")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "nacl", None)
        spec.loader.exec_module(module)
    return module


OPENSSL = without_libsodium()
LIBRARIES = [pytest.param(ed25519, id="libsodium"), pytest.param(OPENSSL, id="OpenSSL")]


def test_extra_fast_is_what_is_tested() -> None:
    """Both libraries are under test here, each by its name."""
    assert (ed25519.LIBRARY, OPENSSL.LIBRARY) == ("libsodium", "OpenSSL")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("vector", VECTORS)
def test_vectors_of_the_standard_hold(library: ModuleType, vector: tuple[str, str, str, str]) -> None:
    """Key, message and signature of RFC 8032."""
    secret, public, message, signature = map(bytes.fromhex, vector)
    key = Ed25519PrivateKey.from_private_bytes(secret)
    assert library.public_key_of(key).public_bytes_raw() == public
    assert library.sign(key, message) == signature
    assert library.verifies(Ed25519PublicKey.from_public_bytes(public), signature, message)


@given(st.binary(max_size=200), st.integers(0, 8 * 264 - 1), st.booleans())
def test_changed_bit_is_refused_by_both_libraries(message: bytes, bit: int, in_signature: bool) -> None:  # noqa: FBT001
    """No bit of signature or message can be changed."""
    key = Ed25519PrivateKey.generate()
    good = ed25519.sign(key, message)
    assert good == OPENSSL.sign(key, message)
    target = bytearray(good if in_signature or not message else message)
    target[bit // 8 % len(target)] ^= 1 << bit % 8
    changed = (bytes(target), message) if in_signature or not message else (good, bytes(target))
    for library in (ed25519, OPENSSL):
        assert library.verifies(key.public_key(), good, message)
        assert not library.verifies(key.public_key(), *changed)


@pytest.mark.parametrize("library", LIBRARIES)
def test_signature_of_another_length_is_refused(library: ModuleType) -> None:
    """Cut, padded or empty: a plain no, never an error."""
    key = Ed25519PrivateKey.generate()
    good = library.sign(key, b"m")
    for bad in (b"", good[:-1], good + b"\0", good * 2):
        assert not library.verifies(key.public_key(), bad, b"m")


@pytest.mark.parametrize("library", LIBRARIES)
def test_malleable_signature_is_refused(library: ModuleType) -> None:
    """The scalar plus the order of the group would verify too, were it not out of range (RFC 8032, section 5.1.7)."""
    key = Ed25519PrivateKey.generate()
    good = library.sign(key, b"m")
    scalar = int.from_bytes(good[32:], "little") + ORDER
    assert not library.verifies(key.public_key(), good[:32] + scalar.to_bytes(32, "little"), b"m")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("sign_bit", [0, 1 << 255])
@pytest.mark.parametrize("y", SMALL_ORDER_Y)
def test_signature_by_a_point_of_small_order_is_refused(library: ModuleType, y: int, sign_bit: int) -> None:
    """Else a volunteer could make one auditor accept what another refuses: R is small, and S made for it."""
    for encoded in (y, y + PRIME if y + PRIME < 1 << 255 else y):
        point = (encoded | sign_bit).to_bytes(32, "little")
        seed = b"7" * 32
        key = Ed25519PrivateKey.from_private_bytes(seed)
        public = key.public_key().public_bytes_raw()
        scalar = int.from_bytes(_clamped(hashlib.sha512(seed).digest()[:32]), "little")
        challenge = int.from_bytes(hashlib.sha512(point + public + b"m").digest(), "little")
        made = point + (challenge * scalar % ORDER).to_bytes(32, "little")
        assert not library.verifies(key.public_key(), made, b"m")
        if point == (1).to_bytes(32, "little"):
            key.public_key().verify(made, b"m")  # what is refused here is not refused elsewhere


def _clamped(half: bytes) -> bytes:
    return bytes([half[0] & 248, *half[1:31], half[31] & 127 | 64])
