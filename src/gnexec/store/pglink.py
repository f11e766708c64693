"""One connection to PostgreSQL: many statements in one round trip, and no wait without an end.

A link keeps libpq in pipeline mode (https://www.postgresql.org/docs/current/libpq-pipeline-mode.html): `ask` sends any
number of prepared statements at once and reads all their results. It goes through `psycopg.pq`, psycopg's interface to
libpq, since between a batch and the disk psycopg's own cursors cost as much as the server does (docs/adr/0013). Values
travel as PostgreSQL's binary forms (`pgvalues`).

It knows no table. Rules:
- A link is used by one thread at a time; `close` may come from any.
- What goes wrong is one of our errors. `Lost`: the link is closed, and the fate of what was asked is unknown. After any
  other error the link is usable; an open transaction has failed and wants a rollback.
- No message shows a password, or a value that was stored.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGresult

from gnexec.errors import BadConfiguration, CorruptLog, GnexecError, StoreAway
from gnexec.store.pgaddress import PgAddress

ANSWER_S: Final = 20.0
"""Longest wait for the server to answer what it was asked, or to take what it is sent."""

COPY_CHUNK: Final = 1 << 18
"""Bytes of a COPY sent at a time."""

BINARY: Final = 1

DONE: Final = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)


class Lost(StoreAway):
    """The connection is gone; whether the server did what it was asked is unknown."""


class Denied(StoreAway):
    """The server does not allow a statement, or lacks a table of it."""


class Locked(StoreAway):
    """A lock was not to be had in time."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that a link prepares when it is first used.

    Attributes:
        name: the same for the same text.
        text: SQL with $1, $2, …
    """

    name: bytes
    text: bytes


class Call(NamedTuple):
    """A statement and its values, in PostgreSQL's binary forms."""

    statement: Statement
    values: Sequence[bytes] = ()


def connect_driver(address: PgAddress) -> psycopg.Connection:
    """Open one of the driver's own connections.

    Raises:
        StoreAway: no server answers there.
        BadConfiguration: it does, and refuses: no such database or role, wrong password.
    """
    try:
        return psycopg.connect(address.conninfo, prepare_threshold=None)
    except psycopg.OperationalError as err:
        raise _refusal(address, err) from err


