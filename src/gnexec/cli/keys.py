"""`gnexec keys`: a server's keys."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from gnexec.cli.folders import Folder
from gnexec.cli.output import Json, facts, json_line, line

if TYPE_CHECKING:
    from gnexec.keys import ServerKeys

app = App(name="keys", help="Make, list and rotate a server's keys.")


@app.command
def new(
    *, folder: Folder | None = None, public: Path | None = None, origin: str | None = None, json: Json = False
) -> int:
    """Make all keys of a new server, and publish the public ones; what is there is never overwritten.

    Args:
        folder: see `Folder`.
        public: Folder for the public keys; else `public` in the data folder.
        origin: Name of the log and of the server in every token, for ever, such as gnexec.example.org/log. Else this
            machine's name and "/gnexec".
        json: see `Json`.
    """
    from gnexec.keys import new_keys

    place = folder or Folder()
    published = public or _public(place)
    keys = new_keys(place.settings.private_keys, published, origin or f"{socket.gethostname()}/gnexec")
    if json:
        json_line(_told(keys))
        return 0
    line(f"Keys of {keys.origin} are made.")
    facts(
        [
            ("private", f"{place.settings.private_keys}  (keep them secret, and a copy of them)"),
            ("public", f"{published}  (for everybody)"),
            ("log key", keys.log_verifier.vkey),
        ]
    )
    return 0


@app.command(name="list")
def list_(*, folder: Folder | None = None, json: Json = False) -> int:
    """List a server's keys: public parts only.

    Args:
        folder: see `Folder`.
        json: see `Json`.
    """
    from gnexec.keys import load

    keys = load((folder or Folder()).settings.private_keys)
    if json:
        json_line(_told(keys))
    else:
        _show(keys)
    return 0


@app.command
def rotate(*, folder: Folder | None = None, public: Path | None = None, json: Json = False) -> int:
    """Sign tokens with the next key from now on; tokens under the old one stay good until they expire.

    Args:
        folder: see `Folder`.
        public: Folder for the public keys; else `public` in the data folder.
        json: see `Json`.
    """
    from gnexec.keys import load, rotate_token_key

    place = folder or Folder()
    load(place.settings.private_keys)  # says best what is missing
    keys = rotate_token_key(place.settings.private_keys, public or _public(place), now_s=int(time.time()))
    if json:
        json_line(_told(keys))
    else:
        line("Tokens are signed with another key from now on.")
        _show(keys)
    return 0


def _public(folder: Folder) -> Path:
    return folder.data / "public"


def _show(keys: ServerKeys) -> None:
    line(f"Keys of {keys.origin}")
    facts((f"  {row['use']}", row["key"]) for row in _told(keys)["keys"])


def _told(keys: ServerKeys) -> dict[str, Any]:
    """Return what may be told of the keys."""
    uses = ["token, next", "token, current", *["token, previous"] * (len(keys.token_public) - 2)]
    rows = [{"use": "log", "key": keys.log_verifier.vkey}]
    rows += [{"use": use, "key": kid} for use, kid in zip(uses, keys.token_public, strict=True)]
    return {"origin": keys.origin, "keys": rows}
