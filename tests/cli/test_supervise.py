"""The supervisor alone, with children that misbehave; with real ones: `tests/e2e/test_processes.py`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gnexec.cli import supervise
from gnexec.cli.child import Orders
from gnexec.cli.listening import bind
from gnexec.cli.supervise import Supervisor, reserve
from gnexec.core.terms import DataClass
from gnexec.errors import BadConfiguration
from gnexec.keys import load, new_keys
from gnexec.settings import LogFormat, LogLevel, ServerSettings

READY = "import sys; print('ready', flush=True); "
NUMBER = "import json, sys, time; number = json.loads(sys.stdin.readline())['number']; "
DIED = "a process died and is started again"
HANGS = "a process hangs and is killed"
BROKEN = "a process cannot go on with the log"
ENDED = "a process is ended, since others serve"


def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, *, until: str = "") -> tuple[int, list[str]]:
    """Supervise two children that run `code`; end it once `until` was told three times. Return status and log."""
    monkeypatch.setattr(supervise, "CHILD", (sys.executable, "-c", code))
    new_keys(tmp_path / "keys", tmp_path / "public", "test.example/gnexec")
    settings = ServerSettings(data=tmp_path, port=0, processes=2)

    def still(running: asyncio.Future[int]) -> bool:
        return not running.done() and (not until or sum(line["event"] == until for line in told) < 3)

    async def main() -> int:
        with reserve("127.0.0.1", 0) as address:
            running = asyncio.ensure_future(
                Supervisor(settings, load(settings.private_keys), address, str(tmp_path)).run()
            )
            while still(running):  # noqa: ASYNC110 -- the log has no event to wait for
                await asyncio.sleep(0.01)
            if not running.done():
                os.kill(os.getpid(), signal.SIGTERM)
            return await asyncio.wait_for(running, 60)

    with capture_logs() as told:
        status = asyncio.run(main())
    return status, [f"{line['event']} {line.get('in_s', '')}".strip() for line in told]


def test_orders_reach_the_child_as_they_were_given(tmp_path: Path) -> None:
    """Every setting, whatever its type, goes through the pipe and comes out the same."""
    plain = ServerSettings(data=tmp_path)
    given = replace(
        plain,
        database="postgresql://gnexec:p%40ss@db/gnexec",
        port=8123,
        processes=4,
        origin="gnexec.example/log",
        open_mode=True,
        open_trust_all=True,
        data_class=DataClass.PUBLIC,
        open_rate=7,
        log_format=LogFormat.JSON,
        log_level=LogLevel.ERROR,
        trusted_proxies=("192.0.2.0/24",),
    )
    for settings in (plain, given):
        line = Orders(3, settings).encode()
        assert b"\n" not in line
        assert Orders.decode(line) == Orders(3, settings)
    paths = [field.name for field in fields(plain) if isinstance(getattr(plain, field.name), Path)]
    assert "data" in paths


def test_first_child_that_fails_gives_its_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started again that has never served."""
    assert play(tmp_path, monkeypatch, "raise SystemExit(75)") == (75, [])


def test_child_that_keeps_dying_is_started_after_ever_longer_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is not kept busy with what does not work; each time the operator is told."""
    monkeypatch.setattr(supervise, "FIRST_PAUSE_S", 0.03)
    monkeypatch.setattr(supervise, "LONGEST_PAUSE_S", 0.06)
    status, told = play(tmp_path, monkeypatch, READY + "sys.exit(3)", until=DIED)
    assert status == 0
    assert [line for line in told if DIED in line][:3].count(f"{DIED} 0.03") == 2, "one of each child, or one of two"
    assert f"{DIED} 0.06" in told


def test_child_that_hangs_is_killed_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that served and is not heard any more has no use; one that says how it is, is left alone."""
    monkeypatch.setattr(supervise, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(supervise, "SILENT_S", 2.0)
    started = tmp_path / "started"
    code = (
        f"{NUMBER}open({str(started)!r}, 'a').write(str(number)); {READY}\n"
        "while number == 1: time.sleep(0.05); print('well', flush=True)\n"
        "time.sleep(3600)"
    )
    status, told = play(tmp_path, monkeypatch, code, until=HANGS)
    assert status == 0
    assert started.read_text().count("1") == 1
    assert started.read_text().count("2") >= told.count(HANGS)


def test_child_that_cannot_go_on_leaves_the_address_to_those_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would answer its share of the connections with errors; so it is ended, and started again."""
    monkeypatch.setattr(supervise, "FIRST_PAUSE_S", 0.01)
    code = NUMBER + READY + "number == 2 and print('broken', flush=True); time.sleep(3600)"
    status, told = play(tmp_path, monkeypatch, code, until=ENDED)
    assert status == 0
    assert told.count(ENDED) - 1 <= len([line for line in told if DIED in line]) <= told.count(ENDED), "only those"


def test_last_child_that_cannot_go_on_stays_to_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While no other serves, an answer that says what is wrong is better than none."""
    monkeypatch.setattr(supervise, "FIRST_PAUSE_S", 0.01)
    code = NUMBER + "number == 2 and sys.exit(1); " + READY + "print('broken', flush=True); time.sleep(3600)"
    status, told = play(tmp_path, monkeypatch, code, until=DIED)
    assert status == 0
    assert told.count(BROKEN) == 1
    assert ENDED not in told


def test_child_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that takes no notice of SIGTERM does not hold the end up for ever."""
    monkeypatch.setattr(supervise, "END_S", 0.1)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + READY + "time.sleep(3600)"
    code = deaf.replace("print(", "sys.stderr.close(); print(")
    monkeypatch.setattr(supervise.Supervisor, "_announce", _end_at_once)
    status, told = play(tmp_path, monkeypatch, code)
    assert status == 0
    assert "processes did not end in time and are killed" in told


async def _end_at_once(self: Supervisor) -> None:
    """End as soon as both children serve."""
    for begun in self._begun.values():
        await begun.wait()
    os.kill(os.getpid(), signal.SIGTERM)


def test_address_that_somebody_listens_on_is_not_shared_with_him() -> None:
    """Sharing is for children only."""
    with reserve("127.0.0.1", 0) as kept:
        port = kept.getsockname()[1]
        with bind("127.0.0.1", port, shared=True) as child:
            child.listen()
            with pytest.raises(BadConfiguration, match="Cannot listen"):
                reserve("127.0.0.1", port)
