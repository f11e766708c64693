"""Terms: what a job needs and by which rules it is decided; shared by many jobs.

Everything here is a number, a digest or a word of a closed vocabulary, so that it may stand in the log.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from gnexec.errors import Refused

DEFAULT_MEMORY_BYTES = 1 << 30
DEFAULT_DISK_BYTES = 1 << 30
DEFAULT_WALL_S = 3600
MAX_REPLICAS = 64


class DataClass(StrEnum):
    """Who may see a job's entries once it is closed (FEATURES.md N-9)."""

    PUBLIC = "public"
    PROJECT = "project"


class Needs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one attempt may use; also what a worker must offer to be given it.

    Attributes:
        cores: logical processors, 1..4096.
        memory_bytes: peak resident memory of the whole process tree.
        disk_bytes: size of the work directory, outputs included.
        wall_s: seconds of wall time, 1..30 days; the attempt's hard deadline follows from it.
        processes: processes and threads at one time.
    """

    cores: int = 1
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    disk_bytes: int = DEFAULT_DISK_BYTES
    wall_s: int = DEFAULT_WALL_S
    processes: int = 256


class Redundancy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many attempts a job gets, and how many results must agree.

    Attributes:
        replicas: attempts wanted, quorum..64.
        quorum: results from different owners that must agree, 1..replicas.
        max_attempts: attempts that count (undelivered and preempted ones do not) before the job fails.
        max_failures: failures of the job's own making (exit status, signal, limit) that decide it as failed;
            0 stands for "as many as the quorum".
    """

    replicas: int = 1
    quorum: int = 1
    max_attempts: int = 0
    max_failures: int = 0


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, cache_hash=True):
    """The terms of a job, as they stand in the log.

    Attributes:
        program: SHA-256 (hexadecimal) that names what is run, for statistics.
        needs: hard requirements on a worker.
        redundancy: with `max_attempts` and `max_failures` resolved, never 0.
        priority: higher goes first, -1000..1000.
        estimate_ms: the submitter's guess of one attempt's wall time, or None.
        data_class: who may see the entries of the job once it is closed.
        validator: the comparison and its version, "exact/1".
    """

    program: str
    needs: Needs
    redundancy: Redundancy
    priority: int = 0
    estimate_ms: int | None = None
    data_class: DataClass = DataClass.PROJECT
    validator: str = "exact/1"


def check_needs(needs: Needs) -> Needs:
    """Return `needs` if every number is in its range.

    Raises:
        Refused: invalid; names the field and its range.
    """
    _in_range("needs.cores", needs.cores, 1, 4096)
    _in_range("needs.memory_bytes", needs.memory_bytes, 1 << 20, 1 << 50)
    _in_range("needs.disk_bytes", needs.disk_bytes, 1 << 16, 1 << 50)
    _in_range("needs.wall_s", needs.wall_s, 1, 30 * 24 * 3600)
    _in_range("needs.processes", needs.processes, 1, 1 << 16)
    return needs


def resolve_redundancy(asked: Redundancy) -> Redundancy:
    """Return `asked` with its defaults worked out and its ranges checked.

    Raises:
        Refused: invalid; replicas below quorum, or a number out of range.

    Source: BOINC target_nresults, min_quorum, max_total_results, max_error_results.
    """
    _in_range("redundancy.replicas", asked.replicas, 1, MAX_REPLICAS)
    _in_range("redundancy.quorum", asked.quorum, 1, MAX_REPLICAS)
    if asked.replicas < asked.quorum:
        raise Refused(
            "invalid",
            f"{asked.replicas} replicas can never bring {asked.quorum} results that agree.",
            field="redundancy.replicas",
            mend="Ask for at least as many replicas as the quorum.",
        )
    attempts = asked.max_attempts or max(8, 4 * asked.replicas)
    failures = asked.max_failures or asked.quorum
    _in_range("redundancy.max_attempts", attempts, asked.replicas, 1000)
    _in_range("redundancy.max_failures", failures, 1, 1000)
    return msgspec.structs.replace(asked, max_attempts=attempts, max_failures=failures)


def at_least_as_strict(have: Terms, asked: Terms) -> bool:
    """Tell whether a job under the terms `have` answers someone who asks for `asked`."""
    private_enough = have.data_class is DataClass.PROJECT or asked.data_class is DataClass.PUBLIC
    return private_enough and have.redundancy.quorum >= asked.redundancy.quorum and have.validator == asked.validator


def _in_range(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise Refused("invalid", f"{value} is out of range.", field=field, mend=f"Give a number from {low} to {high}.")
