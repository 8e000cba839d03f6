"""Whom the request handler works with: the pipeline that runs jobs, and the replicas that share them."""

from typing import Protocol

from sidecar.conversation.reservation import JobReservation
from sidecar.errors import SidecarError
from sidecar.models.replica import GrantOffer, NextCallGrant, Outcome, ReservationOp
from sidecar.ports.bus import StoredState
from sidecar.request_handler.decode import DecodedRequest
from sidecar.request_handler.reader import Later
from sidecar.scheduler.tickets import Ticket, WaitReason


class Work(Protocol):
    """What the pipeline does for the request handler."""

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

    async def record_queued(self, opened: DecodedRequest) -> StoredState | None:
        """Write down that the job waits. None when it could not be written or the job is known already."""
        ...


class Crew(Protocol):
    """The replicas, this one included. A worker is known by its member name."""

    @property
    def own(self) -> str:
        """This process's member name."""
        ...

    @property
    def name(self) -> str:
        """This replica's name, as the documents of its jobs have it."""
        ...

    @property
    def term(self) -> int:
        """The term in which this replica schedules; 0 when it does not, from the moment that its lease may end."""
        ...

    @property
    def slots(self) -> int:
        """Of all workers that take jobs."""
        ...

    def choose(self) -> str | None:
        """The worker for the next job; None while nobody takes jobs."""
        ...

    def took(self, worker: str) -> None: ...

    def left(self, worker: str) -> None: ...

    def has_name(self, name: str) -> bool:
        """Whether a live replica has this name, which is the owner's in a job's document."""
        ...

    async def offer(self, worker: str, offer: GrantOffer) -> int | None:
        """Grant a job to another replica. Its last heartbeat's number; None when it did not take the job."""
        ...

    def answer(self, worker: str, turn: NextCallGrant) -> None:
        """Answer a wish of a job that runs on another replica."""
        ...

    def disown(self, worker: str, tenant: str, job: str) -> None:
        """Tell a replica that a job it reports seems to be another's."""
        ...

    def post(self, op: ReservationOp) -> None:
        """Tell the replica that schedules; its successor learns the same from the next heartbeat."""
        ...
