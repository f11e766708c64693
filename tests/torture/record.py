"""What was acknowledged: noted by the clients the moment that the reply is whole, held against the log in the end.

Nothing here sends or checks anything.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gnexec.shapes import ReceiptView


@dataclass(frozen=True, slots=True)
class Asked:
    """A job that was handed in.

    Attributes:
        text: what it prints, without the line's end.
        key: the submission's idempotency key.
        forced: whether only the key keeps it from being made twice.
        quorum: results that must agree.
    """

    text: str
    key: str
    forced: bool
    quorum: int


@dataclass(slots=True)
class Record:
    """Everything that was acknowledged, and how often.

    Attributes:
        submissions: ids by idempotency key, in the order of the request.
        jobs: what was asked, by id. decided: state by id, once a reply said that it is final.
        cancelled: jobs of which a reply said so.
        workers: the key's thumbprint by worker.
        hand_outs: worker, and (job, attempt) pairs, by jti.
        verdicts: by jti and job; "too_late" where the result was refused as such.
        receipts: of results and submissions. checkpoints: signed notes, verbatim.
        blobs: uploaded inputs by digest.
        counts: acknowledgements by kind, and what got in the way.
    """

    submissions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    jobs: dict[int, Asked] = field(default_factory=dict)
    decided: dict[int, str] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)
    workers: dict[str, str] = field(default_factory=dict)
    hand_outs: dict[str, tuple[str, tuple[tuple[int, int], ...]]] = field(default_factory=dict)
    verdicts: dict[tuple[str, int], str] = field(default_factory=dict)
    receipts: list[ReceiptView] = field(default_factory=list)
    checkpoints: set[bytes] = field(default_factory=set)
    blobs: dict[str, bytes] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def acknowledged(self) -> int:
        """How many replies there were that promise something."""
        return sum(count for kind, count in self.counts.items() if kind.startswith("acknowledged"))

    def note(self, kind: str, count: int = 1) -> None:
        """Count an acknowledgement."""
        self.counts[f"acknowledged {kind}"] += count
