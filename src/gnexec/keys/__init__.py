"""Key files: the server's ring of keys and the worker's own key; what is secret, and what is published.

A private directory (mode 0700, every file 0600) holds:

- `ring.json`: which key is which, and the log's name;
- `token-<kid>.pem`: the current and the next key that sign job, enrolment and access tokens;
- `log.pem`: the key that signs checkpoints; another key than those above, and never rotated;
- `pseudonym.key`: the 32-byte secret behind the pseudonyms of owners;
- `lock`: empty; held while a command changes the others.

A public directory holds `log.vkey`, `jwks.json` (next, current and previous token keys) and, once there are any,
`retired.json` (token keys under which nothing is admitted any more, kept so that old logs verify).

From below: `files` (whole or not at all) · `pem` (one key) · `ring` (the server's). Nothing here signs or verifies, and
nothing opens a connection: an unknown `kid` is never a reason to fetch keys.
"""

from __future__ import annotations

from gnexec.keys.access import access_token
from gnexec.keys.pem import worker_key
from gnexec.keys.ring import ServerKeys, load, load_jwks, new_keys, publish, rotate_token_key

__all__ = ["ServerKeys", "access_token", "load", "load_jwks", "new_keys", "publish", "rotate_token_key", "worker_key"]
