"""A world, and the tree's right edge beside it, to bytes and back, so that a start need not fold the whole log.

A snapshot is a cache: `decode(encode(world, tree))` is what folding the same entries gives, and whoever has none folds
them. Nothing here says whether the bytes are to be believed, or where they lie; that is `gnexec.desk.snapshots`'.

Rules:
- Everything a world knows is in it, or is rebuilt from what is (`REBUILT`); a test holds this against the class.
- It says by which fold it was made (`fold_version`): one that folds otherwise does not read it.
- Waiting jobs stay in their columns, and terms are written once, so its size follows open work.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Iterable
from functools import cache
from typing import Any, Final

import msgspec

from gnexec.core.events import AnyEvent, PolicySet
from gnexec.core.job import Job
from gnexec.core.keybook import KeyBook
from gnexec.core.openjobs import SavedColumns
from gnexec.core.policy.prediction import Statistics
from gnexec.core.ready import LineKey
from gnexec.core.records import HandOut, WorkerRecord
from gnexec.core.terms import Terms
from gnexec.core.world import World
from gnexec.tlog.tiles import Tree

FOLD: Final = 1
"""To be raised when the same entries fold to another world, or something in it gets another meaning.

A change of form (events, records) needs no raise: `fold_version` sees it by itself. A golden digest in the tests tells
when this was forgotten.
"""

REBUILT: Final = frozenset({"ready", "_standing", "_terms", "_lines", "_firsts", "jobs", "_leases"})
"""What of a world is made anew from what the snapshot holds; every other attribute is written as it is."""


class Line(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A line of jobs that need attempts: number of its terms, owners excluded, and ids, 8 bytes each."""

    terms: int
    excluded: frozenset[str]
    ids: bytes


class Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is written: what is named here, and under their own names all attributes of a world that are not `REBUILT`.

    Attributes:
        fold: `fold_version` of who wrote it.
        edge: the tree's right edge.
        terms: the distinct terms of what follows, by number.
        columns: jobs that wait untouched. records: the others, as `_Row` has them.
        lines: the queue, in its order.
    """

    fold: str
    edge: list[bytes]
    terms: list[Terms]
    columns: list[SavedColumns]
    records: msgspec.Raw
    lines: list[Line]
    size: int
    at_ms: int
    origin: str
    vkey: str
    policy: PolicySet
    keys: KeyBook
    next_job: int
    hand_outs: dict[str, HandOut]
    requests: dict[tuple[str, str], str]
    workers: dict[str, WorkerRecord]
    worker_by_kid: dict[str, str]
    held: dict[str, int]
    statistics: dict[str, Statistics]
    decided: dict[str, int]


class _Fold(msgspec.Struct):
    """As much of a snapshot as any version can read."""

    fold: str


_OURS: Final = frozenset({"fold", "edge", "terms", "columns", "records", "lines"})
_PLAIN: Final = [name for name in Saved.__struct_fields__ if name not in _OURS]
_FIELDS: Final = [field.name for field in msgspec.structs.fields(Job)]
_TERMS: Final = _FIELDS.index("terms")
_Row: Final[type[Any]] = msgspec.defstruct(
    "_Row",
    [(field.name, int if field.name == "terms" else field.type) for field in msgspec.structs.fields(Job)],
    frozen=True,
    array_like=True,
    forbid_unknown_fields=True,
    gc=False,
)
"""A job's record: its fields in order, with the number of its terms in the place of these."""

_encode: Final = msgspec.msgpack.Encoder()
_decode: Final = msgspec.msgpack.Decoder(Saved)
_decode_fold: Final = msgspec.msgpack.Decoder(_Fold)
_decode_rows: Final = msgspec.msgpack.Decoder(list[_Row])  # type: ignore[valid-type]


class UnusableSnapshot(ValueError):
    """The bytes are no snapshot, or one of another fold."""


@cache
def fold_version() -> str:
    """Return what names this program's fold: `FOLD`, and a digest of every form that goes into a world."""
    forms = msgspec.json.schema_components([AnyEvent, Saved, Job])
    form = msgspec.json.encode([sys.byteorder, _FIELDS, forms], order="sorted")
    return f"{FOLD}-{hashlib.sha256(form).hexdigest()[:12]}"


def encode(world: World, tree: Tree) -> bytes:
    """Write a world and its tree.

    Args:
        world: folded from entries 0..size-1.
        tree: over the same entries.

    Raises:
        ValueError: they are of different size.
    """
    numbers: dict[Terms, int] = {}

    def number(terms: Terms) -> int:
        return numbers.setdefault(terms, len(numbers))

    columns = list(world.jobs.columns(number))
    rows = [_row(job, number(job.terms)) for job in world.jobs.records()]
    ready = world.ready
    lines = [Line(number(key.terms), key.excluded, ready.standing(key).tobytes()) for key in ready.lines()]
    if tree.size != world.size:
        msg = f"a tree of {tree.size} leaves is not that of {world.size} entries"
        raise ValueError(msg)
    return _encode.encode(
        Saved(
            fold=fold_version(),
            edge=tree.edge(),
            terms=list(numbers),
            columns=columns,
            records=msgspec.Raw(_encode.encode(rows)),
            lines=lines,
            **{name: getattr(world, name) for name in _PLAIN},
        )
    )


def decode(data: bytes | memoryview) -> tuple[World, Tree]:
    """Read what `encode` wrote.

    Returns:
        The world and its tree, both free to go on.

    Raises:
        UnusableSnapshot: it was made by another fold, or is damaged.
    """
    try:
        fold = _decode_fold.decode(data).fold
        if fold != fold_version():
            msg = f"it was made by fold {fold}, and this is {fold_version()}"
            raise UnusableSnapshot(msg)
        saved = _decode.decode(data)
        return _Restored(saved), Tree.from_edge(saved.size, saved.edge)
    except (msgspec.DecodeError, ValueError, LookupError) as err:
        if isinstance(err, UnusableSnapshot):
            raise
        msg = f"it cannot be read: {err}"
        raise UnusableSnapshot(msg) from err


class _Restored(World):
    """A world that begins where a snapshot was made."""

    def __init__(self, saved: Saved) -> None:
        super().__init__()
        for name in _PLAIN:
            setattr(self, name, getattr(saved, name))
        for hand_out in saved.hand_outs.values():
            self._keep(hand_out)
        terms = [self._intern(each) for each in saved.terms]
        records = [_job(row, terms) for row in _decode_rows.decode(saved.records)]
        self.jobs.put_back(saved.columns, terms, records)
        for job in records:
            if self.needed(job):
                self._standing[job.id] = self.line_of(job)
        for line in saved.lines:
            self.ready.extend(array("q", line.ids), LineKey(terms[line.terms], line.excluded))


def _row(job: Job, terms: int) -> Any:  # noqa: ANN401 -- a `_Row`
    values: list[Any] = list(msgspec.structs.astuple(job))
    values[_TERMS] = terms
    return _Row(*values)


def _job(row: Any, terms: list[Terms]) -> Job:  # noqa: ANN401 -- a `_Row`
    values: Iterable[Any] = msgspec.structs.astuple(row)
    fields = dict(zip(_FIELDS, values, strict=True))
    fields["terms"] = terms[fields["terms"]]
    return Job(**fields)
