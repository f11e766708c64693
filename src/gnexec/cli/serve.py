"""`gnexec serve`: one process that serves, or a supervisor of several."""

from __future__ import annotations

from gnexec.cli import journal
from gnexec.cli.listening import BACKLOG, announce, bind, serve_on, server_keys
from gnexec.cli.supervise import supervise
from gnexec.settings import ServerSettings


def serve(settings: ServerSettings) -> int:
    """Serve until a signal comes; return the exit status.

    Raises:
        BadConfiguration: settings, keys, schema or log do not fit together.
    """
    journal.set_up(settings.log_format, settings.log_level)
    with journal.told(settings.log_format):
        if settings.processes > 1:
            return supervise(settings)
        keys = server_keys(settings)
        listening = bind(settings.host, settings.port)
        listening.listen(BACKLOG)
        serve_on(settings, keys, listening, lambda _: announce(settings, keys, listening))
    return 0
