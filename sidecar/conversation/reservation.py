"""A running job's part of slots and quota, as the job sees it, wherever the scheduler is."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from sidecar.errors import DailyQuotaExhausted, ModelUnavailable, SidecarError, Throttled
from sidecar.models.replica import HeldJob, LaterPool, NextCallRequest, Outcome
from sidecar.models.result import Usage
from sidecar.ports.bus import Clock
from sidecar.scheduler.quota import Throttle
from sidecar.scheduler.refusals import Limit, limit_named
from sidecar.scheduler.tickets import Ticket, WaitReason

# A job that waits longer than this for room for its call says so.
SAY_WAITING_S = 0.1


class Room(NamedTuple):
    """A pool that a call may use in `after_s` seconds; now where that is 0."""

    pool: str
    after_s: float = 0.0


Said = str | SidecarError | WaitReason
"""What a scheduler says of a call that is waited for: its pool, why there is none, or why it waits still."""

Say = Callable[[WaitReason], Awaitable[None]]
"""Tells a job's client what it waits for."""


class SchedulerSide(Protocol):
    """The scheduler's side of one running job. `number` orders a job's operations."""

    def undo(self, number: int, *, keeps_slot: bool) -> None:
        """The call was not made, or was refused."""
        ...

    def ask(self, wish: NextCallRequest) -> None:
        """The job waits for its next call."""
        ...

    def throttled(
        self, number: int, kind: Throttle, retry_after: float | None, limit: Limit | None = None
    ) -> None: ...

    def used(self, number: int, usage: Usage, seconds: float) -> None:
        """The call was made. The slot stays with the job."""
        ...

    def finish(self, number: int, outcome: Outcome) -> None:
        """The job has left its worker: whatever it still holds goes back."""
        ...


class JobReservation:
    """One job's grant in its worker's hands. `granted_attempt` is the job's last attempt before this grant,
    `can_be_held` whether its scheduler takes a job back that has nothing left to call.

    The scheduler may change while the job runs: `sit` gives it the new one's seat, and it asks again there for
    what it waits for.
    """

    __slots__ = (
        "_answer",
        "_asked_at",
        "_clock",
        "_news",
        "_number",
        "_seat",
        "can_be_held",
        "granted_attempt",
        "holds_slot",
        "is_open",
        "pool",
        "ticket",
        "wish",
    )

    def __init__(
        self,
        ticket: Ticket,
        *,
        pool: str,
        granted_attempt: int,
        seat: SchedulerSide,
        clock: Clock,
        can_be_held: bool = True,
    ) -> None:
        self.can_be_held = can_be_held
        self.ticket = ticket
        self.pool = pool
        self.granted_attempt = granted_attempt
        self.is_open = True
        self.holds_slot = True
        self.wish: NextCallRequest | None = None
        self._seat = seat
        self._clock = clock
        self._number = 0
        self._asked_at = 0.0
        self._answer: asyncio.Future[str] | None = None
        self._news: asyncio.Future[WaitReason] | None = None

    def sit(self, seat: SchedulerSide) -> None:
        self._seat = seat

    async def move(self, rooms: Sequence[Room], *, say: Say) -> None:
        """Give the debit of a call that was not made or was refused back, and wait for room for another."""
        if self.is_open:
            self._undo(keeps_slot=True)
        await self._ask(rooms, self.ticket.input_tokens, self.ticket.max_tokens, say)

    def release(self) -> None:
        """Hold neither slot nor quota while the job waits for something else than room; `move` comes after."""
        if self.holds_slot or self.is_open:
            self._undo(keeps_slot=False)

    async def next_turn(self, rooms: Sequence[Room], *, input_tokens: int, max_tokens: int, say: Say) -> None:
        """After `used` or `release`: wait for room for the next model call, ahead of queued jobs of its class."""
        self.ticket = msgspec.structs.replace(self.ticket, input_tokens=input_tokens, max_tokens=max_tokens)
        await self._ask(rooms, input_tokens, max_tokens, say)

    def failed(self, error: SidecarError) -> None:
        """Tell the limiter about a refusal by the pool in use."""
        kind = throttle_of(error)
        if kind is not None:
            limit = limit_named(error.details.get("limit"))
            self._seat.throttled(self._next(), kind, getattr(error, "retry_after", None), limit)

    def used(self, usage: Usage, *, seconds: float) -> None:
        """Settle the debit with what the call really took."""
        self.is_open = False
        self._seat.used(self._next(), usage, seconds)

    def finish(self, outcome: Outcome) -> None:
        self._seat.finish(self._next(), outcome)

    def hear(self, number: int, said: Said) -> None:
        """The scheduler's word on wish `number`. One on what nobody waits for is passed over."""
        answer, news = self._answer, self._news
        if self.wish is None or self.wish.number != number or answer is None or news is None:
            return
        if isinstance(said, WaitReason):
            # The scheduler keeps no slot for what waits.
            self.holds_slot = False
            if not news.done():
                news.set_result(said)
        elif isinstance(said, SidecarError):
            self.wish = None
            answer.set_exception(said)
        else:
            self.pool, self.is_open, self.holds_slot, self.wish = said, True, True, None
            answer.set_result(said)

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
            wish=self._wish_now(),
        )

    def _wish_now(self) -> NextCallRequest | None:
        """What is waited for, as a scheduler has to be asked that hears of it now."""
        wish = self.wish
        if wish is None or not wish.later:
            return wish
        passed_s = self._clock.monotonic() - self._asked_at
        later = tuple(
            msgspec.structs.replace(room, after_s=max(0.0, room.after_s - passed_s)) for room in wish.later
        )
        return msgspec.structs.replace(wish, later=later)

    def _undo(self, *, keeps_slot: bool) -> None:
        self.is_open = False
        self.holds_slot = self.holds_slot and keeps_slot
        self._seat.undo(self._next(), keeps_slot=keeps_slot)

    async def _ask(self, rooms: Sequence[Room], input_tokens: int, max_tokens: int, say: Say) -> None:
        """One wait over all rooms. Raises ValueError where none may be used now: wait for the first before."""
        pools = tuple([room.pool for room in rooms if room.after_s <= 0])
        if not pools:
            raise ValueError("no pool may be used now")
        later = [
            LaterPool(pool=room.pool, after_s=room.after_s, rank=rank)
            for rank, room in enumerate(rooms)
            if room.after_s > 0
        ]
        self.wish = NextCallRequest(
            number=self._next(), pools=pools, later=tuple(later), input_tokens=input_tokens, max_tokens=max_tokens
        )
        loop = asyncio.get_running_loop()
        self._asked_at = self._clock.monotonic()
        self._answer = answer = loop.create_future()
        self._news = loop.create_future()
        number = self.wish.number
        timer = self._clock.call_later(SAY_WAITING_S, lambda: self.hear(number, WaitReason("quota")))
        try:
            # What is waited on exists by now: a scheduler in this process answers before `ask` returns.
            self._seat.ask(self.wish)
            while not answer.done():
                await asyncio.wait((answer, self._news), return_when=asyncio.FIRST_COMPLETED)
                if self._news.done() and not answer.done():
                    news, self._news = self._news.result(), loop.create_future()
                    await say(news)
            answer.result()
        finally:
            timer.cancel()
            if answer.done() and not answer.cancelled():
                # Where telling failed nobody asks any more what the answer was.
                answer.exception()
            self._answer = self._news = self.wish = None

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