class Link:
    """A connection in pipeline mode."""

    def __init__(self, address: PgAddress) -> None:
        """Connect.

        Raises:
            StoreAway: no server answers there.
            BadConfiguration: it does, and refuses: no such database or role, wrong password.
        """
        self._address = address
        self._connection = connect_driver(address)
        self._pg = self._connection.pgconn
        self._socket = self._pg.socket
        self._poll = select.poll()
        self._prepared: set[bytes] = set()
        self.pid = self._pg.backend_pid
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self._connection.closed

    @property
    def socket(self) -> int:
        """File descriptor to wait on for notifications."""
        return self._socket

    def ask(self, *calls: Call) -> list[PGresult]:
        """Send statements, all at once, and return their results in order, binary.

        Raises:
            Lost: the link is closed now; what was asked may have been done.
            Denied, Locked, StoreAway: the server refused one; those after it were not run.
            CorruptLog: one adds what is there already, or the server finds its files damaged.
        """
        pg = self._pg
        with self._live():
            sent: list[bytes | None] = []  # what each result is of: a statement's preparation by name, or its run
            for statement, values in calls:
                if statement.name not in self._prepared:
                    pg.send_prepare(statement.name, statement.text)
                    self._prepared.add(statement.name)
                    sent.append(statement.name)
                pg.send_query_prepared(statement.name, values, [BINARY] * len(values), BINARY)
                sent.append(None)
            pg.pipeline_sync()
            results = self._results()
        failed = None
        for name, result in zip(sent, results, strict=True):
            if result.status not in DONE:
                failed = failed or result
                self._prepared.discard(name or b"")
        if failed is not None:
            raise self._translated(failed)
        if len(results) == len(calls):
            return results
        return [result for name, result in zip(sent, results, strict=True) if name is None]

    def copy(self, statement: bytes, rows: Iterator[bytes]) -> None:
        """Run a COPY … FROM STDIN; `rows` gives the data, in pieces of any size.

        Raises:
            Lost, StoreAway, CorruptLog: as `ask`.
        """
        pg = self._pg
        with self._live():
            pg.exit_pipeline_mode()
            pg.send_query(statement)
            begun = self._result()
            if begun is not None and begun.status == pq.ExecStatus.COPY_IN:
                for row in rows:
                    while pg.put_copy_data(row) == 0:
                        self._flush()
                    self._flush()
                while pg.put_copy_end() == 0:
                    self._flush()
                self._flush()
                begun = self._result()
            while self._result() is not None:
                pass
            pg.enter_pipeline_mode()
        if begun is None or begun.status not in DONE:
            raise self._translated(begun)

    def notified_by(self) -> list[int]:
        """Return the process ids of the connections whose notifications have arrived; does not wait.

        Raises:
            Lost: the link is closed now.
        """
        found = []
        with self._live():
            self._pg.consume_input()
            while (note := self._pg.notifies()) is not None:
                found.append(note.be_pid)
        return found

    def close(self) -> None:
        """Close the connection, from any thread; harmless when done twice."""
        self._connection.close()

    def _results(self) -> list[PGresult]:
        """Read results up to the end of what was sent."""
        self._flush()
        results: list[PGresult] = []
        while True:
            result = self._result()
            if result is None:
                if self._pg.status == pq.ConnStatus.BAD:
                    raise psycopg.OperationalError(_primary(results[-1]) if results else "no answer")
                continue
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                return results
            results.append(result)

    def _result(self) -> PGresult | None:
        """Wait for the next result."""
        pg = self._pg
        while pg.is_busy():
            self._wait(select.POLLIN)
            pg.consume_input()
        return pg.get_result()

    def _flush(self) -> None:
        """Send what waits to be sent; take in what arrives meanwhile, or neither side might get further."""
        while self._pg.flush():
            if self._wait(select.POLLIN | select.POLLOUT) & select.POLLIN:
                self._pg.consume_input()

    def _wait(self, what: int) -> int:
        """Wait until the socket is ready; return for what."""
        self._poll.register(self._socket, what)
        until = time.monotonic() + ANSWER_S
        while True:
            ready = self._poll.poll(max(until - time.monotonic(), 0) * 1000)
            if ready:
                return ready[0][1]
            if time.monotonic() >= until:
                msg = f"{self._address.shown} has not answered for {ANSWER_S:g} seconds"
                raise Lost(msg)

    @contextmanager
    def _live(self) -> Iterator[None]:
        """Close the connection when anything goes wrong on it: nobody knows what it would answer next."""
        try:
            yield
        except psycopg.Error as err:
            self.close()
            msg = f"the connection to {self._address.shown} was lost: {_words(err)}"
            raise Lost(msg) from err
        except BaseException:
            self.close()
            raise

    def _translated(self, result: PGresult | None) -> GnexecError:
        """Return the error for what the server refused."""
        code, words = "", "no answer"
        if result is not None:
            code = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
            words = _primary(result)
        if self._pg.status != pq.ConnStatus.OK:
            self.close()
            return Lost(f"{self._address.shown} ended the connection: {words}")
        match code[:2], code:
            case "23", _:
                return CorruptLog(f"the store already holds what was to be added ({words})")
            case "XX", "XX001" | "XX002":
                return CorruptLog(f"the database is damaged ({words})")
            case _, "55P03":
                return Locked(f"{self._address.shown}: another process has held the lock too long ({words})")
            case (("42" | "3F" | "28"), _):
                return Denied(f"{self._address.shown} does not allow what is needed: {words}")
            case _:
                return StoreAway(f"{self._address.shown}: {words} (SQLSTATE {code or 'unknown'})")


def _primary(result: PGresult) -> str:
    """Return what went wrong, without the values concerned."""
    return (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode("utf-8", "replace")


def _words(err: Exception) -> str:
    """Return a driver's error as one line."""
    return " ".join(str(err).split()) or type(err).__name__


def _refusal(address: PgAddress, err: psycopg.OperationalError) -> GnexecError:
    """Tell a server that refuses from one that does not answer; the driver's message never holds the password."""
    words = _words(err)
    # libpq gives no SQLSTATE for a refused connection: the server's FATAL is all there is to tell by.
    for_ever = ("password authentication failed", "does not exist", "no pg_hba.conf entry", "no password supplied")
    if any(each in words for each in for_ever):
        return BadConfiguration(f"{address.shown} cannot be opened: {words}. Mend the address, or the server's rights.")
    return StoreAway(f"{address.shown} cannot be reached: {words}")
