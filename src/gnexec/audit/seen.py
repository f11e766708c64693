"""What an audit has to remember for ever: ids that must not come twice, and the answers that were given.

It lies in a temporary file (a private SQLite database that vanishes with the process), so that memory stays the same
however long the log is.
"""

from __future__ import annotations

import sqlite3
from typing import Final

_SCHEMA: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE hand_outs (jti TEXT PRIMARY KEY, worker TEXT, job INTEGER) WITHOUT ROWID;
CREATE TABLE answers (jti TEXT, job INTEGER, answer TEXT, PRIMARY KEY (jti, job)) WITHOUT ROWID;
CREATE TABLE noted (jti TEXT, code TEXT, PRIMARY KEY (jti, code)) WITHOUT ROWID;
CREATE TABLE keys (key TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class Seen:
    """A memory of what was seen in a log. Each `add_…` returns False for what was there already."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")

    def add_hand_out(self, jti: str, worker: str, job: int) -> bool:
        """Note a hand-out, its worker and its first job."""
        return self._add("INSERT OR IGNORE INTO hand_outs VALUES (?, ?, ?)", jti, worker, job)

    def add_answer(self, jti: str, job: int, answer: str) -> bool:
        """Note the answer for a job of a hand-out."""
        return self._add("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", jti, job, answer)

    def add_note(self, jti: str, code: str) -> bool:
        """Note a refusal."""
        return self._add("INSERT OR IGNORE INTO noted VALUES (?, ?)", jti, code)

    def add_key(self, key: str) -> bool:
        """Note an idempotency key."""
        return self._add("INSERT OR IGNORE INTO keys VALUES (?)", key)

    def hand_out(self, jti: str) -> tuple[str, int] | None:
        """Return a hand-out's worker and first job, or None."""
        found: tuple[str, int] | None = self._db.execute(
            "SELECT worker, job FROM hand_outs WHERE jti = ?", (jti,)
        ).fetchone()
        return found

    def answer(self, jti: str, job: int) -> str | None:
        """Return the answer for a job of a hand-out, or None."""
        found = self._db.execute("SELECT answer FROM answers WHERE jti = ? AND job = ?", (jti, job)).fetchone()
        return None if found is None else str(found[0])

    def noted(self, jti: str, code: str) -> bool:
        """Tell whether a refusal was noted."""
        return self._db.execute("SELECT 1 FROM noted WHERE jti = ? AND code = ?", (jti, code)).fetchone() is not None

    def close(self) -> None:
        """Forget all of it."""
        self._db.close()

    def _add(self, sql: str, *row: str | int) -> bool:
        return self._db.execute(sql, row).rowcount == 1
