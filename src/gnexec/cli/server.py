"""`gnexec serve`: what an operator may say; `gnexec.cli.serve` does it."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from gnexec.cli.folders import Folder
from gnexec.cli.values import Duration, Flag, Size
from gnexec.core.terms import DataClass
from gnexec.settings import DEFAULT_PORT, ServerSettings


def serve(  # noqa: PLR0913 -- one argument for each setting
    *,
    folder: Folder | None = None,
    database: str | None = None,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    origin: str | None = None,
    open_mode: Annotated[Flag, Parameter(name="--open")] = False,
    open_trust_all: Flag = False,
    allow_raw: Flag = False,
    lease: Duration = 300,
    grace: Duration = 60,
    max_open: int = 256,
    data_class: DataClass | None = None,
    max_body: Size = 8 << 20,
    max_blob: Size = 1 << 34,
) -> None:
    """Serve jobs over HTTP, until interrupted.

    Keys, database and log are made on the first start.

    Args:
        folder: see `Folder`.
        database: Address of the log's database, sqlite:///FILE; else `log.sqlite` in the data folder.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        origin: Name of the log and of the server in every token, for ever.
        open_mode: No enrolment, any HTTP client is a worker. For a trusted network only.
        open_trust_all: With --open: count every hand-out as an owner of its own, so that a quorum can be asked for.
        allow_raw: Let submitters hand in commands of their own.
        lease: A worker must show progress within this time.
        grace: Added to a job's wall time to give the hard deadline of an attempt.
        max_open: Attempts that one worker may hold at a time.
        data_class: Of jobs that do not say: "project" or "public". Public in open mode, else project.
        max_body: Largest JSON body.
        max_blob: Largest blob.
    """
    from gnexec.cli import serve as server

    server.serve(
        ServerSettings(
            data=(folder or Folder()).data,
            database=database,
            host=host,
            port=port,
            origin=origin,
            open_mode=open_mode,
            open_trust_all=open_trust_all,
            allow_raw=allow_raw,
            lease_s=lease,
            grace_s=grace,
            max_open=max_open,
            data_class=data_class,
            max_body_bytes=max_body,
            max_blob_bytes=max_blob,
        )
    )
