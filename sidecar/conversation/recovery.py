"""What a job with tools has left in the journal: read by its next owner, forgotten at its end."""

from sidecar.conversation.child_jobs import ChildJobs
from sidecar.job_manager.job import OwnedJob
from sidecar.job_manager.journal import StepJournal, read, restore, unseen
from sidecar.models.believed import event_of
from sidecar.models.event import EventPosition, Status
from sidecar.models.facts import RunFacts
from sidecar.models.result import Attempt
from sidecar.ports.bus import Clock, Publisher
from sidecar.ports.bus import JournalStore as JournalPort
from sidecar.runtime.lifecycle import logged
from sidecar.runtime.retry import keep_trying


class JournalRecovery:
    """Journals of jobs that change hands, or end."""

    def __init__(self, *, journal: JournalPort, publisher: Publisher, children: ChildJobs, clock: Clock) -> None:
        self._journal = journal
        self._publisher = publisher
        self._children = children
        self._clock = clock

    async def read(self, tenant: str, job: str) -> StepJournal:
        """Raises SidecarError for steps that this version cannot read."""
        steps = await keep_trying(
            "reading a job's journal", lambda: self._journal.read(tenant, job), clock=self._clock
        )
        return read(steps)

    async def take_up(self, job: OwnedJob, facts: RunFacts) -> None:
        """Go on with the account that the journal has: it is exact where the job's document estimates."""
        bill = job.journal.bill
        if bill is not None:
            lost = [call for call in unseen(facts, bill) if await self._is_lost(job, call)]
            restore(facts, bill, lost=lost)

    async def _is_lost(self, job: OwnedJob, call: Attempt) -> bool:
        """Whether a call that ended with its owner is another than the last turn's, which is journalled."""
        last = job.journal.last_turn
        if last is None or call.attempt != last.place.attempt:
            return True
        place = last.place
        return await keep_trying(
            "reading the events of a lost owner", lambda: self._began_after(job.key, place), clock=self._clock
        )

    async def _began_after(self, key: tuple[str, str], place: EventPosition) -> bool:
        """Whether a further model call of the same attempt was begun after this place."""
        async for stored in self._publisher.replay(*key):
            if stored.type != "status":
                continue
            event = event_of(stored.payload, tenant=key[0], job=key[1])
            if event is None:
                continue
            is_running = isinstance(event.data, Status) and event.data.state == "running"
            if is_running and event.attempt == place.attempt and event.n > place.n:
                return True
        return False

    async def close(self, tenant: str, job: str, journal: StepJournal | None) -> None:
        """A job with tools has ended: forget its steps, and cancel children that it did not wait for.

        `journal` None: it ended before its steps were read.
        """
        with logged("closing a journal", job=job):
            journal = journal or await self.read(tenant, job)
            last = journal.last_turn
            if last is None:
                return
            children = {pin.name for pin in journal.pins if not pin.scope}
            left = [
                (last.number, place)
                for place, block in enumerate(last.answer.calls)
                if block.name in children and last.result_of(place) is None
            ]
            await self._children.cancel(tenant, job, left)
            await self._journal.purge(tenant, job)
