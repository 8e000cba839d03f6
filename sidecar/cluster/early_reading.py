"""Reads what lies deep in the queue once, long before its turn: for deadlines that only payloads hold, for
metadata, and so that what is invalid is refused in time.
"""

from sidecar.cluster.deep_jobs import DeepJobs
from sidecar.ports.bus import Clock, Intake, Lane
from sidecar.request_handler.reader import Reader
from sidecar.request_handler.stored_requests import StoredRequests
from sidecar.runtime.lifecycle import logged

# What is not read into a window so soon is read early; what is costs nothing twice.
AGED_S = 1.0
BATCH = 64
# The share of a core that reading and judging may take; receiving takes about as long as judging.
SHARE = 0.2
RECEIVING = 2.0


class EarlyReader:
    """One lane after the other, a batch of each in turn. It begins anew with each term."""

    def __init__(
        self, *, stored: StoredRequests, reader: Reader, deep: DeepJobs, intake: Intake, clock: Clock
    ) -> None:
        self._stored = stored
        self._reader = reader
        self._deep = deep
        self._intake = intake
        self._clock = clock
        self._read: dict[Lane, int] = {}

    async def run(self) -> None:
        aged = 0
        while True:
            heard = self._stored.highest
            await self._clock.sleep(AGED_S)
            aged = heard
            with logged("reading requests early"):
                while await self._round(aged):
                    pass

    async def _round(self, aged: int) -> bool:
        """A batch of each lane that has one. Whether there was any."""
        index, has_read = self._stored.index, False
        for lane in index.lanes:
            if not index.unread(lane):
                continue
            start = max(self._read.get(lane, 0), self._reader.read_seq(lane))
            if min(index.last(lane), aged) > start:
                has_read |= await self._read_lane(lane, start, aged)
        self._read = {lane: seq for lane, seq in self._read.items() if index.length(lane)}
        return has_read

    async def _read_lane(self, lane: Lane, start: int, aged: int) -> bool:
        batch = [s for s in await self._intake.read(lane, after_seq=start, limit=BATCH) if s.seq <= aged]
        self._read[lane] = batch[-1].seq if batch else aged
        spent_s = 0.0
        for stored in batch:
            if self._reader.is_tracked(stored.seq):
                continue
            began = self._clock.monotonic()
            error = self._deep.look(stored)
            spent_s += self._clock.monotonic() - began
            if error is not None:
                await self._deep.end(stored, error)
        await self._clock.sleep(spent_s * RECEIVING * (1 / SHARE - 1))
        return bool(batch)
