"""Ed25519 private keys in PEM (PKCS #8, RFC 8410), one to a file; and the worker's, made on its first start.

A key has no password: the file's mode protects it, since servers and workers start unattended.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from gnexec.errors import BadConfiguration
from gnexec.keys.files import make_dir, read_private, write_new


def write_pem(key: Ed25519PrivateKey) -> bytes:
    """Return the key in PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key.

    Raises:
        BadConfiguration: missing, others may read it, or it is not an Ed25519 key in PEM without a password.
    """
    data = read_private(path)
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as err:
        msg = f"{path} is not a private key in PEM without a password"
        raise BadConfiguration(msg) from err
    if not isinstance(key, Ed25519PrivateKey):
        msg = f"{path} is not an Ed25519 key"
        raise BadConfiguration(msg)
    return key


def worker_key(path: Path) -> Ed25519PrivateKey:
    """Return a worker's key, made on its first start.

    Workers that start at the same time with one path get the same key.

    Raises:
        BadConfiguration: it cannot be made, or as `read_key`.
    """
    if not path.exists():
        make_dir(path.parent, 0o700)
        write_new(path, write_pem(Ed25519PrivateKey.generate()))
    return read_key(path)
