"""Access tokens: issued with the server's key by whoever may read it; no server need run."""

from __future__ import annotations

from collections.abc import Iterable

from gnexec.ids import b64url
from gnexec.keys.forms import ServerKeys
from gnexec.tokens.issued import AccessClaims, Scope, write_scope
from gnexec.tokens.reading import sign


def access_token(
    keys: ServerKeys, name: str, scopes: Iterable[Scope], *, project: str, now_s: int, for_s: int, draw: bytes
) -> str:
    """Issue an access token.

    Args:
        keys: the server's.
        name: the account; enters the log as a pseudonym only.
        scopes: what it allows; not `work`.
        project: where its jobs belong.
        now_s: the time, seconds since 1970.
        for_s: how long it is good for, 1 s to 400 days.
        draw: 16 random bytes.

    Raises:
        ValueError: a value out of range.
    """
    claims = AccessClaims(
        iss=keys.origin,
        aud=keys.origin,
        jti=b64url(draw),
        sub=name,
        scope=write_scope(scopes),
        project=project,
        iat=now_s,
        exp=now_s + for_s,
    )
    return sign(claims, keys.token_current)
