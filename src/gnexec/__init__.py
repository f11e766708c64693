"""gnexec: an event-sourced job dispatcher for volunteer computing, with a log that anyone can check.

For programs: `Client`, and the shapes that a job is made of. They are imported when they are first asked for, so that
the command line, and processes that need one floor only, start fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gnexec.client import Client
    from gnexec.core.terms import Needs, Redundancy
    from gnexec.shapes import JobBody

    __version__: str

__all__ = ["Client", "JobBody", "Needs", "Redundancy", "__version__"]

_HOMES = {
    "Client": "gnexec.client",
    "JobBody": "gnexec.shapes",
    "Needs": "gnexec.core.terms",
    "Redundancy": "gnexec.core.terms",
}


def __getattr__(name: str) -> object:
    """Find what is not there yet (PEP 562)."""
    from importlib import import_module, metadata  # noqa: PLC0415 -- as the module says

    if name == "__version__":
        value: object = metadata.version("gnexec")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    globals()[name] = value
    return value
