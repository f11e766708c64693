"""`gnexec keys`: a server's keys."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from gnexec.cli.folders import Folder
from gnexec.cli.output import Json, facts, json_line, line
from gnexec.cli.values import Flag, show_time

if TYPE_CHECKING:
    from gnexec.keys import KeyLine, ServerKeys

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
    name = origin or f"{socket.gethostname()}/gnexec"
    keys = new_keys(place.settings.private_keys, published, name, now_s=int(time.time()))
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
    """List a server's keys: which has which role, since when and until when; public parts only.

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
def rotate(
    *,
    folder: Folder | None = None,
    public: Path | None = None,
    log: Flag = False,
    now: Flag = False,
    retire: Flag = False,
    json: Json = False,
) -> int:
    """Change keys while servers run: they take the new ones up within two seconds, and enter it into the log.

    Without further options, tokens are signed with the next key from now on; those under the old one stay good until
    they expire.

    Args:
        folder: see `Folder`.
        public: Folder for the public keys; else `public` in the data folder.
        log: The log's key: add a new one, for which the newest one vouches. The one before it goes on signing beside
            it until the next rotation.
        now: The keys may have been stolen: no token under any of them is good any more; with --log, the new key signs
            alone at once.
        retire: With --log: make no new key, but let the newest one sign alone from now on.
        json: see `Json`.
    """
    from gnexec import keys as store
    from gnexec.errors import BadConfiguration

    place = folder or Folder()
    private, published = place.settings.private_keys, public or _public(place)
    store.load(private)  # says best what is missing
    now_s = int(time.time())
    if retire and (now or not log):
        msg = "--retire goes with --log, and without --now: gnexec keys rotate --log --retire."
        raise BadConfiguration(msg)
    if retire:
        keys = store.retire_log_keys(private, published, now_s=now_s)
        said = "The log's newest key signs checkpoints alone from now on; what the older ones signed stays signed."
    elif log:
        keys = store.rotate_log_key(private, published, now_s=now_s, alone=now)
        said = "The log has a new key. " + (
            "It signs checkpoints alone from now on." if now else "It and the one before it sign checkpoints."
        )
    elif now:
        keys = store.revoke_token_keys(private, published, now_s=now_s)
        said = (
            "No token from before is good any more: issue new access tokens, with which workers and people come back."
        )
    else:
        keys = store.rotate_token_key(private, published, now_s=now_s)
        said = "Tokens are signed with another key from now on. Those under the old one stay good until they expire."
    if json:
        json_line(_told(keys))
        return 0
    line(said)
    line(
        "Running servers over this folder take it up within two seconds. Where a server has a copy of the folder, copy "
        "it there now. " + _check(log=log)
    )
    _show(keys)
    return 0


def _check(*, log: bool) -> str:
    where = "/log/keys has the newest log key" if log else "/.well-known/jwks.json has the next key"
    return f"A server has done so when {where}, and /readyz says that it is ready."


def _public(folder: Folder) -> Path:
    return folder.data / "public"


def _show(keys: ServerKeys) -> None:
    line(f"Keys of {keys.origin}")
    facts((f"  {row.use}", f"{row.key}{_times(row)}") for row in keys.lines())


def _times(row: KeyLine) -> str:
    """Say since when and until when a key has its role, as far as that is known."""
    since = f"  since {show_time(row.since_s * 1000)}" if row.since_s is not None else ""
    return since + (f"  until {show_time(row.until_s * 1000)}" if row.until_s is not None else "")


def _told(keys: ServerKeys) -> dict[str, Any]:
    """Return what may be told of the keys."""
    rows = [{"use": row.use, "key": row.key, "since": row.since_s, "until": row.until_s} for row in keys.lines()]
    return {"origin": keys.origin, "keys": rows}
