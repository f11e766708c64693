"""The server's ring of keys: made, loaded, rotated, and its public part published.

Rules:
- `ring.json` alone decides which key is which. A file that it does not name counts for nothing, so an interrupted
  command leaves either the old ring or the new one.
- Token keys and the log's key are different keys; the log's key and name never change.
- No private key is ever overwritten.
- What is published is made from the ring, and can be made again.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gnexec.errors import BadConfiguration, Refused
from gnexec.keys.files import (
    check_dir,
    locked,
    make_dir,
    read_private,
    read_public,
    remove,
    replace,
    undone_on_error,
    write_new,
)
from gnexec.keys.pem import read_key, write_pem
from gnexec.tlog.note import Verifier
from gnexec.tokens import LONGEST_S, export_set, import_set, kid_of, public_jwk, public_key

PSEUDONYM_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """The keys of a running server, parsed.

    Attributes:
        origin: the log's name, which is also `iss` and `aud` of every token.
        token_current: signs tokens now.
        token_public: next, current and previous token keys by `kid`, in that order: those that a token may be
            signed with.
        log_key: signs checkpoints.
        pseudonym_secret: 32 bytes; see `gnexec.ids.owner_id`.
    """

    origin: str
    token_current: Ed25519PrivateKey = field(repr=False)
    token_public: Mapping[str, Ed25519PublicKey]
    log_key: Ed25519PrivateKey = field(repr=False)
    pseudonym_secret: bytes = field(repr=False)

    @property
    def log_verifier(self) -> Verifier:
        """The log's public key under its name; its `vkey` is what auditors hold."""
        return Verifier.of(self.origin, self.log_key.public_key())


