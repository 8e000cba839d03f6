"""A job in the hands of its owner."""

from collections.abc import Mapping
from typing import Any

from sidecar.errors import JobCancelled
from sidecar.job_manager import transitions
from sidecar.job_manager.cancellation import CancelScope
from sidecar.job_manager.events import EventWriter
from sidecar.job_manager.journal import StepJournal
from sidecar.job_manager.record import StateRecord
from sidecar.models.event import Status
from sidecar.models.job import JobState
from sidecar.models.request import JobRequest
from sidecar.ports.bus import Clock, JournalStore


class OwnedJob:
    """One claimed job: its document, its voice, and the scope by which it can be stopped.

    `started_at` is the monotonic time of the claim. `journal` is what its turns with tools have come to; None
    while it has none, or has not been read.
    """

    def __init__(
        self,
        *,
        request: JobRequest,
        metadata: dict[str, Any],
        record: StateRecord,
        clock: Clock,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`headers` are the request's."""
        self.request = request
        self.headers = headers or {}
        self.journal: StepJournal | None = None
        self.metadata = metadata
        self.record = record
        self.scope = CancelScope()
        self.clock = clock
        self.started_at = clock.monotonic()
        self._is_kept_alive = False
        self.progress: EventWriter

    @property
    def state(self) -> JobState:
        return self.record.state

    @property
    def key(self) -> tuple[str, str]:
        return (self.state.tenant, self.state.job)

    def speak_through(self, progress: EventWriter) -> None:
        self.progress = progress
        progress.begin(self.state, revision=self.record.fence, metadata=self.metadata)

    def cancel(self, reason: str | None = None) -> None:
        self.scope.stop(JobCancelled(reason or "the job was cancelled"))

    async def run_with(self, status: Status) -> None:
        """Say that a model runs the job now; the document follows when it was waiting."""
        if self.state.state != "running":
            await self._move(transitions.moved(self.state, "running", now=self.clock.now()))
        self.progress.status(status)

    async def wait_for(self, status: Status) -> None:
        """Say that the job waits, in the document and by an event."""
        if self.state.state != "waiting":
            await self._move(transitions.moved(self.state, "waiting", now=self.clock.now()))
        self.progress.status(status)

    async def restart(self) -> None:
        """Begin a new attempt: what was streamed before no longer counts."""
        await self.progress.flush()
        await self.record.write(transitions.restarted(self.state, now=self.clock.now()))
        self.progress.begin(self.state, revision=self.record.fence, metadata=self.metadata)

    def keep_alive(self, journal: JournalStore, *, keep_s: int) -> None:
        """Write the document and the steps again, in turn with what the job says; `keep_s` is of the steps."""
        if self._is_kept_alive:
            return
        self._is_kept_alive = True

        async def again(fence: int) -> None:
            steps = await journal.read(*self.key) if self.journal is not None else ()
            # Each once: those of the last time are among them.
            for step in dict.fromkeys(steps):
                await journal.append(*self.key, step, fence=fence, keep_s=keep_s)
            self.progress.moved(revision=await self.record.refresh())
            self._is_kept_alive = False

        self.progress.keep(again)

    async def _move(self, state: JobState) -> None:
        await self.progress.flush()
        await self.record.write(state)
        self.progress.moved(revision=self.record.fence)
