"""The office: everything a server needs to serve, opened together and closed together.

It also holds the caches that spare the hot path work: tokens that this process signed, workers' keys, specifications.
A cache never decides: what is not in it is verified or read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar
from weakref import WeakValueDictionary

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gnexec.core.spec import Manifest, NamedSpec, decode_named
from gnexec.desk.clock import Clock
from gnexec.desk.dispatcher import Dispatcher
from gnexec.desk.draws import draw
from gnexec.desk.feed import Feed
from gnexec.desk.held import opening_of
from gnexec.desk.keyring import Keyring
from gnexec.desk.presence import Presence
from gnexec.desk.recent import Recent
from gnexec.desk.releasing import Releases
from gnexec.desk.sealer import Sealer
from gnexec.desk.snapshotting import Maker
from gnexec.errors import Refused
from gnexec.ids import ANONYMOUS, pseudonym, salted_digest
from gnexec.keys import ServerKeys
from gnexec.settings import ServerSettings
from gnexec.store import IN_MEMORY, open_live
from gnexec.store.blobs import Blobs
from gnexec.store.contract import Content, Store
from gnexec.store.live import Live, MemoryLive
from gnexec.store.pgaddress import is_postgres
from gnexec.store.published import Published
from gnexec.tokens.issued import EnrolmentClaims, JobClaims
from gnexec.tokens.jwk import public_key

T = TypeVar("T")


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
    keyring: Keyring
    store: Store
    blobs: Blobs
    desk: Dispatcher
    feed: Feed
    releases: Releases
    maker: Maker | None = None
    published: Published | None = None
    live: Live = field(default_factory=MemoryLive)
    issued: Recent[bytes, JobClaims] = field(default_factory=Recent)
    enrolled: Recent[bytes, EnrolmentClaims] = field(default_factory=Recent)
    specs: Recent[bytes, NamedSpec] = field(default_factory=Recent)
    spec_names: Recent[int, bytes] = field(default_factory=Recent)
    manifests: Recent[tuple[str, str], Manifest] = field(default_factory=Recent)
    worker_keys: Recent[str, Ed25519PublicKey] = field(default_factory=Recent)
    presence: Presence = field(default_factory=Presence)
    followed: WeakValueDictionary[tuple[int, Caller], object] = field(default_factory=WeakValueDictionary)

    @property
    def keys(self) -> ServerKeys:
        """The server's keys as they are now."""
        return self.keyring.keys

    def forget_tokens(self) -> None:
        """Drop all tokens that were read: one may be good no more."""
        self.issued.clear()
        self.enrolled.clear()

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
        salt = draw(16)
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

    @property
    def shared(self) -> bool:
        """Whether other processes may append to the log."""
        return is_postgres(self.settings.database_url)

    async def meet(self, known: object | None) -> None:
        """Catch up with the log where a worker is not known here that another process may just have enrolled.

        Args:
            known: what this process knows of the worker; None for nothing.
        """
        if known is None and self.shared:
            await self.desk.ask(lambda _: None)

    async def find_specs(self, digests: list[bytes]) -> dict[bytes, NamedSpec]:
        """Return specifications as `specs_of`, from the event loop."""
        if all(self.specs.get(digest) is not None for digest in digests):
            return self.specs_of(digests)
        return await self.aside(lambda: self.specs_of(digests))

    async def aside(self, read: Callable[[], T]) -> T:
        """Do what reads the store: at once where that is a file of this process, else in a thread.

        So the event loop goes on while a database does not answer.
        """
        return await asyncio.to_thread(read) if self.shared else read()

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
        """Answer what waits, and release the store; one that hangs is left to the end of the process."""
        self.feed.wake_all()
        self.keyring.stop()
        stopped = self.desk.stop()
        self.live.close()
        if self.maker is not None:
            self.maker.stop()
        if self.published is not None:
            self.published.close()
        if stopped:
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
    maker = Maker(settings, keys) if settings.database_url != IN_MEMORY else None
    sealer = Sealer(keys.origin)
    if settings.database_url != IN_MEMORY:
        sealer.published = Published(settings.published)
    desk = Dispatcher(store, sealer, opening_of(keys, settings.policy), clock, maker)
    feed = Feed(asyncio.get_running_loop())
    desk.add_feed(feed)
    keyring = Keyring(keys, settings.private_keys, desk, sealer)
    desk.start()
    office = Office(
        settings=settings,
        keyring=keyring,
        store=store,
        blobs=Blobs(settings.blob_folder, max_bytes=settings.max_blob_bytes),
        desk=desk,
        maker=maker,
        published=sealer.published,
        feed=feed,
        releases=Releases(store, desk),
        live=open_live(settings.database_url),
    )
    keyring.forget = office.forget_tokens
    keyring.start()
    return office
