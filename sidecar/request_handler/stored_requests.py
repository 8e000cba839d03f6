"""What the stream of requests holds, as the scheduler knows it: the index, kept true by doorbells and passes.

A doorbell for each request counts up without gaps, so a lost one is noticed and what it stood for is read again,
headers alone. A new scheduler begins with one hole from the first request to the last.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import NamedTuple

from sidecar.errors import NotReady, SidecarError
from sidecar.models.base import epoch
from sidecar.models.subjects import HEADER_DEADLINE, HEADER_JOB_ID, check_job_id
from sidecar.ports.bus import Clock, Doorbell, Intake, Lane, RequestHead, StoredRequest
from sidecar.request_handler.coverage import Coverage
from sidecar.request_handler.decode import DecodedRequest, job_of
from sidecar.request_handler.job_index import Indexed, JobIndex

log = logging.getLogger(__name__)

# Doorbells that come in another order are no loss: how long a hole may close by itself.
GRACE_S = 0.2
RETRY_S = 0.5
# How long a question waits for doorbells that are on their way.
CATCH_UP_S = 1.0
POLL_S = 0.01
# So many jobs are told at a time where they stand; more are not.
MOST_WISHES = 10_000
# After a part of a pass nothing is read for so many times as long as taking it in took. Receiving it takes three
# times as long or so: a pass has at most half a core.
REST = 2.0
# Requests of a page are read in one pass unless it would meet so many times more.
SPARSE = 4
RETRY_AFTER_S = 1.0


class ProgressWish(NamedTuple):
    """A queued job that wants to be told where it stands, next at `due` (monotonic seconds)."""

    lane: Lane
    job: str
    every_s: float
    due: float


class StoredRequests:
    """One term's knowledge of the queue. `hear`, `expect` and `forget` keep it, `keep` repairs it."""

    def __init__(self, *, intake: Intake, clock: Clock) -> None:
        self._intake = intake
        self._clock = clock
        self.index = JobIndex(now=clock.now())
        self._coverage = Coverage()
        self._has_holes = asyncio.Event()
        # Requests that went while holes were open: a pass under way may still tell of them.
        self._gone: set[int] = set()
        self._surplus: Mapping[Lane, int] = {}
        self.passes = 0
        self.wishes: dict[int, ProgressWish] = {}

    @property
    def is_complete(self) -> bool:
        """Whether every request up to the last one heard of is known."""
        return self._coverage.is_complete

    @property
    def highest(self) -> int:
        """The last sequence that was heard of."""
        return self._coverage.highest

    def hear(self, bell: Doorbell) -> None:
        """A request was stored."""
        if self._coverage.hear(bell.seq):
            if not self._coverage.is_complete:
                self._has_holes.set()
            self._add(bell)

    def expect(self, last: int) -> None:
        """The stream has come to `last`."""
        self._coverage.expect(last)
        if not self._coverage.is_complete:
            self._has_holes.set()

    def forget(self, seq: int, lane: Lane, job: str) -> None:
        """A request is gone from the stream."""
        if not self._coverage.is_complete:
            self._gone.add(seq)
        if self.wishes:
            self.wishes.pop(seq, None)
        self.index.discard(seq, lane, job)

    def note_read(self, opened: DecodedRequest, *, deadline: float | None = None) -> None:
        """A valid request was read: what it says of itself is known now."""
        stored, request = opened.stored, opened.request
        if request is None:
            return
        self.index.note_read(stored.seq, stored.lane, opened.job, metadata=request.metadata, deadline=deadline)
        every_s = request.progress_s
        if every_s is not None and stored.seq not in self.wishes and len(self.wishes) < MOST_WISHES:
            due = self._clock.monotonic() + every_s
            self.wishes[stored.seq] = ProgressWish(stored.lane, opened.job, every_s, due)

    def restore(self, seq: int, lane: Lane, job: str) -> None:
        """A request was read: it is there, whatever was heard of it."""
        self.index.add(seq, lane, job)

    def _add(self, bell: Doorbell) -> None:
        if bell.seq in self._gone:
            return
        deadline = None
        if bell.deadline is not None:
            try:
                deadline = epoch(bell.deadline)
            except (ValueError, OverflowError):
                # Its time is now: it is read at once, and refused with the reason.
                deadline = self._clock.now()
        self.index.add(bell.seq, bell.lane, job_of_bell(bell), deadline=deadline)

    # Repair.

    async def keep(self) -> None:
        """Read what no doorbell told of, as long as this runs. At most half of the time."""
        self.expect(await self._last_seq())
        while True:
            while (hole := self._coverage.next_hole()) is not None:
                try:
                    await self._fill(*hole)
                except SidecarError as e:
                    log.warning("reading the heads of stored requests failed", extra={"error": e.message})
                    await self._clock.sleep(RETRY_S)
            self._gone.clear()
            self._has_holes.clear()
            await self._has_holes.wait()
            await self._clock.sleep(GRACE_S)

    async def _last_seq(self) -> int:
        while True:
            try:
                return await self._intake.last_seq()
            except SidecarError as e:
                log.warning("the request stream cannot be read", extra={"error": e.message})
                await self._clock.sleep(RETRY_S)

    async def _fill(self, first: int, last: int) -> None:
        self.passes += 1
        async with aclosing(self._intake.heads(first=first, last=last)) as parts:
            async for part in parts:
                began = self._clock.monotonic()
                for head in part:
                    self._add(head.bell)
                self._coverage.close(first, part[-1].bell.seq)
                # Grants go on meanwhile.
                await self._clock.sleep((self._clock.monotonic() - began) * REST)
        self._coverage.close(first, last)

    async def audit(self, counts: Mapping[Lane, int], last_seq: int, *, in_memory: Mapping[Lane, int]) -> None:
        """Hold the index against what the stream holds of each lane. What is too much in it, twice running, was
        taken from the stream without a word: purged by hand, say. Raises BusUnavailable, BusRefused.
        """
        if not self.is_complete:
            return
        surplus: dict[Lane, int] = {}
        for lane in self.index.lanes:
            extra = self.index.rank(last_seq + 1, lane) - counts.get(lane, 0)
            if extra > 0:
                surplus[lane] = extra
        before, self._surplus = self._surplus, surplus
        for lane, extra in surplus.items():
            if lane not in before:
                continue
            if not counts.get(lane, 0):
                self._drop(lane, set(), last_seq)
            elif min(extra, before[lane]) > in_memory.get(lane, 0):
                await self._recount(lane, last_seq)

    async def _recount(self, lane: Lane, last_seq: int) -> None:
        there: set[int] = set()
        async with aclosing(self._intake.heads(first=1, last=last_seq, tenant=lane.tenant)) as parts:
            async for part in parts:
                there.update(head.bell.seq for head in part if head.bell.lane == lane)
                await self._clock.sleep(0)
        self._drop(lane, there, last_seq)

    def _drop(self, lane: Lane, there: set[int], last_seq: int) -> None:
        gone = [seq for seq in self.index.before(last_seq + 1, lane) if seq not in there]
        for seq in gone:
            self.index.drop(seq, lane)
        log.warning("requests were removed from the queue by hand", extra={"lane": lane, "requests": len(gone)})

    # Questions.

    async def find(self, tenant: str, job: str) -> StoredRequest | None:
        """The request of a job: of two with its id the one stored first. None: there is certainly none.

        Raises NotReady while that cannot be told, BusUnavailable, BusRefused.
        """
        found = await self._confirmed(tenant, job)
        if found is None:
            await self.catch_up()
            found = await self._confirmed(tenant, job)
        return found

    async def catch_up(self) -> None:
        """Wait until everything is known that the stream holds now. Raises NotReady when that takes too long."""
        last = await self._intake.last_seq()
        until = self._clock.monotonic() + CATCH_UP_S
        self.expect(last)
        while not self._coverage.knows(last):
            if self._clock.monotonic() >= until:
                raise NotReady(
                    "the queue is being read and not everything in it is known yet: ask again",
                    retry_after=RETRY_AFTER_S,
                )
            await self._clock.sleep(POLL_S)

    async def _confirmed(self, tenant: str, job: str) -> StoredRequest | None:
        for entry in self.index.find(tenant, job):
            stored = await self._intake.get(entry.seq)
            if stored is None:
                self.index.drop(*entry)
            elif stored.lane.tenant == tenant and job_of(stored)[0] == job:
                return stored
        return None

    async def is_second(self, seq: int, tenant: str, job: str) -> bool:
        """Whether a request of the same job was stored before this one, and stands: then that one is the job."""
        for entry in self.index.find(tenant, job):
            if entry.seq >= seq:
                return False
            elder = await self._intake.get(entry.seq)
            if elder is not None and job_of(elder)[0] == job:
                return True
        return False

    async def heads_of(self, entries: Sequence[Indexed]) -> list[RequestHead]:
        """The heads of these requests, highest sequence first; what has gone meanwhile is left out.

        By a pass of each lane where that meets little else, and where they lie far apart one by one.
        """
        of_lane: dict[Lane, list[int]] = {}
        for entry in entries:
            of_lane.setdefault(entry.lane, []).append(entry.seq)
        found: list[RequestHead] = []
        for lane, seqs in of_lane.items():
            found += await self._heads_of_lane(lane, seqs)
        return sorted(found, key=lambda head: -head.bell.seq)

    async def _heads_of_lane(self, lane: Lane, seqs: Sequence[int]) -> list[RequestHead]:
        first, last, wanted = min(seqs), max(seqs), set(seqs)
        between = self.index.rank(last, lane) - self.index.rank(first, lane)
        if between > SPARSE * len(wanted):
            stored = await asyncio.gather(*map(self._intake.get, seqs))
            return [_head_of(each) for each in stored if each is not None]
        heads = self._intake.heads(first=first, last=last, tenant=lane.tenant, job_class=lane.job_class)
        async with aclosing(heads) as parts:
            return [head async for part in parts for head in part if head.bell.seq in wanted]


def _head_of(stored: StoredRequest) -> RequestHead:
    given = stored.headers
    bell = Doorbell(
        stored.seq,
        stored.lane,
        len(stored.payload),
        given.get(HEADER_JOB_ID),
        given.get(HEADER_DEADLINE),
    )
    return RequestHead(bell, stored.stored_at)


def job_of_bell(bell: Doorbell) -> str:
    """The id of the job that a request stands for, as `decode.job_of` has it."""
    given = bell.job_id
    return given if given is not None and check_job_id(given) is None else f"s{bell.seq}"
