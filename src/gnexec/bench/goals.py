"""The lines of the report, and what is asked of each: a table, nothing else.

Must and goal are ratios within one run, or values where the unit says so; they were set from what a throw-away
prototype reached on a machine of two cores.
"""

from __future__ import annotations

from typing import Final

from gnexec.bench.figures import Row

GROUPS: Final = (1, 8, 32, 128, 512)
"""Entries in one transaction."""
ROWS: Final[tuple[Row, ...]] = (
    Row("get", "trivial Starlette GET, 32 connections", "get"),
    Row("get", "trivial Starlette GET, 8 connections", "get-8"),
    Row("cycle", "a job a request, 32 connections ÷ GET", "cycle", "get", must=0.09, goal=0.15),
    Row("cycle", "a job a request, 8 connections ÷ GET", "cycle-8", "get-8"),
    Row("n16", "16 a request, 8 connections ÷ GET", "n16", "get-8", must=0.7, goal=1.1),
    Row("n64", "64 a request, 8 connections ÷ GET", "n64", "get-8", must=1.9, goal=4.0),
    Row("commit", "a transaction a request, 32 conn.", "single"),
    Row("commit", "group commit ÷ that", "cycle", "single", must=2.0, goal=2.6),
    Row("submit", "submit, 1,000 jobs a POST ÷ GET", "submit", "get", must=3.0, goal=15.0),
    Row("postgres", "PostgreSQL ÷ SQLite, a job a request", "pg-cycle", "cycle", must=0.8, goal=0.95),
    Row("postgres", "PostgreSQL ÷ SQLite, 64 a request", "pg-n64", "n64", must=0.8, goal=0.95),
    Row("postgres", "PostgreSQL ÷ SQLite, submit", "pg-submit", "submit", must=0.8, goal=0.95),
    *(
        row
        for store, name in (("sqlite", "SQLite"), ("pg", "PostgreSQL"))
        for group in GROUPS
        for row in (
            Row("append", f"{name}, plain driver, {group} a commit", f"{store}-raw-{group}"),
            Row("append", f"{name}, our store ÷ that", f"{store}-store-{group}", f"{store}-raw-{group}"),
        )
    ),
    Row("ed25519", "Ed25519 signing, OpenSSL", "openssl-sign"),
    Row("ed25519", "Ed25519 signing as used here ÷ that", "sign", "openssl-sign"),
    Row("ed25519", "Ed25519 checking, OpenSSL", "openssl-verify"),
    Row("ed25519", "Ed25519 checking as used here ÷ that", "verify", "openssl-verify"),
    Row("replay", "reading a log of {events} entries", "read"),
    Row("replay", "folding it ÷ reading, in time", "fold", "read", must=2.0, goal=1.5, less=True, inverse=True),
    Row("growth", "appends when {small} are there", "append-small"),
    Row("growth", "when {large} are there ÷ that", "append-large", "append-small", must=0.7, goal=0.9),
    Row("memory", "bytes for each of {open_jobs} open jobs", "memory", unit="B", must=300, goal=160, less=True),
    Row("memory", "MiB resident with them", "resident", unit="MiB"),
    Row("restart", "s to start over {entries} entries", "restart", unit="s", must=10, goal=2, less=True),
    Row("restart", "s of CPU for that", "restart-cpu", unit="s"),
    Row("restart", "s to start without a snapshot", "restart-cold", unit="s"),
    Row("idle", "% of a core for {polls} long polls", "idle", unit="%"),
    Row("idle", "KiB for each of them", "idle-memory", unit="KiB"),
)
TOPICS: Final = tuple(dict.fromkeys(row.topic for row in ROWS))
"""What a run may be limited to."""
