"""What an auditor trusts to begin with: the log's public key, and the newest checkpoint that it has itself verified.

Both are remembered in `$XDG_STATE_HOME/gnexec/checkpoints/<origin>/` as `log.vkey` and `checkpoint` (and
`log-keys.json`, once the log has had several keys), where the server cannot change them. The checkpoint makes a log
that was cut back or rewritten be found; the key makes the first use of a log the only one at which its own word for its
key is taken.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import quote

from gnexec.audit.logkeys import followed, read_keys, write_keys
from gnexec.core.keybook import LogKey
from gnexec.errors import BadConfiguration, ProofError
from gnexec.keys.files import make_dir, read_public, replace
from gnexec.shapes import LogKeyView
from gnexec.tlog.checkpoint import Checkpoint, parse_checkpoint
from gnexec.tlog.note import Verifier, parse_note, parse_vkey

LOG_KEYS: Final = "log-keys.json"
"""File of all keys that a log has had; there once it had more than one."""
PUBLISHED: Final = Path("keys") / "log.vkey"
"""Where a checkout of the operator's repository has the log's key."""


class Known(StrEnum):
    """How the log's key is known."""

    GIVEN = "given"
    KEPT = "kept"
    """From an earlier verification."""
    PUBLISHED = "published"
    """In a folder of public keys: `keys/` of the current one, or a server's own."""
    FIRST_USE = "first use"
    """From the log itself: shows that the log is consistent, not whose it is."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """What is trusted about one log.

    Attributes:
        key: verifies its checkpoints.
        known: how the key is known.
        note: newest checkpoint verified before, or None.
        folder: where both are kept.
        beside: files that may have the keys that came after `key`.
    """

    key: Verifier
    known: Known
    note: bytes | None
    folder: Path
    beside: tuple[Path, ...] = ()

    @property
    def kept(self) -> Checkpoint | None:
        """The newest checkpoint verified before, or None; who signed it is for the verification to check.

        Raises:
            ProofError: it is malformed.
        """
        if self.note is None:
            return None
        try:
            return parse_checkpoint(parse_note(self.note).text)
        except ProofError as err:
            msg = f"the checkpoint kept in {self.folder} cannot be read: {err}"
            raise ProofError(msg) from err

    def keep(self, note: bytes, keys: Sequence[LogKey] = ()) -> None:
        """Remember the newest key, and a checkpoint that was verified to continue the one kept.

        Args:
            note: the checkpoint.
            keys: all that the log has had, as verified; empty where only `key` is known.

        Raises:
            BadConfiguration: it cannot be written.
        """
        make_dir(self.folder, 0o700)
        newest = keys[-1].vkey if keys else self.key.vkey
        if len(keys) > 1:
            replace(self.folder / LOG_KEYS, write_keys(self.key.name, keys), 0o600)
        replace(self.folder / "log.vkey", f"{newest}\n".encode(), 0o600)
        replace(self.folder / "checkpoint", note, 0o600)

    def history(self) -> list[LogKeyView]:
        """Return the keys that receipts may be signed by: those kept, else those that follow published from `key` on.

        Raises:
            BadConfiguration: a file of keys cannot be read.
        """
        name = self.key.name
        kept = self.folder / LOG_KEYS
        if kept.exists():
            keys = read_keys(read_public(kept), name)
            if any(key.vkey == self.key.vkey for key in keys):
                return keys
        for file in self.beside:
            if file.exists() and (chain := followed(name, self.key.vkey, read_keys(read_public(file), name))):
                return chain
        return [LogKeyView(vkey=self.key.vkey)]


def checkpoints_home() -> Path:
    """Return the folder of kept checkpoints: XDG_STATE_HOME/gnexec/checkpoints."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "gnexec" / "checkpoints"


def choose_anchor(
    origin: str, claimed: str | None, given: str | None = None, published: Sequence[Path] = (PUBLISHED,)
) -> Anchor:
    """Choose the key to trust for the log `origin`: the one given, else kept, else published, else claimed.

    Args:
        origin: the log's name, as it says itself.
        claimed: the verifier key that the log says it has, or None where it says nothing.
        given: verifier key, or the path of a file that holds it; None if the user gave none.
        published: files that may hold the key of this log, or of another one.

    Raises:
        BadConfiguration: the key cannot be used, is of another log, or none is known.
    """
    folder = checkpoints_home() / _file_name(origin)
    kept = folder / "checkpoint"
    note = read_public(kept) if kept.exists() else None
    choices = [(given and _given(given), Known.GIVEN), (_read(folder / "log.vkey"), Known.KEPT)]
    choices += [(text, Known.PUBLISHED) for text in map(_read, published) if text and text.startswith(f"{origin}+")]
    choices.append((claimed, Known.FIRST_USE))
    for text, known in choices:
        if text is not None:
            key = _parse(text)
            if key.name != origin:
                msg = f"The key is of the log {key.name!r}, but this is {origin!r}."
                raise BadConfiguration(msg)
            near = [Path(given)] if given and "+" not in given else []
            beside = tuple(path.with_name(LOG_KEYS) for path in (*near, *published))
            return Anchor(key, known, note, folder, beside)
    msg = (
        f"No key of {origin} is known. Give it with --vkey: the text that begins with its name, or a file that has it."
    )
    raise BadConfiguration(msg)


def read_vkey(text: str) -> Verifier:
    """Read a verifier key that a user gave: as it is, or as the path of a file that holds it.

    Raises:
        BadConfiguration: it is neither.
    """
    return _parse(_given(text))


def _given(text: str) -> str:
    return text if "+" in text else read_public(Path(text)).decode("utf-8", "replace").strip()


def _read(path: Path) -> str | None:
    return read_public(path).decode("utf-8", "replace").strip() if path.exists() else None


def _parse(text: str) -> Verifier:
    """Read a verifier key; what is none is never repeated, since it may be anything, a secret key included."""
    try:
        return parse_vkey(text)
    except ValueError as err:
        msg = f"This is not a verifier key: {err}. It is one line that begins with the log's name, as in log.vkey."
        if "PRIVATE KEY" in text:
            msg = "This is a secret key, which must stay where it is. Give the public one: the file log.vkey."
        raise BadConfiguration(msg) from None


def _file_name(origin: str) -> str:
    """Return a file name that stands for `origin` alone and leads nowhere else."""
    name = quote(origin, safe="")
    return f"%2E{name[1:]}" if name.startswith(".") else name
