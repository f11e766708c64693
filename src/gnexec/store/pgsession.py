"""What a connection to a PostgreSQL log is set up with, and what must hold before anything goes through it.

Checked at each connection that writes, since after a server's restart or a fail-over another one may answer:
a commit survives a power loss (fsync, full_page_writes, synchronous_commit), the server may write, there is a schema to
work in, and its tables are at this program's revision.

Settings do not depend on what an operator chose for a role or a database: the isolation level, for one, decides whether
the head is read after the lock was taken or before.
"""

from __future__ import annotations

from typing import Final

from gnexec.errors import BadConfiguration, StoreAway
from gnexec.store.pgaddress import PgAddress
from gnexec.store.pgkeys import Keys
from gnexec.store.pglink import Call, Link, Statement
from gnexec.store.pgvalues import TEXT, bytea_array, from_int8, int8

OLDEST: Final = 14
"""The oldest major version of PostgreSQL that is still maintained, and served here."""

LOCK_S: Final = 5
"""How long a batch waits for the append lock."""

IDLE_S: Final = 15
"""How long a process may hold the append lock without a word; then the server takes it away and rolls back."""

STATEMENT_S: Final = 20

SETTINGS: Final = {
    "client_encoding": "UTF8",
    "client_min_messages": "error",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "lock_timeout": f"{LOCK_S}s",
    "idle_in_transaction_session_timeout": f"{IDLE_S}s",
    "statement_timeout": f"{STATEMENT_S}s",
    # Each statement finds its rows by a primary key. Its plan is made once, perhaps while the tables are still empty,
    # and must be right for millions of rows too.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}

FACTS: Final = Statement(
    b"facts",
    b"SELECT current_setting('server_version_num'), current_setting('fsync'), current_setting('full_page_writes'),"
    b" current_setting('synchronous_commit'), pg_is_in_recovery()::text, current_schema()::text,"
    b" (SELECT oid::int8 FROM pg_catalog.pg_namespace WHERE nspname = current_schema())",
)
SETTLE: Final = Statement(
    b"settle", b"SELECT pg_catalog.set_config(n, v, false) FROM unnest($1::text[], $2::text[]) AS t (n, v)"
)
SEARCH: Final = Statement(
    b"search",
    b"SELECT pg_catalog.set_config('search_path', quote_ident(current_schema()) || ', pg_temp', false)",
)
REVISION: Final = Statement(b"revision", b"SELECT version_num::text FROM alembic_version")
PRESENT: Final = Statement(b"present", b"SELECT pg_try_advisory_lock_shared($1::int8)::int4::int8")


def open_session(address: PgAddress, revision: str, *, writes: bool, present: bool) -> tuple[Link, Keys]:
    """Connect, set up and check.

    Args:
        address: of the database.
        revision: of the schema that this program needs.
        writes: whether anything may be written through it.
        present: whether it counts as a server that has the log open.

    Raises:
        BadConfiguration: something does not hold that must; says how to mend it.
        StoreAway: no answer, a standby, or somebody is changing the schema.
    """
    link = Link(address)
    try:
        settings = {**SETTINGS, "default_transaction_read_only": "off" if writes else "on"}
        names, values = (bytea_array([v.encode() for v in vs], element=TEXT) for vs in (settings, settings.values()))
        facts, *_ = link.ask(Call(FACTS), Call(SETTLE, (names, values)), Call(SEARCH))
        keys = check_facts(address, [facts.get_value(0, column) for column in range(7)], writes=writes)
        _check_revision(address, link, revision)
        if present:
            _be_present(address, link, keys)
    except BaseException:
        link.close()
        raise
    return link, keys


def check_facts(address: PgAddress, facts: list[bytes | None], *, writes: bool) -> Keys:
    """Make sure of what `FACTS` answered: that the server may be trusted with a log, or read at all.

    Raises:
        BadConfiguration: says what to change.
        StoreAway: it is a standby, which may become a primary.
    """
    version, fsync, pages, commit, standby, schema = (b"" if each is None else each.decode() for each in facts[:6])
    if int(version) < OLDEST * 10_000:
        msg = f"{address.shown} is PostgreSQL {int(version) // 10_000}. Use {OLDEST} or newer."
        raise BadConfiguration(msg)
    if not schema:
        msg = f"{address.shown} has no schema to work in: search_path names none that is there. Make one, or name it."
        raise BadConfiguration(msg)
    if not writes:
        return Keys(from_int8(facts[6]))
    for name, value in (("fsync", fsync), ("full_page_writes", pages), ("synchronous_commit", commit)):
        if value == "off":
            msg = (
                f"{address.shown} has {name} = off: what it acknowledges may be lost when the power fails. "
                f"Set {name} = on in postgresql.conf (and for no role or database otherwise), and reload the server."
            )
            raise BadConfiguration(msg)
    if standby == "true":
        msg = f"{address.shown} is a standby, which cannot be written to: give the address of the primary"
        raise StoreAway(msg)
    return Keys(from_int8(facts[6]))


def _check_revision(address: PgAddress, link: Link, revision: str) -> None:
    (found,) = link.ask(Call(REVISION))
    at = (found.get_value(0, 0) or b"").decode() if found.ntuples else "nothing"
    if at != revision:
        msg = (
            f"The schema of {address.shown} is at {at}, this gnexec needs {revision}. "
            "Run `gnexec db upgrade`, or use the gnexec that made it."
        )
        raise BadConfiguration(msg)


def _be_present(address: PgAddress, link: Link, keys: Keys) -> None:
    (alone,) = link.ask(Call(PRESENT, (int8(keys.presence),)))
    if not from_int8(alone.get_value(0, 0)):
        msg = f"{address.shown} is in use by `gnexec db upgrade` or `gnexec db copy`"
        raise StoreAway(msg)
