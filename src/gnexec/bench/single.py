"""Starts gnexec so that each request is a transaction of its own: what group commit is compared with.

Only `gnexec bench` runs this, as `python -m gnexec.bench.single serve …`. It is no way to run a server.
"""

from __future__ import annotations

import runpy

from gnexec.desk import dispatcher

if __name__ == "__main__":
    dispatcher.MOST_AT_ONCE = 1  # type: ignore[misc]  # that it costs what it costs is what is measured
    runpy.run_module("gnexec", run_name="__main__", alter_sys=True)
