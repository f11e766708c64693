"""Whatever is done to a log on its way is found, and the first bad entry is named."""

from __future__ import annotations

import json
import tracemalloc
from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, given
from hypothesis import strategies as st

from gnexec.audit.exported import ExportedLog
from gnexec.audit.lines import Header, Record, Seal
from gnexec.audit.verify import Level, Verified, verify
from gnexec.errors import CorruptLog, GnexecError, ProofError
from gnexec.tlog.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from gnexec.tlog.merkle import leaf_hash
from gnexec.tlog.note import SignatureKind, Verifier, cosign, parse_note
from gnexec.tlog.tiles import Tree
from gnexec.wire import encode_leaf
from tests.audit.logs import LOG_KEY, ORIGIN, VERIFIER, Log, digest, eventful, honest, write_lines

SIZE = honest().header.size
SEQ = st.integers(0, SIZE - 1)


def verify_bytes(data: bytes) -> Verified:
    """Verify an exported file of these bytes, by the log's real key."""
    with TemporaryDirectory() as folder, ExportedLog(write_lines(Path(folder) / "log", [data])) as log:
        return verify(log.header, log.items(), VERIFIER)


def verify_lines(lines: list[bytes]) -> Verified:
    """Verify an exported file of these lines."""
    return verify_bytes(b"".join(lines))


def first_bad(lines: list[bytes]) -> int | None:
    """Return the entry that the finding names."""
    with pytest.raises(CorruptLog) as caught:
        verify_lines(lines)
    return caught.value.seq


def signed(records: Iterable[Record], key: Ed25519PrivateKey = LOG_KEY) -> bytes:
    """Sign a checkpoint over records."""
    tree = Tree()
    for record in records:
        tree.append(leaf_hash(record.leaf))
    return sign_checkpoint(Checkpoint(ORIGIN, tree.size, tree.root()), key)


def whole(records: Sequence[Record], note: bytes) -> list[Record | Seal]:
    """Return the items of a log."""
    return [*records, Seal(note)]


def kept_of(log: Log, size: int) -> Checkpoint:
    """Return the checkpoint that a log had when it was `size` entries long."""
    return open_checkpoint(signed(log.records[:size]), [VERIFIER], ORIGIN)


def another(record: Record) -> Record:
    """Return an entry of another content, consistent in itself: leaf, salt and payload, and no hash beside it."""
    payload, salt = (record.payload or b"") + b" ", b"\x07" * 16
    at_ms = int(record.leaf[6:19])
    return Record(record.seq, encode_leaf(at_ms, salt, payload), None, salt, payload)


def test_export_as_written_is_verified() -> None:
    """The file that nobody touched reaches the full level."""
    result = verify_lines(honest().lines)
    assert (result.level, result.checkpoint.size, result.ruled) == (Level.FULL, SIZE, SIZE)


# A file on its way.


@given(st.data())
def test_any_bit_flipped_in_the_file_is_found_at_its_entry(data: st.DataObject) -> None:
    """Each bit of the file counts; one within an entry's line names that entry."""
    lines = honest().lines
    row = data.draw(st.integers(0, len(lines) - 1))
    at = data.draw(st.integers(0, len(lines[row]) - 1))
    bit = data.draw(st.integers(0, 7))
    flipped = bytearray(lines[row])
    flipped[at] ^= 1 << bit
    with pytest.raises(GnexecError) as caught:
        verify_lines([*lines[:row], bytes(flipped), *lines[row + 1 :]])
    if 1 <= row <= SIZE:
        assert isinstance(caught.value, CorruptLog)
        assert caught.value.seq == row - 1


@given(SEQ)
def test_dropped_entry_is_found(seq: int) -> None:
    """A line that is missing is named."""
    lines = honest().lines
    del lines[1 + seq]
    assert first_bad(lines) == seq


@given(SEQ, SEQ)
def test_swapped_entries_are_found(a: int, b: int) -> None:
    """Of two lines that changed places, the first place is named."""
    assume(a != b)
    lines = honest().lines
    lines[1 + a], lines[1 + b] = lines[1 + b], lines[1 + a]
    assert first_bad(lines) == min(a, b)


@given(SEQ)
def test_repeated_entry_is_found(seq: int) -> None:
    """A line that comes again is found in the place of the next."""
    lines = honest().lines
    lines.insert(1 + seq, lines[1 + seq])
    assert first_bad(lines) == seq + 1


@given(st.integers(len(honest().lines[0]), sum(map(len, honest().lines)) - 1))
def test_file_cut_off_anywhere_is_found(length: int) -> None:
    """A file that ends too early is no log; the first entry that is not whole is named, if one is missing."""
    lines = honest().lines
    whole, total = 0, 0
    for line in lines:
        total += len(line)
        whole += total <= length
    data = b"".join(lines)[:length]
    with pytest.raises(CorruptLog) as caught:
        verify_bytes(data)
    if whole - 1 < SIZE:
        assert caught.value.seq == whole - 1


