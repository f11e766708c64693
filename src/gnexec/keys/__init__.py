"""Key files: the server's ring of keys and the worker's own key; what is secret, and what is published.

A private directory (mode 0700, every file 0600) holds:

- `ring.json`: which key is which, and the log's name;
- `token-<kid>.pem`: the current and the next key that sign job, enrolment and access tokens;
- `log.pem`, later `log-<kid>.pem`: the keys that sign checkpoints, one or two; other keys than those above;
- `pseudonym.key`: the 32-byte secret behind the pseudonyms of owners;
- `lock`: empty; held while a command changes the others.

A public directory holds `log.vkey` (the newest log key), `jwks.json` (next, current and previous token keys) and, once
there are any, `log-keys.json` (all log keys, each endorsed by the one before it) and `retired.json` (token keys under
which nothing is admitted any more, kept so that old logs verify).

From below: `files` (whole or not at all) · `pem` (one key) · `forms` · `ring` (the server's) · `rotation`. Nothing here
verifies, and nothing opens a connection: an unknown `kid` is never a reason to fetch keys.
"""

from __future__ import annotations

from gnexec.keys.access import access_token
from gnexec.keys.forms import KeyLine, LogKey, ServerKeys
from gnexec.keys.pem import worker_key
from gnexec.keys.ring import load, load_jwks, new_keys, publish
from gnexec.keys.rotation import retire_log_keys, revoke_token_keys, rotate_log_key, rotate_token_key

__all__ = [
    "KeyLine",
    "LogKey",
    "ServerKeys",
    "access_token",
    "load",
    "load_jwks",
    "new_keys",
    "publish",
    "retire_log_keys",
    "revoke_token_keys",
    "rotate_log_key",
    "rotate_token_key",
    "worker_key",
]
