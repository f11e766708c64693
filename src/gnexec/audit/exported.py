"""A log in an exported file, read line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gnexec.audit.lines import Record, Seal, read_header, read_item
from gnexec.errors import BadConfiguration, CorruptLog

LONGEST_LINE: Final = 16 << 20
"""Bytes in a line; the largest entry that a server makes is far below."""


class ExportedLog:
    """An open export; see `gnexec.audit.source.Source`."""

    def __init__(self, path: Path) -> None:
        """Open the file and read its header.

        Raises:
            BadConfiguration: it cannot be opened.
            CorruptLog: it has no header.
        """
        try:
            self._file = path.open("rb")
        except OSError as err:
            msg = f"{path} cannot be opened: {err.strerror or err}."
            raise BadConfiguration(msg) from err
        try:
            self.header = read_header(self._line(None))
        except BaseException:
            self._file.close()
            raise
        self._first = self._file.tell()

    def items(self, start: int = 0) -> Iterator[Record | Seal]:
        """Yield the entries from `start` on, then the seal, if the file has one; nothing may follow it."""
        self._file.seek(self._first)
        place = 0
        while raw := self._line(place):
            item = read_item(raw, place)
            if isinstance(item, Seal):
                if self._file.read(1):
                    msg = "something follows the checkpoint, which ends a file"
                    raise CorruptLog(msg)
                yield item
                return
            if place >= start:
                yield item
            place += 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """Keep the file open for the length of a `with` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def _line(self, place: int | None) -> bytes:
        raw = self._file.readline(LONGEST_LINE + 1)
        if len(raw) > LONGEST_LINE:
            msg = f"a line is longer than {LONGEST_LINE} bytes"
            raise CorruptLog(msg, seq=place)
        return raw