class _Past(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A token key that signs no more; `until_s` is when the last token it may have signed has expired."""

    x: str
    until_s: int


class _Ring(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `ring.json` says; `next` and `current` are kids, `previous` is newest first."""

    origin: str
    next: str
    current: str
    previous: tuple[_Past, ...] = ()
    retired: tuple[str, ...] = ()


def new_keys(private_dir: Path, public_dir: Path, origin: str) -> ServerKeys:
    """Make all keys of a new server, and publish their public part; all of it or nothing.

    Args:
        private_dir: made if need be, mode 0700; must not hold keys yet.
        public_dir: made if need be; must not hold published keys yet.
        origin: the log's name for ever, such as "gnexec.example/log": no spaces, no plus sign.

    Raises:
        BadConfiguration: keys are there already, or the name or a directory cannot be used.
    """
    log_key, current, upcoming = (Ed25519PrivateKey.generate() for _ in range(3))
    _check_origin(origin, log_key.public_key())
    make_dir(private_dir, 0o700)
    check_dir(private_dir)
    with locked(private_dir):
        published = [public_dir / name for name in ("log.vkey", "jwks.json", "retired.json")]
        present = [p for p in private_dir.iterdir() if p.suffix in {".pem", ".key"} or p.name == "ring.json"]
        for found in present + [p for p in published if p.exists()]:
            msg = f"{found} exists, and keys are never overwritten: choose another directory, or move the old keys away"
            raise BadConfiguration(msg)
        ring = _Ring(origin=origin, next=kid_of(upcoming.public_key()), current=kid_of(current.public_key()))
        files = {
            private_dir / "log.pem": write_pem(log_key),
            private_dir / "pseudonym.key": secrets.token_bytes(PSEUDONYM_BYTES),
            _token_path(private_dir, ring.current): write_pem(current),
            _token_path(private_dir, ring.next): write_pem(upcoming),
            private_dir / "ring.json": msgspec.json.encode(ring),
        }
        with undone_on_error([*published, *files]):
            for path, data in files.items():
                write_new(path, data)
            _publish(private_dir, public_dir)
    return load(private_dir)


def load(private_dir: Path) -> ServerKeys:
    """Read and parse the server's keys.

    Raises:
        BadConfiguration: a file is missing, malformed, or can be read or replaced by others.
    """
    ring = _read_ring(private_dir)
    try:
        return _load(private_dir, ring)
    except BadConfiguration:
        # A rotation may have removed the old current key between the two readings.
        if _read_ring(private_dir) == ring:
            raise
    return load(private_dir)


def rotate_token_key(private_dir: Path, public_dir: Path, *, now_s: int) -> ServerKeys:
    """Let the next token key become current and the current one previous, make a new next key, and publish.

    A previous key stays known until the last token that it may have signed has expired, however often keys are
    rotated; then it is retired. The new current key was published as next before, so no reader meets it unprepared.

    Args:
        private_dir: as made by `new_keys`.
        public_dir: where to publish.
        now_s: the time, seconds since 1970.

    Returns:
        The keys as they are now.

    Raises:
        BadConfiguration: as `load` and `publish`.
    """
    with locked(private_dir):
        old = _read_ring(private_dir)
        keys = _load(private_dir, old)
        _check_public(public_dir, keys)
        upcoming = Ed25519PrivateKey.generate()
        outgoing = _Past(x=public_jwk(keys.token_current.public_key())["x"], until_s=now_s + LONGEST_S)
        ring = _Ring(
            origin=old.origin,
            next=kid_of(upcoming.public_key()),
            current=old.next,
            previous=(outgoing, *(past for past in old.previous if past.until_s > now_s)),
            retired=(*old.retired, *(past.x for past in old.previous if past.until_s <= now_s)),
        )
        named = {_token_path(private_dir, kid) for kid in (ring.next, ring.current)}
        write_new(_token_path(private_dir, ring.next), write_pem(upcoming))
        replace(private_dir / "ring.json", msgspec.json.encode(ring), 0o600)
        for path in set(private_dir.glob("token-*.pem")) - named:
            remove(path)
        _publish(private_dir, public_dir)
    return load(private_dir)


def publish(private_dir: Path, public_dir: Path) -> None:
    """Write the public files anew from the ring: after an interruption, or to another place.

    Raises:
        BadConfiguration: as `load`, or `public_dir` holds the key of another log.
    """
    with locked(private_dir):
        _publish(private_dir, public_dir)


def load_jwks(path: Path) -> dict[str, Ed25519PublicKey]:
    """Read a key set from a file.

    Returns:
        Keys by `kid`.

    Raises:
        BadConfiguration: missing, or not a set in which every key is usable; see `gnexec.tokens.import_set`.
    """
    try:
        return import_set(read_public(path))
    except Refused as err:
        msg = f"{path} is not a usable key set: {err}"
        raise BadConfiguration(msg) from err


def _load(private_dir: Path, ring: _Ring) -> ServerKeys:
    upcoming, current = (read_key(_token_path(private_dir, kid)) for kid in (ring.next, ring.current))
    log_key = read_key(private_dir / "log.pem")
    secret = read_private(private_dir / "pseudonym.key")
    if len(secret) != PSEUDONYM_BYTES:
        msg = f"{private_dir / 'pseudonym.key'} does not hold {PSEUDONYM_BYTES} bytes"
        raise BadConfiguration(msg)
    try:
        previous = [public_key(past.x) for past in ring.previous]
    except Refused as err:
        msg = f"{private_dir / 'ring.json'} has a previous key that cannot be used: {err}"
        raise BadConfiguration(msg) from err
    public = {kid_of(key): key for key in [upcoming.public_key(), current.public_key(), *previous]}
    if list(public)[:2] != [ring.next, ring.current] or len(public) != 2 + len(previous):
        msg = f"the token keys in {private_dir} are not those that ring.json names"
        raise BadConfiguration(msg)
    if kid_of(log_key.public_key()) in public:
        msg = f"{private_dir / 'log.pem'} is also a token key; the log needs a key of its own"
        raise BadConfiguration(msg)
    _check_origin(ring.origin, log_key.public_key())
    return ServerKeys(ring.origin, current, public, log_key, secret)


def _publish(private_dir: Path, public_dir: Path) -> None:
    ring = _read_ring(private_dir)
    keys = _load(private_dir, ring)
    make_dir(public_dir, 0o755)
    _check_public(public_dir, keys)
    replace(public_dir / "log.vkey", _vkey_line(keys), 0o644)
    if ring.retired:
        retired = {kid_of(key): key for key in map(public_key, ring.retired)}
        replace(public_dir / "retired.json", export_set(retired), 0o644)
    replace(public_dir / "jwks.json", export_set(keys.token_public), 0o644)


def _check_public(public_dir: Path, keys: ServerKeys) -> None:
    path = public_dir / "log.vkey"
    if path.exists() and read_public(path) != _vkey_line(keys):
        msg = f"{path} is the key of another log; publish to another directory"
        raise BadConfiguration(msg)


def _vkey_line(keys: ServerKeys) -> bytes:
    return f"{keys.log_verifier.vkey}\n".encode()


def _check_origin(origin: str, log_key: Ed25519PublicKey) -> None:
    reason = "" if origin.isprintable() and len(origin) <= 128 else "it must be printable, and at most 128 characters"
    try:
        Verifier.of(origin, log_key)
    except ValueError as err:
        reason = str(err)
    if reason:
        msg = f"{origin!r} cannot be the log's name: {reason}"
        raise BadConfiguration(msg)


def _read_ring(private_dir: Path) -> _Ring:
    path = private_dir / "ring.json"
    if not path.exists():
        msg = f"there are no keys in {private_dir}: make them with `gnexec keys new`"
        raise BadConfiguration(msg)
    check_dir(private_dir)
    try:
        return msgspec.json.decode(read_private(path), type=_Ring)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        msg = f"{path} cannot be read: {err}"
        raise BadConfiguration(msg) from err


def _token_path(private_dir: Path, kid: str) -> Path:
    return private_dir / f"token-{kid}.pem"
