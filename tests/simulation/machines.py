"""Servers, and the store that they share: the real desk over the store in memory, a step at a time.

A machine runs the real `Dispatcher`, with everything in it, but without its thread: a turn of the writer's loop is
taken when the agenda says so. Whoever asks gets the answer when the turn has committed. A machine that is killed loses
all but the store; whatever it had not yet said is never said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self, cast

import msgspec

from gnexec.core.commands import Command, OpenLog
from gnexec.core.events import PolicySet
from gnexec.core.snapshot import decode, encode
from gnexec.core.world import World
from gnexec.desk.clock import Clock
from gnexec.desk.dispatcher import Dispatcher
from gnexec.desk.requests import Request
from gnexec.desk.sealer import Sealer
from gnexec.desk.snapshots import Snapshots
from gnexec.desk.snapshotting import Maker
from gnexec.errors import Refused, StoreAway
from gnexec.ids import b64url
from gnexec.store.contract import Content, Head
from gnexec.store.memory import Fault, MemoryBatch, MemoryStore
from gnexec.tlog.tiles import Tree
from gnexec.tokens import kid_of
from tests.audit.logs import key_of
from tests.core.scene import ORIGIN, START_MS
from tests.desk.house import KEY, VERIFIER
from tests.simulation.network import Respond
from tests.simulation.universe import Trouble, Universe

COMMIT_MS: Final = (1, 8)
"""How long a commit takes: from the first request that waits until its batch is durable."""
IDLE_MS: Final = 2_000
"""How often a server looks after leases while nobody asks."""
SNAPSHOT_ENTRIES: Final = 40
TOKEN_KEY: Final = key_of("tokens")
TOKEN_KEYS: Final = {kid_of(TOKEN_KEY.public_key()): TOKEN_KEY.public_key()}
POLICY: Final = PolicySet(lease_s=100, grace_s=10, max_open=8, distinct_owners=True)


class SharedStore(MemoryStore):
    """The store, as unreliable as the universe wants it, with a clock that may be wrong.

    Attributes:
        offset_ms: by how much its clock is wrong. drift: how much too fast it goes.
        machines: who has it open.
        by_start: whether the newest entries were made by a server that was starting, which looks after leases last.
    """

    def __init__(self, universe: Universe) -> None:
        self._universe = universe
        self.offset_ms = 0
        self.drift = 0.0
        self.machines: list[Machine] = []
        self.by_start = False
        self.committing: Machine | None = None
        self._away = 0
        self._race: Machine | None = None
        super().__init__(faults=self._draw(), clock_ms=self.wall_ms)

    def wall_ms(self) -> int:
        """Read its clock."""
        return START_MS + round(self._universe.now_ms * (1 + self.drift)) + self.offset_ms

    def head(self) -> Head:
        """Return the head, after whatever came in between."""
        race, self._race = self._race, None
        if race is not None and not race.busy:
            race.turn()
        if self._away:
            msg = "the store is away"
            raise StoreAway(msg)
        return super().head()

    def alone(self) -> bool:
        """Tell whether only one machine has it open."""
        return sum(machine.desk is not None for machine in self.machines) <= 1

    def back(self) -> None:
        """Somebody waits for the store: it comes nearer."""
        self._away = max(0, self._away - 1)

    def _commit(self, batch: MemoryBatch) -> None:
        size = super().head().size
        try:
            super()._commit(batch)
        except StoreAway:
            others = [machine for machine in self.machines if machine.desk is not None and not machine.busy]
            if others and self._universe.strikes(Trouble.RACE, 0.5):
                self._race = others[0]
            elif self._universe.strikes(Trouble.AWAY, 0.3):
                self._away = self._universe.stream("away").randrange(1, 5)
            raise
        finally:
            if super().head().size > size:
                self.by_start = self.committing is not None and self.committing.starting
                self._tell()

    def quiet(self) -> Self:
        """Return it with nothing in the way of whoever only looks."""
        self._away, self._race = 0, None
        return self

    def _tell(self) -> None:
        for machine in self.machines:
            if machine is not self.committing:
                machine.hear()

    def _draw(self) -> Iterator[Fault | None]:
        chance = self._universe.stream("faults")
        while True:
            yield chance.choice(list(Fault)) if self._universe.strikes(Trouble.COMMIT, 0.04) else None


class _Condition:
    """In the place of the writer's condition: nobody ever waits in a universe of one thread."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def notify(self) -> None:
        pass

    def wait(self, _seconds: float) -> None:
        self._store.back()

    def wait_for(self, _happened: Callable[[], bool], _seconds: float) -> None:
        self._store.back()


