"""Afterwards: the log, read from the store, held against what was acknowledged.

Nothing acknowledged is lost, nothing is there twice, every checkpoint that was ever seen is of a beginning of the log.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from gnexec.core.events import AnyEvent, AttemptsLapsed, HandedOut, ResultsReported, Submitted, WorkerEnrolled
from gnexec.ids import sha256_hex
from gnexec.shapes import ReceiptView
from gnexec.store import open_store
from gnexec.store.contract import Entry
from gnexec.tlog.checkpoint import open_checkpoint
from gnexec.tlog.merkle import leaf_hash
from gnexec.tlog.note import Verifier, parse_vkey
from gnexec.tlog.receipt import parse_receipt, verify_receipt
from gnexec.tlog.tiles import Tree
from gnexec.wire import decode_event
from tests.serving import ORIGIN
from tests.torture.record import Record


def gnexec(home: Path, *arguments: str) -> str:
    """Run a command with nothing but what it is given; it must succeed."""
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "NO_COLOR": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "gnexec", *arguments, "--json"], capture_output=True, text=True, env=env, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def check_log(url: str, vkey: str, record: Record) -> None:
    """Hold a log against what was acknowledged.

    Args:
        url: of the store; no server has it open.
        vkey: of the log.
        record: what the clients were told.
    """
    store = open_store(url, create=False)
    try:
        entries = store.entries(0, store.head().size)
    finally:
        store.close()
    events = [decode_event(entry.payload) for entry in entries]
    _check_jobs(events, record)
    _check_workers(events, record)
    _check_attempts(events, record)
    key = parse_vkey(vkey)
    seen = {receipt.proof.encode().partition(b"\n\n")[2] for receipt in record.receipts} | record.checkpoints
    _check_checkpoints(entries, seen, key)
    check_receipts(record.receipts, entries, key)


def check_blobs(folder: Path, record: Record) -> None:
    """Make sure that every blob is whole, those that were acknowledged are there, and nothing else is left."""
    found = {path.parent.name + path.name: path for path in folder.glob("[0-9a-f][0-9a-f]/*")}
    for digest, path in found.items():
        assert sha256_hex(path.read_bytes()) == digest, "a torn blob has a name"
    assert record.blobs.keys() <= found.keys()
    assert list((folder / "uploads").iterdir()) == [], "what crashed uploads have left was not removed"


def _check_jobs(events: list[AnyEvent], record: Record) -> None:
    submissions = [event for event in events if isinstance(event, Submitted)]
    made = {event.first + i: row.digest for event in submissions for i, row in enumerate(event.jobs)}
    assert sorted(made) == sorted(record.jobs), "jobs were lost, or made twice"
    keys = Counter(event.key for event in submissions if event.key is not None)
    assert set(keys.values()) <= {1}, "one key, two submissions"
    assert len(keys) == len(record.submissions)
    digests = Counter(made[job] for job, asked in record.jobs.items() if not asked.forced)
    assert set(digests.values()) <= {1}, "one digest, two jobs"
    assert record.cancelled == {job for job, state in record.decided.items() if state == "cancelled"}
    assert record.decided.keys() == record.jobs.keys(), "a job was never decided"


def _check_workers(events: list[AnyEvent], record: Record) -> None:
    kids: dict[str, set[str]] = {}
    for event in events:
        if isinstance(event, WorkerEnrolled):
            kids.setdefault(event.kid, set()).add(event.worker)
    assert all(len(workers) == 1 for workers in kids.values()), "one key, two workers"
    for worker, kid in record.workers.items():
        assert kids[kid] == {worker}


def _check_attempts(events: list[AnyEvent], record: Record) -> None:
    handed = {event.jti: event for event in events if isinstance(event, HandedOut)}
    for jti, (worker, jobs) in record.hand_outs.items():
        assert (handed[jti].worker, set(handed[jti].jobs)) >= (worker, set(jobs)), "a hand-out was lost"
    attempts = Counter(pair for event in handed.values() for pair in event.jobs)
    assert set(attempts.values()) <= {1}, "one attempt number was handed out twice"
    reported = Counter(
        (event.jti, result.job) for event in events if isinstance(event, ResultsReported) for result in event.results
    )
    assert set(reported.values()) <= {1}, "a result was taken twice"
    for pair, verdict in record.verdicts.items():
        assert pair in reported or verdict in {"too_late", "unneeded"}, (pair, verdict)
    answered = Counter(
        (result.job, handed[event.jti].owner)
        for event in events
        if isinstance(event, ResultsReported)
        for result in event.results
        if result.outcome.text == "success"
    )
    assert set(answered.values()) <= {1}, "an owner's result was taken twice"
    lapsed = [end for event in events if isinstance(event, AttemptsLapsed) for end in event.ends]
    assert not lapsed, "somebody is blamed for a crash"
    for jti, event in handed.items():
        if event.worker in record.workers and jti not in record.hand_outs:
            assert all(job in record.cancelled for job, _ in event.jobs), "a hand-out never came to its worker"


def _check_checkpoints(entries: list[Entry], notes: set[bytes], key: Verifier) -> None:
    """Make sure that each checkpoint commits to a beginning of these entries."""
    wanted: dict[int, set[bytes]] = {}
    for note in notes:
        checkpoint = open_checkpoint(note, [key], ORIGIN)
        wanted.setdefault(checkpoint.size, set()).add(checkpoint.root)
    assert max(wanted, default=0) <= len(entries), "the log was cut back"
    tree = Tree()
    for entry in entries:
        tree.append(leaf_hash(entry.leaf))
        assert wanted.get(tree.size, {tree.root()}) == {tree.root()}, f"the log was forked before entry {tree.size}"


def check_receipts(receipts: Iterable[ReceiptView], entries: list[Entry], key: Verifier) -> None:
    """Make sure that what was receipted is in the log, where the receipt says and byte for byte."""
    for receipt in receipts:
        leaf = receipt.leaf.encode()
        verify_receipt(parse_receipt(receipt.proof.encode()), leaf, [key], ORIGIN)
        entry = entries[receipt.seq]
        told = (leaf, receipt.salt, receipt.payload)
        assert (entry.leaf, entry.salt.hex(), entry.payload.decode()) == told
