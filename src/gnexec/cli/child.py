"""One server of several: what `gnexec serve --processes` starts, with orders from its supervisor on standard input.

Not for people: a child says on standard output that it serves, in one line, and from then on every few seconds, in one
line, how it is. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
from prometheus_client import values

from gnexec.settings import ServerSettings

if TYPE_CHECKING:
    from gnexec.desk.office import Office

READY: Final = b"ready\n"
"""What a child says when it serves."""
WELL: Final = b"well\n"
"""What it says from then on: its event loop turns."""
BROKEN: Final = b"broken\n"
"""What it says instead once its writer has ended for good: it answers that it is unready, and nothing else."""
TELL_S: Final = 2.0
"""How often it says one of the two."""
ORPHAN_S: Final = 25
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
    from gnexec.cli.listening import bind, serve_on, server_keys
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


def _say_ready(office: Office) -> None:
    os.write(1, READY)
    asyncio.get_running_loop().call_later(TELL_S, _tell, office)


def _tell(office: Office) -> None:
    """Say how this child is, now and from now on."""
    with suppress(OSError):  # The supervisor is gone: the other thread sees to the end.
        os.write(1, BROKEN if office.desk.broken() else WELL)
    asyncio.get_running_loop().call_later(TELL_S, _tell, office)


def _outlive_nobody() -> None:
    """End as on SIGTERM when the supervisor is gone."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
