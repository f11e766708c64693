"""`gnexec` in which two things break: what explains a job, and what decides a cancellation. Run as a program.

Both break as a library would that puts what it was given into its message.
"""

from __future__ import annotations

import sys
import threading
import warnings
from typing import Any

from gnexec.cli import main
from gnexec.core import decide as laws
from gnexec.core.commands import Cancel
from gnexec.desk import ledger
from gnexec.web import submitters

_decide = laws.decide


async def explain(request: Any, _: Any) -> Any:  # noqa: ANN401 -- as a handler is called
    """Break, in this thread and in another, with the caller's token in the message and in local variables."""
    authorization = request.headers["authorization"]
    warnings.warn(f"{authorization} is not what I like", UserWarning, stacklevel=1)

    def fail() -> None:
        raise RuntimeError(authorization)

    broken = threading.Thread(target=fail)
    broken.start()
    broken.join()
    msg = f"postgresql://gnexec:hunter2@db/gnexec does not take {authorization}"
    raise RuntimeError(msg)


def decide(world: Any, command: Any, *more: Any) -> Any:  # noqa: ANN401 -- as the real one is called
    """Break where a job is cancelled."""
    if isinstance(command, Cancel):
        msg = "password=hunter2"
        raise TypeError(msg)
    return _decide(world, command, *more)


if __name__ == "__main__":
    vars(submitters)["explain"] = explain
    vars(ledger)["decide"] = decide
    sys.exit(main())
