"""What a long log costs: reading it, folding it, and starting a server over it.

Reading is what any replay must do: each entry fetched from the store, its payload held against its leaf, and decoded
into an event. Folding does that and the rest of what a start does: the world, the Merkle tree, and the checkpoint.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing

from gnexec import keys
from gnexec.bench.figures import Missing, Sample
from gnexec.bench.restart import LogMaker, Restart, restart_seconds
from gnexec.bench.servers import ORIGIN
from gnexec.bench.stations import Measurement, Plan
from gnexec.core.commands import OpenLog
from gnexec.desk.facts import read
from gnexec.desk.folding import FOLD_CHUNK, fold_all
from gnexec.desk.sealer import Sealer
from gnexec.ids import b64url
from gnexec.settings import SNAPSHOT_EVERY, ServerSettings
from gnexec.store import open_reader
from gnexec.store.contract import LogReader

WAITING = 1_000
"""Jobs that wait at the end of a log that is made here."""
MOST_COLD = 1_000_000
"""Entries up to which a start without a snapshot is measured."""


@asynccontextmanager
async def replay(plan: Plan) -> AsyncIterator[Mapping[str, Measurement]]:
    """Offer reading a log, and folding it."""
    settings = ServerSettings(data=plan.folder / "replay", allow_raw=True, max_open=100_000)
    keys.new_keys(settings.private_keys, settings.data / "public", ORIGIN)
    plan.tell(f"making a log of {plan.events:,} entries to replay")
    maker = LogMaker(settings, WAITING)
    size = maker.grow(plan.events, plan.tell)
    maker.close()
    ring = keys.load(settings.private_keys)
    tokens = {kid: b64url(key.public_bytes_raw()) for kid, key in ring.token_public.items()}
    opening = OpenLog(ring.origin, ring.log_verifier.vkey, tokens, settings.policy)
    with closing(open_reader(settings.database_url)) as log:

        async def reading() -> Sample:
            began = time.perf_counter()
            _read_all(log, size)
            return Sample(size, time.perf_counter() - began)

        async def folding() -> Sample:
            began = time.perf_counter()
            fold_all(log, log.head(), Sealer(ring.origin, ring.log_key), opening, None)
            return Sample(size, time.perf_counter() - began)

        yield {"read": Measurement(reading, os.getpid()), "fold": Measurement(folding, os.getpid())}


def _read_all(log: LogReader, size: int) -> None:
    for start in range(0, size, FOLD_CHUNK):
        for seq, entry in enumerate(log.entries(start, min(start + FOLD_CHUNK, size)), start):
            read(seq, entry)


@asynccontextmanager
async def restart(plan: Plan) -> AsyncIterator[Mapping[str, Measurement]]:
    """Offer starts of a server over a long log: with a snapshot, and without where that does not take too long."""
    made: list[Restart] = []

    def started() -> Restart:
        if not made:
            data = plan.folder / "restart"
            data.mkdir()
            tail = min(SNAPSHOT_EVERY, plan.entries // 2)
            cold = plan.entries <= MOST_COLD
            made.append(restart_seconds(data, plan.entries, waiting=WAITING, tail=tail, cold=cold, tell=plan.tell))
        return made[0]

    async def warm() -> Sample:
        return Sample(started().with_snapshot.wall_s, 1)

    async def warm_cpu() -> Sample:
        return Sample(started().with_snapshot.cpu_s, 1)

    async def cold() -> Sample:
        without = started().without
        if without is None:
            msg = f"left out above {MOST_COLD:,} entries: a fold of all of them"
            raise Missing(msg)
        return Sample(without.wall_s, 1)

    yield {
        "restart": Measurement(warm),
        "restart-cpu": Measurement(warm_cpu),
        "restart-cold": Measurement(cold),
    }
