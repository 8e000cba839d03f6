"""Tells queued jobs that asked for it every so many seconds where they stand."""

from itertools import islice

from sidecar.cluster.queue_places import QueuePlaces
from sidecar.cluster.queued_records import QueuedRecords
from sidecar.cluster.work import Work
from sidecar.errors import SidecarError
from sidecar.ports.bus import Clock, Intake
from sidecar.request_handler.decode import open_request
from sidecar.request_handler.reader import Reader
from sidecar.request_handler.stored_requests import ProgressWish, StoredRequests
from sidecar.runtime.lifecycle import logged

LOOK_S = 0.5
NOTES_A_ROUND = 32


class ProgressNotes:
    """A job is told by events of its document: one that has none, for it lies deep, gets it first."""

    def __init__(
        self,
        *,
        stored: StoredRequests,
        reader: Reader,
        records: QueuedRecords,
        places: QueuePlaces,
        work: Work,
        intake: Intake,
        clock: Clock,
    ) -> None:
        self._stored = stored
        self._reader = reader
        self._records = records
        self._places = places
        self._work = work
        self._intake = intake
        self._clock = clock
        # Jobs that got their documents here, though no window holds them.
        self._begun: set[int] = set()

    async def run(self) -> None:
        while True:
            await self._clock.sleep(LOOK_S)
            now = self._clock.monotonic()
            due = (seq for seq, wish in self._stored.wishes.items() if wish.due <= now)
            for seq in list(islice(due, NOTES_A_ROUND)):
                with logged("telling a queued job where it stands"):
                    await self._tell(seq, self._stored.wishes[seq])
            self._forget()

    def _forget(self) -> None:
        for seq in [seq for seq in self._begun if seq not in self._stored.wishes]:
            self._begun.discard(seq)
            if not self._reader.is_tracked(seq):
                self._records.take(seq)

    async def _tell(self, seq: int, wish: ProgressWish) -> None:
        is_waiting = (wish.lane.tenant, wish.job) in self._reader.waiting
        if not is_waiting and self._reader.is_tracked(seq):
            # In a worker's hands: its events say what it waits for.
            return self._later(seq, wish, wish.every_s)
        record = self._records.known(seq)
        if record is None and not is_waiting:
            await self._begin(seq, wish)
        elif record is not None and record.done() and not record.cancelled():
            known = record.result()
            if known is None:
                # Its document is somebody else's, or an event of it may be lost.
                self._stored.wishes.pop(seq, None)
                return
            ahead = self._places.ahead(seq, wish.lane)
            estimate_ms = self._places.estimate_ms(ahead, wish.lane)
            n = self._records.next_n(seq)
            self._records.say(seq, self._work.record_progress(known, ahead=ahead, estimate_ms=estimate_ms, n=n))
            return self._later(seq, wish, wish.every_s)
        self._later(seq, wish, LOOK_S)

    async def _begin(self, seq: int, wish: ProgressWish) -> None:
        try:
            stored = await self._intake.get(seq)
        except SidecarError:
            return
        if stored is None or await self._stored.is_second(seq, wish.lane.tenant, wish.job):
            self._stored.wishes.pop(seq, None)
        elif not self._reader.is_tracked(seq):
            self._begun.add(seq)
            self._records.say(seq, self._work.record_queued(open_request(stored)))

    def _later(self, seq: int, wish: ProgressWish, after_s: float) -> None:
        if seq in self._stored.wishes:
            self._stored.wishes[seq] = wish._replace(due=self._clock.monotonic() + after_s)
