"""Ed25519 signatures (RFC 8032), made and checked by the fastest library at hand.

With the extra `fast` that is libsodium, which checks a signature in less than half of OpenSSL's time. What one accepts
the other accepts, or an auditor would find fault with what a server took: libsodium refuses points of small order, so
they are refused here before OpenSSL is asked. Keys are those of `cryptography` everywhere; nothing outside this module
knows which library is used.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

try:
    from nacl import bindings as libsodium
    from nacl.exceptions import BadSignatureError
except ImportError:
    LIBRARY = "OpenSSL"
else:
    LIBRARY = "libsodium"

SIGNATURE_BYTES = 64
PRIME: Final = 2**255 - 19
_ORDER_8: Final = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_SMALL_ORDER_Y: Final = frozenset({0, 1, PRIME - 1, _ORDER_8, PRIME - _ORDER_8})
"""The y of all eight points whose order divides 8 (RFC 8032, section 5.1); each is there for both signs of x."""


def small_order(point: bytes) -> bool:
    """Tell whether 32 bytes encode a point of small order, canonically or not."""
    return (int.from_bytes(point, "little") & (2**255 - 1)) % PRIME in _SMALL_ORDER_Y


def sign(key: Ed25519PrivateKey, data: bytes) -> bytes:
    """Return the signature of `data`, 64 bytes; both libraries give the same."""
    if LIBRARY == "OpenSSL":
        return key.sign(data)
    return libsodium.crypto_sign(data, _seed_and_point(key))[:SIGNATURE_BYTES]


def verifies(key: Ed25519PublicKey, signature: bytes, data: bytes) -> bool:
    """Tell whether `signature` is that of `key` over `data`; one of another length is not."""
    if len(signature) != SIGNATURE_BYTES:
        return False
    if LIBRARY == "OpenSSL":
        if small_order(signature[:32]) or small_order(key.public_bytes_raw()):
            return False
        try:
            key.verify(signature, data)
        except InvalidSignature:
            return False
        return True
    try:
        libsodium.crypto_sign_open(signature + data, key.public_bytes_raw())
    except BadSignatureError:
        return False
    return True


@lru_cache(maxsize=64)
def public_key_of(key: Ed25519PrivateKey) -> Ed25519PublicKey:
    """Return the public key of one that signs often: to work it out takes as long as to sign."""
    return key.public_key()


@lru_cache(maxsize=64)
def _seed_and_point(key: Ed25519PrivateKey) -> bytes:
    """Return a private key in libsodium's form: 32 bytes of seed, 32 of the public point."""
    return key.private_bytes_raw() + key.public_key().public_bytes_raw()
