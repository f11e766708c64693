"""Turning the ring of keys: token keys move on by one, log keys get a successor, stolen ones are thrown out.

Each command changes the private directory in this order: new private keys beside the old, then `ring.json` in one step,
then the private keys go that sign no more, then the public files are made anew. Stopped anywhere, the ring is the old
one or the new one, and the next command puts the rest right.

Nothing here talks to a server: servers look at `ring.json` and take the new ring up by themselves
(`gnexec.desk.keyring`), which is when the log is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.errors import BadConfiguration
from gnexec.keys.files import locked, remove, replace, write_new
from gnexec.keys.forms import LogKeyRow, PastKey, RevokedKey, Ring, ServerKeys
from gnexec.keys.pem import write_pem
from gnexec.keys.ring import check_public, load, load_ring, publish_ring, read_ring, token_path
from gnexec.tlog.note import Verifier
from gnexec.tlog.succession import endorse
from gnexec.tokens import LONGEST_S, kid_of, public_jwk


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
        old, keys = _loaded(private_dir, public_dir)
        upcoming = Ed25519PrivateKey.generate()
        outgoing = PastKey(x=_x(keys.token_current), until_s=now_s + LONGEST_S, since_s=now_s)
        ring = msgspec.structs.replace(
            old,
            next=kid_of(upcoming.public_key()),
            current=old.next,
            previous=(outgoing, *(past for past in old.previous if past.until_s > now_s)),
            retired=(*old.retired, *_expired(old, now_s)),
            next_since_s=now_s,
            current_since_s=now_s,
        )
        _turn(private_dir, public_dir, ring, {token_path(private_dir, ring.next): upcoming})
    return load(private_dir)


def revoke_token_keys(private_dir: Path, public_dir: Path, *, now_s: int) -> ServerKeys:
    """Throw all token keys out because they may have been stolen, and make new ones: no token from before is good.

    Raises:
        BadConfiguration: as `rotate_token_key`.
    """
    with locked(private_dir):
        old, keys = _loaded(private_dir, public_dir)
        upcoming, current = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        stolen = [_x(keys.token_next), _x(keys.token_current), *(p.x for p in old.previous if p.until_s > now_s)]
        ring = msgspec.structs.replace(
            old,
            next=kid_of(upcoming.public_key()),
            current=kid_of(current.public_key()),
            previous=(),
            retired=(*old.retired, *_expired(old, now_s)),
            revoked=(*old.revoked, *(RevokedKey(x=x, since_s=now_s) for x in stolen)),
            next_since_s=now_s,
            current_since_s=now_s,
        )
        fresh = {token_path(private_dir, ring.current): current, token_path(private_dir, ring.next): upcoming}
        _turn(private_dir, public_dir, ring, fresh)
    return load(private_dir)


def rotate_log_key(private_dir: Path, public_dir: Path, *, now_s: int, alone: bool = False) -> ServerKeys:
    """Make a new log key, endorsed by the newest, and publish; at most two are in force.

    Args:
        private_dir: as made by `new_keys`.
        public_dir: where to publish.
        now_s: the time, seconds since 1970.
        alone: retire all older ones at once; else the newest of them goes on signing until the next rotation, or until
            `retire_log_keys`.

    Raises:
        BadConfiguration: as `rotate_token_key`.
    """
    with locked(private_dir):
        old, keys = _loaded(private_dir, public_dir)
        fresh = Ed25519PrivateKey.generate()
        vkey = Verifier.of(old.origin, fresh.public_key()).vkey
        added = LogKeyRow(
            x=_x(fresh),
            file=f"log-{kid_of(fresh.public_key())}.pem",
            since_s=now_s,
            endorsement=endorse(old.origin, vkey, keys.log_key),
        )
        rows = [key.row for key in keys.log_keys]
        kept = [] if alone else rows[-1:]
        ring = msgspec.structs.replace(old, log=(*(_ended(row, kept, now_s) for row in rows), added))
        _turn(private_dir, public_dir, ring, {private_dir / added.file: fresh})
    return load(private_dir)


def retire_log_keys(private_dir: Path, public_dir: Path, *, now_s: int) -> ServerKeys:
    """Let the newest log key alone sign from now on.

    Raises:
        BadConfiguration: it does already; or as `rotate_token_key`.
    """
    with locked(private_dir):
        old, keys = _loaded(private_dir, public_dir)
        rows = [key.row for key in keys.log_keys]
        if all(row.until_s for row in rows[:-1]):
            msg = "The log has one key in force, which cannot be retired: make another one first, without --retire."
            raise BadConfiguration(msg)
        ring = msgspec.structs.replace(old, log=tuple(_ended(row, rows[-1:], now_s) for row in rows))
        _turn(private_dir, public_dir, ring, {})
    return load(private_dir)


def _loaded(private_dir: Path, public_dir: Path) -> tuple[Ring, ServerKeys]:
    ring = read_ring(private_dir)
    keys = load_ring(private_dir, ring)
    check_public(public_dir, keys)
    return ring, keys


def _turn(private_dir: Path, public_dir: Path, ring: Ring, fresh: Mapping[Path, Ed25519PrivateKey]) -> None:
    """Put a ring in the place of the old one."""
    for path, key in fresh.items():
        write_new(path, write_pem(key))
    replace(private_dir / "ring.json", msgspec.json.encode(ring), 0o600)
    named = {token_path(private_dir, kid).name for kid in (ring.next, ring.current)}
    named |= {row.file for row in ring.log if not row.until_s} if ring.log else {"log.pem"}
    for path in [*private_dir.glob("token-*.pem"), *private_dir.glob("log*.pem")]:
        if path.name not in named:
            remove(path)
    publish_ring(private_dir, public_dir)


def _ended(row: LogKeyRow, kept: list[LogKeyRow], now_s: int) -> LogKeyRow:
    return row if row.until_s or row in kept else msgspec.structs.replace(row, until_s=now_s)


def _expired(ring: Ring, now_s: int) -> list[str]:
    return [past.x for past in ring.previous if past.until_s <= now_s]


def _x(key: Ed25519PrivateKey) -> str:
    return public_jwk(key.public_key())["x"]
