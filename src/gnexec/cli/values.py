"""Values of options, as people write and read them.

Sizes: `512MiB`, `2GB`, or bytes; a unit with an i is a power of 1024. Durations: `90`, `45s`, `10m`, `1h30m`, `2d`, in
whole seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from cyclopts import Parameter, Token

from gnexec.errors import GnexecError


class Misused(GnexecError):
    """A value of an option makes no sense; says which one, and how it is meant."""


_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGTP]?)(i?)B?", re.IGNORECASE)
_DURATION: Final = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m(?:in)?)?(?:([0-9]+)s?)?", re.IGNORECASE)
_STEPS: Final = ("", "K", "M", "G", "T", "P")


def parse_size(text: str) -> int:
    """Read a size in bytes.

    Raises:
        ValueError: it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        msg = f"{text!r} is not a size. Give one like 512MiB or 2GB."
        raise ValueError(msg)
    unit: int = (1024 if found[3] else 1000) ** _STEPS.index(found[2].upper())
    return round(float(found[1]) * unit)


def parse_duration(text: str) -> int:
    """Read a duration in seconds.

    Raises:
        ValueError: it is none.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        msg = f"{text!r} is not a duration. Give one like 90s, 10m or 1h30m."
        raise ValueError(msg)
    return sum(int(n) * unit for n, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True) if n)


def show_size(size: int) -> str:
    """Write a size for people: three digits and a unit."""
    value, step = float(size), 0
    while value >= 1000 and step < len(_STEPS) - 1:
        value, step = value / 1024, step + 1
    if step == 0:
        return f"{size} B"
    return f"{value:.3g} {_STEPS[step]}iB"


def show_duration(seconds: float) -> str:
    """Write a duration for people: the two largest units that it has."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next(i for i, (n, _) in enumerate(parts) if n)
    return " ".join(f"{n} {unit}" for n, unit in parts[first : first + 2] if n)


def show_time(at_ms: int) -> str:
    """Write a time for people, in the time zone of this machine."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _size(_: Any, tokens: Sequence[Token]) -> int:  # noqa: ANN401 -- as cyclopts calls it
    return parse_size(tokens[0].value)


def _duration(_: Any, tokens: Sequence[Token]) -> int:  # noqa: ANN401 -- as cyclopts calls it
    return parse_duration(tokens[0].value)


def _if_any(show: Callable[[int], str]) -> Callable[[int | None], str | None]:
    """Show a default, if there is one."""
    return lambda value: None if value is None else show(value)


Flag = Annotated[bool, Parameter(show_default=False)]
"""A switch: off unless it is there."""
Size = Annotated[int, Parameter(converter=_size, metavar="SIZE", show_default=_if_any(show_size))]
Duration = Annotated[int, Parameter(converter=_duration, metavar="TIME", show_default=_if_any(show_duration))]
