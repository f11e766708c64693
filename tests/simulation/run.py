"""One run of the universe: trouble for a while, then calm, then everything must have come to its end.

`simulate(seed)` runs it; a run is the same whenever and wherever it is run. `explain(seed)` makes of a failure what
somebody can work with: which kinds of trouble it takes, and the last lines of the story.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from structlog.testing import capture_logs

from gnexec.audit.lines import Header, Record, Seal
from gnexec.audit.verify import Level, verify
from gnexec.desk.facts import read
from gnexec.ids import b64url
from gnexec.store.contract import Entry
from gnexec.tlog.receipt import parse_receipt, verify_receipt
from gnexec.tokens import kid_of
from tests.audit.logs import key_of
from tests.core.scene import ORIGIN
from tests.core.summary import summary
from tests.desk.house import VERIFIER, refolded
from tests.desk.test_faults import check_store
from tests.simulation.machines import POLICY, Machine, MemorySnapshots, SharedStore
from tests.simulation.network import Network
from tests.simulation.oracle import Oracle
from tests.simulation.people import Kind, Submitter, Volunteer
from tests.simulation.universe import Trouble, Universe
from tests.simulation.witness import Witness, agree

ALL: Final = frozenset(Trouble)
TROUBLED_MS: Final = 900_000
"""How long things go wrong."""
PATIENCE_MS: Final = 40_000_000
"""How long everything may take to come to its end once nothing goes wrong any more."""
REFOLD_CHECKS: Final = 100
"""How often the world is held against a fold from the first entry: at every so manieth check of it."""


class Failed(AssertionError):
    """A run has found something; says how to find it again."""


@dataclass
class Scenario:
    """A universe with everything in it."""

    seed: int
    troubles: frozenset[Trouble] = ALL

    def __post_init__(self) -> None:
        """Put everything in its place."""
        universe = self.universe = Universe(self.seed, self.troubles)
        self.store = SharedStore(universe)
        snapshots = MemorySnapshots()
        servers = 2 if Trouble.TWO in self.troubles and self.seed % 2 else 1
        self.machines = [Machine(universe, self.store, f"server {i}", snapshots) for i in range(servers)]
        self.network = Network(universe, self.machines)
        self.oracle, self.witness = Oracle(), Witness()
        self.signed = self.seed % 8 == 0
        for machine in self.machines:
            machine.heard, machine.ended = self.witness.heard, self._ended
        self.submitters = [Submitter(universe, self.network, f"submitter {i}") for i in range(3)]
        self.volunteers = [self._volunteer(i, kind) for i, kind in enumerate(self._kinds())]
        self._agreed: dict[str, int] = {}
        self._checks = 0

    def run(self) -> Counter[str]:
        """Run it to the end, and return the counts.

        Raises:
            AssertionError: something is wrong.
        """
        universe = self.universe
        for machine in self.machines:
            machine.start()
        for person in (*self.submitters, *self.volunteers):
            universe.after(universe.stream("begin").uniform(1, 60_000), person.begin)
        self._disturb()
        while universe.now_ms < TROUBLED_MS and universe.step():
            pass
        self._calm()
        end_ms = universe.now_ms + PATIENCE_MS
        while not self._done() and universe.now_ms < end_ms and universe.step():
            pass
        assert self._done(), f"jobs {self._undecided()} never come to an end"
        self._end()
        return universe.counts

    def _volunteer(self, number: int, kind: Kind) -> Volunteer:
        name = f"{kind} {number}"
        owner = f"owner {number % 7}"
        return Volunteer(self.universe, self.network, name, kind=kind, owner=owner, signed=self.signed)

    def _kinds(self) -> Iterable[Kind]:
        chance = self.universe.stream("kinds")
        kinds = list(Kind) if Trouble.PEOPLE in self.troubles else [Kind.HONEST]
        return [Kind.HONEST, Kind.HONEST, *(chance.choice(kinds) for _ in range(7))]

    # Trouble.

    def _disturb(self) -> None:
        """Kill servers and set clocks, every now and then."""
        chance, universe = self.universe.stream("disturbance"), self.universe

        def kill() -> None:
            if universe.strikes(Trouble.CRASH, 0.7):
                machine = chance.choice(self.machines)
                machine.kill()
                if universe.strikes(Trouble.TURN, 0.3):
                    key = key_of(f"tokens {universe.now_ms}").public_key()
                    machine.keys = {**machine.keys, kid_of(key): b64url(key.public_bytes_raw())}
                    machine.policy = msgspec.structs.replace(POLICY, lease_s=chance.choice((60, 100, 200)))
                self._agreed.pop(machine.name, None)
                universe.after(chance.choice((500, 5_000, 60_000)), machine.start)
            if not universe.calm:
                universe.after(chance.expovariate(1 / 150_000), kill)

        def set_right(offset_ms: int) -> None:
            if not universe.calm:
                universe.say(f"the clock is set to {offset_ms:+d} ms")
                self.store.offset_ms = offset_ms

        def jump() -> None:
            before = self.store.offset_ms
            if universe.strikes(Trouble.CLOCK, 0.7):
                self.store.offset_ms += chance.choice((-1, 1)) * chance.choice((900, 20_000, 100_000, 4_000_000))
                universe.say(f"the clock is set to {self.store.offset_ms:+d} ms")
                universe.after(chance.choice((5_000, 60_000, 400_000)), lambda: set_right(before))
            if not universe.calm:
                universe.after(chance.expovariate(1 / 250_000), jump)

        if Trouble.CLOCK in self.troubles:
            self.store.drift = chance.uniform(-0.001, 0.001)
            for machine in self.machines:
                machine.drifts(chance.uniform(-0.001, 0.001))
        universe.after(chance.expovariate(1 / 150_000), kill)
        universe.after(chance.expovariate(1 / 250_000), jump)

    def _calm(self) -> None:
        """Let nothing go wrong any more: servers that run, clocks that are right, volunteers that can be relied on."""
        universe = self.universe
        universe.calm = True
        universe.say("calm")
        self.store.offset_ms = max(0, self.store.offset_ms)
        last_ms = max((machine.ledger.world.at_ms for machine in self.machines if machine.desk), default=0)
        self.store.offset_ms += max(0, last_ms - self.store.wall_ms())
        for machine in self.machines:
            machine.kill()
            machine.start()
        fresh = [
            Volunteer(universe, self.network, f"fresh {i}", owner=f"fresh {i}", signed=self.signed) for i in range(5)
        ]
        for person in fresh:
            person.begin()

    # Checks.

    def _ended(self, machine: Machine) -> None:
        """Look at everything, after a turn of a server."""
        universe, world = self.universe, machine.ledger.world
        start, size = self.oracle.size, self.store._head.size
        for seq, entry in enumerate(self.store.entries(start, size), start):
            _, at_ms, event = read(seq, entry)
            universe.say(f"{machine.name} {seq}: {_words(event)}")
            self.oracle.read(event, at_ms)
        if size > start:
            universe.counts["entries"] += size - start
            trusted = not any(one.trouble for one in self.machines)
            self.oracle.settled(lapsed_closed=trusted and not self.store.by_start)
        if world.size == self.oracle.size and not machine.ledger.stale and self._agreed.get(machine.name) != size:
            agree(world, self.oracle)
            self._agreed[machine.name] = size
            self._checks += 1
            if self._checks % REFOLD_CHECKS == 0:
                assert summary(refolded(self.store.quiet())) == summary(world), "the world is not the fold of the log"

    def _undecided(self) -> list[int]:
        return [number for number, case in self.oracle.jobs.items() if case.state == "open"]

    def _done(self) -> bool:
        busy = any(one.most for one in self.submitters)
        up = all(machine.desk is not None for machine in self.machines)
        return up and not busy and not self._undecided()

    def _end(self) -> None:
        """Audit the log, and hold every answer against it."""
        store, counts = self.store, self.universe.counts
        entries = store.entries(0, store._head.size)
        check_store(store.quiet())
        worlds = [summary(machine.ledger.world) for machine in self.machines if machine.desk]
        fresh = summary(refolded(store.quiet()))
        assert any(world == fresh for world in worlds), "the world is not the fold of the log"
        header = Header(origin=ORIGIN, vkey=VERIFIER.vkey, size=len(entries))
        records = [Record(seq, e.leaf, None, e.salt, e.payload) for seq, e in enumerate(entries)]
        found = verify(header, [*records, Seal(store._head.note)], VERIFIER)
        assert found.level is Level.FULL
        self.witness.hold(self.oracle)
        self._check_receipts(entries)
        kept = store.content([bytes.fromhex(spec) for spec in self.witness.specs.values()])
        assert len(kept) == len(set(self.witness.specs.values())), "acknowledged content is lost"
        counts["jobs decided"] = len(self.oracle.jobs)
        counts["results taken"] = len(self.witness.taken)

    def _check_receipts(self, entries: list[Entry]) -> None:
        for seq, receipts in self.witness.receipts.items():
            for opened in receipts if self.signed else receipts[-1:]:
                assert opened.entry == entries[seq], "a receipt is for another entry"
                verify_receipt(parse_receipt(opened.proof), opened.entry.leaf, [VERIFIER], ORIGIN)


def _words(event: Any) -> str:  # noqa: ANN401 -- any event
    """Say what an event is, in a line that chance's salts do not touch."""
    told = msgspec.to_builtins(event)
    told.pop("statement", None)
    return str(msgspec.json.encode(told)[:160].decode(errors="replace"))


def simulate(seed: int, troubles: frozenset[Trouble] = ALL) -> tuple[Counter[str], str]:
    """Run one seed; return the counts, and the fingerprint of its course.

    Raises:
        Failed: something is wrong; names the seed and tells the last lines of the story.
    """
    with capture_logs() as logs:
        scenario = Scenario(seed, troubles)
        try:
            scenario.run()
            errors = [line for line in logs if line["log_level"] in ("error", "critical")]
            assert not errors, errors
        except Exception as err:
            story = "\n".join(scenario.universe.story)
            msg = f"GNEXEC_SEED={seed}: {type(err).__name__}: {err}\n{story}"
            raise Failed(msg) from err
    return scenario.universe.counts, scenario.universe.fingerprint


def explain(seed: int) -> str:
    """Leave out every kind of trouble without which a seed fails as well; tell what remains."""
    needed = ALL
    failure = ""
    for trouble in (None, *Trouble):
        fewer = needed - {trouble} if trouble is not None else needed
        try:
            simulate(seed, fewer)
        except Failed as err:
            needed, failure = fewer, str(err)
    return f"{failure}\nwith nothing but: {', '.join(sorted(trouble.name for trouble in needed)) or 'good fortune'}"
