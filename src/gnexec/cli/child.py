"""One server of several: what `gnexec serve --processes` starts, with orders from its supervisor on standard input.

Not for people: a child says on standard output that it serves, in one line, and ends when its standard input does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec
from prometheus_client import values

from gnexec.settings import ServerSettings

READY: Final = b"ready\n"
"""What a child says when it serves."""
ORPHAN_S: Final = 15
"""A child whose supervisor is gone ends by force after this long."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What a child is told.

    Attributes:
        number: 1.., of this child; a child that is started again keeps it.
        settings: of the server; the port is a real one.
    """

    number: int
    settings: ServerSettings

    def encode(self) -> bytes:
        """Return one line, without its end."""
        return msgspec.json.encode(self, enc_hook=str)

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """Read a line."""
        return msgspec.json.decode(line, type=cls, dec_hook=_path)


def _path(kind: type, value: Any) -> Path:  # noqa: ANN401 -- as msgspec asks for it
    if kind is not Path:
        raise NotImplementedError
    return Path(value)


def main() -> int:
    """Serve as ordered; return the exit status."""
    # A child counts under its number, so that one that is started again goes on with its own counts.
    # What counts is imported only then.
    line = sys.stdin.buffer.readline()
    if not line:
        return 1
    orders = Orders.decode(line)
    values.ValueClass = values.MultiProcessValue(lambda: orders.number)  # type: ignore[no-untyped-call]
    threading.Thread(target=_outlive_nobody, name="gnexec-lifeline", daemon=True).start()

    from gnexec.cli import journal, report
    from gnexec.cli.serve import bind, serve_on, server_keys
    from gnexec.errors import GnexecError

    settings = orders.settings
    journal.set_up(settings.log_format, settings.log_level)
    try:
        with journal.told(settings.log_format), bind(settings.host, settings.port, shared=True) as listening:
            serve_on(settings, server_keys(settings), listening, _say_ready)
    except GnexecError as err:
        return report(err)
    except KeyboardInterrupt:
        return 0
    return 0


def _say_ready() -> None:
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()


def _outlive_nobody() -> None:
    """End as on SIGTERM when the supervisor is gone."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
