"""A running server's keys: the ring on disk, what the log says of it, and what may be signed and read with it now.

`gnexec keys rotate` changes the ring; nobody tells the server. It looks at `ring.json` about once a second, and at once
when a token comes under a key that it does not know, or the log names one that it has not got. A changed ring is
loaded, taken up whole, and told to the desk, which enters into the log what the log does not have yet: of several
servers, the first one does.

Rules:
- Whatever the ring names may be read with at once; what the log calls revoked may not, whatever the ring says.
- What is signed is signed by the key that the log calls current, not by one of which it does not know yet.
- A ring that cannot be read changes nothing: the keys stay as they were, the operator's log says why, and it is tried
  again.
- Nothing is fetched from anywhere but that folder.

Event loop and writer may both ask, from their threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import RLock, get_ident
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gnexec.core.keybook import KeyBook
from gnexec.desk.dispatcher import Dispatcher
from gnexec.desk.held import Held, ring_of
from gnexec.desk.sealer import Sealer
from gnexec.errors import BadConfiguration, Refused, StoreAway
from gnexec.keys import ServerKeys, load
from gnexec.tokens import kid_of

log = structlog.get_logger("gnexec.desk")

BEAT_S: Final = 1.0
"""How often the ring on disk is looked at."""

Mark = tuple[int, int, int] | None
"""What tells one `ring.json` from another: inode, time of change, length; None where there is none."""


class Keyring:
    """Holds a server's keys as they are now.

    Attributes:
        known: token keys by kid, for reading tokens; looks at the disk before it says that it does not know one.
        forget: called when a key was revoked, to drop what was read under it.
    """

    def __init__(self, keys: ServerKeys, folder: Path, desk: Dispatcher, sealer: Sealer) -> None:
        """Begin with keys that were just loaded.

        Args:
            keys: the server's, as it was started with them.
            folder: the private directory; where there is no ring in it, the keys stay as they are.
            desk: not started yet.
            sealer: the desk's.
        """
        self.known: Mapping[str, Ed25519PublicKey] = _Known(self)
        self._loaded = keys
        self._folder = folder
        self._desk = desk
        self._sealer = sealer
        self.forget: Callable[[], None] = lambda: None
        self._lock = RLock()
        self._mark: Mark = None
        self._told: str | None = None
        self._signers: dict[str, Ed25519PrivateKey] = {}
        self._log_keys: dict[str, Ed25519PrivateKey] = {}
        self._gone: frozenset[str] = frozenset()
        self._book = KeyBook()
        self._now = keys
        self._untold = True
        self._hold()
        sealer.renew = self.refresh
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    @property
    def keys(self) -> ServerKeys:
        """The keys to sign and to read with now; what another server has entered into the log counts at once."""
        book = self._desk.keys()
        if book is not self._book:
            with self._lock:
                self._follow(book)
        return self._now

    def start(self) -> None:
        """Begin to look after the ring; needs a running event loop."""
        self._loop, self._thread = asyncio.get_running_loop(), get_ident()
        self._task = self._loop.create_task(self._watch(), name="gnexec-keyring")

    def stop(self) -> None:
        """Look after it no longer."""
        if self._task is not None:
            self._task.cancel()

    def refresh(self) -> bool:
        """Look at the disk; return whether there were other keys, which are now held."""
        with self._lock:
            mark = _mark(self._folder)
            return mark is not None and mark != self._mark and self._reload(mark)

    def missed(self, kid: str) -> bool:
        """Say whether a key that is not held is one of which the log says that it is good."""
        key = self._desk.keys().tokens.get(kid)
        return key is not None and key.closed is None and kid not in self._gone

    def _reload(self, mark: Mark) -> bool:
        try:
            found = load(self._folder)
            if found.origin != self._loaded.origin:
                msg = f"the keys in {self._folder} are of {found.origin} now, and this is {self._loaded.origin}"
                raise BadConfiguration(msg)  # noqa: TRY301 -- told like any other reason
        except BadConfiguration as err:
            self._warn("the changed ring of keys cannot be used, the one before stays in use", err)
            return False
        self._mark, self._told = mark, None
        if found.ring == self._loaded.ring:
            return False
        self._loaded = found
        self._untold = True
        self._hold()
        self._follow(self._desk.keys())
        log.info("the ring of keys has changed", current=found.ring.current, next=found.ring.next)
        return True

    async def tell(self) -> None:
        """Have the log say what it does not say yet of the ring.

        Raises:
            BadConfiguration: the ring is older than the log; the server is not ready.
            Refused, StoreAway: not now; to be tried again.
        """
        told = self._loaded
        await self._desk.do(ring_of(told))
        self._untold = self._loaded is not told

    async def _watch(self) -> None:
        while True:
            try:
                self.refresh()
                if self._untold:
                    await self.tell()
            except BadConfiguration as err:
                self._warn("the ring of keys is behind the log, this server is not ready", err)
            except (Refused, StoreAway):
                pass  # not now; the next beat tries again
            except Exception:  # Whatever it was, the next rotation must not be missed for it.
                log.exception("the ring of keys could not be looked after")
            await asyncio.sleep(BEAT_S)

    def _warn(self, what: str, err: BadConfiguration) -> None:
        """Tell the operator, once."""
        if self._told != str(err):
            self._told = str(err)
            log.warning(what, error=str(err))

    def _hold(self) -> None:
        """Let the writer have the keys; log keys from before stay, until the log itself has retired them."""
        keys = self._loaded
        for private in (keys.token_next, keys.token_current):
            self._signers[kid_of(private.public_key())] = private
        self._log_keys |= {key.vkey: key.private for key in keys.log_keys if key.private is not None}
        self._gone = keys.retired | keys.revoked
        self._sealer.held = Held(keys.origin, self._log_keys.values(), keys.token_public.keys() | self._gone)

    def _follow(self, book: KeyBook) -> None:
        """Work out what counts now, from the ring and from what the log says."""
        revoked = book.revoked() | self._loaded.revoked
        stolen = revoked - self._book.revoked() - self._now.revoked
        public = {kid: key for kid, key in self._loaded.token_public.items() if kid not in revoked}
        signer = self._signers.get(book.current, self._loaded.token_current)
        if kid_of(signer.public_key()) in revoked:
            signer = self._loaded.token_current
        self._book = book
        self._now = replace(self._loaded, token_public=public, token_current=signer)
        keep = {book.current, self._loaded.ring.current, self._loaded.ring.next}
        self._signers = {kid: key for kid, key in self._signers.items() if kid in keep}
        wanted = {*book.in_force(), *(key.vkey for key in self._loaded.log_keys)}
        self._log_keys = {vkey: key for vkey, key in self._log_keys.items() if vkey in wanted}
        if stolen:
            self._forget()

    def _forget(self) -> None:
        """Drop what was read under revoked keys: in the event loop, where tokens are read, between one and the next."""
        if self._loop is None or get_ident() == self._thread:
            self.forget()
        else:
            with suppress(RuntimeError):  # The loop is closed: nobody reads any more.
                self._loop.call_soon_threadsafe(self.forget)


class _Known(Mapping[str, Ed25519PublicKey]):
    """Token keys by kid; one that is not known may be in a ring that has just changed."""

    def __init__(self, ring: Keyring) -> None:
        self._ring = ring

    def __getitem__(self, kid: str) -> Ed25519PublicKey:
        found = self._ring.keys.token_public.get(kid)
        if found is None and self._ring.refresh():
            found = self._ring.keys.token_public.get(kid)
        if found is None:
            if self._ring.missed(kid):
                raise Refused("unready", "This server has not got that key yet.", field="kid", mend="Try again later.")
            raise KeyError(kid)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._ring.keys.token_public)

    def __len__(self) -> int:
        return len(self._ring.keys.token_public)


def _mark(folder: Path) -> Mark:
    try:
        found = (folder / "ring.json").stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
