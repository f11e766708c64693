"""What running jobs tell of themselves, for servers that share a database; of no use to SQLite, which serves one.

On PostgreSQL the tables are unlogged: a crash empties them, and a backup leaves them out.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    counter = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    unlogged = ["UNLOGGED"] if op.get_bind().dialect.name == "postgresql" else []
    op.create_table(
        "live",
        sa.Column("job", counter, primary_key=True, autoincrement=False),
        sa.Column("attempt", counter, primary_key=True, autoincrement=False),
        sa.Column("progress_ppm", counter, nullable=False),
        sa.Column("cpu_ms", counter, nullable=False),
        sa.Column("heard_ms", counter, nullable=False),
        prefixes=unlogged,
    )
    op.create_table(
        "live_output",
        sa.Column("job", counter, primary_key=True, autoincrement=False),
        sa.Column("attempt", counter, primary_key=True, autoincrement=False),
        sa.Column("start", counter, primary_key=True, autoincrement=False),
        sa.Column("heard_ms", counter, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        prefixes=unlogged,
    )
