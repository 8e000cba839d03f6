"""What a scheduler does beyond the windows of its lanes: the index, and whoever goes by it."""

from collections.abc import Callable, Iterable

from sidecar.cluster.deep_jobs import DeepJobs
from sidecar.cluster.early_reading import EarlyReader
from sidecar.cluster.progress_notes import ProgressNotes
from sidecar.cluster.queue_places import QueuePlaces
from sidecar.cluster.queued_records import QueuedRecords
from sidecar.cluster.work import Work
from sidecar.ports.bus import Clock, Intake
from sidecar.request_handler.reader import Reader
from sidecar.runtime.lifecycle import Tasks
from sidecar.scheduler.lane_rate import LaneRates
from sidecar.scheduler.tickets import Ticket


class WholeQueue:
    """The parts over one term's `reader` and its index; `held` tells what is in workers' hands."""

    def __init__(
        self,
        reader: Reader,
        records: QueuedRecords,
        *,
        held: Callable[[], Iterable[Ticket]],
        work: Work,
        intake: Intake,
        clock: Clock,
        endings: Tasks,
    ) -> None:
        self.stored = stored = reader.known_requests
        self.rates = LaneRates()
        self.places = QueuePlaces(stored, self.rates, held=held, clock=clock)
        self.deep = DeepJobs(stored=stored, reader=reader, work=work, intake=intake, clock=clock, tasks=endings)
        self._early = EarlyReader(stored=stored, reader=reader, deep=self.deep, intake=intake, clock=clock)
        self._notes = ProgressNotes(
            stored=stored,
            reader=reader,
            records=records,
            places=self.places,
            work=work,
            intake=intake,
            clock=clock,
        )

    def start(self, duties: Tasks) -> None:
        duties.spawn(self.stored.keep(), name="stored-requests")
        duties.spawn(self.deep.expire(), name="deadlines")
        duties.spawn(self._early.run(), name="early-reading")
        duties.spawn(self._notes.run(), name="progress-notes")
