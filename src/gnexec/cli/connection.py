"""Which server, and by which right: what all commands share that talk to one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

from cyclopts import Parameter

from gnexec.cli.output import say
from gnexec.settings import DEFAULT_PORT, config_home

if TYPE_CHECKING:
    from stamina.instrumentation import RetryDetails

    from gnexec.client import Client

PATIENCE_S: Final = 5.0
"""How long a server that does not answer is tried again, before it is known to be there."""
LONG_PATIENCE_S: Final = 600.0
"""The same once it has answered: a restart is no reason to give up a job."""

_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Which server, and by which right.

    Attributes:
        server: Address of the server.
        token_file: File with the access token. Else GNEXEC_TOKEN has the token itself, or the file `token` in the
            folder of your settings.
    """

    server: Annotated[str, Parameter(env_var="GNEXEC_SERVER")] = f"http://127.0.0.1:{DEFAULT_PORT}"
    token_file: Annotated[Path | None, Parameter(env_var="GNEXEC_TOKEN_FILE")] = None

    def client(self) -> Client:
        """Return a client for the server.

        Raises:
            BadConfiguration: the address or the token's file cannot be used.
        """
        from stamina.instrumentation import set_on_retry_hooks

        from gnexec.client import Client

        set_on_retry_hooks([_tell_of_retry])
        token = self.token()
        client = Client(self.server, token, patience_s=PATIENCE_S)
        parts = urlsplit(client.url)
        if token is not None and parts.scheme == "http" and parts.hostname not in _LOCAL:
            say("The connection is not encrypted: whoever listens learns the access token.", style="yellow")
        return client

    def token(self) -> str | None:
        """Return the access token, or None where there is none.

        Raises:
            BadConfiguration: the file named is not there, or others may read it.
        """
        from gnexec.keys.files import read_private

        if self.token_file is None and (given := os.environ.get("GNEXEC_TOKEN")):
            return given.strip()
        file = self.token_file or config_home() / "token"
        if self.token_file is None and not file.exists():
            return None
        return read_private(file).decode("ascii", errors="replace").strip()


def _tell_of_retry(details: RetryDetails) -> None:
    """Say once for each outage that we are trying again."""
    if details.retry_num == 1:
        say(f"{details.caused_by} Trying again.", style="yellow")
