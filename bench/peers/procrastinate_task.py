"""The task that procrastinate's workers import."""

from __future__ import annotations

import os

from procrastinate import App, PsycopgConnector

app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_PROCRASTINATE"], min_size=1, max_size=10))


@app.task
async def noop() -> None:
    """Do nothing."""
