"""Receipts hold offline, under the log's key alone, and for nothing but what they show."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.audit.local import LocalLog
from gnexec.audit.receipts import check_receipt, prove, read_receipts
from gnexec.core.events import ResultsReported
from gnexec.errors import BadConfiguration, CorruptLog, GnexecError, ProofError
from gnexec.shapes import ReceiptsView, ReceiptView, VerdictView
from gnexec.tlog.note import Verifier
from tests.audit.logs import ORIGIN, VERIFIER, eventful, honest, key_of, long


@cache
def receipts() -> tuple[ReceiptView, ...]:
    """Return the receipts of all entries of an eventful day."""
    with TemporaryDirectory() as folder, LocalLog(eventful().store(Path(folder)) / "log.sqlite") as log:
        return tuple(prove(log, seq) for seq in range(log.header.size))


def test_receipt_of_every_entry_holds() -> None:
    """Each entry can be shown to anyone, with what it says."""
    for seq, receipt in enumerate(receipts()):
        shown = check_receipt(receipt, VERIFIER)
        assert (shown.seq, shown.checkpoint.size) == (seq, honest().header.size)
        assert shown.event is not None
    assert isinstance(check_receipt(receipts()[12], VERIFIER).event, ResultsReported)


@given(st.data())
def test_receipt_with_any_part_altered_does_not_hold(data: st.DataObject) -> None:
    """No part of a receipt is free: not the entry, not its place, not the proof, not the checkpoint."""
    receipt = data.draw(st.sampled_from(receipts()))
    field = data.draw(st.sampled_from(["log", "leaf", "salt", "payload", "proof"]))
    text = getattr(receipt, field)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("0aZ+ \n").filter(lambda char: char != text[at]))
    with pytest.raises(GnexecError):
        check_receipt(msgspec.structs.replace(receipt, **{field: text[:at] + other + text[at + 1 :]}), VERIFIER)


def test_receipt_for_another_place_does_not_hold() -> None:
    """The place that is told is the place that is proved."""
    with pytest.raises(ProofError, match="not of entry 8"):
        check_receipt(msgspec.structs.replace(receipts()[7], seq=8), VERIFIER)


def test_receipt_under_another_key_does_not_hold() -> None:
    """Only the log's own key makes its checkpoints."""
    with pytest.raises(ProofError):
        check_receipt(receipts()[7], Verifier.of(ORIGIN, key_of("eve").public_key()))


def test_receipt_without_the_payload_shows_the_leaf() -> None:
    """Who keeps the payload to themselves can still show that the log has the entry."""
    bare = msgspec.structs.replace(receipts()[7], salt="", payload="")
    assert check_receipt(bare, VERIFIER).event is None
    with pytest.raises(CorruptLog):
        check_receipt(msgspec.structs.replace(receipts()[7], salt=""), VERIFIER)


@pytest.mark.parametrize(
    "wrapped",
    [
        receipts()[7],
        [receipts()[7]],
        ReceiptsView(id=1, receipts=[receipts()[7]]),
        VerdictView(verdict="pending", receipt=receipts()[7]),
    ],
    ids=["one", "list", "of a job", "of a verdict"],
)
def test_receipt_is_read_in_whatever_a_server_put_it(wrapped: object) -> None:
    """Answers of a server can be kept as they are, and checked as they are."""
    assert read_receipts(msgspec.json.encode(wrapped)) == [receipts()[7]]


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"7", b'{"receipt":null}', b"[" * 100_000, b"\xff"])
def test_file_that_is_no_receipt_is_refused(data: bytes) -> None:
    """What holds no receipt is said to hold none."""
    with pytest.raises(ProofError):
        read_receipts(data)


def test_entry_that_is_not_there_cannot_be_proved(tmp_path: Path) -> None:
    """The range of entries is told."""
    with LocalLog(eventful().store(tmp_path) / "log.sqlite") as log:
        for seq in (-1, log.header.size):
            with pytest.raises(BadConfiguration, match="there is no entry"):
                prove(log, seq)


def test_entry_that_was_altered_in_the_store_cannot_be_proved(tmp_path: Path) -> None:
    """Nobody is given a receipt that does not hold."""
    import sqlite3  # noqa: PLC0415 -- for one test
    from contextlib import closing  # noqa: PLC0415 -- as above

    database = long().store(tmp_path) / "log.sqlite"
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("UPDATE entries SET leaf = (SELECT leaf FROM entries WHERE seq = 1) WHERE seq = 9")
    with LocalLog(database) as log, pytest.raises(CorruptLog) as caught:
        prove(log, 9)
    assert caught.value.seq == 9
