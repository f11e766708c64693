"""`gnexec log`: check a log, and look at it; wherever it is, and with nothing but public keys.

`verify` and `verify-receipt` trust a public key and what was verified before (`gnexec.audit.anchor`), and no server.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter, validators

from gnexec.cli.findings import FAILURE, OK, not_verified, progress
from gnexec.cli.folders import Folder
from gnexec.cli.output import Json, complain, facts, json_line, line, say, table
from gnexec.cli.values import show_time

if TYPE_CHECKING:
    from gnexec.audit.anchor import Anchor
    from gnexec.audit.lines import Record
    from gnexec.audit.source import Source
    from gnexec.audit.verify import Verified

app = App(name="log", help="Verify, export, show, prove and replay a log.")
app.command(
    "gnexec.cli.replaying:replay", name="replay", help="Rebuild every cache of a server from its log, and compare."
)

SHOWN: Final = 30
"""Entries that are shown where nobody says how many."""

Where = Annotated[str | None, Parameter(metavar="PATH-OR-URL")]
TokenFile = Annotated[Path | None, Parameter(metavar="FILE")]
Output = Annotated[Path | None, Parameter(name=("--output", "-o"), metavar="FILE")]
Key = Annotated[str | None, Parameter(metavar="KEY-OR-FILE")]


@app.command
def verify(
    where: Where = None,
    /,
    *,
    folder: Folder | None = None,
    vkey: Key = None,
    witness: Annotated[tuple[str, ...], Parameter(metavar="KEY-OR-FILE", negative=())] = (),
    token_file: TokenFile = None,
    json: Json = False,
) -> int:
    """Check a log: signatures, root, continuity, and, where payloads are shown, every decision.

    The newest checkpoint that was verified is kept, and the next verification must continue it.

    Args:
        where: An exported file, a server's address or data folder; else the data folder.
        folder: see `Folder`.
        vkey: The log's public key. Else the one kept from an earlier verification, or published, or the log's own.
        witness: Public key of a witness that must have cosigned the checkpoint; may be repeated.
        token_file: File with an access token of the scope audit, for a server that is to show withheld payloads.
        json: see `Json`.
    """
    from gnexec.audit.anchor import Known, choose_anchor, read_vkey
    from gnexec.audit.verify import verify as check
    from gnexec.errors import BadConfiguration, CorruptLog, ProofError

    witnesses = [read_vkey(text) for text in witness]
    try:
        with _open(where, folder, token_file) as log:
            anchor = choose_anchor(log.header.origin, log.header.vkey, vkey, _published(_place(where, folder)))
            if anchor.known is Known.FIRST_USE:
                say(
                    f"The key was taken from the log itself: {anchor.key.vkey}\n"
                    "That shows that the log is consistent, not whose it is. Compare the key, or give it with --vkey.",
                    style="yellow",
                )
            with progress("Checking", log.header.size) as tell:
                found = check(
                    log.header,
                    log.items(),
                    anchor.key,
                    kept=anchor.kept,
                    kept_note=anchor.note,
                    witnesses=witnesses,
                    progress=tell,
                )
    except (CorruptLog, ProofError) as error:
        return not_verified(error, json=json)
    try:
        anchor.keep(found.note, found.keys)
    except BadConfiguration as error:
        say(f"The checkpoint could not be kept for the next time: {error}", style="yellow")
    if json:
        json_line({"ok": True, **_told(found, anchor)})
    else:
        _show_verified(found, anchor)
    return OK


@app.command
def export(
    where: Where = None,
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"), metavar="FILE")],
    folder: Folder | None = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> int:
    """Write a log to one file, which `gnexec log verify` checks anywhere.

    From a data folder or a database that is all of it, from a server what is public.

    Args:
        where: A server's address or data folder; else the data folder.
        output: The file to write.
        folder: see `Folder`.
        token_file: File with an access token of the scope audit, for a server that is to show withheld payloads.
        json: see `Json`.
    """
    from gnexec.audit.export import export as write

    with (
        _open(where, folder, token_file) as log,
        progress("Writing", log.header.size) as tell,
    ):
        entries, withheld = write(log, output, tell)
    if json:
        json_line({"file": str(output), "entries": entries, "withheld": withheld})
    else:
        line(f"{output} has {entries} entries{f'; {withheld} payloads are withheld' if withheld else ''}.")
    return OK


@app.command
def show(
    where: Where = None,
    /,
    *,
    folder: Folder | None = None,
    seq: int | None = None,
    job: int | None = None,
    limit: Annotated[int | None, Parameter(show_default=False, validator=validators.Number(gte=1))] = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> int:
    """Show entries of a log, the newest last; nothing is verified.

    Args:
        where: An exported file, a server's address or data folder; else the data folder.
        folder: see `Folder`.
        seq: Only this entry, in full.
        job: Only entries about this job.
        limit: At most this many, the newest; else 30, or all about a job.
        token_file: File with an access token of the scope audit, for a server that is to show withheld payloads.
        json: see `Json`.
    """
    from gnexec.audit.describe import entries, jobs, summary, told

    with _open(where, folder, token_file) as log:
        size = log.header.size
        if seq is not None:
            chosen = [record for record in islice(entries(log.items(max(seq, 0))), 1) if record.seq == seq]
            if not chosen:
                complain(f"The log has the entries 0 to {size - 1}; there is no entry {seq}.")
                return FAILURE
        elif job is not None:
            chosen = list(deque((each for each in entries(log.items()) if job in jobs(each)), maxlen=limit))
        else:
            most = SHOWN if limit is None else limit
            chosen = list(islice(entries(log.items(max(0, size - most))), most))
    if json:
        for record in chosen:
            json_line(told(record))
    elif seq is not None:
        _show_entry(chosen[0])
    else:
        rows = [(str(each.seq), show_time(each.at_ms), each.event, each.about) for each in map(summary, chosen)]
        table(("seq", "time", "event", "about"), rows, right=("seq",))
    return OK


@app.command
def prove(
    where: Where = None,
    /,
    *,
    seq: int,
    output: Output = None,
    folder: Folder | None = None,
    token_file: TokenFile = None,
) -> int:
    """Make the receipt of an entry: JSON that `gnexec log verify-receipt` checks offline.

    Args:
        where: A server's address or data folder; else the data folder.
        seq: The entry.
        output: The file to write; else it is printed.
        folder: see `Folder`.
        token_file: File with an access token of the scope audit, for an entry whose payload is withheld.
    """
    import msgspec

    from gnexec.audit.receipts import prove as make
    from gnexec.audit.source import open_provable
    from gnexec.errors import BadConfiguration

    _tell_of_retries()
    with open_provable(_place(where, folder), _token(token_file)) as log:
        receipt = make(log, seq)
    if output is None:
        json_line(receipt)
        return OK
    try:
        output.write_bytes(msgspec.json.encode(receipt) + b"\n")
    except OSError as error:
        msg = f"{output} cannot be written: {error.strerror or error}."
        raise BadConfiguration(msg) from error
    line(f"{output} shows that entry {seq} is in the log {receipt.log}.")
    return OK


@app.command(name="verify-receipt")
def verify_receipt(file: Path, /, *, vkey: Key = None, json: Json = False) -> int:
    """Check receipts offline: that the log has committed to their entries.

    Args:
        file: What `gnexec log prove` wrote, or a server's answer that has receipts in it.
        vkey: The log's public key. Else the one kept from an earlier verification, or published.
        json: see `Json`.
    """
    from gnexec.audit.anchor import choose_anchor
    from gnexec.audit.describe import about, name_of
    from gnexec.audit.receipts import check_receipt, read_receipts
    from gnexec.errors import BadConfiguration, CorruptLog, ProofError

    try:
        data = file.read_bytes()
    except OSError as error:
        msg = f"{file} cannot be read: {error.strerror or error}."
        raise BadConfiguration(msg) from error
    try:
        receipts = read_receipts(data)
        anchors = [choose_anchor(each.log, None, vkey) for each in receipts]
        pairs = zip(receipts, anchors, strict=True)
        shown = [check_receipt(each, anchor.key, anchor.history()) for each, anchor in pairs]
    except (CorruptLog, ProofError) as error:
        return not_verified(error, json=json)
    for receipt, each in zip(receipts, shown, strict=True):
        words = f"{name_of(each.event)}, {about(each.event)}" if each.event is not None else "its payload is withheld"
        if json:
            of = {"ok": True, "log": receipt.log, "size": each.checkpoint.size}
            json_line(of | {"seq": each.seq, "at": each.at_ms, "event": each.event})
        else:
            line(f"The log {receipt.log} of {each.checkpoint.size} entries has entry {each.seq}: {words}.")
    return OK


@contextmanager
def _open(where: str | None, folder: Folder | None, token_file: Path | None) -> Iterator[Source]:
    """Open the log that a command is about, and say when its server does not answer at once."""
    from gnexec.audit.source import is_url, open_source

    place = _place(where, folder)
    if is_url(place):
        _tell_of_retries()
    with open_source(place, _token(token_file)) as log:
        yield log


def _tell_of_retries() -> None:
    from stamina.instrumentation import RetryDetails, set_on_retry_hooks

    def tell(details: RetryDetails) -> None:
        if details.retry_num == 1:
            say(f"The server does not answer ({details.caused_by}). Trying again.", style="yellow")

    set_on_retry_hooks([tell])


def _place(where: str | None, folder: Folder | None) -> str:
    return where if where is not None else str((folder or Folder()).data)


def _published(place: str) -> list[Path]:
    """Return the files that may have a log's key: a server's data folder has one too."""
    from gnexec.audit.anchor import PUBLISHED
    from gnexec.audit.source import is_url

    return [PUBLISHED] if is_url(place) else [PUBLISHED, Path(place) / "public" / "log.vkey"]


def _token(file: Path | None) -> str | None:
    """Return the token in `file`. No other one is ever sent to an address that is to be audited."""
    from gnexec.keys.files import read_private

    return None if file is None else read_private(file).decode("ascii", errors="replace").strip()


def _told(found: Verified, anchor: Anchor) -> dict[str, Any]:
    """Return what was verified, for JSON."""
    return {
        "log": found.checkpoint.origin,
        "size": found.checkpoint.size,
        "root": found.checkpoint.root.hex(),
        "level": found.level,
        "withheld": found.withheld,
        "ruled": found.ruled,
        "statements": found.statements,
        "unknown_signers": found.unknown_signers,
        "first_ms": found.first_ms,
        "last_ms": found.last_ms,
        "continues": found.continues,
        "witnesses": found.witnesses,
        "vkey": anchor.key.vkey,
        "keys": [{"vkey": key.vkey, "added": key.added, "retired": key.retired} for key in found.keys],
        "key_known": anchor.known,
    }


def _show_verified(found: Verified, anchor: Anchor) -> None:
    size = found.checkpoint.size
    rules = f"all {size} entries" if found.ruled == size else f"the first {found.ruled} of {size} entries"
    unknown = f", {found.unknown_signers} of unknown workers not" if found.unknown_signers else ""
    facts(
        [
            ("log", found.checkpoint.origin),
            ("entries", f"{size}, from {show_time(found.first_ms)} to {show_time(found.last_ms)}"),
            ("root", found.checkpoint.root.hex()),
            ("key", f"{anchor.key.vkey} ({anchor.known})"),
            *(("", words) for words in _successions(found)),
            ("continues", f"the checkpoint of {found.continues} entries kept before" if found.continues else ""),
            ("witnesses", ", ".join(f"{name} at {show_time(s * 1000)}" for name, s in found.witnesses.items())),
            ("signatures", f"{found.statements} of workers verified{unknown}"),
            ("rules", f"applied to {rules}"),
            ("withheld", f"{found.withheld} payloads" if found.withheld else ""),
        ]
    )
    line(f"Verified: {found.level}.")


def _successions(found: Verified) -> Iterator[str]:
    """Say how the log's keys followed each other."""
    for older, newer in pairwise(found.keys):
        until = f"signed until entry {older.retired}" if older.retired is not None else "signs as well"
        yield f"{older.vkey} was succeeded by {newer.vkey} at entry {newer.added}, vouched for it, and {until}"


def _show_entry(record: Record) -> None:
    import msgspec

    from gnexec.audit.describe import summary

    entry = summary(record)
    when = show_time(entry.at_ms)
    leaf = record.leaf.decode(errors="replace")
    facts([("seq", str(entry.seq)), ("time", when), ("event", entry.event), ("about", entry.about), ("leaf", leaf)])
    if record.payload is not None:
        line(msgspec.json.format(record.payload, indent=2).decode())
