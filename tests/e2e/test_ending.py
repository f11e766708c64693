"""A server whose store hangs ends all the same, and in time."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from gnexec.keys import new_keys
from tests.serving import ORIGIN, Server
from tests.worker.agents import until

PROGRAM = """
import sys, time
from pathlib import Path
from gnexec.cli import listening, main
from gnexec.desk import dispatcher
from gnexec.desk.office import Office
from gnexec.store.sqlite import SqliteStore

data, what = Path(sys.argv[sys.argv.index("--data") + 1]), {what!r}

def hangs(self, *_):
    (data / "hung").touch()
    time.sleep(3600)

commit = SqliteStore._commit
SqliteStore._commit = lambda self, db: hangs(self) if (data / "hang").exists() else commit(self, db)
dispatcher.STOPPED_WITHIN_S = 0.1
if what == "everything":
    Office.close = hangs
    listening.SHUTDOWN_S = listening.CLOSE_S = 0.5
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("what", "status", "told"),
    [("the commit", 0, "the writer is left behind"), ("everything", 75, "ends by force")],
)
def test_serve_whose_store_hangs_ends_on_sigterm(tmp_path: Path, what: str, status: int, told: str) -> None:
    """The writer is held within a commit, with the store's lock: the server leaves it behind, at worst by force."""
    server = Server(tmp_path, program=(sys.executable, "-c", PROGRAM.replace("{what!r}", repr(what))))
    new_keys(server.private_keys, tmp_path / "public", ORIGIN)
    server.start()
    try:
        (tmp_path / "hang").touch()
        until((tmp_path / "hung").exists, "a commit that hangs", lambda: "".join(server.output))
        assert server.kill(signal.SIGTERM) == status
        until(lambda: any(told in line for line in server.output), told, lambda: "".join(server.output))
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
