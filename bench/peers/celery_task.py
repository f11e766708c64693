"""The task that Celery's worker imports."""

from __future__ import annotations

import os

from celery import Celery

_ADDRESS = f"redis+socket://{os.environ['BENCH_CELERY_REDIS']}"
app = Celery("bench", broker=_ADDRESS, backend=_ADDRESS)


@app.task
def noop() -> None:
    """Do nothing."""
