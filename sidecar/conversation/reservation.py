"""A running job's part of slots and quota, as the job sees it, wherever the scheduler is."""

import asyncio
from typing import Protocol

import msgspec

from sidecar.errors import DailyQuotaExhausted, ModelUnavailable, SidecarError, Throttled
from sidecar.models.replica import HeldJob, NextCallRequest, Outcome
from sidecar.models.result import Usage
from sidecar.ports.bus import Clock
from sidecar.scheduler.quota import Throttle
from sidecar.scheduler.tickets import Ticket


class SchedulerSide(Protocol):
    """The scheduler's side of one running job. `number` orders a job's operations."""

    def undo(self, number: int, *, keeps_slot: bool) -> None:
        """The call was not made, or was refused."""
        ...

    def ask(self, wish: NextCallRequest) -> None:
        """The job waits for its next call."""
        ...

    def throttled(self, number: int, kind: Throttle, retry_after: float | None) -> None: ...

    def used(self, number: int, usage: Usage, seconds: float) -> None:
        """The call was made. The slot stays with the job."""
        ...

    def finish(self, number: int, outcome: Outcome) -> None:
        """The job has left its worker: whatever it still holds goes back."""
        ...


class JobReservation:
    """One job's grant in its worker's hands. `granted_attempt` is the job's last attempt before this grant.

    The scheduler may change while the job runs: `sit` gives it the new one's seat, and it asks again there for
    what it waits for.
    """

    __slots__ = (
        "_answer",
        "_clock",
        "_number",
        "_seat",
        "granted_attempt",
        "holds_slot",
        "is_open",
        "pool",
        "ticket",
        "wish",
    )

    def __init__(
        self, ticket: Ticket, *, pool: str, granted_attempt: int, seat: SchedulerSide, clock: Clock
    ) -> None:
        self.ticket = ticket
        self.pool = pool
        self.granted_attempt = granted_attempt
        self.is_open = True
        self.holds_slot = True
        self.wish: NextCallRequest | None = None
        self._seat = seat
        self._clock = clock
        self._number = 0
        self._answer: asyncio.Future[str] | None = None

    def sit(self, seat: SchedulerSide) -> None:
        self._seat = seat

    async def move(self, pool: str) -> None:
        """Give the first pool's debit back, then wait for room in `pool`."""
        self._undo(keeps_slot=True)
        await self._ask((pool,), self.ticket.input_tokens, self.ticket.max_tokens)

    async def rest(self, seconds: float, *, pool: str | None = None) -> None:
        """Wait without holding a slot or quota, then for room in `pool`, or in the same one again."""
        self._undo(keeps_slot=False)
        await self._clock.sleep(seconds)
        await self._ask((pool or self.pool,), self.ticket.input_tokens, self.ticket.max_tokens)

    def release(self) -> None:
        """Hold neither slot nor quota while the job waits for something else than a model; then `next_turn`."""
        if self.holds_slot or self.is_open:
            self._undo(keeps_slot=False)

    async def next_turn(self, *, input_tokens: int, max_tokens: int) -> None:
        """After `used` or `release`: wait for room for the next model call, ahead of queued jobs of its class."""
        self.ticket = msgspec.structs.replace(self.ticket, input_tokens=input_tokens, max_tokens=max_tokens)
        await self._ask((self.pool,), input_tokens, max_tokens)

    def failed(self, error: SidecarError) -> None:
        """Tell the limiter about a refusal by the pool in use."""
        kind = throttle_of(error)
        if kind is not None:
            self._seat.throttled(self._next(), kind, getattr(error, "retry_after", None))

    def used(self, usage: Usage, *, seconds: float) -> None:
        """Settle the debit with what the call really took."""
        self.is_open = False
        self._seat.used(self._next(), usage, seconds)

    def finish(self, outcome: Outcome) -> None:
        self._seat.finish(self._next(), outcome)

    def granted(self, number: int, pool: str) -> None:
        """The scheduler's answer to wish `number`. One that nobody waits for is passed over."""
        if self._is_awaited(number) and self._answer is not None:
            self.pool, self.is_open, self.holds_slot, self.wish = pool, True, True, None
            self._answer.set_result(pool)

    def denied(self, number: int, error: SidecarError) -> None:
        if self._is_awaited(number) and self._answer is not None:
            self.wish = None
            self._answer.set_exception(error)

    def held(self, attempt: int | None) -> HeldJob:
        """What this worker's heartbeat says of the job."""
        ticket = self.ticket
        return HeldJob(
            seq=ticket.seq,
            tenant=ticket.lane.tenant,
            job_class=ticket.lane.job_class,
            job=ticket.job_id,
            pool=self.pool,
            pools=ticket.pools,
            input_tokens=ticket.input_tokens,
            max_tokens=ticket.max_tokens,
            stored_at=ticket.stored_at,
            deadline=ticket.deadline,
            attempt=self.granted_attempt if attempt is None else attempt,
            number=self._number,
            is_open=self.is_open,
            holds_slot=self.holds_slot,
            wish=self.wish,
        )

    def _undo(self, *, keeps_slot: bool) -> None:
        self.is_open = False
        self.holds_slot = self.holds_slot and keeps_slot
        self._seat.undo(self._next(), keeps_slot=keeps_slot)

    async def _ask(self, pools: tuple[str, ...], input_tokens: int, max_tokens: int) -> None:
        number = self._next()
        self.wish = NextCallRequest(number=number, pools=pools, input_tokens=input_tokens, max_tokens=max_tokens)
        self._answer = asyncio.get_running_loop().create_future()
        try:
            self._seat.ask(self.wish)
            await self._answer
        finally:
            self._answer = self.wish = None

    def _is_awaited(self, number: int) -> bool:
        return self.wish is not None and self.wish.number == number

    def _next(self) -> int:
        self._number += 1
        return self._number


def throttle_of(error: SidecarError) -> Throttle | None:
    """How the limiter takes a refusal: 429 is our quota, 503 the region's demand, not-ready neither."""
    if isinstance(error, DailyQuotaExhausted):
        return "daily"
    if isinstance(error, Throttled):
        return "quota"
    if isinstance(error, ModelUnavailable):
        if error.details.get("provider_code") == "ModelNotReadyException":
            return "not_ready"
        if error.details.get("http_status") == 503:
            return "region"
    return None
