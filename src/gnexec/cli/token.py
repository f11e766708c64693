"""`gnexec token`: access tokens for people and services."""

from __future__ import annotations

import secrets
import time
from typing import Annotated

from cyclopts import App, Parameter, validators

from gnexec.cli.folders import Folder
from gnexec.cli.output import Json, json_line, line
from gnexec.cli.values import Misused

app = App(name="token", help="Issue access tokens.")


@app.command
def issue(
    *,
    sub: str,
    scope: str = "submit,read",
    project: str = "default",
    days: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=400))] = 30,
    folder: Folder | None = None,
    json: Json = False,
) -> int:
    """Issue an access token and print it; whoever has it can do what it allows.

    Args:
        sub: Name of the account.
        scope: What it allows, with commas between: submit, read, audit, operate, enrol.
        project: Where the jobs of this account belong.
        days: How long it is good.
        folder: see `Folder`.
        json: see `Json`.
    """
    from gnexec.keys import access_token, load
    from gnexec.tokens import read_scope

    keys = load((folder or Folder()).settings.private_keys)
    now, good_s = int(time.time()), days * 86400
    try:
        scopes = read_scope(scope.replace(",", " "))
        token = access_token(keys, sub, scopes, project=project, now_s=now, for_s=good_s, draw=secrets.token_bytes(16))
    except ValueError as err:
        raise Misused(str(err)) from err
    if json:
        json_line({"token": token, "sub": sub, "scope": scopes, "project": project, "exp": now + good_s})
    else:
        line(token)
    return 0
