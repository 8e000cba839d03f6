"""Documents and events of jobs that wait in their lane's window."""

from collections.abc import Coroutine, Mapping
from itertools import islice
from typing import Any

from sidecar.cluster.reservation import Reservation
from sidecar.cluster.wait_reports import WaitReport, WaitReporter
from sidecar.cluster.work import Work
from sidecar.cluster.worker import Record
from sidecar.ports.bus import Clock, StoredState
from sidecar.request_handler.reader import Reader
from sidecar.runtime.lifecycle import Tasks, logged
from sidecar.scheduler.schedule import Scheduler
from sidecar.scheduler.tickets import Ticket

# A queued record is written for what waits longer than this, at most so many each round: under a flood they lag,
# and are never in the way of dispatch.
RECORD_AFTER_S = 0.1
RECORDS_A_ROUND = 32
# How often waiting jobs are looked at that may want to know why they wait.
LOOK_S = 0.5
# What is kept of a waiting job is written again after this share of the time that it is kept for.
KEEP_SHARE = 1 / 4
KEPT_A_ROUND = 64
LONGEST_KEEP_LOOK_S = 60.0


class QueuedRecords:
    """Writes that jobs wait, and says why. What is under way for a job is waited for by whoever takes it."""

    def __init__(self, scheduler: Scheduler, reader: Reader, *, work: Work, clock: Clock, endings: Tasks) -> None:
        self._scheduler = scheduler
        self._reader = reader
        self._work = work
        self._clock = clock
        self._endings = endings
        self._teller = WaitReporter(scheduler, reader.waiting)
        self._recorded: dict[int, Record] = {}
        self._written_at: dict[int, float] = {}
        self._said: dict[int, int] = {}

    def take(self, seq: int) -> Record | None:
        """What is being written for a job, which is not spoken for here any more."""
        self._written_at.pop(seq, None)
        self._said.pop(seq, None)
        return self._recorded.pop(seq, None)

    def known(self, seq: int) -> Record | None:
        """What was written, or is being written, for a waiting job."""
        return self._recorded.get(seq)

    def next_n(self, seq: int) -> int:
        """The number of a waiting job's next event; the first says that it is queued."""
        self._said[seq] = self._said.get(seq, 1) + 1
        return self._said[seq]

    def say(self, seq: int, saying: Coroutine[Any, Any, StoredState | None]) -> None:
        """Write something for a waiting job; nothing else may be under way for it."""
        self._recorded[seq] = self._endings.spawn(saying)

    def was_written(self, ticket: Ticket) -> None:
        """The job's document was written just now, by whoever had it."""
        self._written_at[ticket.seq] = self._clock.now()

    async def write(self) -> None:
        unrecorded = self._reader.unrecorded
        while True:
            await self._clock.sleep(RECORD_AFTER_S)
            room = RECORDS_A_ROUND
            before = self._clock.now() - RECORD_AFTER_S
            while unrecorded and room and unrecorded[0].stored_at <= before:
                ticket = unrecorded.popleft()
                opened = self._reader.peek(ticket)
                if ticket.seq in self._recorded:
                    continue
                if opened is not None and (ticket.lane.tenant, ticket.job_id) in self._reader.waiting:
                    room -= 1
                    self._recorded[ticket.seq] = self._endings.spawn(self._work.record_queued(opened))
                    self.was_written(ticket)

    async def tell(self) -> None:
        while True:
            await self._clock.sleep(LOOK_S)
            for telling in self._teller.due(now=self._clock.monotonic()):
                self._tell(telling)

    def _tell(self, telling: WaitReport) -> None:
        """Say why a job waits, if its document is written; the claim waits for what is being said."""
        ticket = telling.ticket
        opened, record = self._reader.peek(ticket), self._recorded.get(ticket.seq)
        if opened is None or record is None or not record.done() or record.cancelled():
            return
        known = record.result()
        if known is None or (ticket.lane.tenant, ticket.job_id) not in self._reader.waiting:
            return
        self._teller.told(telling)
        self._recorded[ticket.seq] = self._endings.spawn(
            self._work.record_blocked(opened, known, blocked=telling.blocked, n=self.next_n(ticket.seq))
        )

    async def tell_turns(self, running: Mapping[int, Reservation]) -> None:
        """Say to running jobs why their next call waits; `running` are those that run, by sequence."""
        while True:
            await self._clock.sleep(LOOK_S)
            now = self._clock.monotonic()
            for grant, waits in self._scheduler.blocked_turns(now=now, most=RECORDS_A_ROUND):
                if (reservation := running.get(grant.ticket.seq)) is not None:
                    reservation.tell(waits)

    async def keep(self) -> None:
        """Write what is kept of waiting jobs again, before half of the time has passed that it is kept for."""
        while True:
            pause_s = LONGEST_KEEP_LOOK_S
            with logged("keeping documents of waiting jobs"):
                keeps_s = await self._work.keeps_s()
                if keeps_s is not None:
                    due_s = keeps_s * KEEP_SHARE
                    is_more = await self._keep_due(due_s)
                    pause_s = LOOK_S if is_more else min(due_s / 4, LONGEST_KEEP_LOOK_S)
            await self._clock.sleep(pause_s)

    async def _keep_due(self, due_s: float) -> bool:
        """Some of those whose time has come; whether there are more."""
        before = self._clock.now() - due_s
        due = (
            ticket
            # What an earlier scheduler wrote may be as old as the request.
            for ticket in list(self._reader.waiting.values())
            if self._written_at.get(ticket.seq, ticket.stored_at) <= before
        )
        found = list(islice(due, KEPT_A_ROUND))
        for ticket in found:
            if self._reader.waiting.get((ticket.lane.tenant, ticket.job_id)) is not ticket:
                continue
            earlier = self._recorded.get(ticket.seq)
            if earlier is not None:
                await earlier
            self.was_written(ticket)
            if self._reader.waiting.get((ticket.lane.tenant, ticket.job_id)) is ticket:
                # A claim waits for it: it would find the document changed.
                self._recorded[ticket.seq] = self._endings.spawn(self._work.keep_queued(ticket, earlier))
        return len(found) == KEPT_A_ROUND
