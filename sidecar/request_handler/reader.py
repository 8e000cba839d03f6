"""Reads requests from the stream into the scheduler's windows, a few of each lane at a time."""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from sidecar.errors import BusUnavailable, JobCancelled, SidecarError
from sidecar.models.authors import is_aimed
from sidecar.ports.bus import Clock, Doorbell, Intake, Lane, StoredRequest
from sidecar.request_handler.admission import queue_full
from sidecar.request_handler.decode import DecodedRequest, open_request
from sidecar.request_handler.lanes import Index, LaneIndex
from sidecar.request_handler.stored_requests import StoredRequests
from sidecar.runtime.lifecycle import Tasks
from sidecar.runtime.retry import RetryDelay
from sidecar.scheduler.schedule import Scheduler
from sidecar.scheduler.tickets import Ticket

log = logging.getLogger(__name__)

FILLS_AT_ONCE = 32
REFUSALS_AT_ONCE = 8
LANES_JUDGED_AT_ONCE = 4
# Whoever sends when a result has come finds a queue that is about to be one job shorter.
LENIENCE_S = 0.1
LARGE_BYTES = 64 * 1024
MOST_CACHED_BYTES = 64 * 1024 * 1024
# So many requests are kept from their reading to their grant, with what admission found out, at some 3 KB each.
# What is beyond is read again: windows of more lanes than these fill are seldom all served soon.
MOST_OPENED = 2_000
FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
_FAILED = "the sidecar failed to queue this request; its log says how"


async def fetch(intake: Intake, seq: int, *, clock: Clock) -> StoredRequest | None:
    """A request, however long the bus is away; None when it is gone."""
    # None means that the job is gone and ends it, so a bus that is away must never look like that.
    delay = RetryDelay(clock, "reading a request", FIRST_DELAY_S, LONGEST_DELAY_S)
    while True:
        try:
            return await intake.get(seq)
        except BusUnavailable as e:
            await delay.after(e)


Later = Callable[[], Awaitable[Ticket]]
"""The decision on a request that takes longer than a moment: made when it is called."""
Admit = Callable[[DecodedRequest], Ticket | Later]
Refusal = tuple[DecodedRequest, SidecarError]
Taking = Callable[[], Awaitable[Refusal | None]]
Refuse = Callable[[DecodedRequest, SidecarError], Awaitable[None]]


