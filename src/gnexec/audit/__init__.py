"""Checking a log from outside: with entries and public keys alone, and no code of the server's but the pure floors.

From below: `lines` (the export's form) · `source` (one way to read a log) with `exported`, `live` and `local` (a file,
a server, a store) · `anchor` (what an auditor trusts to begin with) · `forms`, `statements`, `seen`, `anew` and `rules`
(what entries say) · `verify` (all of it, in one pass) · `export`, `receipts`, `replay` and `describe`.

Nothing here writes to a log, and only `replay` knows that a store has caches.
"""
