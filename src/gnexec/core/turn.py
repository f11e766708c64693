"""Keys that turn: what the log has to say when a server's ring of keys is ahead of it.

Every server over a log asks this whenever its ring has changed; the first one is answered with events, the others with
none. A ring that lacks a key of the log is behind it, and gets nothing into the log: the server has to be given the
newer ring first (`lacking` says what is missing).
"""

from __future__ import annotations

from collections.abc import Collection

from gnexec.core.commands import OpenLog, TurnKeys
from gnexec.core.events import AnyEvent, KeyAdded, KeyCurrent, KeyRetired, KeyRevoked, LogKeyAdded, LogKeyRetired
from gnexec.core.keybook import KeyBook
from gnexec.core.world import World
from gnexec.errors import BadConfiguration


def check_log(world: World, command: OpenLog) -> None:
    """Make sure that a log which is there is that of the server's keys.

    Raises:
        BadConfiguration: it belongs to another origin, or to another log key.
    """
    ours = {command.vkey, *(key.vkey for key in command.turn.log)} if command.turn is not None else {command.vkey}
    if world.origin != command.origin or not ours & {key.vkey for key in world.keys.log}:
        msg = (
            f"The log belongs to {world.origin} with the key {world.keys.log[-1].vkey}; this server is "
            f"{command.origin} with {command.vkey}. Start it with the keys and the origin that the log was opened with."
        )
        raise BadConfiguration(msg)


def turned(book: KeyBook, ring: TurnKeys) -> list[AnyEvent]:
    """Return the events that bring the log up to `ring`; none where it is, or where the ring is behind it."""
    known = ring.tokens.keys() | ring.retired | ring.revoked
    if not book.origin or lacking(book, known, [key.vkey for key in ring.log]):
        return []
    events: list[AnyEvent] = [KeyAdded(kid=kid, x=x) for kid, x in ring.tokens.items() if kid not in book.tokens]
    held = book.tokens.get(ring.current)
    current = book.current
    if ring.current in ring.tokens and (held is None or held.state == "next"):
        events.append(KeyCurrent(kid=ring.current))
        current = ring.current
    gone = [kid for kid in book.live() if kid != current]
    events.extend(KeyRetired(kid=kid) for kid in gone if kid in ring.retired - ring.revoked)
    events.extend(KeyRevoked(kid=kid) for kid in gone if kid in ring.revoked)
    return events + _turned_log(book, ring)


def _turned_log(book: KeyBook, ring: TurnKeys) -> list[AnyEvent]:
    """Return the events about log keys: those beyond the log's newest, then those that are to sign no more."""
    order = [key.vkey for key in ring.log]
    fresh = ring.log[order.index(book.log[-1].vkey) + 1 :] if order else ()
    events: list[AnyEvent] = [LogKeyAdded(vkey=key.vkey, endorsement=key.endorsement) for key in fresh]
    ended = {key.vkey for key in ring.log[:-1] if not key.in_force}
    events.extend(LogKeyRetired(vkey=vkey) for vkey in [*book.in_force(), *(k.vkey for k in fresh)] if vkey in ended)
    return events


def lacking(book: KeyBook, tokens: Collection[str] | None, log: Collection[str]) -> str | None:
    """Say which keys of the log a server has not got, or None if it has all.

    Args:
        book: the log's.
        tokens: kids that the server knows, or None where these do not matter.
        log: verifier keys that it knows, or holds the private keys of.
    """
    missing = [f"token key {kid}" for kid in book.live() if tokens is not None and kid not in tokens]
    missing += [f"log key {vkey}" for vkey in book.in_force() if vkey not in log]
    return ", ".join(missing) or None
