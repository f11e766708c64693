"""The worker's standing with its server: who the server is, being enrolled there, and asking for work.

A request for work is in the spool before it is sent, and leaves it with the hand-out that it brought. So a reply that
is lost, to the network or to a crash, is asked for again by the same id, and costs nothing. A spool belongs to one
server: its job tokens are sent to no other.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

import structlog

from gnexec.core.events import Offer
from gnexec.errors import BadConfiguration, Refused
from gnexec.shapes import ManyJobWork
from gnexec.tokens.issued import JobClaims
from gnexec.tokens.jws import unseal
from gnexec.tokens.strict import read_json
from gnexec.worker.answer import Signer, environment
from gnexec.worker.identity import Description, Identity
from gnexec.worker.link import Away, Link, NoWork
from gnexec.worker.sandbox import Kind, Sandbox
from gnexec.worker.spool import Asking, Attempt, Entry, Spool
from gnexec.worker.statedir import StateDir

log = structlog.get_logger("gnexec.worker")

_UNAUTHORIZED = 401


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the volunteer wants.

    Attributes:
        url: the server.
        slots: attempts at a time.
        offer: what they may use together.
        sandbox: how jobs are kept apart.
        description: what the worker tells of itself when it enrols.
        access_token: with the scope enrol, or None.
        wait_s: how long the server may hold a request for work, seconds.
        drain_s: how long jobs may run on after the first signal, seconds.
        grace_s: seconds between SIGTERM and SIGKILL for a job that is to stop.
        cut_off_s: how long a job goes on after its lease while the server is not heard of, seconds.
        once: do what is there, then end.
        idle_exit_s: end after so many seconds without work; None for never.
    """

    url: str
    slots: int
    offer: Offer
    sandbox: Sandbox
    description: Description = field(default_factory=dict)
    access_token: str | None = field(default=None, repr=False)
    wait_s: float = 30.0
    drain_s: float = 60.0
    grace_s: float = 10.0
    cut_off_s: float = 300.0
    once: bool = False
    idle_exit_s: float | None = None


class Contact:
    """One worker at one server; use it after `greet`.

    Attributes:
        link: the calls.
        spool: what the server has not acknowledged.
    """

    link: Link
    spool: Spool

    def __init__(self, plan: Plan, state: StateDir, link: Link) -> None:
        """Prepare; nothing is sent."""
        self.link = link
        self._plan = plan
        self._state = state
        self._origin = ""
        self._identity: Identity | None = None

    async def greet(self) -> None:
        """Find out who the server is, enrol if need be, and open the spool.

        Raises:
            Away: try again.
            Refused: the server does not admit this worker.
            BadConfiguration: there is no way to enrol, or the spool holds what belongs to another server.
        """
        hey = await self.link.hey()
        self._origin = hey.origin
        self.spool = Spool(self._state.spool)
        strange = {entry.attempt.origin for entry in self.spool.entries()} - {hey.origin}
        if strange:
            msg = (
                f"{self._state.path} holds results for {strange.pop()}, and {self._plan.url} is {hey.origin}: start "
                f"the worker with the other server's address, or give this one another directory with --state"
            )
            raise BadConfiguration(msg)
        if not hey.open:
            self._identity = Identity.load(hey.origin, self._state.key, self._state.enrolment, self._plan.access_token)
            await self._enrol_if_due(self._identity)
        log.info("connected", server=hey.origin, open=hey.open, slots=self._plan.slots)

    @property
    def signer(self) -> Signer | None:
        """Who signs results; None in open mode."""
        if self._identity is None:
            return None
        kind = self._plan.sandbox.kind
        where = environment("none" if kind is Kind.PLAIN else kind.value)
        return Signer(self._identity.worker, self._identity.origin, self._identity.key, where)

    async def ask(self, n: int, wait_s: float) -> list[Entry] | NoWork:
        """Ask once for work, and keep what comes; an enrolment that is not accepted is renewed, once.

        Args:
            n: attempts wanted, 1..64; a request that has no reply yet is asked again as it was.
            wait_s: how long the server may hold the request, seconds.

        Returns:
            New entries of the spool; or that there is no work, and when to come again.

        Raises:
            Away: try again.
            Refused: the server does not admit this worker.
            OSError: the spool's disk does not answer.
        """
        if self._identity is None:
            return await self._ask(None, n, wait_s)
        await self._enrol_if_due(self._identity)
        try:
            return await self._ask(self._identity.token, n, wait_s)
        except Refused as err:
            if err.status != _UNAUTHORIZED:
                raise
            log.warning("the enrolment is not accepted: enrolling again", code=err.code)
        await self._enrol(self._identity)
        return await self._ask(self._identity.token, n, wait_s)

    async def _ask(self, enrolment_token: str | None, n: int, wait_s: float) -> list[Entry] | NoWork:
        asking = self.spool.asking()
        if asking is None:
            asking = Asking(req=secrets.token_urlsafe(16), n=n)
            self.spool.ask(asking)
        began = time.monotonic()
        reply = await self.link.next_jobs(enrolment_token, n=asking.n, wait_s=wait_s, req=asking.req)
        if isinstance(reply, NoWork):
            self.spool.answered()
            # The time for which the server has let us wait counts towards what it wants between two requests.
            return NoWork(max(0.0, reply.after_s - (time.monotonic() - began)))
        return self.spool.answered(_attempts(reply, self._origin))

    async def _enrol_if_due(self, identity: Identity) -> None:
        if identity.due(self.link.now_s(), self._plan.offer, self._plan.description):
            await self._enrol(identity)

    async def _enrol(self, identity: Identity) -> None:
        await identity.enrol(self.link, self._plan.offer, self._plan.description)
        log.info("enrolled", worker=identity.worker)


def _attempts(reply: ManyJobWork, origin: str) -> list[Attempt]:
    """Read a hand-out: the numbers that count are those of its job token.

    The signature is not looked at: the token is a secret that the server will want back, not a message to us.

    Raises:
        Away: the token is not one, or it does not name a job of the hand-out.
    """
    try:
        claims = read_json(unseal(reply.token, typ=JobClaims.TYP, max_chars=JobClaims.MAX_CHARS).payload, JobClaims)
        numbers = dict(claims.pairs)
        return [
            Attempt(
                origin=origin,
                work=work,
                number=numbers[work.id],
                jti=claims.jti,
                token=reply.token,
                exp_s=claims.exp,
            )
            for work in reply.jobs
        ]
    except (Refused, KeyError) as err:
        msg = "the server's hand-out cannot be read"
        raise Away(msg) from err
