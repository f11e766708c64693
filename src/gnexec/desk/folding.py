"""Folding the log: entries to world and tree, from a snapshot or from the first entry, held against the checkpoint.

The same way for a server that starts, one that catches up with others, and whoever makes a snapshot. It only reads.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import structlog

from gnexec.core.commands import OpenLog
from gnexec.core.events import AnyEvent
from gnexec.core.turn import check_log
from gnexec.core.world import World
from gnexec.desk.facts import read
from gnexec.desk.sealer import Sealer
from gnexec.desk.snapshots import Snapshots
from gnexec.errors import BadConfiguration, CorruptLog, GnexecError, ProofError, UnknownEvent
from gnexec.store.contract import Entry, Head, Reader
from gnexec.tlog.merkle import leaf_hash
from gnexec.tlog.tiles import Tree

log = structlog.get_logger("gnexec.desk")

FOLD_CHUNK: Final = 2_000
"""Entries read from the store at one time."""


class Folded(NamedTuple):
    """World and tree over the same entries."""

    world: World
    tree: Tree


def fold_all(reader: Reader, head: Head, sealer: Sealer, opening: OpenLog, snapshots: Snapshots | None) -> Folded:
    """Fold up to `head`, from the newest snapshot that holds against the log, else from the first entry.

    Args:
        reader: the store.
        head: as it was read from there.
        sealer: checks the checkpoint.
        opening: whose log it must be.
        snapshots: None for none.

    Raises:
        BadConfiguration: it is the log of another origin or key.
        CorruptLog, ProofError: it contradicts itself or its checkpoint.
        StoreAway: no answer.
    """
    for snapshot in snapshots.newest_first(head.size) if snapshots is not None else ():
        folded = Folded(snapshot.world, snapshot.tree)
        try:
            if _follows(reader, folded.tree):
                fold_on(reader, head, folded, sealer, opening)
                return folded
        except UnknownEvent:
            raise  # It stands behind the snapshot, and so it does for whoever begins at the first entry.
        except (CorruptLog, ProofError, BadConfiguration) as err:
            log.warning("the log does not follow from a snapshot", snapshot=snapshot.path.name, error=str(err))
        else:
            log.warning("a snapshot is of another log, or of another history of this one", snapshot=snapshot.path.name)
    folded = Folded(World(), Tree())
    fold_on(reader, head, folded, sealer, opening)
    return folded


def fold_on(
    reader: Reader,
    head: Head,
    folded: Folded,
    sealer: Sealer,
    opening: OpenLog,
    seen: list[AnyEvent] | None = None,
) -> None:
    """Fold on, up to `head`, and hold world and tree against its checkpoint; events go into `seen` as well.

    Raises:
        As `fold_all`; world and tree are then of no use.
    """
    world, tree = folded
    while world.size < head.size:
        entries = reader.entries(world.size, min(head.size, world.size + FOLD_CHUNK))
        if not entries:
            msg = "the log ends before its head"
            raise CorruptLog(msg, seq=world.size)
        for entry in entries:
            event = _apply(world, entry)
            if seen is not None:
                seen.append(event)
            tree.append(leaf_hash(entry.leaf))
    if head.size:
        check_log(world, opening)  # Another server's log: say so, not that its signature is bad.
    sealer.check(tree, head, world.keys.in_force())


def _follows(reader: Reader, tree: Tree) -> bool:
    """Tell whether the last entry under the tree's right edge is the log's: spares folding on from another history."""
    place = tree.size - 1
    return tree.node(0, place, reader.tile) == leaf_hash(reader.entries(place, tree.size)[0].leaf)


def _apply(world: World, entry: Entry) -> AnyEvent:
    """Apply a stored entry, and return its event.

    Raises:
        CorruptLog: it does not fit; names its seq.
    """
    seq = world.size
    try:
        _, at_ms, event = read(seq, entry)
        world.apply(event, at_ms)
    except CorruptLog:
        raise
    except (GnexecError, LookupError, ValueError) as err:
        raise CorruptLog(str(err), seq=seq) from err
    return event