class SteppedDesk(Dispatcher):
    """The dispatcher, one turn at a time."""

    _turns = 0

    def turn(self) -> None:
        """Take one turn of the writer's loop: serve whatever waits."""
        self._turns = 1
        super()._run()

    def put(self, request: Request) -> None:
        """Put a request into the queue."""
        if self._failure is not None:
            request.future.set_exception(Refused("unready", self._failure))  # type: ignore[union-attr]
        else:
            self._queue.append(request)

    def _refuse(self, requests: list[Request], err: Exception) -> None:
        super()._refuse(requests, err)
        if not isinstance(err, StoreAway):
            msg = f"the desk has failed: {err}"
            raise AssertionError(msg) from err  # noqa: TRY004 -- whatever it was

    def trust(self, store: SharedStore) -> None:
        """Have nobody wait."""
        self._wake = cast("Any", _Condition(store))

    def _run(self) -> None:
        """Do nothing: the thread that `start` makes is not wanted."""

    def _take(self) -> list[Request] | None:
        if self._turns == 0:
            return None
        self._turns = 0
        return super()._take()


class _Future:
    """In the place of an asyncio future: gives the answer to whoever asked, at once."""

    def __init__(self, respond: Respond) -> None:
        self._respond: Respond | None = respond

    def done(self) -> bool:
        return self._respond is None

    def get_loop(self) -> _Future:
        return self

    def call_soon_threadsafe(self, resolve: Callable[[Any], None], replies: Any) -> None:  # noqa: ANN401 -- the desk's
        resolve(replies)

    def set_result(self, answer: Any) -> None:  # noqa: ANN401 -- whatever was answered
        self._settle(answer)

    def set_exception(self, error: BaseException) -> None:
        self._settle(error)

    def _settle(self, told: Any) -> None:  # noqa: ANN401 -- as above
        respond, self._respond = self._respond, None
        assert respond is not None, "answered twice"
        respond(told)