def test_file_that_goes_on_after_its_checkpoint_is_refused() -> None:
    """Nothing can hide behind the last line."""
    with pytest.raises(CorruptLog, match="follows the checkpoint"):
        verify_lines([*honest().lines, b"\n"])


@given(SEQ)
def test_payload_and_leaf_altered_together_are_found_by_the_hash_kept(seq: int) -> None:
    """An entry that fits its own leaf is not the one whose hash was kept."""
    log = honest()
    forged = another(log.records[seq])._replace(h=leaf_hash(log.records[seq].leaf))
    items = whole([*log.records[:seq], forged, *log.records[seq + 1 :]], log.note)
    with pytest.raises(CorruptLog) as caught:
        verify(log.header, items, VERIFIER)
    assert caught.value.seq == seq


@given(SEQ)
def test_leaf_altered_with_its_hash_is_found_by_the_root(seq: int) -> None:
    """Where everything beside the checkpoint was made to fit, the root does not; payloads are withheld here."""
    log = honest()
    leaves = [Record(r.seq, r.leaf, leaf_hash(r.leaf)) for r in log.records]
    forged = another(log.records[seq])
    items = whole([*leaves[:seq], Record(seq, forged.leaf, leaf_hash(forged.leaf)), *leaves[seq + 1 :]], log.note)
    with pytest.raises(CorruptLog, match="not those that the checkpoint commits to"):
        verify(log.header, items, VERIFIER)


@given(SEQ)
def test_entry_dropped_and_the_rest_renumbered_is_found(seq: int) -> None:
    """A gap that was closed over leaves one entry fewer than the checkpoint has."""
    records = [r for r in honest().records if r.seq != seq]
    renumbered = [r._replace(seq=i) for i, r in enumerate(records)]
    with pytest.raises(CorruptLog):
        verify(honest().header, whole(renumbered, honest().note), VERIFIER)


# A log that says too little, or of itself something false.


@given(st.sets(SEQ, min_size=1))
def test_withheld_payloads_leave_integrity(hidden: set[int]) -> None:
    """Leaves alone show integrity; how many payloads are withheld is said, and rules hold up to the first of them."""
    log = honest()
    records = [r._replace(salt=None, payload=None) if r.seq in hidden else r for r in log.records]
    result = verify(log.header, whole(records, log.note), VERIFIER)
    assert (result.level, result.withheld, result.ruled) == (Level.INTEGRITY, len(hidden), min(hidden))
    assert result.statements + result.unknown_signers <= 9


def test_statement_of_a_worker_whose_enrolment_is_withheld_is_counted_apart() -> None:
    """What cannot be verified is not called verified."""
    log = honest()
    records = [r._replace(salt=None, payload=None) if r.seq in {3, 4, 5} else r for r in log.records]
    result = verify(log.header, whole(records, log.note), VERIFIER)
    assert (result.statements, result.unknown_signers) == (0, 9)


def test_payload_released_in_a_gap_is_held_against_its_leaf() -> None:
    """Behind a withheld payload, a released one still must be the one that its leaf commits to."""
    log = honest()
    records = [r._replace(salt=None, payload=None) if r.seq < 20 else r for r in log.records]
    records[30] = records[30]._replace(salt=bytes(16))
    with pytest.raises(CorruptLog) as caught:
        verify(log.header, whole(records, log.note), VERIFIER)
    assert caught.value.seq == 30


def test_time_that_goes_back_is_found_in_leaves_alone() -> None:
    """Time is public: no payload is needed to see that it went back, and the checkpoint may be valid."""
    desk = eventful()
    _, event = desk.told[30]
    desk.told[30] = desk.told[29][0] - 1, event
    log = desk.log()
    items = whole([Record(r.seq, r.leaf) for r in log.records], log.note)
    with pytest.raises(CorruptLog, match="time goes back") as caught:
        verify(log.header, items, VERIFIER)
    assert caught.value.seq == 30


@pytest.mark.parametrize("change", [{"size": SIZE - 1}, {"origin": "other.test/log"}, {"vkey": "x"}])
def test_header_that_contradicts_the_log_is_found(change: dict[str, object]) -> None:
    """What the first line says must be what the checkpoint and the trusted key say."""
    with pytest.raises(CorruptLog, match="the log says"):
        verify(msgspec.structs.replace(honest().header, **change), honest().items, VERIFIER)


# A forged, an old, a rewritten checkpoint.


def test_checkpoint_signed_by_a_stranger_is_refused() -> None:
    """A checkpoint over altered entries needs the log's key."""
    log = honest()
    note = signed(log.records, Ed25519PrivateKey.generate())
    with pytest.raises(ProofError):
        verify(log.header, whole(log.records, note), VERIFIER)


def test_checkpoint_whose_size_was_altered_is_refused() -> None:
    """The signature covers size and root."""
    log = honest()
    note = log.note.replace(b"\n%d\n" % SIZE, b"\n%d\n" % (SIZE - 1))
    assert note != log.note
    with pytest.raises(ProofError):
        verify(log.header, whole(log.records, note), VERIFIER)


