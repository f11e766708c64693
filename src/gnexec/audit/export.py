"""A log written to one file, as it streams by; nothing is held in memory but the entry at hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gnexec.audit.lines import Record, Seal, write_header, write_item
from gnexec.audit.source import Source
from gnexec.errors import BadConfiguration, CorruptLog

STEP: Final = 1000
"""Entries between two reports of progress."""


def export(source: Source, to: Path, progress: Callable[[int], None] = lambda _: None) -> tuple[int, int]:
    """Write a log to a file; the file is there when it is whole, and not before.

    Nothing is verified on the way: a log that is damaged is exported as it is, as evidence.

    Args:
        source: the log.
        to: the file; one that is there is replaced.
        progress: told how many entries are written, now and then.

    Returns:
        Entries written, and how many of them have their payload withheld.

    Raises:
        BadConfiguration: the file cannot be written.
        CorruptLog: an entry cannot be read, or the log breaks off.
        ServerUnreachable, StoreAway: no answer; try again later.
    """
    aside = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            entries = withheld = 0
            whole = False
            file.write(write_header(source.header))
            for item in source.items():
                file.write(write_item(item))
                if isinstance(item, Seal):
                    whole = True
                    continue
                entries += 1
                withheld += _withheld(item)
                if entries % STEP == 0:
                    progress(entries)
            if not whole:
                msg = "the log breaks off before its checkpoint"
                raise CorruptLog(msg, seq=entries)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(to)
    except OSError as err:
        msg = f"{to} cannot be written: {err.strerror or err}."
        raise BadConfiguration(msg) from err
    finally:
        aside.unlink(missing_ok=True)
    return entries, withheld


def _withheld(record: Record) -> bool:
    return record.salt is None or record.payload is None
