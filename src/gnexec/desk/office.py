"""The office: everything a server needs to serve, opened together and closed together.

It also holds the caches that spare the hot path work: tokens that this process signed, workers' keys, specifications.
A cache never decides: what is not in it is verified or read.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Generic, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gnexec.core.commands import OpenLog
from gnexec.core.spec import Manifest, NamedSpec, decode_named
from gnexec.desk.clock import Clock
from gnexec.desk.dispatcher import Dispatcher
from gnexec.desk.feed import Feed
from gnexec.desk.live import Live
from gnexec.desk.sealer import Sealer
from gnexec.errors import Refused
from gnexec.ids import ANONYMOUS, b64url, pseudonym, salted_digest
from gnexec.keys import ServerKeys
from gnexec.settings import ServerSettings
from gnexec.store.blobs import Blobs
from gnexec.store.contract import Content, Store
from gnexec.tokens.issued import EnrolmentClaims, JobClaims
from gnexec.tokens.jwk import public_key

K = TypeVar("K")
V = TypeVar("V")
CACHED: Final = 8_192


class Recent(Generic[K, V]):
    """A cache of bounded size, for any thread: what was used longest ago goes first."""

    def __init__(self, most: int = CACHED) -> None:
        """Begin empty.

        Args:
            most: entries kept.
        """
        self._most = most
        self._held: OrderedDict[K, V] = OrderedDict()
        self._lock = Lock()

    def get(self, key: K) -> V | None:
        """Return what is held under `key`, or None."""
        with self._lock:
            value = self._held.get(key)
            if value is not None:
                self._held.move_to_end(key)
            return value

    def put(self, key: K, value: V) -> V:
        """Hold `value` and return it."""
        with self._lock:
            self._held[key] = value
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        return value


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as the log knows them.

    Attributes:
        owner: pseudonym of the account. project: pseudonym of the project.
    """

    owner: str
    project: str


@dataclass(slots=True)
class Office:
    """An open server."""

    settings: ServerSettings
    keys: ServerKeys
    store: Store
    blobs: Blobs
    desk: Dispatcher
    feed: Feed
    live: Live = field(default_factory=Live)
    issued: Recent[bytes, JobClaims] = field(default_factory=Recent)
    enrolled: Recent[bytes, EnrolmentClaims] = field(default_factory=Recent)
    specs: Recent[bytes, NamedSpec] = field(default_factory=Recent)
    spec_names: Recent[int, bytes] = field(default_factory=Recent)
    manifests: Recent[tuple[str, str], Manifest] = field(default_factory=Recent)
    worker_keys: Recent[str, Ed25519PublicKey] = field(default_factory=Recent)

    @property
    def open_mode(self) -> bool:
        """Whether any HTTP client is a worker."""
        return self.settings.open_mode

    def now_s(self) -> int:
        """Return the time by which tokens are judged, seconds since 1970: the log's own clock."""
        return self.desk.now_ms() // 1000

    @property
    def origin(self) -> str:
        """Name of the log and of the server."""
        return self.keys.origin

    def caller(self, name: str, project: str) -> Caller:
        """Return the pseudonyms of an account and a project."""
        secret = self.keys.pseudonym_secret
        return Caller(pseudonym("o", secret, name), pseudonym("p", secret, project))

    def anonymous(self) -> Caller:
        """Return the one caller of open mode."""
        return Caller(ANONYMOUS, ANONYMOUS)

    def content(self, data: bytes) -> Content:
        """Make content of `data`, under a new salt."""
        salt = secrets.token_bytes(16)
        return Content(salted_digest(salt, data), salt, data)

    def named_spec(self, digest: bytes) -> NamedSpec | None:
        """Return a specification by its salted digest, or None if it was erased."""
        return self.specs_of([digest]).get(digest)

    def specs_of(self, digests: list[bytes]) -> dict[bytes, NamedSpec]:
        """Return specifications by their salted digest; erased ones are absent."""
        found = {digest: spec for digest in digests if (spec := self.specs.get(digest)) is not None}
        missing = [digest for digest in digests if digest not in found]
        if missing:
            for digest, content in self.store.content(missing).items():
                found[digest] = self.specs.put(digest, decode_named(content.data))
        return found

    def worker_key(self, worker: str) -> tuple[str, Ed25519PublicKey]:
        """Return (kid, key) of an enrolled worker.

        Raises:
            Refused: unknown_key; the log has no such worker.
        """
        record = self.desk.worker_key(worker)
        if record is None:
            raise Refused(
                "unknown_key", "This worker is not enrolled here.", field="Authorization", mend="Enrol again."
            )
        kid, x = record
        return kid, self.worker_keys.get(kid) or self.worker_keys.put(kid, public_key(x))

    async def put_blob(self, data: bytes) -> str:
        """Store a blob, durably, and return its name; the event loop goes on meanwhile."""
        return await asyncio.to_thread(self.blobs.put, data)

    def close(self) -> None:
        """Answer what waits, and release the store."""
        self.feed.wake_all()
        self.desk.stop()
        self.store.close()


def open_office(settings: ServerSettings, keys: ServerKeys, store: Store, clock: Clock | None = None) -> Office:
    """Open the log and begin to serve; must be called with a running event loop.

    Args:
        settings: of this server.
        keys: its own.
        store: open.
        clock: watches the store's clock; None for the machine's steady one.

    Raises:
        BadConfiguration: keys and log do not belong together.
        CorruptLog: the log contradicts itself.
        StoreAway: no answer.
    """
    vkey = keys.log_verifier.vkey
    tokens = {kid: b64url(key.public_bytes_raw()) for kid, key in keys.token_public.items()}
    opening = OpenLog(keys.origin, vkey, tokens, settings.policy)
    desk = Dispatcher(store, Sealer(keys.origin, keys.log_key), opening, clock)
    feed = Feed(asyncio.get_running_loop())
    desk.add_feed(feed)
    desk.start()
    return Office(
        settings=settings,
        keys=keys,
        store=store,
        blobs=Blobs(settings.data / "blobs", max_bytes=settings.max_blob_bytes),
        desk=desk,
        feed=feed,
    )
