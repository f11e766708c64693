"""The operator's log: one pipe for everything that a process has to say, in one of two forms, without secrets.

Our own events, those of libraries (uvicorn, asyncio), Python's warnings, and errors that nobody caught in a thread all
go through the same steps to standard error: a line for people, or one JSON document to a line.

Rules:
- No token, password, name, address of a person, command line or output of a job is ever handed to a log.
  `gnexec.cli.redaction` is a second net, not the first.
- A traceback shows where, never the values of variables.
- Control characters are shown, not obeyed.
- Libraries are heard from warnings on: below, some would tell every address that they ask.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, TextIO

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor

from gnexec.cli import FAILURE, TRY_LATER
from gnexec.cli.output import clean
from gnexec.cli.redaction import without_secrets
from gnexec.errors import GnexecError, StoreAway
from gnexec.settings import LogFormat, LogLevel

OURS: Final = "gnexec"
"""All our loggers are below this one."""
_OF_LINES: Final = frozenset({"exception", "stack"})
"""What may have several lines; any other text could pass a line off as an event."""


def set_up(form: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """Send everything that this process logs to one place.

    Args:
        form: for people, or for programs.
        level: the least that is told of our own events.
        stream: standard error if None.
    """
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper("iso", utc=True),
    ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                ProcessorFormatter.remove_processors_meta,
                _for_programs if form is LogFormat.JSON else _for_people,
                structlog.processors.format_exc_info,
                structlog.processors.StackInfoRenderer(),
                _safe,
                _renderer(form, stream),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(OURS).setLevel(level.upper())
    logging.raiseExceptions = False  # a log that cannot be written must not print what it should have written
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.excepthook = _uncaught


@contextmanager
def told(form: LogFormat) -> Iterator[None]:
    """Let what ends a server be told in the log's form: for people by the command line, for programs by the log.

    Raises:
        SystemExit: it was told here.
        GnexecError: it is still to be told.
    """
    try:
        yield
    except GnexecError as err:
        if form is LogFormat.TEXT:
            raise
        structlog.get_logger(OURS).critical(str(err))
        raise SystemExit(TRY_LATER if isinstance(err, StoreAway) else FAILURE) from err


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Log what nobody caught."""
    structlog.get_logger(OURS).critical("an error that nobody caught", exc_info=(kind, error, trace))


def _renderer(form: LogFormat, stream: TextIO) -> Callable[..., Any]:
    if form is LogFormat.JSON:
        return structlog.processors.JSONRenderer(ensure_ascii=False)
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty() and "NO_COLOR" not in os.environ,
        pad_event_to=0,
        sort_keys=False,
        exception_formatter=structlog.dev.plain_traceback,
    )


def _for_programs(_: Any, __: str, event: EventDict) -> EventDict:  # noqa: ANN401 -- as structlog calls it
    """Begin with what every line has: several processes may write to one place."""
    return {"timestamp": event.pop("timestamp"), "level": event.pop("level"), "pid": os.getpid(), **event}


def _for_people(_: Any, __: str, event: EventDict) -> EventDict:  # noqa: ANN401 -- as structlog calls it
    """Leave out what people do not need: which part of the program it was."""
    event.pop("logger", None)
    return event


def _safe(_: Any, __: str, event: EventDict) -> EventDict:  # noqa: ANN401 -- as structlog calls it
    """Keep secrets out, and what came from elsewhere from driving the terminal."""
    return {name: _shown(name, without_secrets(value, name)) for name, value in event.items()}


def _shown(name: str, value: object) -> object:
    return clean(value, keep="\n" if name in _OF_LINES else "") if isinstance(value, str) else value