class MemorySnapshots(Snapshots):
    """Snapshots that are kept in memory, in the form of the files."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, bytes]] = []

    def take(self, world: World, tree: Tree) -> None:
        """Keep one."""
        self._kept.append((world.size, encode(world, tree)))

    def newest_first(self, most: int) -> Iterator[Any]:
        """Read them."""
        for size, data in reversed(self._kept):
            if size <= most:
                world, tree = decode(data)
                yield _Snapshot(world, tree)


class _Snapshot(msgspec.Struct):
    world: Any
    tree: Any
    path: Any = None


class _Maker:
    """Makes a snapshot now and then, in the place of the subprocess."""

    def __init__(self, machine: Machine, snapshots: MemorySnapshots) -> None:
        self.snapshots = snapshots
        self._machine = machine
        self._last = 0

    def noticed(self, size: int) -> None:
        if size - self._last >= SNAPSHOT_ENTRIES:
            self._last = size
            ledger = self._machine.ledger
            self.snapshots.take(ledger.world, ledger._sealer.tree)
            self._machine.universe.counts["snapshots"] += 1


@dataclass(frozen=True)
class Ask:
    """A message to the server.

    Attributes:
        command: makes the command of it, as the doors do; may raise `Refused`.
        contents: what comes with it.
    """

    command: Callable[[], Command]
    contents: tuple[Content, ...] = ()


class Machine:
    """A server: up or down.

    Attributes:
        desk: while it is up. busy: whether it is in the middle of a turn. starting: whether that is its first.
        heard: called with each answer that it gives, before the answer is on its way.
        ended: called after each turn.
    """

    def __init__(self, universe: Universe, store: SharedStore, name: str, snapshots: MemorySnapshots) -> None:
        self.universe = universe
        self.name = name
        self.desk: SteppedDesk | None = None
        self.policy = POLICY
        self.keys = {kid: b64url(key.public_bytes_raw()) for kid, key in TOKEN_KEYS.items()}
        self.heard: Callable[[Command, Any], None] = lambda _command, _told: None
        self.ended: Callable[[Machine], None] = lambda _: None
        self.busy = self.starting = False
        self._dying = False
        self._store = store
        self._snapshots = snapshots
        self._life = 0
        self._due = False
        self._drift = 0.0
        store.machines.append(self)

    @property
    def ledger(self) -> Any:  # noqa: ANN401 -- gnexec.desk.ledger.Ledger
        """The ledger, while it is up."""
        assert self.desk is not None
        return self.desk._ledger

    @property
    def trouble(self) -> bool:
        """Whether it does not trust its clock."""
        return self.desk is not None and self.desk._clock.trouble is not None

    def receive(self, asked: Ask, respond: Respond) -> None:
        """Take a message: while it is down, nobody answers."""
        if self.desk is None:
            return
        try:
            command = asked.command()
        except Refused as err:
            respond(err)
            return

        def tell(told: Any) -> None:  # noqa: ANN401 -- what the desk answers
            if not self._dying:
                self.heard(command, told)
                respond(told)

        self.desk.put(Request(cast("Any", _Future(tell)), command, contents=asked.contents))
        self._soon(self.universe.stream("commits").uniform(*COMMIT_MS))

    def start(self) -> None:
        """Start, and start again if the store does not let it."""
        if self.desk is not None:
            return
        self._life += 1
        zero, drift = self.universe.stream("zero").randrange(1, 1 << 40), self._drift

        def steady() -> int:
            return zero + round(self.universe.now_ms * (1 + drift))

        maker = _Maker(self, self._snapshots) if Trouble.SNAPSHOT in self.universe.troubles else None
        opening = OpenLog(ORIGIN, VERIFIER.vkey, self.keys, self.policy)
        desk = SteppedDesk(self._store, Sealer(ORIGIN, KEY), opening, Clock(steady), cast("Maker | None", maker))
        desk.trust(self._store)
        self.desk = desk
        self.starting = True
        try:
            with self._at_work():
                desk.start()
        except StoreAway:
            self._store.back()
            self.desk = None
            self.universe.after(200, self.start)
            return
        finally:
            self.starting = False
        self.universe.counts["starts"] += 1
        self.universe.say(f"{self.name} starts at entry {self.ledger.world.size}")
        self.ended(self)
        self._idle(self._life)

    def kill(self) -> None:
        """End without a word."""
        if self.desk is not None:
            self.universe.counts["kills"] += 1
            self.universe.say(f"{self.name} is killed")
            self.desk = None
            self._due = self._dying = False

    def drifts(self, share: float) -> None:
        """Let its steady clock go too fast, from the next start on."""
        self._drift = share

    def hear(self) -> None:
        """Another machine has committed: look soon."""
        if self.desk is not None:
            self.desk._hear()
            self._soon(5)

    def turn(self) -> None:
        """Take a turn of the writer."""
        self._due = False
        if self.desk is None:
            return
        self._dying = self.universe.strikes(Trouble.CRASH, 0.004)
        with self._at_work():
            self.desk.turn()
        self.universe.counts["turns"] += 1
        if self.desk.trouble() is not None and self.desk._failure is not None:
            msg = f"{self.name} has given up: {self.desk._failure}"
            raise AssertionError(msg)
        self.ended(self)
        if self._dying:
            self.kill()
            self.universe.after(self.universe.stream("repair").uniform(500, 20_000), self.start)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Be the one that commits; another may come in between, and be it meanwhile."""
        before, self._store.committing = self._store.committing, self
        self.busy = True
        try:
            yield
        finally:
            self._store.committing = before
            self.busy = False

    def _soon(self, delay_ms: float) -> None:
        if not self._due:
            self._due = True
            life = self._life
            self.universe.after(delay_ms, lambda: self.turn() if life == self._life else None)

    def _idle(self, life: int) -> None:
        if self.desk is not None and life == self._life:
            self._soon(1)
            self.universe.after(IDLE_MS, lambda: self._idle(life))
