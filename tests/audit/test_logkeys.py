"""A log whose keys turned: any key that it has had leads to its newest, and a key that nobody vouched for does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gnexec.audit.anchor import Known, choose_anchor
from gnexec.audit.export import export
from gnexec.audit.lines import Header, Record, Seal
from gnexec.audit.local import LocalLog
from gnexec.audit.receipts import check_receipt, prove
from gnexec.audit.replay import replay
from gnexec.audit.source import open_source
from gnexec.audit.verify import Level, verify
from gnexec.core.commands import RingLogKey, TurnKeys
from gnexec.core.events import LogKeyAdded, LogKeyRetired
from gnexec.core.terms import DataClass
from gnexec.desk.sealer import Fresh, Sealer
from gnexec.errors import CorruptLog, ProofError
from gnexec.shapes import ReceiptView
from gnexec.store.contract import Append
from gnexec.store.sqlite import SqliteStore
from gnexec.tlog.note import Verifier
from gnexec.tlog.succession import endorse
from gnexec.tokens import kid_of
from gnexec.wire import encode_event
from tests.audit.logs import LOG_KEY, ORIGIN, Dispatcher, Log, key_of, terms, x_of

KEYS = (LOG_KEY, key_of("second log key"), key_of("third log key"))
VERIFIERS = tuple(Verifier.of(ORIGIN, key.public_key()) for key in KEYS)
FIRST, SECOND, THIRD = VERIFIERS


class Turning(Dispatcher):
    """A dispatcher whose log keys turn."""

    def turn(self, count: int, ended: int) -> None:
        """Have `count` log keys, of which the first `ended` are retired."""
        rows = [RingLogKey(FIRST.vkey, "", in_force=ended < 1)]
        for i in range(1, count):
            note = endorse(ORIGIN, VERIFIERS[i].vkey, KEYS[i - 1])
            rows.append(RingLogKey(VERIFIERS[i].vkey, note, in_force=i >= ended))
        token = key_of("tokens")
        kid = kid_of(token.public_key())
        self.do(TurnKeys({kid: x_of(token)}, kid, log=tuple(rows)))

    def work(self) -> None:
        """Have something happen."""
        self.submit(1, terms(quorum=1, data_class=DataClass.PUBLIC))
        self.later(1)
        self.report(self.take("ann"))

    def sealed_by(self, *signers: int) -> Append:
        """Seal all entries with some of the keys, whatever the log says."""
        fresh = [Fresh(at_ms, event, encode_event(event)) for at_ms, event in self.told]
        return Sealer(ORIGIN, *(KEYS[i] for i in signers)).seal(fresh)[0]

    def log_by(self, *signers: int) -> Log:
        """Return the log under a checkpoint signed by some of the keys."""
        append = self.sealed_by(*signers)
        records = [Record(seq, e.leaf, None, e.salt, e.payload) for seq, e in enumerate(append.entries)]
        return Log(Header(origin=ORIGIN, vkey=FIRST.vkey, size=self.size), records, append.note)


@pytest.fixture
def desk() -> Turning:
    """A log in which one thing has happened under its first key."""
    turning = Turning()
    turning.enrol("ann")
    turning.work()
    return turning


@pytest.fixture
def turned(desk: Turning) -> Turning:
    """The same after two rotations; only the third key is in force."""
    for count, ended in ((2, 0), (3, 1), (3, 2)):
        desk.turn(count, ended)
        desk.work()
    return desk


@pytest.mark.parametrize("trusted", VERIFIERS)
def test_log_is_verified_with_any_key_that_it_has_had(turned: Turning, trusted: Verifier) -> None:
    """From the first, the middle or the newest: all entries, and how the keys followed each other."""
    log = turned.log_by(2)
    found = verify(log.header, log.items, trusted)
    assert found.level is Level.FULL
    assert [key.vkey for key in found.keys] == [key.vkey for key in VERIFIERS]
    assert [key.retired is None for key in found.keys] == [False, False, True]


def test_checkpoint_needs_every_key_in_force_and_none_else(desk: Turning) -> None:
    """In the overlap both; before and after one."""
    before = desk.log_by(0)
    assert verify(before.header, before.items, FIRST).keys[0].vkey == FIRST.vkey
    desk.turn(2, 0)
    overlap = desk.log_by(0, 1)
    assert verify(overlap.header, overlap.items, SECOND).level is Level.FULL
    for signer in (0, 1):
        with pytest.raises(ProofError, match="not signed by"):
            verify(before.header, desk.log_by(signer).items, FIRST)
    desk.turn(2, 1)
    with pytest.raises(ProofError):
        verify(before.header, desk.log_by(0).items, FIRST)
    after = desk.log_by(1)
    assert verify(after.header, after.items, FIRST).level is Level.FULL


def test_key_that_the_log_has_never_had_is_not_trusted(turned: Turning) -> None:
    """However well it is signed."""
    log = turned.log_by(2)
    stranger = Verifier.of(ORIGIN, key_of("eve").public_key())
    with pytest.raises(CorruptLog, match="as trusted here"):
        verify(log.header, log.items, stranger)


def test_stolen_old_key_cannot_bring_in_a_key_of_the_thief(turned: Turning) -> None:
    """What the second key vouches for after it was succeeded is found at its entry."""
    eve = key_of("eve")
    vkey = Verifier.of(ORIGIN, eve.public_key()).vkey
    seq = turned.forge(LogKeyAdded(vkey=vkey, endorsement=endorse(ORIGIN, vkey, KEYS[1])))
    with pytest.raises(CorruptLog, match="not endorsed") as caught:
        verify(turned.log_by(2).header, turned.log_by(2).items, FIRST)
    assert caught.value.seq == seq


def test_newest_key_is_not_retired(turned: Turning) -> None:
    """A log that nobody signs for is none."""
    seq = turned.forge(LogKeyRetired(vkey=THIRD.vkey))
    log = turned.log_by(2)
    with pytest.raises(CorruptLog, match="cannot be retired") as caught:
        verify(log.header, log.items, FIRST)
    assert caught.value.seq == seq


def test_log_of_withheld_payloads_is_followed_as_far_as_it_shows(turned: Turning) -> None:
    """Entries about keys are always shown; where one is withheld, the trusted key must have signed itself."""
    log = turned.log_by(2)
    first_key_event = next(seq for seq, (_, e) in enumerate(turned.told) if isinstance(e, LogKeyAdded))
    some = [r._replace(salt=None, payload=None) if r.seq == 4 else r for r in log.records]
    assert verify(log.header, [*some, Seal(log.note)], FIRST).level is Level.INTEGRITY
    hidden = [r._replace(salt=None, payload=None) if r.seq == first_key_event else r for r in log.records]
    assert verify(log.header, [*hidden, Seal(log.note)], THIRD).level is Level.INTEGRITY
    with pytest.raises(ProofError):
        verify(log.header, [*hidden, Seal(log.note)], FIRST)


def test_kept_checkpoint_of_an_old_key_is_continued(desk: Turning, monkeypatch: pytest.MonkeyPatch) -> None:
    """An auditor who came last under the first key goes on under the third, and keeps that one."""
    monkeypatch.setattr("gnexec.desk.sealer.draw", bytes)  # the same salts each time it is sealed
    old = desk.log_by(0)
    anchor = choose_anchor(ORIGIN, FIRST.vkey)
    anchor.keep(verify(old.header, old.items, anchor.key).note)
    for count, ended in ((2, 0), (3, 2)):
        desk.turn(count, ended)
    new = desk.log_by(2)
    again = choose_anchor(ORIGIN, None)
    found = verify(new.header, new.items, again.key, kept=again.kept, kept_note=again.note)
    assert found.continues == old.header.size
    again.keep(found.note, found.keys)
    kept = choose_anchor(ORIGIN, None)
    assert (kept.known, kept.key.vkey) == (Known.KEPT, THIRD.vkey)
    # And who is given the newest key, and holds a checkpoint of the first, is not sent away either.
    assert verify(new.header, new.items, THIRD, kept=again.kept, kept_note=again.note).continues == old.header.size


def test_receipts_of_every_age_are_checked_with_what_an_auditor_keeps(desk: Turning, tmp_path: Path) -> None:
    """An old receipt with the old key; a new one too, once the log was verified; a retired key proves nothing later."""
    old = receipt(desk, 4, (0,), tmp_path / "old")
    assert check_receipt(old, FIRST).seq == 4
    for count, ended in ((2, 0), (3, 2)):
        desk.turn(count, ended)
    new = receipt(desk, 4, (2,), tmp_path / "new")
    forged = receipt(desk, 4, (0,), tmp_path / "forged")
    with pytest.raises(ProofError):
        check_receipt(new, FIRST)
    anchor = choose_anchor(ORIGIN, FIRST.vkey)
    log = desk.log_by(2)
    anchor.keep(log.note, verify(log.header, log.items, FIRST).keys)
    for trusted in (choose_anchor(ORIGIN, None), choose_anchor(ORIGIN, None, FIRST.vkey)):
        assert check_receipt(old, trusted.key, trusted.history()).seq == 4
        assert check_receipt(new, trusted.key, trusted.history()).seq == 4
        with pytest.raises(ProofError):
            check_receipt(forged, trusted.key, trusted.history())


def receipt(desk: Turning, seq: int, signers: tuple[int, ...], folder: Path) -> ReceiptView:
    """Make the receipt of an entry under a checkpoint signed by some of the keys."""
    with LocalLog(stored(desk, signers, folder)) as log:
        return prove(log, seq)


def stored(desk: Turning, signers: tuple[int, ...], folder: Path) -> Path:
    """Write the log as a server keeps it; return the database."""
    folder.mkdir(parents=True)
    store = SqliteStore(folder / "log.sqlite", create=True)
    with store.batch() as batch:
        batch.append(desk.sealed_by(*signers))
    store.close()
    return folder / "log.sqlite"


def test_turned_log_in_a_store_is_exported_and_replayed(turned: Turning, tmp_path: Path) -> None:
    """Export and replay know which keys must have signed the head."""
    database = stored(turned, (2,), tmp_path / "data")
    with LocalLog(database) as log:
        assert replay(log).differences == ()
        assert export(log, tmp_path / "file") == (turned.size, 0)
    for trusted in VERIFIERS:
        with open_source(str(tmp_path / "file")) as file:
            assert verify(file.header, file.items(), trusted).level is Level.FULL
    with LocalLog(stored(turned, (1,), tmp_path / "bad")) as log:
        assert [difference.cache for difference in replay(log).differences] == ["head"]


def test_header_with_a_key_that_the_log_has_never_had_is_refused(desk: Turning) -> None:
    """What an export says of itself at its top is held against its entries."""
    log = desk.log_by(0)
    with pytest.raises(CorruptLog, match="has never had it"):
        verify(Header(origin=ORIGIN, vkey=THIRD.vkey, size=log.header.size), log.items, FIRST)
