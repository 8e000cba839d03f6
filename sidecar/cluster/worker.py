"""The jobs that run in this process, whoever granted them."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from sidecar.cluster.service import Cluster
from sidecar.cluster.share import RemoteReservation, ticket_of
from sidecar.cluster.work import Work
from sidecar.conversation.reservation import JobReservation, SchedulerSide
from sidecar.models.replica import ENDED, GrantOffer, HeldJob, Outcome
from sidecar.ports.bus import Clock, Intake, StoredState
from sidecar.request_handler.decode import DecodedRequest, open_request
from sidecar.request_handler.reader import fetch
from sidecar.runtime.lifecycle import Tasks
from sidecar.scheduler.tickets import Ticket

log = logging.getLogger(__name__)

Record = asyncio.Task[StoredState | None]


class Worker:
    """Runs what was granted. `attempt_of(tenant, job)` is the attempt of a job that was claimed here."""

    def __init__(
        self,
        *,
        intake: Intake,
        work: Work,
        cluster: Cluster,
        clock: Clock,
        attempt_of: Callable[[str, str], int | None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._intake = intake
        self._work = work
        self._cluster = cluster
        self._clock = clock
        self._attempt_of = attempt_of
        self._on_crash = on_crash
        self._tasks = Tasks(on_crash)
        self._shares: dict[int, JobReservation] = {}
        self._highest_term = 0
        self.is_open = True

    def __len__(self) -> int:
        return len(self._shares)

    @property
    def slots_used(self) -> int:
        """Jobs here that hold a slot; not those that wait for a tool."""
        return sum(share.holds_slot for share in self._shares.values())

    @property
    def shares(self) -> tuple[JobReservation, ...]:
        return tuple(self._shares.values())

    def share_of(self, seq: int) -> JobReservation | None:
        return self._shares.get(seq)

    def report(self) -> tuple[HeldJob, ...]:
        """What the heartbeat says of the jobs here."""
        return tuple(
            share.held(self._attempt_of(share.ticket.lane.tenant, share.ticket.job_id))
            for share in self._shares.values()
        )

    def begin(
        self,
        ticket: Ticket,
        *,
        pool: str,
        attempt: int,
        seat: SchedulerSide,
        opened: DecodedRequest | None,
        record: Record | None,
    ) -> JobReservation:
        """Run a job that this process's own scheduler granted."""
        share = JobReservation(ticket, pool=pool, granted_attempt=attempt, seat=seat, clock=self._clock)
        if opened is not None and opened.request is not None and record is None:
            self._start(share, self._work.run(opened, share, known=None))
        else:
            self._start(share, self._run(share, opened, record, None))
        return share

    def take(self, offer: GrantOffer) -> str | None:
        """Run a job that another replica granted. The reason when it is not taken."""
        if not self.is_open:
            return "draining"
        if offer.term < self._highest_term:
            return f"term {offer.term} is over, {self._highest_term} has begun"
        self._highest_term = offer.term
        if offer.seq in self._shares:
            return None
        seat = RemoteReservation(offer.seq, self._cluster.post)
        share = JobReservation(
            ticket_of(offer),
            pool=offer.pool,
            granted_attempt=offer.attempt,
            seat=seat,
            clock=self._clock,
            can_be_held=offer.can_hold,
        )
        known = StoredState(offer.known, offer.revision) if offer.known is not None else None
        self._start(share, self._run(share, None, None, known))
        return None

    def saw_term(self, term: int) -> None:
        """A scheduler of this term is there: grants of earlier ones are void."""
        self._highest_term = max(self._highest_term, term)

    def scatter(self) -> None:
        """This process schedules no more: its jobs go on under whoever does."""
        for seq, share in self._shares.items():
            share.sit(RemoteReservation(seq, self._cluster.post))

    async def finish(self) -> None:
        """Wait until all have ended."""
        await self._tasks.wait()

    async def stop(self) -> None:
        """Break off what runs; each job is handed back."""
        await self._tasks.cancel()

    def _start(self, share: JobReservation, run: Coroutine[Any, Any, Outcome]) -> None:
        self._shares[share.ticket.seq] = share
        self._tasks.spawn(run).add_done_callback(partial(self._left, share))

    def _left(self, share: JobReservation, task: asyncio.Task[Outcome]) -> None:
        """Whatever ended it, what the job held goes back: nothing may stand between here and the scheduler."""
        if self._shares.get(share.ticket.seq) is share:
            del self._shares[share.ticket.seq]
        is_broken_off = task.cancelled() or task.exception() is not None
        try:
            share.finish(
                Outcome(kind="returned", attempt=share.granted_attempt) if is_broken_off else task.result()
            )
        except Exception as e:
            log.exception("a job's slot could not be given back", extra={"job": share.ticket.job_id})
            self._on_crash(e)

    async def _run(
        self,
        share: JobReservation,
        opened: DecodedRequest | None,
        record: Record | None,
        known: StoredState | None,
    ) -> Outcome:
        """What is not at hand yet is waited for: the request, and what is being written of it."""
        if opened is None:
            stored = await fetch(self._intake, share.ticket.seq, clock=self._clock)
            opened = open_request(stored) if stored is not None else None
        if record is not None:
            known = await record
        if opened is None:
            await self._work.bereave(share.ticket)
            return ENDED
        if opened.request is None:
            return Outcome(kind="unreadable", attempt=share.granted_attempt)
        return await self._work.run(opened, share, known=known)
