"""What a server counts of itself, for Prometheus: requests, batches, commits, who waits.

What the log tells is not counted here but read off the world (`gnexec.web.system`). Of several processes under one
supervisor each counts in a file of a shared folder, named by PROMETHEUS_MULTIPROC_DIR, and any of them shows the sums
(https://prometheus.github.io/client_python/multiprocess/); a server by itself counts in memory. Servers on several
hosts know nothing of each other's counts: Prometheus adds those up.

Rules:
- Labels have few values, known beforehand: methods, route templates, classes of statuses, ranks. Never a job, a worker,
  an account, an address or a path.
- Only what is counted up ends in `_total`.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

__all__ = ["BATCH", "COMMIT", "LONG_POLLS", "QUEUE", "SHED", "THROTTLED", "forget", "request_served", "show"]

FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE"})

disable_created_metrics()  # type: ignore[no-untyped-call]
_registry: Final = CollectorRegistry()

BATCH: Final = Histogram(
    "gnexec_batch_requests",
    "Requests decided together in one commit.",
    buckets=[1 << i for i in range(11)],
    registry=_registry,
)
COMMIT: Final = Histogram(
    "gnexec_commit_seconds",
    "Time of a batch: from asking for the append lock until everything is durable.",
    buckets=_FAST,
    registry=_registry,
)
QUEUE: Final = Gauge(
    "gnexec_queue_length",
    "Requests that waited for the writer when it last took some.",
    multiprocess_mode="livesum",
    registry=_registry,
)
LONG_POLLS: Final = Gauge(
    "gnexec_long_polls", "Requests that wait for something to happen.", multiprocess_mode="livesum", registry=_registry
)
SHED: Final = Counter("gnexec_requests_shed", "Requests refused under load, by rank.", ["rank"], registry=_registry)
THROTTLED: Final = Counter(
    "gnexec_requests_throttled", "Requests refused because their address asks too often.", registry=_registry
)
_REQUESTS: Final = Counter(
    "gnexec_http_requests",
    "Requests answered, by class of status.",
    ["method", "route", "status"],
    registry=_registry,
)
_SECONDS: Final = Histogram(
    "gnexec_http_request_seconds",
    "Time from a request's head to its reply's; waiting on purpose is not counted.",
    ["method", "route"],
    buckets=_FAST,
    registry=_registry,
)


class _Route(NamedTuple):
    served: Counter
    seconds: Histogram


_routes: Final[dict[tuple[str, str, int], _Route]] = {}


def request_served(method: str, route: str, status: int, seconds: float) -> None:
    """Count a request.

    Args:
        method: as it was sent.
        route: the template of the path, or "none" for a path that leads nowhere.
        status: of the reply.
        seconds: taken, without waiting on purpose.
    """
    key = method, route, status // 100
    found = _routes.get(key)
    if found is None:
        shown = method if method in _METHODS else "other"
        found = _Route(_REQUESTS.labels(shown, route, f"{key[2]}xx"), _SECONDS.labels(shown, route))
        if shown == method:
            _routes[key] = found
    found.served.inc()
    found.seconds.observe(seconds)


def show(beside: Collector) -> bytes:
    """Return everything in Prometheus' text format: of all processes together, if there are several.

    Args:
        beside: told before it.
    """
    first = CollectorRegistry()
    first.register(beside)
    counted = _registry
    if os.environ.get(FOLDER):
        counted = CollectorRegistry()
        MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
    return generate_latest(first) + generate_latest(counted)


def forget(number: int, folder: str) -> None:
    """Drop what a process that has ended said of the moment; what it had counted stays."""
    mark_process_dead(number, folder)  # type: ignore[no-untyped-call]
