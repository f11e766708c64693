"""How Alembic reaches the database: over the connection that `gnexec.migrate` hands in, or a developer's `-x url=…`.

No __init__.py belongs in this folder: it would hide the alembic package from whatever runs in the checkout.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from alembic import context
from sqlalchemy import Connection

from gnexec import migrate
from gnexec.store import schema


def given() -> AbstractContextManager[Connection]:
    """Return the caller's connection, or one to the address on the command line."""
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is not None:
        return nullcontext(connection)
    url = context.get_x_argument(as_dictionary=True).get("url")
    return migrate.writing(url if isinstance(url, str) else "")


with given() as connection:
    context.configure(connection=connection, target_metadata=schema.metadata)
    with context.begin_transaction():
        context.run_migrations()
