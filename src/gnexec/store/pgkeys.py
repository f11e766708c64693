"""The advisory locks of a PostgreSQL log, and the channel on which its commits are made known.

https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS. A key belongs to one database. Ours hold
the number (oid) of the schema that the tables are in, so that several logs in one database do not meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_APPEND: Final = 0x676E6501
_PRESENCE: Final = 0x676E6502
_MAKING: Final = 0x676E6503

_HERE: Final = "(SELECT oid::int8 FROM pg_catalog.pg_namespace WHERE nspname = current_schema())"

ONE_AT_A_TIME: Final = f"SELECT pg_advisory_xact_lock({_MAKING}::int8 << 32 | {_HERE})"
"""Waits until nobody else is making the schema; to the end of the transaction."""

NO_SERVER: Final = f"SELECT pg_try_advisory_lock({_PRESENCE}::int8 << 32 | {_HERE})"
"""True if no server has the log open; none can open it then until the connection ends."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one log.

    Attributes:
        schema: number of its schema.
    """

    schema: int

    @property
    def append(self) -> int:
        """Held by whoever appends, to the end of the transaction."""
        return _APPEND << 32 | self.schema

    @property
    def presence(self) -> int:
        """Shared by all servers, for as long as they are connected; alone for whoever changes the schema."""
        return _PRESENCE << 32 | self.schema

    @property
    def channel(self) -> str:
        """Where commits are made known; see NOTIFY."""
        return f"gnexec_{self.schema}"
