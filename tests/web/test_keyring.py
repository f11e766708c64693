"""A server's keys while it runs: what changes on disk counts at once, what cannot be read changes nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gnexec.core.events import KeyCurrent, KeyRevoked
from gnexec.desk import keyring
from gnexec.keys import access_token, load, new_keys, revoke_token_keys, rotate_token_key
from gnexec.tokens import kid_of
from gnexec.tokens.issued import Scope
from tests.web.logs import Logs
from tests.web.sites import ORIGIN, Site, bearer, check_problem, open_site
from tests.web.volunteers import volunteer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def site(tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A server over a ring of its own, that never looks at it unless it has a reason to."""
    monkeypatch.setattr(keyring, "BEAT_S", 3600.0)
    keys = new_keys(tmp_path / "keys", tmp_path / "public", ORIGIN)
    async with open_site(keys, tmp_path, logs) as opened:
        opened.office.keyring.refresh()
        yield opened


def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return the private and the public folder."""
    return tmp_path / "keys", tmp_path / "public"


async def test_token_under_a_key_never_heard_of_is_read_at_once(site: Site, tmp_path: Path) -> None:
    """Two rotations later a token comes that another server has signed: the ring is looked at before it is refused."""
    for _ in range(2):
        rotate_token_key(*folders(tmp_path), now_s=int(time.time()))
    new = load(tmp_path / "keys")
    assert kid_of(new.token_current.public_key()) not in site.office.keys.token_public
    now_s = site.office.now_s()
    for keys in (new, site.office.keys):
        token = access_token(keys, "ada", [Scope.READ], project="bxd", now_s=now_s, for_s=60, draw=bytes(16))
        check_problem(await site.http.get("/v1/jobs/1", headers=bearer(token)), "not_found")


async def test_key_signs_when_the_log_says_that_it_is_current_and_not_before(site: Site, tmp_path: Path) -> None:
    """The ring is ahead of the log until the desk was told."""
    old = kid_of(site.office.keys.token_current.public_key())
    rotate_token_key(*folders(tmp_path), now_s=int(time.time()))
    assert site.office.keyring.refresh()
    assert kid_of(site.office.keys.token_current.public_key()) == old
    await site.office.keyring.tell()
    new = kid_of(site.office.keys.token_current.public_key())
    assert new == load(tmp_path / "keys").ring.current != old
    assert [event.kid for event in await site.events() if isinstance(event, KeyCurrent)] == [old, new]


async def test_ring_that_cannot_be_read_changes_nothing_and_is_tried_again(site: Site, tmp_path: Path) -> None:
    """Half copied, the old keys stay; whole, the new ones count."""
    before = site.office.keys.token_public
    rotate_token_key(*folders(tmp_path), now_s=int(time.time()))
    ring = tmp_path / "keys" / "ring.json"
    whole = ring.read_bytes()
    ring.write_bytes(whole[:20])
    assert not site.office.keyring.refresh()
    assert site.office.keys.token_public == before
    ring.write_bytes(whole)
    assert site.office.keyring.refresh()
    assert set(site.office.keys.token_public) > set(before)


async def test_keys_of_another_log_are_not_taken_up(site: Site, tmp_path: Path) -> None:
    """A folder that was mixed up on disk is no rotation."""
    before = site.office.keys
    other = tmp_path / "other"
    new_keys(other, tmp_path / "other-public", "other.test/log")
    for path in (tmp_path / "keys").iterdir():
        path.unlink()
    for path in other.iterdir():
        path.rename(tmp_path / "keys" / path.name)
    assert not site.office.keyring.refresh()
    assert site.office.keys is before


async def test_revoked_key_opens_nothing_even_for_tokens_that_were_read_before(site: Site, tmp_path: Path) -> None:
    """What this process signed itself, or read a moment ago, is not remembered."""
    ann = await volunteer(site)
    await site.submit()
    taken = await ann.take()
    assert (await ann.tell(taken, progress=0.1)).is_success
    revoke_token_keys(*folders(tmp_path), now_s=int(time.time()))
    site.office.keyring.refresh()
    check_problem(await ann.tell(taken, progress=0.2), "unknown_key")
    check_problem(await ann.ask(), "unknown_key")
    await site.office.keyring.tell()
    check_problem(await ann.tell(taken, progress=0.2), "unknown_key")
    assert sum(isinstance(event, KeyRevoked) for event in await site.events()) == 2
    assert (await ann.enrol()).is_success
    await site.pass_s(61)
    again = await ann.take()
    assert again.job == taken.job
    assert (await ann.finish(again)).json()["verdict"] == "valid"


async def test_list_of_log_keys_says_which_is_in_force(site: Site) -> None:
    """The first one, from the first entry on; and it is the one that is shown alone."""
    listed = (await site.http.get("/log/keys")).json()
    vkey = (await site.http.get("/log.vkey")).text.strip()
    assert listed == {
        "origin": ORIGIN,
        "keys": [{"vkey": vkey, "endorsement": None, "added": 0, "retired": None}],
    }
