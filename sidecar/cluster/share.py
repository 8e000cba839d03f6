"""Reservations across processes: what a job tells a scheduler elsewhere, and tickets out of what replicas say."""

from collections.abc import Callable

from sidecar.conversation.reservation import SchedulerSide
from sidecar.models.replica import ENDED, GrantOffer, HeldJob, NextCallRequest, OpKind, Outcome, ReservationOp
from sidecar.models.result import Usage
from sidecar.ports.bus import Lane
from sidecar.scheduler.quota import Throttle
from sidecar.scheduler.refusals import Limit, limit_named
from sidecar.scheduler.tickets import Ticket


class RemoteReservation:
    """A seat with a scheduler in another process: each operation is posted."""

    def __init__(self, seq: int, post: Callable[[ReservationOp], None]) -> None:
        self._seq = seq
        self._post = post

    def undo(self, number: int, *, keeps_slot: bool) -> None:
        self._post(ReservationOp(seq=self._seq, number=number, kind="undo", keeps_slot=keeps_slot))

    def ask(self, wish: NextCallRequest) -> None:
        self._post(ReservationOp(seq=self._seq, number=wish.number, kind="ask", wish=wish))

    def throttled(
        self, number: int, kind: Throttle, retry_after: float | None, limit: Limit | None = None
    ) -> None:
        said = ReservationOp(
            seq=self._seq, number=number, kind="throttled", throttle=kind, retry_after=retry_after, limit=limit
        )
        self._post(said)

    def used(self, number: int, usage: Usage, seconds: float) -> None:
        self._post(ReservationOp(seq=self._seq, number=number, kind="used", usage=usage, seconds=seconds))

    def finish(self, number: int, outcome: Outcome) -> None:
        self._post(ReservationOp(seq=self._seq, number=number, kind="finish", outcome=outcome))


def apply(seat: SchedulerSide, op: ReservationOp) -> None:
    """What `RemoteReservation` posted, on the scheduler's own seat of the job."""
    kind: OpKind = op.kind
    if kind == "undo":
        seat.undo(op.number, keeps_slot=op.keeps_slot)
    elif kind == "ask" and op.wish is not None:
        seat.ask(op.wish)
    elif kind == "throttled" and op.throttle is not None:
        seat.throttled(op.number, op.throttle, op.retry_after, limit_named(op.limit))
    elif kind == "used":
        seat.used(op.number, op.usage or Usage(), op.seconds)
    elif kind == "finish":
        seat.finish(op.number, op.outcome or ENDED)


def ticket_of(job: HeldJob | GrantOffer) -> Ticket:
    """The ticket of a job that another replica queued."""
    return Ticket(
        seq=job.seq,
        lane=Lane(job.tenant, job.job_class),
        job_id=job.job,
        size=0,
        stored_at=job.stored_at,
        input_tokens=job.input_tokens,
        max_tokens=job.max_tokens,
        pools=job.pools,
        deadline=job.deadline,
    )
