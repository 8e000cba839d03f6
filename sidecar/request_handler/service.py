"""From doorbells to grants: keeps the windows filled, and dispatches what the scheduler grants."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from sidecar.component import Tasks, logged
from sidecar.errors import JobCancelled, Permanent, SidecarError
from sidecar.ports import Cancellable, Clock, Intake, Lane, Stored
from sidecar.request_handler.decode import Opened
from sidecar.request_handler.reader import Reader
from sidecar.request_handler.reservation import Reservation
from sidecar.request_handler.schedule import Scheduler
from sidecar.request_handler.tickets import Grant, Ticket

log = logging.getLogger(__name__)

# A queued record is written for what waits longer than this, at most so many each round: under a flood they lag,
# and are never in the way of dispatch.
RECORD_AFTER_S = 0.1
RECORDS_A_ROUND = 32


_DROPPED: Mapping[str, str] = {
    "deadline_exceeded": "the deadline passed while the job was queued",
    "quota_exceeded": "the job is larger than the quota of every model it may run on",
}


class Work(Protocol):
    """What the pipeline does for the request handler."""

    def admit(self, opened: Opened) -> Ticket:
        """Decide whether the job may run, and how it is queued. Raises SidecarError with the refusal."""
        ...

    async def refuse(self, opened: Opened, error: SidecarError, *, known: Stored | None = None) -> None:
        """End a job that will not run."""
        ...

    async def run(self, opened: Opened, share: Reservation, *, known: Stored | None) -> None:
        """Run a granted job to its end."""
        ...

    async def record_queued(self, opened: Opened) -> Stored | None:
        """Write down that the job waits. None when it could not be written or the job is known already."""
        ...


class RequestHandler:
    """Reads what clients ask for, and lets the scheduler say when it runs."""

    def __init__(
        self,
        *,
        intake: Intake,
        scheduler: Scheduler,
        work: Work,
        clock: Clock,
        on_crash: Callable[[BaseException], None],
        reconcile_s: float = 15.0,
        check_s: float = 1.0,
    ) -> None:
        self._intake = intake
        self._scheduler = scheduler
        self._work = work
        self._clock = clock
        self._reconcile_s = reconcile_s
        self._check_s = check_s
        self._on_crash = on_crash
        self._duties = Tasks(on_crash)
        self._jobs = Tasks(on_crash)
        self._reader = Reader(
            intake=intake,
            scheduler=scheduler,
            clock=clock,
            tasks=self._duties,
            admit=work.admit,
            refuse=work.refuse,
            on_filled=self.kick,
        )
        self._shares: dict[int, Reservation] = {}
        self._recorded: dict[int, asyncio.Task[Stored | None]] = {}
        self._timer: Cancellable | None = None
        self._is_kicked = False
        self._is_open = False
        self.counts: Counter[str] = Counter()

    async def start(self) -> None:
        """Listen first, then read what is there: in this order nothing falls between."""
        self._is_open = True
        await self._intake.listen(self._reader.on_doorbell)
        self._duties.spawn(self._watch(), name="intake-watch")
        self._duties.spawn(self._record_waiting(), name="queued-records")

    async def drain(self) -> None:
        """Take no new grants. What runs goes on."""
        self._is_open = self._reader.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        await self._duties.cancel()

    async def finish(self, timeout_s: float) -> bool:
        """Wait for the running jobs. False when some still run after `timeout_s`."""
        return await self._jobs.wait(timeout_s)

    async def stop(self) -> None:
        await self._jobs.cancel()

    @property
    def running(self) -> int:
        return len(self._jobs)

    def jobs_of(self, lane: Lane) -> int:
        """How many jobs of a lane are in memory: waiting in its window, or running."""
        return self._reader.jobs_of(lane)

    def kick(self) -> None:
        """Something changed that may let a job run: ask the scheduler, once for all changes of this moment."""
        if not self._is_kicked and self._is_open:
            self._is_kicked = True
            asyncio.get_running_loop().call_soon(self._on_kick)

    def cancel(self, tenant: str, job: str) -> bool:
        """Take a waiting job out of its window and end it. False when it does not wait here."""
        ticket = self._reader.waiting.pop((tenant, job), None)
        if ticket is None or not self._scheduler.remove(ticket.lane, ticket.seq):
            return False
        self._jobs.spawn(self._end_unrun(ticket, JobCancelled("the job was cancelled while it was queued")))
        return True

    def _on_kick(self) -> None:
        self._is_kicked = False
        if self._is_open:
            try:
                self._dispatch()
            except Exception as e:
                log.exception("dispatch failed")
                self._on_crash(e)

    def _dispatch(self) -> None:
        now = self._clock.monotonic()
        self._scheduler.epoch_offset = self._clock.now() - now
        for dropped in self._scheduler.take_dropped(now=now):
            self._reader.left(dropped.ticket)
            error = Permanent(_DROPPED.get(dropped.code, "the job cannot run"), code=dropped.code)
            self._jobs.spawn(self._end_unrun(dropped.ticket, error))
        while (grant := self._scheduler.grant(now=now)) is not None:
            running = self._shares.get(grant.ticket.seq)
            if running is not None:
                running.take_over(grant)
            else:
                self._begin(grant)
        self._wake_again(now)

    def _begin(self, grant: Grant) -> None:
        share = Reservation(grant, scheduler=self._scheduler, clock=self._clock, on_change=self.kick)
        self._shares[grant.ticket.seq] = share
        self._jobs.spawn(self._run(grant.ticket, share))
        self._reader.left(grant.ticket)

    def _wake_again(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_at = self._scheduler.next_wake(now=now)
        if wake_at is not None:
            self._timer = self._clock.call_later(max(0.001, wake_at - now), self.kick)

    async def _run(self, ticket: Ticket, share: Reservation) -> None:
        try:
            opened = await self._reader.open(ticket)
            if opened is not None and opened.request is not None:
                await self._work.run(opened, share, known=await self._record_of(ticket))
        finally:
            del self._shares[ticket.seq]
            share.finish()
            self._reader.forget(ticket)

    async def _end_unrun(self, ticket: Ticket, error: SidecarError) -> None:
        try:
            opened = await self._reader.open(ticket)
            if opened is not None:
                await self._work.refuse(opened, error, known=await self._record_of(ticket))
        finally:
            self._reader.forget(ticket)

    async def _record_of(self, ticket: Ticket) -> Stored | None:
        task = self._recorded.pop(ticket.seq, None)
        return await task if task is not None else None

    async def _watch(self) -> None:
        """Hold the doorbells against the stream: everything every 15 s, its last sequence every second."""
        while True:
            with logged("reconciling with the request stream"):
                await self._reader.reconcile()
            next_at = self._clock.monotonic() + self._reconcile_s
            while self._clock.monotonic() < next_at:
                await self._clock.sleep(self._check_s)
                with logged("reading the request stream's last sequence"):
                    if not await self._reader.check():
                        break

    async def _record_waiting(self) -> None:
        unrecorded = self._reader.unrecorded
        while True:
            await self._clock.sleep(RECORD_AFTER_S)
            room = RECORDS_A_ROUND
            before = self._clock.now() - RECORD_AFTER_S
            while unrecorded and room and unrecorded[0].stored_at <= before:
                ticket = unrecorded.popleft()
                opened = self._reader.peek(ticket)
                if opened is not None and (ticket.lane.tenant, ticket.job_id) in self._reader.waiting:
                    room -= 1
                    self._recorded[ticket.seq] = self._jobs.spawn(self._work.record_queued(opened))
