"""What the cluster asks of the pipeline, which stands above it. `TracedWork` puts spans around it."""

import asyncio
from typing import Protocol

from sidecar.conversation.reservation import JobReservation
from sidecar.errors import SidecarError
from sidecar.models.replica import Outcome
from sidecar.ports.bus import StoredState
from sidecar.request_handler.decode import DecodedRequest
from sidecar.request_handler.reader import Later
from sidecar.scheduler.tickets import Ticket, WaitReason


class Work(Protocol):
    """The pipeline, as leader and worker see it."""

    def admit(self, opened: DecodedRequest) -> Ticket | Later:
        """Decide whether the job may run, and how it is queued; at once, or by what is returned.

        Raises SidecarError with the refusal.
        """
        ...

    async def refuse(
        self, opened: DecodedRequest, error: SidecarError, *, known: StoredState | None = None
    ) -> None:
        """End a job that will not run."""
        ...

    async def bereave(self, ticket: Ticket) -> None:
        """The request of a job is gone: end the job, if it has not ended."""
        ...

    async def run(self, opened: DecodedRequest, share: JobReservation, *, known: StoredState | None) -> Outcome:
        """Run a granted job to its end, or as far as it is ours."""
        ...

    async def record_blocked(
        self, opened: DecodedRequest, known: StoredState, *, blocked: WaitReason, n: int
    ) -> StoredState | None:
        """Say as the job's event `n` why it waits. None when that may be lost: nothing more is said then."""
        ...

    async def record_progress(
        self, known: StoredState, *, ahead: int, estimate_ms: int | None, n: int
    ) -> StoredState | None:
        """Say as the job's event `n` where it stands. None when that may be lost: nothing more is said then."""
        ...

    async def record_queued(self, opened: DecodedRequest) -> StoredState | None:
        """Write down that the job waits. None when it could not be written or the job is known already."""
        ...

    async def keeps_s(self) -> float | None:
        """How long documents of jobs are kept after they were written; None: for good."""
        ...

    async def keep_queued(
        self, ticket: Ticket, record: "asyncio.Task[StoredState | None] | None"
    ) -> StoredState | None:
        """Write the document and the steps of a waiting job again. `record` is what was written of it before; the
        document as it is now, where that is known.
        """
        ...
