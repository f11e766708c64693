"""Results come in: statements are read and held against the job token, then judged by the log's rules.

The order in which a result is judged: size, media type and form (the door), signature, audience, path and key before
any look-up (here), then the log's own rules (`gnexec.core.judge`). What is wrong with the outputs is found out here
too, but it is a reason to refuse only where the result would be taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gnexec.core.commands import Judged, Report, Verdict, Verdicts
from gnexec.core.events import Reported
from gnexec.core.spec import manifest_digests, voted_digest
from gnexec.desk.dispatcher import Sealed, View
from gnexec.desk.jobtokens import JobToken
from gnexec.desk.office import Office
from gnexec.desk.open_results import report_open
from gnexec.desk.showing import receipt_view
from gnexec.desk.specifications import specs_of_jobs
from gnexec.desk.uploads import find_manifest
from gnexec.errors import Refused
from gnexec.shapes import ManyVerdicts, ResultBody, VerdictView
from gnexec.tokens.forms import claims_digest
from gnexec.tokens.reading import read_result_statement
from gnexec.tokens.statements import Result, ResultClaims


class _WorkerKeys(Mapping[str, Ed25519PublicKey]):
    """The keys of all enrolled workers, by kid: so a key that is another's is told from one that is nobody's."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def __getitem__(self, kid: str) -> Ed25519PublicKey:
        worker = self._office.desk.worker_by_kid(kid)
        if worker is None:
            raise KeyError(kid)
        return self._office.worker_key(worker)[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._office.desk.worker_kids())

    def __len__(self) -> int:
        return len(self._office.desk.worker_kids())


async def hand_in(office: Office, token: JobToken, job: int, body: ResultBody) -> VerdictView:
    """Take the result of one job: a signed statement; in open mode, the output itself.

    Raises:
        Refused: no_token, bad_token, bad_signature, wrong_key, wrong_path, invalid, equivocation, too_late.
    """
    attempt = token.attempt_of(job)
    if token.claims.jkt is None:
        sealed = await report_open(office, token, job, body)
    else:
        if body.statement is None:
            raise Refused(
                "invalid", "A result needs the worker's signed statement here.", field="statement", mend="Sign it."
            )
        statement = await _read_statement(office, token, body.statement)
        if [result.job for result in statement.results] != [job]:
            raise Refused("wrong_path", f"The statement is not about job {job} alone.", field="sub")
        sealed = await _report_signed(office, token, statement, body.statement)
    judged = _verdicts(office, sealed)[0]
    if judged.verdict is Verdict.TOO_LATE:
        raise Refused("too_late", "The attempt is closed; its result is not taken.", mend="Ask for new work.")
    if judged.verdict is Verdict.EQUIVOCATION:
        raise Refused(
            "equivocation",
            f"Another answer was already given for attempt {attempt}.",
            mend="Send the first one, or none.",
        )
    opened = sealed.opened.get(judged.seq)
    return VerdictView(verdict=judged.verdict, receipt=receipt_view(office, opened) if opened else None, job=job)


async def hand_in_many(office: Office, token: JobToken, text: str) -> ManyVerdicts:
    """Take the results of several jobs of one hand-out, in one signed statement; each gets its verdict.

    Raises:
        Refused: bad_token, bad_signature, wrong_key, wrong_path, invalid.
    """
    if token.claims.jkt is None:
        raise Refused("invalid", "In open mode each result is handed in by itself.", field="statement")
    sealed = await _report_signed(office, token, await _read_statement(office, token, text), text)
    return ManyVerdicts(
        results=[VerdictView(verdict=one.verdict, job=one.job) for one in _verdicts(office, sealed)],
        receipts=[receipt_view(office, opened) for _, opened in sorted(sealed.opened.items())],
    )


async def _read_statement(office: Office, token: JobToken, text: str) -> ResultClaims:
    """Read a statement and hold it against the job token; no look at the state of any job.

    Raises:
        Refused: bad_token, bad_signature, unknown_key, wrong_audience, wrong_key, wrong_path.
    """
    jkt = token.claims.jkt or ""
    await office.meet(office.desk.worker_by_kid(jkt))
    statement = read_result_statement(text, _WorkerKeys(office), origin=office.origin, jkt=jkt)
    if statement.iss != office.desk.worker_by_kid(jkt):
        raise Refused("wrong_key", "The statement was issued by another worker.", field="iss")
    if statement.jti != token.claims.jti or statement.tok != token.digest:
        raise Refused("wrong_path", "The statement is for another job token.", field="tok")
    for result in statement.results:
        if token.attempt_of(result.job) != (result.att or token.attempt_of(result.job)):
            raise Refused("wrong_path", f"Job {result.job} has another attempt number in the job token.", field="att")
    return statement


async def _report_signed(office: Office, token: JobToken, statement: ResultClaims, text: str) -> Sealed:
    results = statement.results
    command = Report(
        jti=token.claims.jti,
        pairs=token.claims.pairs,
        worker=statement.iss,
        results=tuple(
            Reported(
                job=result.job,
                attempt=token.attempt_of(result.job),
                outcome=result.outcome,
                canon=result.canon,
                outs=result.outs,
                wall_ms=result.usage.wall_ms,
                cpu_ms=result.usage.cpu_ms,
                peak_rss_bytes=result.usage.peak_rss_bytes,
            )
            for result in results
        ),
        statement=text,
        answer=claims_digest(statement).hex(),
        exp_s=token.claims.exp,
        digests={result.job: result.dig for result in results},
        flaws=await _flaws(office, token, results),
    )
    return await office.desk.do(command)


async def _flaws(office: Office, token: JobToken, results: tuple[Result, ...]) -> dict[int, Refused]:
    """Say what is wrong with outputs: what was not uploaded, or has another voted digest than is claimed.

    Of a job that is decided nothing is wanted any more, so nothing can be wrong with it: its worker was told to stop.
    """
    specs = await specs_of_jobs(office, [result.job for result in results])
    flaws: dict[int, Refused] = {}
    for result in results:
        try:
            manifest = await find_manifest(office, token.principal, result.outs)
            named = specs.get(result.job)
            if result.canon is None or named is None:
                continue
            if voted_digest(named.spec, result.outcome.exit or 0, manifest_digests(manifest)) != result.canon:
                raise Refused("invalid", "The voted digest is not that of the declared outputs.", field="canon")  # noqa: TRY301 -- one more flaw
        except Refused as err:
            flaws[result.job] = err
    if flaws:
        decided = await office.desk.ask(lambda view: _decided(view, list(flaws)))
        flaws = {job: flaw for job, flaw in flaws.items() if job not in decided}
    return flaws


def _decided(view: View, jobs: list[int]) -> set[int]:
    return {number for number in jobs if (job := view.job(number)) is not None and job.decided}


def _verdicts(office: Office, sealed: Sealed) -> tuple[Judged, ...]:
    if not isinstance(sealed.answer, Verdicts):
        raise TypeError(sealed.answer)
    office.live.forget((one.job, one.attempt) for one in sealed.answer.judged)
    return sealed.answer.judged