class Reader:
    """Fills the scheduler's windows. Doorbells are hints; `reconcile` and `check` hold them against the stream.

    `admit` decides on each request that is read, `refuse` ends those that it does not let in, `on_filled` is
    called when something was queued, `is_marked` knows of cancellations that were heard, by (tenant, job). What
    waits in a window is in `waiting`, likewise.
    """

    def __init__(
        self,
        *,
        intake: Intake,
        scheduler: Scheduler,
        clock: Clock,
        tasks: Tasks,
        admit: Admit,
        refuse: Refuse,
        on_filled: Callable[[], None],
        is_marked: Callable[[tuple[str, str]], bool],
        max_queue: Callable[[Lane], int],
        stored: StoredRequests | None = None,
    ) -> None:
        """`stored` is what is known of the whole queue, told here of what comes and goes."""
        self.known_requests = stored or StoredRequests(intake=intake, clock=clock)
        self._reread: set[Lane] = set()
        self._intake = intake
        self._scheduler = scheduler
        self._clock = clock
        self._tasks = tasks
        self._admit = admit
        self._refuse = refuse
        self._on_filled = on_filled
        self._is_marked = is_marked
        self._max_queue = max_queue
        self._index = Index()
        self._opened: OrderedDict[int, DecodedRequest] = OrderedDict()
        self._cached_bytes = 0
        self._known: dict[tuple[str, str], int] = {}
        # Ten thousand lanes that fill at once would read the stream with as many requests in flight.
        self._fills = asyncio.Semaphore(FILLS_AT_ONCE)
        self._judging: set[Lane] = set()
        # Refusals write and delete: a flood above its cap must leave the bus room for those that run.
        self._refusals = asyncio.Semaphore(LANES_JUDGED_AT_ONCE)
        self.waiting: dict[tuple[str, str], Ticket] = {}
        self.unrecorded: deque[Ticket] = deque()
        self.is_open = True

    def on_doorbell(self, doorbell: Doorbell) -> None:
        self.known_requests.hear(doorbell)
        lane = self._index.ring(doorbell, most=self._max_queue(doorbell.lane))
        if lane is None:
            return
        if lane.edge is not None:
            self._judge(lane)
        self._fill(lane)

    def _judge(self, lane: LaneIndex) -> None:
        if lane.lane not in self._judging and self.is_open:
            self._judging.add(lane.lane)
            self._tasks.spawn(self._judge_lane(lane))

    async def _judge_lane(self, lane: LaneIndex) -> None:
        """Judge what stands behind a lane's edge, in its order: there is room for it by now, or it is refused.

        The stream keeps them meanwhile: memory does not grow with a flood, and what may stay is not held up.
        """
        try:
            while self.is_open and lane.edge is not None:
                try:
                    batch = await self._intake.read(lane.lane, after_seq=lane.edge, limit=REFUSALS_AT_ONCE)
                except BusUnavailable:
                    await self._clock.sleep(FIRST_DELAY_S)
                    continue
                if not batch:
                    lane.lift_edge()
                    lane.has_more = lane.has_more or lane.stored > lane.tracked
                    break
                early_s = batch[-1].stored_at + LENIENCE_S - self._clock.now()
                if early_s > 0:
                    await self._clock.sleep(min(early_s, LENIENCE_S))
                async with self._refusals:
                    await self._judge_batch(lane, batch)
        finally:
            self._judging.discard(lane.lane)
            self._fill(lane)

    async def _judge_batch(self, lane: LaneIndex, batch: Sequence[StoredRequest]) -> None:
        most = self._max_queue(lane.lane)
        refused: list[Refusal] = []
        for stored in batch:
            if lane.kept < most or self._index.is_tracked(stored.seq):
                lane.let_in(stored.seq)
                continue
            self._index.turn_away(lane, stored.seq)
            opened = open_request(stored)
            error = opened.refusal or queue_full(lane.lane.tenant, queued=lane.kept, max_queue=most)
            refused.append((opened, error))
        self._fill(lane)
        await asyncio.gather(*(self._end_refused(opened, error) for opened, error in refused))

    async def reconcile(self) -> set[Lane]:
        """Read every lane that holds more than is known of it. Returns those lanes."""
        backlog = await self._intake.backlog()
        self.known_requests.expect(backlog.last_seq)
        found = list(self._index.reconcile(backlog))
        self._reread = {lane.lane for lane in found if not lane.read_seq}
        for lane in found:
            self._fill(lane)
        in_memory = {lane: index.tracked for lane, index in self._index.lanes.items()}
        await self.known_requests.audit(backlog.counts, backlog.last_seq, in_memory=in_memory)
        return {lane.lane for lane in found}

    async def check(self) -> bool:
        """Whether the doorbells keep up with the stream; if not, it is time to reconcile."""
        last = await self._intake.last_seq()
        self.known_requests.expect(last)
        return last <= self._index.highest_seq

    def jobs_of(self, lane: Lane) -> int:
        """How many of a lane's requests are in memory and not ended, those left out that are turned away."""
        index = self._index.lanes.get(lane)
        return index.tracked - index.excess if index is not None else 0

    def stored(self) -> dict[Lane, int]:
        """How many requests the stream holds of each lane, queued and in flight."""
        return {lane: index.stored for lane, index in self._index.lanes.items() if index.stored}

    def unread_lanes(self) -> list[Lane]:
        """Lanes that hold requests which nobody reads although there is room for them."""
        return [
            lane
            for lane, index in self._index.lanes.items()
            if index.kept > index.tracked - index.excess
            and not index.is_filling
            and lane not in self._judging
            and self._scheduler.room(lane) > 0
        ]

    def state_of(self, lane: Lane) -> dict[str, Any]:
        """What is known of a lane, for a log line."""
        index = self._index.lane(lane)
        return {name: getattr(index, name) for name in index.__slots__ if name != "lane"}

    def left(self, ticket: Ticket) -> None:
        """The job does not wait any more: there may be room for the next of its lane."""
        key = (ticket.lane.tenant, ticket.job_id)
        if self.waiting.get(key) is ticket:
            del self.waiting[key]
        self._fill_again(ticket.lane)

    def forget(self, ticket: Ticket, *, is_gone: bool = True) -> None:
        """The request is gone from the stream; or, where it is not `is_gone`, somebody else's concern."""
        if is_gone:
            self.known_requests.forget(ticket.seq, ticket.lane, ticket.job_id)
        key = (ticket.lane.tenant, ticket.job_id)
        if self._known.get(key) == ticket.seq:
            del self._known[key]
        self._index.forget(ticket.seq)
        self._drop(ticket.seq)
        self._fill_again(ticket.lane)

    def is_known(self, tenant: str, job: str) -> bool:
        """Whether the request of a job has been read here, and is not gone."""
        return (tenant, job) in self._known

    def read_seq(self, lane: Lane) -> int:
        """How far a lane has been read into its window."""
        index = self._index.lanes.get(lane)
        return index.read_seq if index is not None else 0

    def is_tracked(self, seq: int) -> bool:
        """Whether a request is in memory: in a window, with a worker, or about to be refused."""
        return self._index.is_tracked(seq)

    def seize(self, stored: StoredRequest) -> bool:
        """Keep a request that no window holds out of it, until `release`. False when it is in memory already."""
        if self._index.is_tracked(stored.seq):
            return False
        self._index.hold(stored.lane, stored.seq)
        return True

    def release(self, stored: StoredRequest, job: str, *, is_gone: bool) -> None:
        """The request that was seized `is_gone` from the stream, or stands for whoever reads it next."""
        if is_gone:
            self.known_requests.forget(stored.seq, stored.lane, job)
        self._index.forget(stored.seq)
        self._fill_again(stored.lane)

    def peek(self, ticket: Ticket) -> DecodedRequest | None:
        """The request of a waiting ticket, if it is in memory."""
        return self._opened.get(ticket.seq)

    def take(self, ticket: Ticket) -> DecodedRequest | None:
        """The request of a job that is granted, if it is in memory: it is not kept any longer."""
        self.left(ticket)
        return self._drop(ticket.seq)

    async def open(self, ticket: Ticket) -> DecodedRequest | None:
        """The request of a ticket, from memory or from the stream; None when it is gone."""
        opened = self._drop(ticket.seq)
        if opened is None:
            stored = await fetch(self._intake, ticket.seq, clock=self._clock)
            opened = open_request(stored) if stored is not None else None
        return opened

    def hold(self, ticket: Ticket) -> None:
        """A worker has the job already: do not read its request again."""
        key = (ticket.lane.tenant, ticket.job_id)
        if (waiting := self.waiting.get(key)) is not None and waiting.seq == ticket.seq:
            del self.waiting[key]
        self._index.hold(ticket.lane, ticket.seq)

    def waits_again(self, ticket: Ticket) -> None:
        """The job was granted, and is queued once more."""
        self.waiting.setdefault((ticket.lane.tenant, ticket.job_id), ticket)

    def fill_all(self) -> None:
        """There may be room for more of any lane."""
        for index in list(self._index.lanes.values()):
            if index.has_more:
                self._fill(index)

    def _fill_again(self, lane: Lane) -> None:
        index = self._index.lanes.get(lane)
        if index is not None and index.has_more:
            self._fill(index)

    def _fill(self, lane: LaneIndex) -> None:
        if self.is_open and lane.has_more and not lane.is_filling and self._scheduler.room(lane.lane) > 0:
            lane.is_filling = True
            self._tasks.spawn(self._fill_lane(lane))

    async def _fill_lane(self, lane: LaneIndex) -> None:
        delay = RetryDelay(self._clock, "reading requests", FIRST_DELAY_S, LONGEST_DELAY_S)
        try:
            while lane.has_more and (room := self._scheduler.room(lane.lane)) > 0:
                try:
                    async with self._fills:
                        # Cleared before the read: a doorbell that rings meanwhile sets it again.
                        lane.has_more = False
                        batch = await self._intake.read(lane.lane, after_seq=lane.read_seq, limit=room)
                        if len(batch) >= room:
                            lane.has_more = True
                        later = await self._take_all(lane, batch)
                    # Not as one of those who read: what a lane's requests cost to judge is its own delay.
                    if later:
                        await asyncio.gather(*map(self._settle, later))
                    delay.next_s = FIRST_DELAY_S
                except BusUnavailable as e:
                    lane.has_more = True
                    await delay.after(e)
        finally:
            lane.is_filling = False

    async def _take_all(self, lane: LaneIndex, batch: Sequence[StoredRequest]) -> list[Taking]:
        """Queue what was read. Those that take longer to judge are returned."""
        refused: list[Refusal] = []
        later: list[Taking] = []
        for stored in batch:
            if lane.is_beyond(stored.seq):
                # To be judged first; it is read again if it stays.
                lane.has_more = False
                break
            if len(stored.payload) > LARGE_BYTES:
                # A batch of large requests would hold the event loop for as long as all of them together take.
                await asyncio.sleep(0)
            taken = self._take(lane, stored)
            if callable(taken):
                later.append(taken)
            elif taken is not None:
                refused.append(taken)
        self._on_filled()
        if refused:
            await asyncio.gather(*(self._end_refused(opened, error) for opened, error in refused))
        return later

    async def _settle(self, taking: Taking) -> None:
        refusal = await taking()
        self._on_filled()
        if refusal is not None:
            await self._end_refused(*refusal)

    def _take(self, lane: LaneIndex, stored: StoredRequest) -> Refusal | Taking | None:
        """Queue one request. What is refused is handed back with the reason, at once or later."""
        if not self._index.track(lane, stored.seq):
            return None
        opened = open_request(stored)
        if self._reread and lane.lane in self._reread:
            # It may have been forgotten though it stands: its end was refused by the bus, say.
            self.known_requests.restore(stored.seq, lane.lane, opened.job)
        if self.known_requests.index.may_be_second(stored.seq, lane.lane.tenant, opened.job):
            return partial(self._take_if_first, opened)
        return self._admitted(opened)

    async def _take_if_first(self, opened: DecodedRequest) -> Refusal | None:
        """Of two requests with one id the one stored first is the job, also where another lane holds it."""
        stored = opened.stored
        try:
            is_second = await self.known_requests.is_second(stored.seq, stored.lane.tenant, opened.job)
            if is_second:
                log.info("a second request with a known job id was dropped", extra={"job": opened.job})
                await self._intake.delete(stored.seq)
        except SidecarError as e:
            # It stands, and is read again.
            log.warning("a second request was not judged", extra={"job": opened.job, "error": e.message})
            self._index.forget(stored.seq)
            return None
        if is_second:
            self.known_requests.forget(stored.seq, stored.lane, opened.job)
            self._index.forget(stored.seq)
            return None
        taken = self._admitted(opened)
        return await taken() if callable(taken) else taken

    def _admitted(self, opened: DecodedRequest) -> Refusal | Taking | None:
        if opened.refusal is not None:
            return opened, opened.refusal
        try:
            ticket = self._admit(opened)
            if isinstance(ticket, Ticket):
                return self._queue(opened, ticket)
        except SidecarError as e:
            return opened, e
        except Exception:
            # One request must not end the process: it would be read again by the next one, and end that, too.
            log.exception("a request could not be queued", extra={"job": opened.job, "seq": opened.stored.seq})
            return opened, SidecarError(_FAILED)
        return partial(self._take_later, opened, ticket)

    async def _take_later(self, opened: DecodedRequest, admission: Later) -> Refusal | None:
        try:
            return self._queue(opened, await admission())
        except SidecarError as e:
            return opened, e
        except Exception:
            # One request must not end the process: it would be read again by the next one, and end that, too.
            log.exception("a request could not be queued", extra={"job": opened.job, "seq": opened.stored.seq})
            return opened, SidecarError(_FAILED)

    def _queue(self, opened: DecodedRequest, ticket: Ticket) -> Refusal | None:
        key = (ticket.lane.tenant, ticket.job_id)
        if self._is_marked(key):
            return opened, JobCancelled("the job was cancelled while it was queued")
        self._scheduler.push(ticket, now=self._clock.monotonic())
        self._keep(opened)
        self.known_requests.note_read(opened)
        self.waiting.setdefault(key, ticket)
        self._known.setdefault(key, ticket.seq)
        self.unrecorded.append(ticket)
        return None

    async def _end_refused(self, opened: DecodedRequest, error: SidecarError) -> None:
        try:
            if (opened.stored.lane.tenant, opened.job) in self._known:
                # A second request with the id of one that was queued must not end that one.
                log.info("a second request with a known job id was dropped", extra={"job": opened.job})
                await self._intake.delete(opened.stored.seq)
            elif is_aimed(opened.stored.payload, opened.stored.headers):
                # An acknowledgement that somebody aimed at this queue: it is no job of the tenant's.
                await self._intake.delete(opened.stored.seq)
            else:
                await self._refuse(opened, error)
            self.known_requests.forget(opened.stored.seq, opened.stored.lane, opened.job)
        except BusUnavailable as e:
            log.warning("refusing a request failed", extra={"job": opened.job, "error": e.message})
        finally:
            self._index.forget(opened.stored.seq)

    def _keep(self, opened: DecodedRequest) -> None:
        """Remember the request until it runs; past the bound the newest go, and are read again in time."""
        if len(self._opened) >= MOST_OPENED:
            return
        self._opened[opened.stored.seq] = opened
        self._cached_bytes += len(opened.stored.payload)
        while self._cached_bytes > MOST_CACHED_BYTES:
            self._drop(next(reversed(self._opened)))

    def _drop(self, seq: int) -> DecodedRequest | None:
        opened = self._opened.pop(seq, None)
        if opened is not None:
            self._cached_bytes -= len(opened.stored.payload)
        return opened
