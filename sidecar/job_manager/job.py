"""A job in the hands of its owner."""

from collections.abc import Callable, Mapping

from sidecar.errors import JobCancelled
from sidecar.job_manager import transitions
from sidecar.job_manager.cancellation import CancelScope
from sidecar.job_manager.events import EventWriter
from sidecar.job_manager.journal import StepJournal
from sidecar.job_manager.record import StateRecord
from sidecar.models.event import Status
from sidecar.models.job import JobState
from sidecar.models.request import JobRequest
from sidecar.ports.bus import Clock, JobStore, JournalStore, Standing


class OwnedJob(StateRecord):
    """One claimed job: its document, which only its owner writes, its voice, the scope by which it can be stopped.

    `started_at` is the monotonic time of the claim. `journal` is what its turns with tools have come to, once that
    `is_journal_read`. `headers` are the request's. `is_last_chance`: one more owner lost ends it; `is_alone`: it
    runs beside no other such job.
    """

    progress: EventWriter

    def __init__(
        self,
        state: JobState,
        *,
        request: JobRequest,
        headers: Mapping[str, str],
        revision: int | None,
        store: JobStore,
        clock: Clock,
        on_restored: Callable[[JobState, Standing], None],
    ) -> None:
        """`state` and `revision` are the document as it stands, as far as is known."""
        super().__init__(state, revision=revision, store=store, clock=clock, on_restored=on_restored)
        self.request = request
        self.headers = headers
        self.metadata = request.metadata
        self.journal = StepJournal()
        self.is_journal_read = False
        self.scope = CancelScope()
        self.clock = clock
        self.started_at = clock.monotonic()
        self.is_last_chance = False
        self.is_alone = False
        self._is_kept_alive = False

    def speak_through(self, progress: EventWriter) -> None:
        self.progress = progress
        progress.begin(self.state, revision=self.fence, metadata=self.metadata)

    def cancel(self, reason: str | None = None) -> None:
        self.scope.stop(JobCancelled(reason or "the job was cancelled"))

    async def run_with(self, status: Status) -> None:
        """Say that a model runs the job now; the document follows when it was waiting."""
        if self.state.state != "running":
            await self._move(transitions.moved(self.state, "running", now=self.clock.now()))
        self.progress.say(status)

    async def wait_for(self, status: Status) -> None:
        """Say that the job waits, in the document and by an event."""
        if self.state.state != "waiting":
            await self._move(transitions.moved(self.state, "waiting", now=self.clock.now()))
        self.progress.say(status)

    async def restart(self) -> None:
        """Begin a new attempt: what was streamed before no longer counts."""
        await self.progress.flush()
        await self.write(transitions.restarted(self.state, now=self.clock.now()))
        self.progress.begin(self.state, revision=self.fence, metadata=self.metadata)

    def keep_alive(self, journal: JournalStore, *, keep_s: int) -> None:
        """Write the document and the steps again, in turn with what the job says; `keep_s` is of the steps."""
        if self._is_kept_alive:
            return
        self._is_kept_alive = True

        async def again(fence: int) -> None:
            steps = await journal.read(*self.key) if self.is_journal_read else ()
            # Each once: those of the last time are among them.
            for step in dict.fromkeys(steps):
                await journal.append(*self.key, step, fence=fence, keep_s=keep_s)
            self.progress.moved(revision=await self.refresh())
            self.is_last_chance = False

        self.is_alone = False
        self._is_kept_alive = False

        self.progress.keep(again)

    async def _move(self, state: JobState) -> None:
        await self.progress.flush()
        await self.write(state)
        self.progress.moved(revision=self.fence)
