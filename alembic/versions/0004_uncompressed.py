"""On PostgreSQL, keep payloads, tiles and contents as they are: compressing costs more than writing them does.

Payloads of more than 2 kB took two to three times as long to append and to read back; they would be a third as large.
SQLite compresses nothing.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change how new values are kept; what is there stays as it is, and reads the same."""
    if op.get_bind().dialect.name == "postgresql":
        for table, column in (("entries", "payload"), ("tiles", "data"), ("contents", "data")):
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE EXTERNAL")
