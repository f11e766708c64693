"""What was answered, and may never be contradicted: every answer that left a server, held against those before it.

And what the world and its indexes must be, worked out from the oracle by brute force.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from gnexec.core.commands import Accepted, Cancelled, Command, NextJobs, Report, Submit, Verdict, Verdicts, Work
from gnexec.core.world import World
from gnexec.desk.requests import Sealed
from gnexec.desk.sealer import Opened
from gnexec.errors import Refused
from tests.simulation.oracle import Case, Oracle

FINAL: Final = {Verdict.VALID, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.UNNEEDED}


class Witness:
    """Remembers all answers.

    Attributes:
        receipts: opened entries that were given out, by seq.
        taken: answers that were taken: (jti, job) to the answer.
    """

    def __init__(self) -> None:
        self.receipts: dict[int, list[Opened]] = {}
        self.taken: dict[tuple[str, int], str] = {}
        self.specs: dict[int, str] = {}
        self._accepted: dict[str, tuple[str, Accepted]] = {}
        self._digests: dict[int, str] = {}
        self._work: dict[str, tuple[Any, int]] = {}
        self._verdicts: dict[tuple[str, int, str], tuple[Verdict, int]] = {}
        self._ends: dict[int, str] = {}

    def heard(self, command: Command, told: Any) -> None:  # noqa: ANN401 -- Sealed, or an error
        """Take an answer that leaves a server.

        Raises:
            AssertionError: it contradicts an earlier one.
        """
        match command, told:
            case Submit(), Sealed(answer=Accepted() as answer):
                self._submitted(command, answer)
            case Submit(), Refused():
                assert told.code == "key_reused", told
                known = self._accepted.get(command.key or "")
                assert known is None or known[0] != command.body, "a repeated submission is refused"
            case NextJobs(), Sealed(answer=Work() as answer):
                event = answer.hand_out
                assert event.req == command.req, "an answer to another request"
                before = self._work.setdefault(event.jti, (event, answer.at_ms))
                assert before == (event, answer.at_ms), "a repeated request gets another token"
                assert answer.jobs, "a hand-out of nothing"
                assert {(job.id, n) for job, n in answer.jobs} <= set(event.jobs), "other work under one token"
            case Report(), Sealed(answer=Verdicts() as answer):
                self._judged(command, answer, told)
            case _, Sealed(answer=Cancelled() as answer):
                for job in answer.jobs:
                    if job.decided:
                        assert self._ends.setdefault(job.id, job.state) == job.state, "a job ends twice"
            case _:
                pass

    def _submitted(self, command: Submit, answer: Accepted) -> None:
        body, before = self._accepted.setdefault(command.key or "", (command.body, answer))
        assert body == command.body, "another submission gets the answer of its key"
        assert (before.ids, before.created) == (answer.ids, answer.created), "a repeated submission gets another answer"
        for row, job in zip(command.jobs, answer.ids, strict=True):
            assert self._digests.setdefault(job, row.digest) == row.digest, "a job answers for other work"
            if job in answer.created:
                self.specs.setdefault(job, row.spec)

    def _judged(self, command: Report, answer: Verdicts, told: Sealed) -> None:
        for judged in answer.judged:
            key = command.jti, judged.job, command.answer
            before, seq = self._verdicts.get(key, (judged.verdict, judged.seq))
            assert seq == judged.seq, f"{key} was {before} in {seq}, is {judged.verdict} in {judged.seq}"
            assert before is judged.verdict or before is Verdict.PENDING, f"{key} was {before}, is {judged.verdict}"
            assert before is judged.verdict or judged.verdict in FINAL, f"{key} was {before}, is {judged.verdict}"
            self._verdicts[key] = judged.verdict, judged.seq
            if judged.seq >= 0:
                assert self.taken.setdefault(key[:2], command.answer) == command.answer, "two answers are taken"
                opened = told.opened[judged.seq]
                self.receipts.setdefault(judged.seq, []).append(opened)
                assert opened.seq == judged.seq, "another entry's receipt"

    def hold(self, oracle: Oracle) -> None:
        """Hold all answers against the log as it is in the end.

        Raises:
            AssertionError: the log does not keep them.
        """
        for jti, (event, _) in self._work.items():
            assert oracle.held[jti].event == event, "a hand-out is not in the log"
        for (jti, job), answer in self.taken.items():
            number = dict(oracle.held[jti].event.jobs)[job]
            assert oracle.jobs[job].attempts[number - 1].answer == answer, "an answer is not in the log"
        for (jti, job, answer), (verdict, _) in self._verdicts.items():
            if verdict in FINAL and self.taken.get((jti, job)) == answer:
                number = dict(oracle.held[jti].event.jobs)[job]
                assert oracle.jobs[job].verdict(number) is verdict, f"a verdict was {verdict}"
        for job, digest in self._digests.items():
            assert oracle.jobs[job].digest == digest, "a job is not in the log"
        for job, state in self._ends.items():
            assert oracle.jobs[job].state == state, "a job has ended otherwise"


def agree(world: World, oracle: Oracle) -> None:
    """Compare a world, indexes included, with what follows from the events in the plainest way.

    Raises:
        AssertionError: they differ.
    """
    assert (world.size, world.at_ms) == (oracle.size, oracle.at_ms)
    cases = {number: case for number, case in oracle.jobs.items() if case.state == "open" or case.count("open")}
    assert set(world.jobs) == set(cases), "other jobs are open"
    for number, case in cases.items():
        _agree(world, number, case)
    standing = [(job, key) for key in world.ready.lines() for job in world.ready.jobs(key)]
    wanted = {number for number, case in cases.items() if case.wanted}
    assert sorted(job for job, _ in standing) == sorted(wanted), "other jobs wait"
    assert all(world.line_of(world.jobs[job]) == key for job, key in standing), "a job waits in another's line"
    held = {jti: one for jti, one in oracle.held.items() if one.open}
    assert set(world.hand_outs) == set(held), "other hand-outs are open"
    for jti, one in held.items():
        found = world.hand_outs[jti]
        assert (set(found.open), found.lease_until_ms) == (one.open, one.lease_ms), f"hand-out {jti}"
    assert sorted(world.due(1 << 62)) == sorted(held), "other leases run"
    assert world.next_lease_ms() == min((one.lease_ms for one in held.values()), default=None), "another lease is next"
    asked = {(one.event.worker, one.event.req): jti for jti, one in held.items() if one.event.req is not None}
    assert world.requests == asked, "other requests may be repeated"
    for worker, record in world.workers.items():
        assert record.open == oracle.open_by_worker.get(worker, 0), f"worker {worker} holds another number"
    ends = Counter(case.state for case in oracle.jobs.values() if case.state != "open")
    assert {str(state): n for state, n in world.decided.items()} == dict(ends), "other jobs are decided"


def _agree(world: World, number: int, case: Case) -> None:
    job = world.jobs[number]
    state = case.state if case.state != "open" else "running" if case.count("open") else "queued"
    assert (job.state, job.canonical) == (state, case.canonical), f"job {number} is {job.state}"
    assert [str(a.state) for a in job.attempts] == [a.fate for a in case.attempts], f"attempts of job {number}"
    assert all((a.ended_ms == 0) == (a.state == "open") for a in job.attempts), f"job {number}: open and closed"
    assert world.needed(job) == case.wanted, f"job {number} needs {world.needed(job)}, not {case.wanted}"
    assert set(job.owners) == case.owners, f"owners of job {number}"
