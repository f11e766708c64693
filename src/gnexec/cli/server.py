"""`gnexec serve`: what an operator may say; `gnexec.cli.serve` does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gnexec.cli.folders import Folder
from gnexec.cli.values import Duration, Flag, Size
from gnexec.core.terms import DataClass
from gnexec.settings import DEFAULT_PORT, SNAPSHOT_EVERY, LogFormat, LogLevel, ServerSettings


def serve(  # noqa: PLR0913 -- one argument for each setting
    *,
    folder: Folder | None = None,
    database: str | None = None,
    blobs: Path | None = None,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    processes: int = 1,
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
    max_bodies: Size = 256 << 20,
    max_connections: int = 20_000,
    max_per_address: int = 0,
    open_rate: int | None = None,
    max_owner_open: int = 20_000,
    snapshot_every: int = SNAPSHOT_EVERY,
    log_format: LogFormat = LogFormat.TEXT,
    log_level: LogLevel = LogLevel.INFO,
    log_requests: Flag = False,
    trusted_proxy: list[str] | None = None,
) -> int:
    """Serve jobs over HTTP, until interrupted.

    Keys, database and log are made on the first start.

    Args:
        folder: see `Folder`.
        database: Address of the log's database, sqlite:///FILE or postgresql://HOST/DATABASE; else `log.sqlite` in the
            data folder.
        blobs: Folder of inputs and outputs, which servers on several hosts share; else `blobs` in the data folder.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        processes: Servers that share the address and the database; more than one needs PostgreSQL.
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
        max_bodies: Memory for all JSON bodies that are being dealt with.
        max_connections: Connections at a time, in each process.
        max_per_address: Connections of one address at a time; 0 for three quarters of all.
        open_rate: With --open: requests a second of one address. Unless given: 500, this machine's own not limited.
        max_owner_open: Attempts that all workers of one owner may hold at a time.
        snapshot_every: Entries after which a snapshot is made in the background, so that the next start takes seconds;
            0 for never.
        log_format: Form of the log on standard error: text, or json, one document to a line.
        log_level: The least that the log tells.
        log_requests: Log one line for each request: method, route, status, time; no ids, addresses or tokens.
        trusted_proxy: Address or network of a reverse proxy, whose X-Forwarded-For is believed; may be repeated.
    """
    from gnexec.cli import serve as server

    return server.serve(
        ServerSettings(
            data=(folder or Folder()).data,
            database=database,
            blobs=blobs,
            host=host,
            port=port,
            processes=processes,
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
            max_bodies_bytes=max_bodies,
            max_connections=max_connections,
            max_per_address=max_per_address,
            open_rate=open_rate,
            max_owner_open=max_owner_open,
            snapshot_every=snapshot_every,
            log_format=log_format,
            log_level=log_level,
            log_requests=log_requests,
            trusted_proxies=tuple(trusted_proxy or ()),
        )
    )
