"""Jobs behind their lane's window: cancelled, expired, or refused at once, wherever in the queue they lie.

mark of a cancellation ─┐
deadline has passed ────┼─▶ read the one request ─▶ is it to end? ─▶ document, result, deletion, index
read early, invalid ────┘
"""

import asyncio
import logging

from sidecar.cluster.work import Work
from sidecar.errors import Conflict, JobCancelled, Permanent, SidecarError
from sidecar.ports.bus import Clock, Intake, StoredRequest
from sidecar.request_handler.decode import DecodedRequest, open_request
from sidecar.request_handler.job_index import Indexed
from sidecar.request_handler.reader import Reader
from sidecar.request_handler.stored_requests import StoredRequests
from sidecar.runtime.lifecycle import Tasks, logged

log = logging.getLogger(__name__)

# How often deadlines are looked at, and how many jobs are ended at a time.
LOOK_S = 0.1
AT_ONCE = 16
DUE_AT_ONCE = 256
RETRY_S = 1.0


class DeepJobs:
    """What is done with requests that no window holds. Those in one, or in a worker's hands, are left alone."""

    def __init__(
        self, *, stored: StoredRequests, reader: Reader, work: Work, intake: Intake, clock: Clock, tasks: Tasks
    ) -> None:
        self._stored = stored
        self._reader = reader
        self._work = work
        self._intake = intake
        self._clock = clock
        self._tasks = tasks
        # Thousands of deadlines may be due at one moment: ends are written a few at a time, beside live jobs.
        self._seats = asyncio.Semaphore(AT_ONCE)
        self._due: set[int] = set()

    def cancel(self, tenant: str, job: str) -> None:
        """A mark of cancellation was heard of a job that waits in no window."""
        if self._stored.index.find(tenant, job) and not self._reader.is_known(tenant, job):
            self._tasks.spawn(self._cancel(tenant, job))

    async def _cancel(self, tenant: str, job: str) -> None:
        with logged("cancelling a queued job", job=job):
            for entry in self._stored.index.find(tenant, job):
                stored = await self._intake.get(entry.seq)
                opened = open_request(stored) if stored is not None else None
                if opened is not None and opened.job == job and opened.stored.lane.tenant == tenant:
                    # Of two requests with this id the first is the job.
                    await self._end(opened, JobCancelled("the job was cancelled while it was queued"))
                    return

    async def expire(self) -> None:
        """End what is past its deadline, as long as this runs."""
        while True:
            await self._clock.sleep(LOOK_S)
            while len(self._due) < DUE_AT_ONCE:
                due = self._stored.index.take_due(self._clock.now(), most=DUE_AT_ONCE)
                if not due:
                    break
                for entry in due:
                    self._due.add(entry.seq)
                    self._tasks.spawn(self._expire(entry))

    async def _expire(self, entry: Indexed) -> None:
        try:
            async with self._seats:
                if self._reader.is_tracked(entry.seq):
                    # The scheduler, or its worker, knows its deadline.
                    return
                stored = await self._intake.get(entry.seq)
                error = self.look(stored) if stored is not None else None
                if stored is not None and error is not None:
                    await self.end(stored, error)
        except SidecarError as e:
            log.warning("a job past its deadline was not ended yet", extra={"seq": entry.seq, "error": e.message})
            self._stored.index.watch(*entry, self._clock.now() + RETRY_S)
        finally:
            self._due.discard(entry.seq)

    def look(self, stored: StoredRequest) -> SidecarError | None:
        """Why a request that was read out of turn is to end: it is invalid, or past its deadline. None: it stays,
        and what it says of itself is known now.
        """
        opened = open_request(stored)
        error = opened.refusal or self._lateness(opened)
        request = opened.request
        if error is None and request is not None:
            deadline = None if request.deadline is None else request.deadline.timestamp()
            self._stored.note_read(opened, deadline=deadline)
        return error

    async def end(self, stored: StoredRequest, error: SidecarError) -> None:
        """End a request that `look` says is to end. Raises BusUnavailable, BusRefused."""
        await self._end(open_request(stored), error)

    def _lateness(self, opened: DecodedRequest) -> SidecarError | None:
        request = opened.request
        if request is None or request.deadline is None or request.deadline.timestamp() > self._clock.now():
            return None
        return Permanent("the deadline passed while the job was queued", code="deadline_exceeded")

    async def _end(self, opened: DecodedRequest, error: SidecarError) -> None:
        stored = opened.stored
        if await self._stored.is_second(stored.seq, stored.lane.tenant, opened.job):
            # It must not end the job whose id it bears.
            await self._intake.delete(stored.seq)
            self._stored.forget(stored.seq, stored.lane, opened.job)
            return
        if not self._reader.seize(stored):
            return
        is_gone = False
        try:
            await self._work.refuse(opened, error)
            is_gone = True
        except Conflict as e:
            log.info("a job was somebody else's", extra={"job": opened.job, "error": e.message})
        finally:
            self._reader.release(stored, opened.job, is_gone=is_gone)
