"""Documents and events of jobs that wait in their lane's window."""

from sidecar.cluster.wait_reports import WaitReport, WaitReporter
from sidecar.cluster.work import Work
from sidecar.cluster.worker import Record
from sidecar.ports.bus import Clock
from sidecar.request_handler.decode import DecodedRequest
from sidecar.request_handler.reader import Reader
from sidecar.runtime.lifecycle import Tasks
from sidecar.scheduler.schedule import Scheduler

# A queued record is written for what waits longer than this, at most so many each round: under a flood they lag,
# and are never in the way of dispatch.
RECORD_AFTER_S = 0.1
RECORDS_A_ROUND = 32
# How often waiting jobs are looked at that may want to know why they wait.
LOOK_S = 0.5


class QueuedRecords:
    """Writes that jobs wait, and says why. What is under way for a job is waited for by whoever takes it."""

    def __init__(self, scheduler: Scheduler, reader: Reader, *, work: Work, clock: Clock, endings: Tasks) -> None:
        self._reader = reader
        self._work = work
        self._clock = clock
        self._endings = endings
        self._teller = WaitReporter(scheduler, reader.waiting)
        self._recorded: dict[int, Record] = {}

    def take(self, seq: int) -> Record | None:
        """What is being written for a job, which is not spoken for here any more."""
        return self._recorded.pop(seq, None)

    async def write(self) -> None:
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
                    self._note(opened)
                    self._recorded[ticket.seq] = self._endings.spawn(self._work.record_queued(opened))

    def _note(self, opened: DecodedRequest) -> None:
        """It was read into the window: its metadata is known."""
        stored, request = opened.stored, opened.request
        if request is not None:
            self._reader.known_requests.index.note_read(
                stored.seq, stored.lane, opened.job, metadata=request.metadata
            )

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
            self._work.record_blocked(opened, known, blocked=telling.blocked, n=telling.n + 1)
        )
