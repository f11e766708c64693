"""A world as plain values, so that two of them can be compared and a difference be read."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec

from gnexec.core.ready import LineKey
from gnexec.core.world import World


def summary(world: World) -> dict[str, Any]:
    """Return everything that a world knows, its indexes included, as dicts, lists, numbers and strings."""
    return {
        "size": world.size,
        "at_ms": world.at_ms,
        "origin": world.origin,
        "vkey": world.vkey,
        "policy": msgspec.to_builtins(world.policy),
        "keys": msgspec.to_builtins(world.keys),
        "next_job": world.next_job,
        "jobs": {job: msgspec.to_builtins(world.jobs[job]) for job in sorted(world.jobs)},
        "hand_outs": {
            jti: {
                "event": msgspec.to_builtins(held.event),
                "lease_until_ms": held.lease_until_ms,
                "open": sorted(held.open),
                "efforts": {job: msgspec.to_builtins(held.efforts[job]) for job in sorted(held.efforts)},
                "contacted": held.contacted,
                "noted": sorted(held.noted),
            }
            for jti, held in sorted(world.hand_outs.items())
        },
        "requests": {"/".join(key): jti for key, jti in sorted(world.requests.items())},
        "workers": {worker: asdict(world.workers[worker]) for worker in sorted(world.workers)},
        "worker_by_kid": dict(world.worker_by_kid),
        "statistics": {program: msgspec.to_builtins(found) for program, found in sorted(world.statistics.items())},
        "decided": {str(state): n for state, n in sorted(world.decided.items())},
        "lines": sorted((line_name(key), list(world.ready.jobs(key))) for key in world.ready.lines()),
        "next_lease_ms": world.next_lease_ms(),
        "leases": world.due(1 << 62),
    }


def line_name(key: LineKey) -> str:
    """Return a line's key in a form that can be sorted."""
    terms = msgspec.json.encode(key.terms, order="sorted").decode()
    return f"{terms} without {sorted(key.excluded)}"
