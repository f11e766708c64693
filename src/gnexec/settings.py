"""What an operator sets, with defaults, and where files lie when nobody says otherwise.

A flag goes before an environment variable (`GNEXEC_…`), that before the configuration file, that before the default:
the command line's parser sees to it. Here are only the values, their ranges and their meaning.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from gnexec.core.events import PolicySet
from gnexec.core.terms import DataClass
from gnexec.errors import BadConfiguration

DEFAULT_PORT: Final = 8000
LONGEST_LEASE_S: Final = 7 * 24 * 3600
SNAPSHOT_EVERY: Final = 20_000
DEFAULT_OPEN_RATE: Final = 500
"""Requests a second of one address in open mode."""


class LogFormat(StrEnum):
    """How the operator's log is written: a line for people, or one JSON document to a line."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least that the operator's log tells."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def data_home() -> Path:
    """Return the folder for data of this user: XDG_DATA_HOME/gnexec."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "gnexec"


def config_home() -> Path:
    """Return the folder for configuration of this user: XDG_CONFIG_HOME/gnexec."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "gnexec"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings of `gnexec serve`.

    Attributes:
        data: folder of everything the server keeps: log, blobs, private keys.
        database: SQLAlchemy URL of the log; None for `log.sqlite` in the data folder.
        blobs: folder of inputs and outputs, which all servers of a log share; None for `blobs` in the data folder.
        host: address to listen on.
        port: port to listen on; 0 takes a free one and prints it.
        processes: servers that share the address and the database; more than one needs PostgreSQL.
        origin: name of the log and of the server in every token, for example "gnexec.example.org/log"; taken
            from the keys once they are made.
        open_mode: GnExec's version 0.1: no enrolment, any HTTP client is a worker. For a trusted network only.
        open_trust_all: in open mode, count every hand-out as an owner of its own, so that a quorum can be asked for.
        allow_raw: let submitters hand in raw commands; always so in open mode.
        lease_s: a worker must show progress within this time, seconds.
        grace_s: time added to a job's wall time to give its attempt's hard deadline, seconds.
        max_open: attempts that one worker may hold at a time.
        data_class: of jobs that do not say: "project" (entries are withheld) or "public" (released once closed);
            None stands for public in open mode, project otherwise.
        max_body_bytes: largest JSON body.
        max_blob_bytes: largest blob.
        max_bodies_bytes: what all JSON bodies that are being dealt with may hold together; at least one of the largest.
        max_connections: at a time, in each process; fewer where the system gives fewer file descriptors.
        max_per_address: connections of one address at a time; 0 for three quarters of all.
        open_rate: requests a second of one address in open mode; None for `DEFAULT_OPEN_RATE`, and no limit for
            clients on the server's own machine.
        max_owner_open: attempts that all workers of one owner may hold at a time.
        snapshot_every: entries after which a snapshot of the world is made, so that the next start need not fold them;
            0 for never.
        log_format: form of the operator's log.
        log_level: the least that it tells.
        log_requests: one line for each request.
        trusted_proxies: addresses or networks (192.0.2.0/24) of reverse proxies; who they say that they speak for is
            believed, and nobody else is.
    """

    data: Path
    database: str | None = None
    blobs: Path | None = None
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    processes: int = 1
    origin: str | None = None
    open_mode: bool = False
    open_trust_all: bool = False
    allow_raw: bool = False
    lease_s: int = 300
    grace_s: int = 60
    max_open: int = 256
    data_class: DataClass | None = None
    max_body_bytes: int = 8 << 20
    max_blob_bytes: int = 1 << 34
    max_bodies_bytes: int = 256 << 20
    max_connections: int = 20_000
    max_per_address: int = 0
    open_rate: int | None = None
    max_owner_open: int = 20_000
    snapshot_every: int = SNAPSHOT_EVERY
    log_format: LogFormat = LogFormat.TEXT
    log_level: LogLevel = LogLevel.INFO
    log_requests: bool = False
    trusted_proxies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check ranges and contradictions.

        Raises:
            BadConfiguration: names the setting.
        """
        for name, low, high in (
            ("port", 0, 65535),
            ("processes", 1, 256),
            ("lease_s", 1, LONGEST_LEASE_S),
            ("grace_s", 0, LONGEST_LEASE_S),
            ("max_open", 1, 1_000_000),
            ("max_body_bytes", 1 << 16, 1 << 30),
            ("max_blob_bytes", 1 << 16, 1 << 40),
            ("snapshot_every", 0, 1_000_000_000),
            ("max_bodies_bytes", 1 << 16, 1 << 40),
            ("max_connections", 16, 1_000_000),
            ("max_per_address", 0, 1_000_000),
            ("max_owner_open", 1, 1_000_000_000),
        ):
            if not low <= getattr(self, name) <= high:
                msg = f"{name} is {getattr(self, name)}; give a number from {low} to {high}."
                raise BadConfiguration(msg)
        if self.open_rate is not None and not 1 <= self.open_rate <= 1_000_000:
            msg = f"open_rate is {self.open_rate}; give requests a second, from 1 to 1000000."
            raise BadConfiguration(msg)
        for proxy in self.trusted_proxies:
            try:
                ip_network(proxy)
            except ValueError as err:
                msg = f"trusted_proxy: {err}. Give an address like 192.0.2.1, or a network like 192.0.2.0/24."
                raise BadConfiguration(msg) from err
        if self.open_trust_all and not self.open_mode:
            msg = "open_trust_all goes with open mode only: start with --open as well."
            raise BadConfiguration(msg)

    @property
    def database_url(self) -> str:
        """The log's database."""
        return self.database or f"sqlite:///{self.data.absolute() / 'log.sqlite'}"

    @property
    def blob_folder(self) -> Path:
        """Folder of inputs and outputs."""
        return self.blobs or self.data / "blobs"

    @property
    def private_keys(self) -> Path:
        """Folder of the private keys."""
        return self.data / "keys"

    @property
    def snapshots(self) -> Path:
        """Folder of the snapshots: caches, which may be deleted at any time."""
        return self.data / "snapshots"

    @property
    def published(self) -> Path:
        """File of the newest checkpoint that was shown to anybody."""
        return self.data / "published"

    @property
    def default_class(self) -> DataClass:
        """Data class of jobs that do not say."""
        return self.data_class or (DataClass.PUBLIC if self.open_mode else DataClass.PROJECT)

    @property
    def raw_allowed(self) -> bool:
        """Whether raw commands may be handed in."""
        return self.allow_raw or self.open_mode

    @property
    def policy(self) -> PolicySet:
        """The numbers that decisions depend on, as the log records them."""
        return PolicySet(
            lease_s=self.lease_s,
            grace_s=self.grace_s,
            max_open=self.max_open,
            distinct_owners=not self.open_trust_all,
            open=self.open_mode,
            max_owner_open=self.max_owner_open,
            silent_halves=True,
        )
