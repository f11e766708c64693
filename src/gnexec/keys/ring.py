"""The server's ring of keys: made, loaded, and its public part published. How it turns is `gnexec.keys.rotation`'s.

Rules:
- `ring.json` alone decides which key is which. A file that it does not name counts for nothing, so an interrupted
  command leaves either the old ring or the new one.
- Token keys and log keys are different keys; the log's name never changes.
- No private key is ever overwritten.
- What is published is made from the ring, and can be made again.
- While the first keys are made, `making.json` names their files, and the ring comes last. So what a kill has left of
  keys that nobody has ever used is told from keys, and the same command begins anew.
"""

from __future__ import annotations

import secrets
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
from gnexec.keys.forms import FIRST_LOG_FILE, LogKey, LogKeyRow, Ring, ServerKeys
from gnexec.keys.pem import read_key, write_pem
from gnexec.shapes import LogKeysView, LogKeyView
from gnexec.tlog.note import Verifier
from gnexec.tokens import export_set, import_set, kid_of, public_jwk, public_key

PSEUDONYM_BYTES: Final = 32
PUBLISHED: Final = ("log.vkey", "log-keys.json", "jwks.json", "retired.json")
"""What may be in a public directory."""
_MAKING: Final = "making.json"


def new_keys(private_dir: Path, public_dir: Path, origin: str, *, now_s: int = 0) -> ServerKeys:
    """Make all keys of a new server, and publish their public part; all of it or nothing.

    Args:
        private_dir: made if need be, mode 0700; must not hold keys yet.
        public_dir: made if need be; must not hold published keys yet.
        origin: the log's name for ever, such as "gnexec.example/log": no spaces, no plus sign.
        now_s: the time, seconds since 1970; 0 leaves it open since when the keys are what they are.

    Raises:
        BadConfiguration: keys are there already, or the name or a directory cannot be used.
    """
    log_key, current, upcoming = (Ed25519PrivateKey.generate() for _ in range(3))
    _check_origin(origin, log_key.public_key())
    make_dir(private_dir, 0o700)
    check_dir(private_dir)
    with locked(private_dir):
        _remove_unfinished(private_dir)
        published = [public_dir / name for name in PUBLISHED]
        present = [p for p in private_dir.iterdir() if p.suffix in {".pem", ".key"} or p.name == "ring.json"]
        for found in present + [p for p in published if p.exists()]:
            msg = f"{found} exists, and keys are never overwritten: choose another directory, or move the old keys away"
            raise BadConfiguration(msg)
        ring = Ring(
            origin=origin,
            next=kid_of(upcoming.public_key()),
            current=kid_of(current.public_key()),
            next_since_s=now_s,
            current_since_s=now_s,
            log=(LogKeyRow(x=public_jwk(log_key.public_key())["x"], file=FIRST_LOG_FILE, since_s=now_s),),
        )
        files = {
            private_dir / FIRST_LOG_FILE: write_pem(log_key),
            private_dir / "pseudonym.key": secrets.token_bytes(PSEUDONYM_BYTES),
            token_path(private_dir, ring.current): write_pem(current),
            token_path(private_dir, ring.next): write_pem(upcoming),
        }
        made = [*published, *files]
        with undone_on_error([*made, private_dir / "ring.json", private_dir / _MAKING]):
            write_new(private_dir / _MAKING, msgspec.json.encode([str(path.absolute()) for path in made]))
            for path, data in files.items():
                write_new(path, data)
            publish_ring(private_dir, public_dir, ring)
            write_new(private_dir / "ring.json", msgspec.json.encode(ring))
            remove(private_dir / _MAKING)
    return load(private_dir)


def _remove_unfinished(private_dir: Path) -> None:
    """Remove the files of a making that was interrupted before there was a ring; nobody has used them."""
    making = private_dir / _MAKING
    if making.exists() and not (private_dir / "ring.json").exists():
        for path in map(Path, msgspec.json.decode(read_private(making), type=list[str])):
            for found in (path, *path.parent.glob(f".{path.name}.*")):  # also what was not in its place yet
                remove(found)
    remove(making)


def load(private_dir: Path) -> ServerKeys:
    """Read and parse the server's keys.

    Raises:
        BadConfiguration: a file is missing, malformed, or can be read or replaced by others.
    """
    ring = read_ring(private_dir)
    try:
        return load_ring(private_dir, ring)
    except BadConfiguration:
        # A rotation may have removed a key between the two readings.
        if read_ring(private_dir) == ring:
            raise
    return load(private_dir)


def publish(private_dir: Path, public_dir: Path) -> None:
    """Write the public files anew from the ring: after an interruption, or to another place.

    Raises:
        BadConfiguration: as `load`, or `public_dir` holds the key of another log.
    """
    with locked(private_dir):
        publish_ring(private_dir, public_dir)


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


def read_ring(private_dir: Path) -> Ring:
    """Read what `ring.json` says.

    Raises:
        BadConfiguration: it is missing, malformed, or can be read or replaced by others.
    """
    path = private_dir / "ring.json"
    if not path.exists():
        msg = f"there are no keys in {private_dir}: make them with `gnexec keys new`"
        raise BadConfiguration(msg)
    check_dir(private_dir)
    try:
        return msgspec.json.decode(read_private(path), type=Ring)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        msg = f"{path} cannot be read: {err}"
        raise BadConfiguration(msg) from err


