"""Refs of jobs by shelves of eight: what was filed under each job is filed under its shelf (see `gnexec.core.refs`)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JOB = b"j"
SHELF = b"s"
JOBS = 8
CHUNK = 10_000


def upgrade() -> None:
    """File anew, some at a time, in the transaction of the migration."""
    refs = sa.table("refs", sa.column("key", sa.LargeBinary), sa.column("seq", sa.BigInteger))
    db = op.get_bind()
    oldest = (
        sa.select(refs.c.key, refs.c.seq).where(refs.c.key >= JOB, refs.c.key < b"k").order_by(refs.c.key, refs.c.seq)
    )
    while rows := db.execute(oldest.limit(CHUNK)).all():
        filed = {(SHELF + (int.from_bytes(key[1:], "big") // JOBS).to_bytes(8, "big"), seq) for key, seq in rows}
        there = set()
        for key in {key for key, _ in filed}:
            there |= {(key, seq) for (seq,) in db.execute(sa.select(refs.c.seq).where(refs.c.key == key))}
        fresh = sorted(filed - there)
        if fresh:
            db.execute(sa.insert(refs), [{"key": key, "seq": seq} for key, seq in fresh])
        last_key, last_seq = rows[-1]
        db.execute(
            sa.delete(refs).where(
                refs.c.key >= JOB,
                sa.or_(refs.c.key < last_key, sa.and_(refs.c.key == last_key, refs.c.seq <= last_seq)),
            )
        )