@given(st.integers(0, SIZE))
def test_log_that_continues_the_kept_checkpoint_is_verified(size: int) -> None:
    """Whatever size was verified before, the log grew from there."""
    log = honest()
    kept = kept_of(log, size)
    assert verify(log.header, log.items, VERIFIER, kept=kept).continues == size


@given(st.integers(3, SIZE - 1))
def test_log_cut_back_below_the_kept_checkpoint_is_found(size: int) -> None:
    """An old state with its own valid checkpoint is found against a newer one that is held."""
    log = honest()
    items = whole(log.records[:size], signed(log.records[:size]))
    kept = kept_of(log, SIZE)
    header = Header(origin=ORIGIN, vkey=VERIFIER.vkey, size=size)
    with pytest.raises(CorruptLog, match="cut back") as caught:
        verify(header, items, VERIFIER, kept=kept)
    assert caught.value.seq == size


@given(SEQ, SEQ)
def test_fork_is_found_against_the_kept_checkpoint(seq: int, extra: int) -> None:
    """A log that was rewritten below the kept size, and sealed anew with its real key, contradicts what is held."""
    log = honest()
    forged = another(log.records[seq])
    leaves = [Record(r.seq, r.leaf) for r in log.records]
    leaves[seq] = Record(seq, forged.leaf)
    size = min(seq + 1 + extra, SIZE)
    with pytest.raises(CorruptLog, match="rewritten"):
        verify(log.header, whole(leaves, signed(leaves)), VERIFIER, kept=kept_of(log, size))


def test_damage_behind_the_kept_checkpoint_is_placed_there() -> None:
    """The kept checkpoint vouches for its entries, so the damage is behind them."""
    log = honest()
    leaves = [Record(r.seq, r.leaf) for r in log.records]
    leaves[-1] = Record(SIZE - 1, another(log.records[-2]).leaf)
    with pytest.raises(CorruptLog) as caught:
        verify(log.header, whole(leaves, log.note), VERIFIER, kept=kept_of(log, SIZE - 1))
    assert caught.value.seq == SIZE - 1


# Witnesses.


def test_witness_that_cosigned_is_reported_and_one_that_did_not_is_missed() -> None:
    """A checkpoint counts for a witness only with that witness's signature on it."""
    log = honest()
    keys = [Ed25519PrivateKey.generate() for _ in range(2)]
    seen, unseen = (
        Verifier.of(f"w{i}.test", key.public_key(), SignatureKind.COSIGNATURE) for i, key in enumerate(keys)
    )
    note = log.note + cosign(parse_note(log.note).text, seen.name, keys[0], 1_800_000_000)
    items = whole(log.records, note)
    assert verify(log.header, items, VERIFIER, witnesses=[seen]).witnesses == {seen.name: 1_800_000_000}
    with pytest.raises(ProofError, match=unseen.name):
        verify(log.header, items, VERIFIER, witnesses=[seen, unseen])


def bare(count: int) -> Iterator[Record]:
    """Yield leaves without payloads."""
    return (Record(i, encode_leaf(1, bytes(16), digest(i).encode())) for i in range(count))


def test_memory_does_not_grow_with_the_log() -> None:
    """Entries stream by: eight times as many take no more room."""
    peaks = []
    for count in (2_000, 16_000):
        note = signed(bare(count))
        header = Header(origin=ORIGIN, vkey=VERIFIER.vkey, size=count)
        tracemalloc.start()
        verify(header, chain(bare(count), [Seal(note)]), VERIFIER)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_export_can_be_checked_with_json_and_sha256_alone() -> None:
    """The documented form is enough: no code of ours is needed to come to the signed root."""

    def root(hashes: list[bytes]) -> bytes:
        if len(hashes) == 1:
            return hashes[0]
        k = 1 << (len(hashes) - 1).bit_length() - 1
        return sha256(b"\1" + root(hashes[:k]) + root(hashes[k:])).digest()

    _, *rows, last = map(json.loads, honest().lines)
    for seq, row in enumerate(rows):
        leaf = json.loads(row["leaf"])
        assert row["seq"] == seq
        assert row["h"] == sha256(b"\0" + row["leaf"].encode()).hexdigest()
        assert leaf["d"] == sha256(bytes.fromhex(row["salt"]) + row["payload"].encode()).hexdigest()
    origin, size, encoded, *_ = last["checkpoint"].split("\n")
    assert (origin, int(size)) == (ORIGIN, SIZE)
    assert b64decode(encoded) == root([bytes.fromhex(row["h"]) for row in rows])


def test_progress_is_told_while_entries_go_by() -> None:
    """Whoever waits is told how far it is."""
    told: list[int] = []
    records = list(bare(2500))
    header = Header(origin=ORIGIN, vkey=VERIFIER.vkey, size=2500)
    verify(header, whole(records, signed(records)), VERIFIER, progress=told.append)
    assert told == [1000, 2000]