def load_ring(private_dir: Path, ring: Ring) -> ServerKeys:
    """Read and parse the keys that `ring` names.

    Raises:
        BadConfiguration: as `load`.
    """
    upcoming, current = (read_key(token_path(private_dir, kid)) for kid in (ring.next, ring.current))
    log_keys = _log_keys(private_dir, ring)
    secret = read_private(private_dir / "pseudonym.key")
    if len(secret) != PSEUDONYM_BYTES:
        msg = f"{private_dir / 'pseudonym.key'} does not hold {PSEUDONYM_BYTES} bytes"
        raise BadConfiguration(msg)
    try:
        previous = [public_key(past.x) for past in ring.previous]
        gone = {kid_of(public_key(x)) for x in (*ring.retired, *(key.x for key in ring.revoked))}
    except Refused as err:
        msg = f"{private_dir / 'ring.json'} has a previous key that cannot be used: {err}"
        raise BadConfiguration(msg) from err
    public = {kid_of(key): key for key in [upcoming.public_key(), current.public_key(), *previous]}
    if list(public)[:2] != [ring.next, ring.current] or len(public) != 2 + len(previous) or gone & public.keys():
        msg = f"the token keys in {private_dir} are not those that ring.json names"
        raise BadConfiguration(msg)
    for key in log_keys:
        if key.private is not None and kid_of(key.private.public_key()) in public:
            msg = f"{private_dir / key.row.file} is also a token key; the log needs a key of its own"
            raise BadConfiguration(msg)
        if key.private is not None and public_jwk(key.private.public_key())["x"] != key.row.x:
            msg = f"{private_dir / key.row.file} is not the log key that ring.json names"
            raise BadConfiguration(msg)
    keys = ServerKeys(ring.origin, current, public, secret, upcoming, log_keys, ring)
    _check_origin(ring.origin, keys.log_key.public_key())
    return keys


def publish_ring(private_dir: Path, public_dir: Path, ring: Ring | None = None) -> None:
    """Write the public files; the directory's lock is held.

    Args:
        private_dir: holds the keys.
        public_dir: made if need be.
        ring: None for the one that is there.

    Raises:
        BadConfiguration: as `publish`.
    """
    ring = ring or read_ring(private_dir)
    keys = load_ring(private_dir, ring)
    make_dir(public_dir, 0o755)
    check_public(public_dir, keys)
    replace(public_dir / "log.vkey", f"{keys.log_verifier.vkey}\n".encode(), 0o644)
    if len(keys.log_keys) > 1:
        rows = [LogKeyView(vkey=key.vkey, endorsement=key.row.endorsement or None) for key in keys.log_keys]
        view = msgspec.json.encode(LogKeysView(origin=ring.origin, keys=rows))
        replace(public_dir / "log-keys.json", msgspec.json.format(view, indent=2) + b"\n", 0o644)
    gone = [*ring.retired, *(key.x for key in ring.revoked)]
    if gone:
        replace(public_dir / "retired.json", export_set({kid_of(key): key for key in map(public_key, gone)}), 0o644)
    replace(public_dir / "jwks.json", export_set(keys.token_public), 0o644)


def check_public(public_dir: Path, keys: ServerKeys) -> None:
    """Make sure that a public directory is empty, or this log's.

    Raises:
        BadConfiguration: it is another log's.
    """
    path = public_dir / "log.vkey"
    if path.exists() and read_public(path) not in {f"{key.vkey}\n".encode() for key in keys.log_keys}:
        msg = f"{path} is the key of another log; publish to another directory"
        raise BadConfiguration(msg)


def token_path(private_dir: Path, kid: str) -> Path:
    """Return where the private token key `kid` lies."""
    return private_dir / f"token-{kid}.pem"


def _log_keys(private_dir: Path, ring: Ring) -> tuple[LogKey, ...]:
    """Read the log keys in force, and what is known of the others."""
    if not ring.log:
        private = read_key(private_dir / FIRST_LOG_FILE)
        row = LogKeyRow(x=public_jwk(private.public_key())["x"], file=FIRST_LOG_FILE)
        return (LogKey(row, _vkey(ring.origin, private.public_key()), private),)
    found = []
    for row in ring.log:
        if "/" in row.file or (row.until_s and row is ring.log[-1]):
            msg = f"{private_dir / 'ring.json'} names a log key that cannot be used"
            raise BadConfiguration(msg)
        held = None if row.until_s else read_key(private_dir / row.file)
        try:
            public = public_key(row.x) if held is None else held.public_key()
        except Refused as err:
            msg = f"{private_dir / 'ring.json'} has a log key that cannot be used: {err}"
            raise BadConfiguration(msg) from err
        found.append(LogKey(row, _vkey(ring.origin, public), held))
    return tuple(found)


def _vkey(origin: str, key: Ed25519PublicKey) -> str:
    _check_origin(origin, key)
    return Verifier.of(origin, key).vkey


def _check_origin(origin: str, log_key: Ed25519PublicKey) -> None:
    reason = "" if origin.isprintable() and len(origin) <= 128 else "it must be printable, and at most 128 characters"
    try:
        Verifier.of(origin, log_key)
    except ValueError as err:
        reason = str(err)
    if reason:
        msg = f"{origin!r} cannot be the log's name: {reason}"
        raise BadConfiguration(msg)
