"""Where a PostgreSQL log is: its address, read strictly, and shown without its password.

Nothing here connects. An address is what libpq takes (https://www.postgresql.org/docs/current/libpq-connect.html):
`postgresql://USER:PASSWORD@HOST:PORT/DATABASE?option=value`. What is absent from it comes from PG… environment
variables and `~/.pgpass`, as for any PostgreSQL client.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from gnexec.errors import BadConfiguration

SCHEMES: Final = ("postgresql", "postgres", "postgresql+psycopg")

DEFAULTS: Final = {
    # A host that vanished is noticed in seconds, not after the kernel's two hours.
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "application_name": "gnexec",
}

MEND: Final = (
    "Give postgresql://USER:PASSWORD@HOST:PORT/DATABASE; in names and passwords write @ as %40, : as %3A, "
    "/ as %2F, ? as %3F and % as %25."
)


@dataclass(frozen=True, slots=True)
class PgAddress:
    """An address that was understood.

    Attributes:
        conninfo: what the driver is given; it may hold a password.
        shown: the same place in words, for messages.
    """

    conninfo: str
    shown: str

    def __repr__(self) -> str:
        """Leave the password out of whatever prints this."""
        return f"PgAddress({self.shown})"

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read an address.

        Raises:
            BadConfiguration: there is no driver here, or the address cannot be understood, or in two ways. None of it
                is repeated, as a password with an unescaped sign can stand where a host or a port is expected.
        """
        try:
            from psycopg import ProgrammingError  # noqa: PLC0415 - an extra: most installations have no PostgreSQL
            from psycopg.conninfo import conninfo_to_dict, make_conninfo  # noqa: PLC0415 - as above
        except ImportError as err:
            msg = "PostgreSQL needs its driver, psycopg 3. Install it: pip install 'gnexec[postgresql]'."
            raise BadConfiguration(msg) from err
        scheme, _, rest = url.partition("://")
        authority = re.split("[/?]", rest, maxsplit=1)[0]
        if scheme not in SCHEMES or rest.count("@") != authority.count("@") or authority.count("@") > 1:
            msg = f"The address of the PostgreSQL database cannot be understood. {MEND}"
            raise BadConfiguration(msg)
        try:
            found = {name: str(value) for name, value in conninfo_to_dict(f"postgresql://{rest}").items()}
        except ProgrammingError:
            msg = f"The address of the PostgreSQL database cannot be understood. {MEND}"
            raise BadConfiguration(msg) from None
        port = found.get("port", "")
        if not re.fullmatch("[0-9,]*", port):
            msg = f"The address of the PostgreSQL database has a port that is no number. {MEND}"
            raise BadConfiguration(msg)
        where = found.get("host") or found.get("hostaddr") or "this machine"
        shown = f"the PostgreSQL database {found.get('dbname', 'of the user')!s} at {where}{port and ':'}{port}"
        return cls(make_conninfo("", **{**DEFAULTS, **found}), shown)


def is_postgres(url: str) -> bool:
    """Return whether an address is meant for PostgreSQL."""
    return url.partition(":")[0] in SCHEMES
